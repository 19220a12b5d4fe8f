//! The store of a command: opening and closing it, and the process that owns it.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::config::Config;
use crate::disk::local;
use crate::error::Result;
use crate::format::FORMAT_VERSION;
use crate::service::{OpenProgress, Service, StoreOptions};
use crate::store::ReadOnly;

/// The process that owns a store, from its `LOCK` file.
#[derive(Clone, Debug, Deserialize)]
pub struct StoreOwner {
    pub pid: u32,
    /// REST address, once a server listens there.
    #[serde(default)]
    pub http: Option<String>,
    /// Set when the server requires TLS.
    #[serde(default)]
    pub tls: Option<OwnerTls>,
}

/// The certificate of the owner of a store.
#[derive(Clone, Debug, Deserialize)]
pub struct OwnerTls {
    /// SHA-256 of its certificate, in hexadecimal.
    pub certificate_sha256: String,
}

/// The owner of the store. Only valid after `store_locked`: the file remains when its owner has exited.
pub fn owner(root: &Path) -> Option<StoreOwner> {
    serde_json::from_slice(&local::read(&root.join("LOCK")).ok()?).ok()
}

/// Opens the store, and replaces the address of an earlier server in its `LOCK` file.
///
/// A directory without write permission is opened read-only.
pub fn open(root: &Path, create: bool, config: &Config) -> Result<Arc<Service>> {
    open_with_options(
        root,
        create,
        config,
        StoreOptions { read_only: ReadOnly::Opened, ..config.store.options.clone() },
    )
}

/// Opens the store for a server, which needs a writable directory; reports the progress to `opening`.
pub fn open_with_progress(
    root: &Path,
    create: bool,
    config: &Config,
    opening: Option<Arc<OpenProgress>>,
) -> Result<Arc<Service>> {
    open_with_options(root, create, config, StoreOptions { opening, ..config.store.options.clone() })
}

fn open_with_options(root: &Path, create: bool, config: &Config, options: StoreOptions) -> Result<Arc<Service>> {
    let service = Service::open(root, create, options)?;
    service.set_limits(config.limits);
    service.set_sql(config.sql);
    service.allow_backups(&config.store.paths.backup_dir);
    let holder = serde_json::json!({ "pid": std::process::id(), "format": FORMAT_VERSION });
    service.store().describe_holder(&format!("{holder}\n"))?;
    Ok(service)
}

/// Closes the store: ends its jobs, checkpoints the log so that the next open has nothing to replay, and releases the
/// directory.
pub fn close(service: Arc<Service>) {
    service.close_jobs();
    service.try_checkpoint();
    if !service.close() {
        // Acknowledged writes are safe; the next open replays the log.
        tracing::warn!("a request is still running; the next open replays the log");
    }
}
