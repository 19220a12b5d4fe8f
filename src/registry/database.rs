//! The registry file of a store: its state, statements and transactions.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::name::RecordRef;
use super::open::{self, FILE, OpenFailureReason, failed};
use crate::disk::{DiskPath, local};
use crate::error::{Error, ErrorCode, Result};

/// Maximum number of cached sets of members; reads through a dataset need them repeatedly.
const CACHED_MEMBERS_MAX: usize = 16;

/// A failed statement that indicates a problem of the file.
#[derive(Debug)]
struct FileFailure {
    text: String,
    /// Whether the statement was a read: a later successful read clears the failure. A failure of a write is cleared
    /// only by a successful write.
    is_read: bool,
}

/// An open registry. All methods block.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    slot: Mutex<RegistryState>,
    /// What went wrong when the registry was opened.
    open_problem: Option<String>,
    /// The last failed statement that indicates a problem of the file, not of the request.
    last_failure: Mutex<Option<FileFailure>>,
    members: Mutex<VecDeque<(RecordRef, Arc<BTreeSet<String>>)>>,
}

/// State of the registry file.
#[derive(Debug)]
enum RegistryState {
    /// There is no file yet; the first record creates it. Until then reads use an empty registry in memory.
    Absent(DiskPath, Option<Connection>),
    Open(Connection),
    /// The registry of a backup or of a directory that cannot be written to.
    ReadOnly(Connection),
    Unavailable(Error),
}

impl Registry {
    /// Opens the registry of a data directory that this process owns. A damaged file is moved to `quarantine/` and
    /// replaced by an empty one.
    ///
    /// With `expected`, a missing file is reported.
    pub fn open(root: &Path, expected: bool, wall_ms: i64) -> Self {
        let root = DiskPath::os(root);
        let path = root.join(FILE);
        let (slot, open_problem) = match Self::open_state(&root, &path, expected, wall_ms) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(%error, "the registry is unavailable");
                let problem = error.to_string();
                (RegistryState::Unavailable(error), Some(problem))
            }
        };
        Self::of(path.to_path_buf(), slot, open_problem)
    }

    fn open_state(
        root: &DiskPath,
        path: &DiskPath,
        expected: bool,
        wall_ms: i64,
    ) -> Result<(RegistryState, Option<String>)> {
        if !path.found()? {
            let mut has_side_files = false;
            for side_file in open::side_files(root) {
                has_side_files |= side_file.found()?;
            }
            if has_side_files {
                open::quarantine(root, "its registry file is missing", wall_ms)?;
            }
            if !has_side_files && !expected {
                return Ok((RegistryState::Absent(root.clone(), None), None));
            }
            tracing::warn!(
                path = %path.display(),
                "the registry is lost and a new one was created; snapshots of datasets still exist, their descriptions do not"
            );
            return Ok((RegistryState::Open(open::create(root)?), None));
        }
        // An empty file is valid only where no record was ever created.
        let opened = match expected && open::is_empty(root)? {
            true => Err(OpenFailureReason::Damaged(format!(
                "{} is empty, but there are snapshots of datasets",
                path.display()
            ))),
            false => open::open(path),
        };
        match opened {
            Ok(connection) => Ok((RegistryState::Open(connection), None)),
            Err(OpenFailureReason::Damaged(reason)) => {
                let place = open::quarantine(root, &reason, wall_ms)?;
                tracing::error!(%reason, %place, "the registry is damaged: it was moved to quarantine and a new one was created");
                let connection = open::create(root)?;
                Ok((
                    RegistryState::Open(connection),
                    Some(format!("{reason}; it was moved to {place}, and a new one was created")),
                ))
            }
            Err(OpenFailureReason::Other(error)) => Err(error),
        }
    }

    /// Opens the registry of a data directory that cannot be written to, if it exists.
    pub fn open_unwritable(root: &Path) -> Self {
        let path = root.join(FILE);
        if !path.exists() {
            return Self::open_read_only(None);
        }
        let [wal, ..] = open::side_files(&DiskPath::os(root));
        let has_changes = local::length(&wal).is_some_and(|bytes| bytes > 0);
        if !has_changes {
            return Self::open_read_only(Some(&path));
        }
        match open::open_copy(&path, &wal) {
            Ok(connection) => Self::of(path, RegistryState::ReadOnly(connection), None),
            Err(error) => {
                let problem = error.to_string();
                Self::of(path, RegistryState::Unavailable(error), Some(problem))
            }
        }
    }

    /// Opens the registry of a backup, if it exists, without changing any file.
    pub fn open_read_only(file: Option<&Path>) -> Self {
        let (path, opened) = match file {
            None => (PathBuf::from(FILE), open::in_memory()),
            Some(file) => (file.to_path_buf(), open::open_read_only(file)),
        };
        match opened {
            Ok(connection) => Self::of(path, RegistryState::ReadOnly(connection), None),
            Err(error) => {
                let problem = error.to_string();
                Self::of(path, RegistryState::Unavailable(error), Some(problem))
            }
        }
    }

    fn of(path: PathBuf, slot: RegistryState, open_problem: Option<String>) -> Self {
        let (last_failure, members) = (Mutex::default(), Mutex::default());
        Self { path, slot: Mutex::new(slot), open_problem, last_failure, members }
    }

    /// The problem of the registry, if there is one.
    pub fn problem(&self) -> Option<String> {
        let last_failure = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
        self.open_problem.clone().or_else(|| last_failure.as_ref().map(|failure| failure.text.clone()))
    }

    fn slot(&self) -> MutexGuard<'_, RegistryState> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no record was ever created.
    pub(super) fn is_absent(&self) -> bool {
        matches!(*self.slot(), RegistryState::Absent(..))
    }

    /// The error of a failed statement; recorded when it indicates a problem of the file.
    fn failed(&self, action: &str, error: &rusqlite::Error, is_read: bool) -> Error {
        let error = failed(action, &self.path, error);
        if matches!(error.code(), ErrorCode::CorruptData | ErrorCode::Io | ErrorCode::StorageFull) {
            tracing::error!(%error, "the registry failed");
            *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(FileFailure { text: error.to_string(), is_read });
        }
        error
    }

    /// Runs queries.
    pub(super) fn read<T>(&self, action: &str, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut slot = self.slot();
        let outcome = match &mut *slot {
            RegistryState::Open(connection) | RegistryState::ReadOnly(connection) => work(connection),
            RegistryState::Unavailable(error) => return Err(error.clone()),
            RegistryState::Absent(_, Some(empty)) => work(empty),
            RegistryState::Absent(_, empty) => work(empty.insert(open::in_memory()?)),
        };
        match outcome {
            Ok(value) => {
                // A successful read clears a failed one.
                let mut last_failure = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
                last_failure.take_if(|failure| failure.is_read);
                Ok(value)
            }
            Err(error) => Err(self.failed(action, &error, true)),
        }
    }

    /// Runs changes in one transaction; an error rolls it back.
    pub(super) fn write<T>(
        &self,
        action: &str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, RollbackReason>,
    ) -> Result<T> {
        let mut slot = self.slot();
        if let RegistryState::Absent(root, _) = &*slot {
            let root = root.clone();
            *slot = RegistryState::Open(open::create(&root)?);
        }
        let connection = match &mut *slot {
            RegistryState::Open(connection) => connection,
            RegistryState::Unavailable(error) => return Err(error.clone()),
            RegistryState::ReadOnly(_) | RegistryState::Absent(..) => {
                return Err(Error::new(
                    ErrorCode::WriterStopped,
                    format!("{} is read-only: it belongs to a backup or a read-only directory", self.path.display()),
                )
                .with_hint("restore a backup with `fastk admin restore BACKUP --root DIR --apply`"));
            }
        };
        let fail = |error: rusqlite::Error| self.failed(action, &error, false);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        match work(&transaction) {
            Ok(done) => {
                transaction.commit().map_err(fail)?;
                *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Ok(done)
            }
            Err(RollbackReason::Sqlite(error)) => Err(fail(error)),
            Err(RollbackReason::Rejected(error)) => Err(error),
        }
    }

    /// Writes a consistent copy of the registry to a new file.
    ///
    /// # Errors
    /// Those of a statement. `false`, without a file, when there is no registry to copy.
    pub fn copy_to(&self, file: &Path) -> Result<bool> {
        let slot = self.slot();
        let connection = match &*slot {
            RegistryState::Open(connection) => connection,
            RegistryState::Unavailable(error) => return Err(error.clone()),
            RegistryState::ReadOnly(_) | RegistryState::Absent(..) => return Ok(false),
        };
        let name = file.to_str().ok_or_else(|| Error::invalid(format!("{} is not a UTF-8 path", file.display())))?;
        connection.execute("VACUUM INTO ?1", [name]).map_err(|error| self.failed("copy", &error, false))?;
        Ok(true)
    }

    /// The members of a dataset, from the cache or by `read`.
    pub(super) fn members_or(
        &self,
        dataset: &RecordRef,
        read: impl FnOnce() -> Result<BTreeSet<String>>,
    ) -> Result<Arc<BTreeSet<String>>> {
        let cache = || self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = cache().iter().find(|(key, _)| key == dataset) {
            return Ok(Arc::clone(known));
        }
        let members = Arc::new(read()?);
        let mut cache = cache();
        cache.truncate(CACHED_MEMBERS_MAX - 1);
        cache.push_front((dataset.clone(), Arc::clone(&members)));
        Ok(members)
    }
}

/// Why a transaction is rolled back.
#[derive(Debug)]
pub(super) enum RollbackReason {
    Sqlite(rusqlite::Error),
    Rejected(Error),
}

impl From<rusqlite::Error> for RollbackReason {
    fn from(error: rusqlite::Error) -> Self {
        RollbackReason::Sqlite(error)
    }
}

impl From<Error> for RollbackReason {
    fn from(error: Error) -> Self {
        RollbackReason::Rejected(error)
    }
}
