//! The open store with everything its callers share; [`Service`] adds the permissions of one caller.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::clock::wall_ms;
use crate::disk::DiskPath;
use crate::error::Result;
use crate::format::FORMAT_VERSION;
use crate::ingest::{self, BodyFormat, Reservation};
use crate::service::admission::{Admission, Permit, PermitKind};
use crate::service::caller::Caller;
use crate::service::coverage_ratios::CoverageRatios;
use crate::service::health_state::{HealthHistory, LastVerify};
use crate::service::jobs::Jobs;
use crate::service::limits::ServiceLimits;
use crate::service::registry::catalog::Catalog;
use crate::sql::{SqlEngine, SqlSettings};
use crate::store::{Store, StoreOptions};
use crate::types::SeriesDef;

/// The operations on one open store, with the permissions of one caller.
#[derive(Clone, Debug)]
pub struct Service {
    shared: Arc<ServiceShared>,
    pub(super) caller: Caller,
}

/// State shared by the services of all callers.
#[derive(Debug)]
pub struct ServiceShared {
    /// Declared before `store`: closed before the store releases its directory.
    pub(super) catalog: Catalog,
    pub(super) store: Store,
    pub(super) opened_at: Instant,
    pub(super) ratios: CoverageRatios,
    /// The directory for backups of clients, once configured.
    pub(super) backup_dir: OnceLock<PathBuf>,
    admission: OnceLock<Arc<Admission>>,
    pub(super) jobs: Jobs,
    pub(super) last_verify: LastVerify,
    pub(super) health_history: HealthHistory,
    sql_settings: OnceLock<SqlSettings>,
    /// Started by the first statement.
    sql: OnceLock<Arc<SqlEngine>>,
}

impl Deref for Service {
    type Target = ServiceShared;

    fn deref(&self) -> &ServiceShared {
        &self.shared
    }
}

impl Service {
    /// Opens the store in `root`, creating it when `create` is set. See [`Store::open`] for the errors.
    pub fn open(root: &Path, create: bool, options: StoreOptions) -> Result<Arc<Self>> {
        Self::open_on(&DiskPath::os(root), create, options)
    }

    /// Opens the store in `root` on any disk; the registry is always on that of the operating system. See
    /// [`Store::open_on`] for the errors.
    pub fn open_on(root: &DiskPath, create: bool, options: StoreOptions) -> Result<Arc<Self>> {
        let store = Store::open_on(root, create, StoreOptions { prefetch: true, ..options })?;
        let shared = ServiceShared {
            catalog: Catalog::open(&store, wall_ms()),
            store,
            opened_at: Instant::now(),
            ratios: CoverageRatios::default(),
            backup_dir: OnceLock::new(),
            admission: OnceLock::new(),
            jobs: Jobs::default(),
            last_verify: LastVerify::default(),
            health_history: HealthHistory::default(),
            sql_settings: OnceLock::new(),
            sql: OnceLock::new(),
        };
        Ok(Arc::new(Self { shared: Arc::new(shared), caller: Caller::trusted() }))
    }

    /// The same store with the permissions of another caller.
    pub fn as_caller(&self, caller: Caller) -> Arc<Self> {
        Arc::new(Self { shared: Arc::clone(&self.shared), caller })
    }

    /// The store with the permissions of a caller.
    pub(super) fn of(shared: Arc<ServiceShared>, caller: Caller) -> Self {
        Self { shared, caller }
    }

    /// What the services of all callers share.
    pub(super) fn shared(&self) -> &Arc<ServiceShared> {
        &self.shared
    }

    /// Sets the limits of statements, once, before the first.
    pub fn set_sql(&self, settings: SqlSettings) {
        let _ = self.sql_settings.set(settings);
    }

    /// The limits of statements.
    pub fn sql_settings(&self) -> SqlSettings {
        *self.sql_settings.get_or_init(SqlSettings::default)
    }

    /// The engine of statements, started when there is none.
    pub(super) fn sql_engine(&self) -> Result<Arc<SqlEngine>> {
        if let Some(engine) = self.sql.get() {
            return Ok(Arc::clone(engine));
        }
        // Named after its owner as other files there, which are in use while that lives.
        let directory = self.staging_dir().join(format!("{}-sql", std::process::id()));
        let engine = Arc::new(SqlEngine::new(self.sql_settings(), Some(directory))?);
        Ok(Arc::clone(self.sql.get_or_init(|| engine)))
    }

    /// The engine of statements, if it was started.
    pub(super) fn running_sql(&self) -> Option<Arc<SqlEngine>> {
        self.sql.get().cloned()
    }

    /// The caller whose permissions apply.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Moves the rows in the WAL to chunks and a run file, if possible; on failure the WAL is replayed at the next
    /// open.
    pub fn try_checkpoint(&self) {
        if self.store.writer_stopped().is_none()
            && let Err(error) = self.store.checkpoint()
        {
            tracing::warn!(%error, "checkpoint failed, the WAL is replayed at the next open");
        }
    }

    /// Closes the store unless it is still in use, in which case it is left as after a crash. Returns whether it was
    /// closed.
    pub fn close(self: Arc<Self>) -> bool {
        let shared = Arc::clone(&self.shared);
        drop(self);
        Arc::try_unwrap(shared).map(drop).is_ok()
    }

    /// The storage engine.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Writes the addresses of the server, and the SHA-256 of its certificate under TLS, into `LOCK` for other
    /// processes.
    pub fn announce(&self, http: &str, flight: &str, certificate: Option<&str>) -> Result<()> {
        let mut holder = serde_json::json!({
            "pid": std::process::id(), "http": http, "flight": flight, "format": FORMAT_VERSION,
        });
        if let (Some(sha256), Some(fields)) = (certificate, holder.as_object_mut()) {
            fields.insert("tls".into(), serde_json::json!({ "certificate_sha256": sha256 }));
        }
        self.store.describe_holder(&format!("{holder}\n"))
    }

    /// Directory for staging bodies; emptied at every open.
    pub fn staging_dir(&self) -> PathBuf {
        self.store.root().join("tmp")
    }

    /// Directory for files of responses: that of bodies, or where a store can only be read, that of the system.
    pub fn spool_dir(&self) -> PathBuf {
        if self.store.is_read_only() { std::env::temp_dir() } else { self.staging_dir() }
    }

    /// Sets the limits, once, before any operation.
    pub fn set_limits(&self, limits: ServiceLimits) {
        let _ = self.admission.set(Arc::new(Admission::new(limits)));
    }

    fn admission(&self) -> &Arc<Admission> {
        self.admission.get_or_init(Arc::default)
    }

    /// The effective limits.
    pub fn limits(&self) -> &ServiceLimits {
        self.admission().limits()
    }

    /// Acquires a permit for the caller.
    ///
    /// # Errors
    /// Those of [`Admission::acquire`].
    pub fn acquire_permit(&self, kind: PermitKind) -> Result<Permit> {
        self.admission().acquire(kind, self.caller())
    }

    /// Reserves the memory for decoding and writing a body, of rows of a series where it has a single one; held until
    /// its rows are written.
    ///
    /// # Errors
    /// Those of [`ingest::reserve`].
    pub fn reserve_body(&self, format: BodyFormat, body: &[u8], def: Option<&SeriesDef>) -> Result<Reservation> {
        let mut reservation = self.admission().reservation(Duration::ZERO);
        ingest::reserve(format, body, def, &mut reservation)?;
        Ok(reservation)
    }

    /// Reserves memory for rows; waits while others hold it.
    ///
    /// # Errors
    /// Those of [`Reservation::grow`].
    pub fn reserve_memory(&self, bytes: u64) -> Result<Reservation> {
        let mut reservation = self.admission().reservation(self.limits().request_timeout());
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Rejects new requests from now on; requests in flight continue.
    pub fn drain(&self) {
        self.admission().drain();
    }

    /// Whether new requests are rejected because the server is shutting down.
    pub fn is_draining(&self) -> bool {
        self.admission().is_draining()
    }

    /// Fails with `not_ready` while the server is shutting down.
    pub fn check_ready(&self) -> Result<()> {
        self.admission().check_ready()
    }
}
