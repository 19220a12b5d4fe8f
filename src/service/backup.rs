//! Backups: for the command line wherever it says, for the clients of a server below one directory only.

use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::registry::RegistryCopy;
use super::{Scope, Service, wall_ms};
use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::backup::BackupDamage;
use crate::store::{BackupOptions, BackupReport, RestoreOptions, RestoreReport, TaskControl, restore};

/// What a backup is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct BackupRequest {
    /// Directory of the backup; through a server, below its `backup_dir`.
    #[cfg_attr(feature = "server", schema(example = "monday"))]
    pub dir: String,
    /// An earlier backup, whose files are linked where they are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Gives the backup files of its own where links would do.
    #[serde(default)]
    pub copy: bool,
    /// Leaves linked files unread.
    #[serde(default)]
    pub no_verify: bool,
    /// Takes files that are damaged in the store as they are, and lists them.
    #[serde(default)]
    pub allow_damaged: bool,
    /// Changes nothing, and tells what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Bytes read a second at most; as many as it can when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// What a backup did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct BackupReply {
    pub dir: String,
    /// The backup is the store at this commit.
    pub commit: u64,
    pub series: u64,
    pub rows: u64,
    pub chunks: u64,
    pub snapshots: u64,
    /// Files that were there already.
    pub files_kept: u64,
    pub bytes_kept: u64,
    /// Files that are those of the store, or of the base, under a second name.
    pub files_linked: u64,
    pub bytes_linked: u64,
    pub files_copied: u64,
    pub bytes_copied: u64,
    /// Files of the earlier backup there that are in this one no longer.
    pub files_removed: u64,
    pub damaged: Vec<DamagedFile>,
    pub dry_run: bool,
    pub duration_ms: u64,
}

/// A file that is not whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DamagedFile {
    pub path: String,
    pub reason: String,
}

/// What a restore did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReply {
    pub applied: bool,
    pub backup: String,
    pub root: String,
    pub as_of: Option<String>,
    /// The store at this commit.
    pub commit: u64,
    /// Epoch of the restored store; `null` before it is.
    pub epoch: Option<String>,
    pub epoch_before: String,
    pub series: u64,
    pub rows: u64,
    pub chunks: u64,
    pub snapshots: Vec<String>,
    pub files: u64,
    pub bytes: u64,
    /// What a restore as of a snapshot leaves out.
    pub series_left_out: u64,
    pub chunks_left_out: u64,
    pub snapshots_left_out: Vec<String>,
    pub damaged: Vec<DamagedFile>,
    pub duration_ms: u64,
}

fn damaged(files: Vec<BackupDamage>) -> Vec<DamagedFile> {
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
            damaged: damaged(report.damaged),
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
            damaged: damaged(report.damaged),
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

    /// What the work is watched by.
    pub fn watch(&self) -> TaskControl {
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
    watch: &TaskControl,
) -> Result<RestoreReply> {
    let report = restore(backup, root, options, watch)?;
    Ok(RestoreReply::new(backup, root, options.as_of.clone(), report))
}

impl Service {
    /// Lets clients make backups below a directory; an empty path lets them make none.
    pub fn allow_backups(&self, dir: &Path) {
        if !dir.as_os_str().is_empty() {
            let _ = self.backup_dir.set(dir.to_path_buf());
        }
    }

    /// Backs the store up into the directory a person at this machine names.
    ///
    /// # Errors
    /// Those of [`Store::backup`](crate::Store::backup).
    pub fn backup(&self, request: &BackupRequest, watch: &TaskControl) -> Result<BackupReply> {
        self.caller.may_all(Scope::Admin)?;
        let registry = self.registry_for_backup(request)?;
        let copy = registry.as_ref().map(|copied| copied.0.clone());
        let options = request.options(request.base.as_ref().map(PathBuf::from), copy);
        let report = self.store.backup(Path::new(&request.dir), &options, watch)?;
        Ok(BackupReply::new(request.dir.clone(), report))
    }

    /// Backs the store up below the directory that the configuration gives clients for it.
    ///
    /// # Errors
    /// `permission_denied` when it gives none, `invalid_argument` for a directory that is not below it, and those of
    /// [`Store::backup`](crate::Store::backup), none of which names a path outside of it.
    pub fn backup_for_client(&self, request: &BackupRequest, watch: &TaskControl) -> Result<BackupReply> {
        self.caller.may_all(Scope::Admin)?;
        let places = self.client_places(request)?;
        let registry = self.registry_for_backup(request).map_err(|error| places.hide(self, &error))?;
        let options = request.options(places.base.clone(), registry.as_ref().map(|copied| copied.0.clone()));
        let report = self.store.backup(&places.dir, &options, watch);
        let report = report.map_err(|error| places.hide(self, &error))?;
        Ok(BackupReply::new(request.dir.clone(), report))
    }

    /// A copy of the registry, made before anything else: a dataset in it has its snapshot by then.
    fn registry_for_backup(&self, request: &BackupRequest) -> Result<Option<RegistryCopy>> {
        if request.dry_run {
            return Ok(None);
        }
        let copied = self.catalog.copy(self.store.root(), wall_ms());
        match copied {
            Err(error) if request.allow_damaged => {
                tracing::error!(%error, "the backup is made without the registry");
                Ok(None)
            }
            other => other,
        }
    }

    /// Refuses a request of a client before any work is done for it.
    ///
    /// # Errors
    /// Those of [`Service::backup_for_client`] that tell of the request alone.
    pub fn check_backup(&self, request: &BackupRequest) -> Result<()> {
        self.client_places(request).map(|_| ())
    }

    fn client_places(&self, request: &BackupRequest) -> Result<BackupDirs> {
        let top = self.backup_dir.get().ok_or_else(|| {
            Error::new(ErrorCode::PermissionDenied, "this server makes no backups for its clients")
                .with_hint("set store.backup_dir in its configuration, or back up on the machine of the server")
        })?;
        let top = DiskPath::os(top);
        Ok(BackupDirs {
            dir: below(&top, &request.dir)?,
            base: request.base.as_ref().map(|base| below(&top, base)).transpose()?,
            top: top.to_path_buf(),
        })
    }
}

/// Directories that a client means.
struct BackupDirs {
    top: PathBuf,
    dir: PathBuf,
    base: Option<PathBuf>,
}

impl BackupDirs {
    /// The error without the places of this machine, which are nobody's business elsewhere.
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

/// A directory that a client names, below the one it may use.
fn below(top: &DiskPath, name: &str) -> Result<PathBuf> {
    let refuse = |what: &str| {
        Err(Error::invalid(format!("backup directory {name:?} {what}"))
            .with_hint("name a directory below the one the server keeps backups in, such as \"monday\""))
    };
    let given = Path::new(name);
    let inner = if given.is_absolute() { given.strip_prefix(top).ok() } else { Some(given) };
    let Some(inner) = inner else { return refuse("is not below the one for backups") };
    if inner.components().next().is_none() {
        return refuse("has no name");
    }
    if name.contains('\0') || !inner.components().all(|part| matches!(part, Component::Normal(_))) {
        return refuse("leads out of the one for backups");
    }
    let path = top.join(inner);
    // A link inside may lead anywhere.
    if !disk::resolve(&path)?.starts_with(disk::resolve(top)?) {
        return refuse("leads out of the one for backups");
    }
    Ok(path.to_path_buf())
}

/// Where backups of clients go, once it is known.
pub(super) type BackupDir = OnceLock<PathBuf>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_no_directory_outside_of_the_one_for_backups() {
        let dir = tempfile::tempdir().unwrap();
        let top = DiskPath::os(dir.path().join("backups"));
        std::fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink(dir.path(), top.join("out")).unwrap();
        std::os::unix::fs::symlink(top.join("in"), top.join("again")).unwrap();
        for good in ["monday", "2024/02/monday", "a..b", ".hidden", "again"] {
            assert_eq!(below(&top, good).unwrap(), *top.join(good), "{good}");
        }
        let absolute = top.join("monday").display().to_string();
        assert_eq!(below(&top, &absolute).unwrap(), Path::new(&absolute));
        let outside = dir.path().join("backups-not/x").display().to_string();
        let sideways = top.join("../x").display().to_string();
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
            &sideways,
            &itself,
        ] {
            let error = below(&top, bad).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{bad:?}");
        }
    }
}
