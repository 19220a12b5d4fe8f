//! The registry: what series mean together (datasets, features, factors), kept in `registry.sqlite` beside the rows.
//!
//! Invariants:
//! 1. Rows never need it. It can be lost, damaged or newer than the program: the store opens and works all the same, and
//!    what is left of the registry is told by [`Registry::problem`].
//! 2. A record never changes but for its status, and no version is given twice.
//! 3. A record is there whole or not at all: each is one transaction.
//! 4. A snapshot that is made or dropped for a dataset stands in the table `pending` before and until it is done, so that
//!    whoever opens the store after a crash can finish it ([`Registry::pending`]).
//! 5. A reader limited to some series finds no record that needs others: that is decided in the queries, not behind them.

pub mod hash;
mod name;
mod open;
mod records;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior};

pub use name::{NAME_CHARS_MAX, RecordKind, RecordRef, RecordStatus, VERSION_MAX, check_name, parse_version};
pub use open::FILE;
pub use records::{
    DatasetFields, DatasetMemberRow, DefinitionFields, LINEAGE_MAX, Lineage, LineageLink, LineageMember,
    PendingSnapshot, Record, RecordPage, RecordSelection, RecordSeries, SeriesRole,
};

use crate::disk::DiskPath;
use crate::error::{Error, ErrorCode, Result};
use open::{OpenFailureReason, failed};

/// Sets of members held in memory: reads through a dataset ask for them again and again.
const MEMBERS_HELD_MAX: usize = 16;

/// A failed statement that tells of the file.
#[derive(Debug)]
struct FileFailure {
    text: String,
    /// It only read: a later read that succeeds ends it. What a write met is over after a write alone.
    is_of_read: bool,
}

/// An open registry. All methods block.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    slot: Mutex<RegistryState>,
    /// What went wrong while it was opened.
    opening: Option<String>,
    /// What the last failed statement said that tells of the file, not of the request.
    failing: Mutex<Option<FileFailure>>,
    members: Mutex<VecDeque<(RecordRef, Arc<BTreeSet<String>>)>>,
}

/// Where the records are.
#[derive(Debug)]
enum RegistryState {
    /// There is no file: the first record makes it. Till then there is an empty registry in memory, once it is asked.
    Absent(DiskPath, Option<Connection>),
    Open(Connection),
    /// Of a backup, which is only read.
    ReadOnly(Connection),
    Unavailable(Error),
}

impl Registry {
    /// Opens the registry of a data directory that this process owns. A damaged file is set aside, and another begun.
    ///
    /// `expected` says that there should be one: then a missing file is told of.
    pub fn open(root: &Path, expected: bool, wall_ms: i64) -> Self {
        let root = DiskPath::os(root);
        let path = root.join(FILE);
        let (slot, opening) = match Self::slot_of(&root, &path, expected, wall_ms) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(%error, "the registry cannot be used");
                let problem = error.to_string();
                (RegistryState::Unavailable(error), Some(problem))
            }
        };
        Self::of(path.to_path_buf(), slot, opening)
    }

    fn slot_of(
        root: &DiskPath,
        path: &DiskPath,
        expected: bool,
        wall_ms: i64,
    ) -> Result<(RegistryState, Option<String>)> {
        if !path.found()? {
            let mut left = false;
            for beside in open::beside(root) {
                left |= beside.found()?;
            }
            if left {
                open::set_aside(root, "the registry it belongs to is missing", wall_ms)?;
            }
            if !left && !expected {
                return Ok((RegistryState::Absent(root.clone(), None), None));
            }
            tracing::warn!(
                path = %path.display(),
                "the registry is lost: a fresh one is made; snapshots of datasets are still there, their descriptions are not"
            );
            return Ok((RegistryState::Open(open::create(root)?), None));
        }
        // An empty one is whole where no record was ever made, and nowhere else.
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
                let place = open::set_aside(root, &reason, wall_ms)?;
                tracing::error!(%reason, %place, "the registry is damaged: it is set aside, and a fresh one made");
                let connection = open::create(root)?;
                Ok((
                    RegistryState::Open(connection),
                    Some(format!("{reason}; it was set aside under {place}, and a fresh one made")),
                ))
            }
            Err(OpenFailureReason::Other(error)) => Err(error),
        }
    }

    /// Opens the registry of a data directory that cannot be written to, if it has one.
    pub fn open_unwritable(root: &Path) -> Self {
        let path = root.join(FILE);
        if !path.exists() {
            return Self::open_read_only(None);
        }
        let [wal, ..] = open::beside(&DiskPath::os(root));
        let has_changes = std::fs::metadata(&wal).is_ok_and(|found| found.len() > 0);
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

    /// Opens the registry of a backup, if it has one, without changing anything.
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

    fn of(path: PathBuf, slot: RegistryState, opening: Option<String>) -> Self {
        let (failing, members) = (Mutex::default(), Mutex::default());
        Self { path, slot: Mutex::new(slot), opening, failing, members }
    }

    /// What is wrong with it, if anything is.
    pub fn problem(&self) -> Option<String> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        self.opening.clone().or_else(|| failing.as_ref().map(|failure| failure.text.clone()))
    }

    fn slot(&self) -> MutexGuard<'_, RegistryState> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no record was ever made.
    fn is_absent(&self) -> bool {
        matches!(*self.slot(), RegistryState::Absent(..))
    }

    /// What to tell of a failed statement; keeps it when it tells of the file.
    fn failed(&self, action: &str, error: &rusqlite::Error, is_of_read: bool) -> Error {
        let error = failed(action, &self.path, error);
        if matches!(error.code(), ErrorCode::CorruptData | ErrorCode::Io | ErrorCode::StorageFull) {
            tracing::error!(%error, "the registry failed");
            *self.failing.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(FileFailure { text: error.to_string(), is_of_read });
        }
        error
    }

    /// Runs questions.
    fn read<T>(&self, action: &str, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let mut slot = self.slot();
        let done = match &mut *slot {
            RegistryState::Open(connection) | RegistryState::ReadOnly(connection) => work(connection),
            RegistryState::Unavailable(error) => return Err(error.clone()),
            RegistryState::Absent(_, Some(empty)) => work(empty),
            RegistryState::Absent(_, empty) => work(empty.insert(open::in_memory()?)),
        };
        match done {
            Ok(done) => {
                // What only reading met is over.
                let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
                failing.take_if(|failure| failure.is_of_read);
                Ok(done)
            }
            Err(error) => Err(self.failed(action, &error, true)),
        }
    }

    /// Runs changes in one transaction, which an error undoes.
    fn write<T>(&self, action: &str, work: impl FnOnce(&Transaction<'_>) -> Result<T, RollbackReason>) -> Result<T> {
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
                    format!("{} belongs to a backup: it is only read", self.path.display()),
                )
                .with_hint("make a store of it with `fastk admin restore BACKUP --root DIR --apply`"));
            }
        };
        let told = |error: rusqlite::Error| self.failed(action, &error, false);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(told)?;
        match work(&transaction) {
            Ok(done) => {
                transaction.commit().map_err(told)?;
                *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Ok(done)
            }
            Err(RollbackReason::Sqlite(error)) => Err(told(error)),
            Err(RollbackReason::Told(error)) => Err(error),
        }
    }

    /// Writes a copy of everything, as it is at one moment, into a new file.
    ///
    /// # Errors
    /// Those of a statement. `false`, and no file, when there is nothing to copy.
    pub fn copy_to(&self, file: &Path) -> Result<bool> {
        let slot = self.slot();
        let connection = match &*slot {
            RegistryState::Open(connection) => connection,
            RegistryState::Unavailable(error) => return Err(error.clone()),
            RegistryState::ReadOnly(_) | RegistryState::Absent(..) => return Ok(false),
        };
        let name = file.to_str().ok_or_else(|| Error::invalid(format!("{} is no UTF-8 path", file.display())))?;
        connection.execute("VACUUM INTO ?1", [name]).map_err(|error| self.failed("copy", &error, false))?;
        Ok(true)
    }

    /// Keys of the members of a dataset.
    pub fn members(&self, dataset: &RecordRef) -> Result<Arc<BTreeSet<String>>> {
        let held = || self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = held().iter().find(|(of, _)| of == dataset) {
            return Ok(Arc::clone(known));
        }
        let members = Arc::new(self.read("read members in", |connection| records::members(connection, dataset))?);
        let mut held = held();
        held.truncate(MEMBERS_HELD_MAX - 1);
        held.push_front((dataset.clone(), Arc::clone(&members)));
        Ok(members)
    }
}

/// Why a transaction is undone.
#[derive(Debug)]
enum RollbackReason {
    Sqlite(rusqlite::Error),
    Told(Error),
}

impl From<rusqlite::Error> for RollbackReason {
    fn from(error: rusqlite::Error) -> Self {
        RollbackReason::Sqlite(error)
    }
}

impl From<Error> for RollbackReason {
    fn from(error: Error) -> Self {
        RollbackReason::Told(error)
    }
}
