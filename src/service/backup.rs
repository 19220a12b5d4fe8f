//! Backups: into any directory for the command line, below one configured directory for clients of a server.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::wall_ms;
use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::backup::BackupDamage;
use crate::service::caller::Scope;
use crate::service::registry::catalog::RegistryCopy;
use crate::service::shared::Service;
use crate::store::{BackupOptions, BackupReport, RestoreOptions, RestoreReport, TaskControl, restore};

/// Options of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct BackupRequest {
    /// Directory of the backup; for clients of a server, below its `store.backup_dir`.
    #[cfg_attr(feature = "server", schema(example = "monday"))]
    pub dir: String,
    /// An earlier backup whose identical files are linked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Copy files instead of linking them.
    #[serde(default)]
    pub copy: bool,
    /// Do not read linked files.
    #[serde(default)]
    pub no_verify: bool,
    /// Include files that are damaged in the store as they are, and list them.
    #[serde(default)]
    pub allow_damaged: bool,
    /// Change nothing and report what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Maximum bytes read per second; unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// Result of a backup or of its dry run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct BackupReply {
    pub dir: String,
    /// Commit of the store that the backup contains.
    pub commit: u64,
    pub series: u64,
    pub rows: u64,
    pub chunks: u64,
    pub snapshots: u64,
    /// Files that the directory already contained.
    pub files_kept: u64,
    pub bytes_kept: u64,
    /// Files linked from the store or from the base.
    pub files_linked: u64,
    pub bytes_linked: u64,
    pub files_copied: u64,
    pub bytes_copied: u64,
    /// Files of the earlier backup in this directory that this one no longer contains.
    pub files_removed: u64,
    pub damaged: Vec<DamagedFile>,
    pub dry_run: bool,
    pub duration_ms: u64,
}

/// A damaged file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DamagedFile {
    pub path: String,
    pub reason: String,
}

/// Result of a restore or of its dry run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReply {
    pub applied: bool,
    pub backup: String,
    pub root: String,
    pub as_of: Option<String>,
    /// Commit of the store that is restored.
    pub commit: u64,
    /// Epoch of the restored store; `null` in a dry run.
    pub epoch: Option<String>,
    pub epoch_before: String,
    pub series: u64,
    pub rows: u64,
    pub chunks: u64,
    pub snapshots: Vec<String>,
    pub files: u64,
    pub bytes: u64,
    /// What a restore as of a snapshot omits.
    pub series_left_out: u64,
    pub chunks_left_out: u64,
    pub snapshots_left_out: Vec<String>,
    pub damaged: Vec<DamagedFile>,
    pub duration_ms: u64,
}

fn damaged_files(files: Vec<BackupDamage>) -> Vec<DamagedFile> {
    files.into_iter().map(|BackupDamage { path, reason }| DamagedFile { path, reason }).collect()
}

impl BackupReply {
    fn new(dir: String, report: BackupReport) -> Self {
        Self {
            dir,
            commit: report.commit,
            series: report.series,
            rows: report.rows,
            chunks: report.chunks,
            snapshots: report.snapshots,
            files_kept: report.kept.files,
            bytes_kept: report.kept.bytes,
            files_linked: report.linked.files,
            bytes_linked: report.linked.bytes,
            files_copied: report.copied.files,
            bytes_copied: report.copied.bytes,
            files_removed: report.files_removed,
            damaged: damaged_files(report.damaged),
            dry_run: report.dry_run,
            duration_ms: report.duration_ms,
        }
    }
}

impl RestoreReply {
    fn new(backup: &Path, root: &Path, as_of: Option<String>, report: RestoreReport) -> Self {
        Self {
            applied: report.applied,
            backup: backup.display().to_string(),
            root: root.display().to_string(),
            as_of,
            commit: report.commit,
            epoch: report.epoch,
            epoch_before: report.epoch_before,
            series: report.series,
            rows: report.rows,
            chunks: report.chunks,
            snapshots: report.snapshots,
            files: report.files,
            bytes: report.bytes,
            series_left_out: report.series_left_out,
            chunks_left_out: report.chunks_left_out,
            snapshots_left_out: report.snapshots_left_out,
            damaged: damaged_files(report.damaged),
            duration_ms: report.duration_ms,
        }
    }
}

impl BackupRequest {
    fn options(&self, base: Option<PathBuf>, registry: Option<PathBuf>) -> BackupOptions {
        BackupOptions {
            registry,
            base,
            copy: self.copy,
            verify: !self.no_verify,
            allow_damaged: self.allow_damaged,
            dry_run: self.dry_run,
        }
    }

    /// The control of the backup.
    pub fn control(&self) -> TaskControl {
        TaskControl::with_rate(self.bytes_per_second.unwrap_or(0))
    }
}

/// Restores a backup into a directory that no process has open.
///
/// # Errors
/// Those of [`restore`].
pub fn restore_backup(
    backup: &Path,
    root: &Path,
    options: &RestoreOptions,
    control: &TaskControl,
) -> Result<RestoreReply> {
    let report = restore(backup, root, options, control)?;
    Ok(RestoreReply::new(backup, root, options.as_of.clone(), report))
}

impl Service {
    /// Allows clients to create backups below a directory; an empty path forbids it.
    pub fn allow_backups(&self, dir: &Path) {
        if !dir.as_os_str().is_empty() {
            let _ = self.backup_dir.set(dir.to_path_buf());
        }
    }

    /// Creates a backup in a directory named by an operator of this host.
    ///
    /// # Errors
    /// Those of [`Store::backup`](crate::Store::backup).
    pub fn backup(&self, request: &BackupRequest, control: &TaskControl) -> Result<BackupReply> {
        self.caller.require_store(Scope::Admin)?;
        let registry = self.registry_for_backup(request)?;
        let copy = registry.as_ref().map(|copied| copied.0.clone());
        let options = request.options(request.base.as_ref().map(PathBuf::from), copy);
        let report = self.store.backup(Path::new(&request.dir), &options, control)?;
        Ok(BackupReply::new(request.dir.clone(), report))
    }

    /// Creates a backup below the directory configured for clients.
    ///
    /// # Errors
    /// `permission_denied` when none is configured, `invalid_argument` for a directory outside it, and those of
    /// [`Store::backup`](crate::Store::backup) with all other paths removed.
    pub fn backup_for_client(&self, request: &BackupRequest, control: &TaskControl) -> Result<BackupReply> {
        self.caller.require_store(Scope::Admin)?;
        let dirs = self.client_dirs(request)?;
        let registry = self.registry_for_backup(request).map_err(|error| dirs.hide(self, &error))?;
        let options = request.options(dirs.base.clone(), registry.as_ref().map(|copied| copied.0.clone()));
        let report = self.store.backup(&dirs.dir, &options, control);
        let report = report.map_err(|error| dirs.hide(self, &error))?;
        Ok(BackupReply::new(request.dir.clone(), report))
    }

    /// A copy of the registry, taken first: every dataset in it then already has its snapshot.
    fn registry_for_backup(&self, request: &BackupRequest) -> Result<Option<RegistryCopy>> {
        if request.dry_run {
            return Ok(None);
        }
        let copied = self.catalog.copy(self.store.root(), wall_ms());
        match copied {
            Err(error) if request.allow_damaged => {
                tracing::error!(%error, "cannot copy the registry; the backup does not contain it");
                Ok(None)
            }
            other => other,
        }
    }

    /// Validates a request of a client before any work is done.
    ///
    /// # Errors
    /// Those of [`Service::backup_for_client`] that concern only the request.
    pub fn check_backup(&self, request: &BackupRequest) -> Result<()> {
        self.client_dirs(request).map(|_| ())
    }

    fn client_dirs(&self, request: &BackupRequest) -> Result<BackupDirs> {
        let top = self.backup_dir.get().ok_or_else(|| {
            Error::new(ErrorCode::PermissionDenied, "backups by clients are not enabled")
                .with_hint("set store.backup_dir in the configuration of the server, or create the backup on its host")
        })?;
        let top = DiskPath::os(top);
        Ok(BackupDirs {
            dir: resolve_below(&top, &request.dir)?,
            base: request.base.as_ref().map(|base| resolve_below(&top, base)).transpose()?,
            top: top.to_path_buf(),
        })
    }
}

/// The directories named by a client.
struct BackupDirs {
    top: PathBuf,
    dir: PathBuf,
    base: Option<PathBuf>,
}

impl BackupDirs {
    /// The error without paths outside the directory for backups.
    fn hide(&self, service: &Service, error: &Error) -> Error {
        let mut detail = error.detail().to_owned();
        let top = [disk::resolve(&DiskPath::os(&self.top)).ok(), Some(self.top.clone())];
        let root = [disk::resolve(&DiskPath::os(service.store.root())).ok(), Some(service.store.root().to_path_buf())];
        for (paths, word) in [(top, ""), (root, "the store")] {
            for path in paths.into_iter().flatten() {
                let path = path.display().to_string();
                let (inside, word_inside) = (format!("{path}/"), if word.is_empty() { "" } else { "store/" });
                detail = detail.replace(&inside, word_inside).replace(&path, word);
            }
        }
        let hidden = Error::new(error.code(), detail);
        match error.hint() {
            Some(hint) => hidden.with_hint(hint),
            None => hidden,
        }
    }
}

/// The path of a directory named by a client, which must be below `top`.
fn resolve_below(top: &DiskPath, name: &str) -> Result<PathBuf> {
    let reject = |what: &str| {
        Err(Error::invalid(format!("backup directory {name:?} {what}"))
            .with_hint("name a directory below store.backup_dir of the server, such as \"monday\""))
    };
    let requested = Path::new(name);
    let inner = if requested.is_absolute() { requested.strip_prefix(top).ok() } else { Some(requested) };
    let Some(inner) = inner else { return reject("is not below the directory for backups") };
    if inner.components().next().is_none() {
        return reject("has no name");
    }
    if name.contains('\0') || !inner.components().all(|part| matches!(part, Component::Normal(_))) {
        return reject("leads outside the directory for backups");
    }
    let path = top.join(inner);
    // A symbolic link inside may lead anywhere.
    if !disk::resolve(&path)?.starts_with(disk::resolve(top)?) {
        return reject("leads outside the directory for backups");
    }
    Ok(path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_name_a_directory_outside_the_one_for_backups() {
        let dir = tempfile::tempdir().unwrap();
        let top = DiskPath::os(dir.path().join("backups"));
        std::fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink(dir.path(), top.join("out")).unwrap();
        std::os::unix::fs::symlink(top.join("in"), top.join("again")).unwrap();
        for good in ["monday", "2024/02/monday", "a..b", ".hidden", "again"] {
            assert_eq!(resolve_below(&top, good).unwrap(), *top.join(good), "{good}");
        }
        let absolute = top.join("monday").display().to_string();
        assert_eq!(resolve_below(&top, &absolute).unwrap(), Path::new(&absolute));
        let outside = dir.path().join("backups-not/x").display().to_string();
        let through_parent = top.join("../x").display().to_string();
        let itself = top.display().to_string();
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/../../x",
            "a/..",
            "./a",
            "/etc",
            "/",
            "out/x",
            "out",
            "x\0y",
            &outside,
            &through_parent,
            &itself,
        ] {
            let error = resolve_below(&top, bad).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{bad:?}");
        }
    }
}
