//! Directories: created and synced, listed, resolved, removed.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::files::remove;
use super::path::DiskPath;
use super::retry::persist;
use crate::error::{Error, Result};

/// Creates a directory and its parents; existing ones are fine. The parent of each new one is synced.
pub fn create_dir(path: &DiskPath) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent();
    if let Some(parent) = &parent {
        create_dir(parent)?;
    }
    match persist(|| path.disk().create_dir(path)) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) => return Err(Error::io("create directory", path, &e)),
    }
    let synced = parent.map_or(Ok(()), |parent| sync_dir(&parent));
    if synced.is_err() {
        // Left in place, a later call would assume that it is durable.
        remove_dir_if_empty(path);
    }
    synced
}

/// Creates these directories, whose parents exist, and syncs each of the parents once. Existing ones are fine.
pub fn create_dirs(paths: &[DiskPath]) -> Result<()> {
    let mut created: Vec<&DiskPath> = Vec::new();
    let mut parents: Vec<DiskPath> = Vec::new();
    let mut outcome = Ok(());
    for path in paths.iter().filter(|path| !path.is_dir()) {
        match persist(|| path.disk().create_dir(path)) {
            Ok(()) => {
                created.push(path);
                parents.extend(path.parent());
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(e) => {
                outcome = Err(Error::io("create directory", path, &e));
                break;
            }
        }
    }
    if outcome.is_ok() {
        outcome = sync_dirs(parents);
    }
    if outcome.is_err() {
        // Left in place, a later call would assume that they are durable.
        created.into_iter().for_each(remove_dir_if_empty);
    }
    outcome
}

/// Makes the names inside these directories durable; each is synced once, even if listed repeatedly.
pub fn sync_dirs(mut paths: Vec<DiskPath>) -> Result<()> {
    paths.sort_by(|a, b| (a as &Path).cmp(b));
    paths.dedup_by(|a, b| (a as &Path) == (b as &Path));
    let Some(first) = paths.first() else { return Ok(()) };
    let plain: Vec<&Path> = paths.iter().map(|path| path as &Path).collect();
    let synced = first.disk().sync_dirs(&plain);
    for (path, synced) in paths.iter().zip(synced) {
        match synced {
            Err(e) if e.kind() == ErrorKind::Interrupted => sync_dir(path)?,
            other => other.map_err(|e| Error::io("sync directory", path, &e))?,
        }
    }
    Ok(())
}

/// Makes the names inside a directory durable.
pub fn sync_dir(path: &DiskPath) -> Result<()> {
    persist(|| path.disk().sync_dir(path)).map_err(|e| Error::io("sync directory", path, &e))
}

/// Names in a directory, sorted; empty when the directory does not exist.
pub fn list(path: &DiskPath) -> Result<Vec<String>> {
    let mut names = match persist(|| path.disk().list(path)) {
        Ok(names) => names,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", path, &e)),
    };
    names.sort();
    Ok(names)
}

/// The canonical path of a file or directory that exists or could be created: symbolic links are followed.
pub fn resolve(path: &DiskPath) -> Result<PathBuf> {
    let absolute = std::path::absolute(path.as_ref() as &Path).map_err(|e| Error::io("resolve", path, &e))?;
    for parent in absolute.ancestors() {
        if let Ok(found) = persist(|| path.disk().resolve(parent)) {
            let rest = absolute.strip_prefix(parent).unwrap_or(Path::new(""));
            if !rest.components().any(|part| part == Component::ParentDir) {
                return Ok(found.join(rest));
            }
            // A missing component is not a link, so its parent is the directory before it.
            let mut steps = found;
            for part in rest.components() {
                match part {
                    Component::ParentDir => drop(steps.pop()),
                    part => steps.push(part),
                }
            }
            return resolve(&path.elsewhere(steps));
        }
    }
    Ok(absolute)
}

/// Removes a directory with its content; a missing one is fine.
pub fn remove_tree(path: &DiskPath) -> Result<()> {
    for name in list(path)? {
        let inner = path.join(name);
        if inner.is_dir() { remove_tree(&inner)? } else { remove(&inner)? }
    }
    remove_dir_if_empty(path);
    Ok(())
}

/// Removes a directory if it is empty; a missing one is fine.
pub fn remove_dir_if_empty(path: &DiskPath) {
    let _ = path.disk().remove_dir(path);
}
