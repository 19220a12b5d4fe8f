//! Files that exist: read, mapped, linked, removed.

use std::io::ErrorKind;

use super::interface::File;
use super::mmap::Map;
use super::path::DiskPath;
use super::retry::{persist, read_exact_at};
use crate::error::{Error, ErrorCode, Result};
use crate::types::width::to_usize;

/// Reads an entire file.
pub fn read(path: &DiskPath) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut out = vec![0; to_usize(file_bytes(&file, path)?)];
    read_exact_at(file.as_ref(), &mut out, 0).map_err(|e| Error::io("read", path, &e))?;
    Ok(out)
}

/// Reads `length` bytes at `offset`.
pub fn read_at(file: &File, path: &DiskPath, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; length];
    read_exact_at(file.as_ref(), &mut out, offset).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => Error::corrupt(format!("{} ends before byte {}", path.display(), offset)),
        _ => Error::io("read", path, &e),
    })?;
    Ok(out)
}

/// Bytes read and written at a time for entire files.
const PART_BYTES: u64 = 1 << 20;

/// Reads an entire file, part by part, in order.
pub fn read_parts(file: &File, path: &DiskPath, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let bytes = file_bytes(file, path)?;
    let mut offset = 0;
    while offset < bytes {
        let part = (bytes - offset).min(PART_BYTES);
        each(&read_at(file, path, offset, to_usize(part))?)?;
        offset += part;
    }
    Ok(())
}

/// Creates a hard link, whose directory is not synced. `false`, without a change, where that is impossible: the file
/// was removed, is on another file system or on one without hard links, or has too many links.
pub fn link(from: &DiskPath, to: &DiskPath) -> Result<bool> {
    match persist(|| to.disk().link(from, to)) {
        Ok(()) => Ok(true),
        Err(e) => match e.kind() {
            ErrorKind::NotFound
            | ErrorKind::CrossesDevices
            | ErrorKind::PermissionDenied
            | ErrorKind::Unsupported
            | ErrorKind::TooManyLinks => Ok(false),
            _ => Err(Error::io("link", to, &e)),
        },
    }
}

/// Opens a file for reading.
pub fn open(path: &DiskPath) -> Result<File> {
    persist(|| path.disk().open(path, false)).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::corrupt(format!("{} is missing", path.display())),
        _ => Error::io("open", path, &e),
    })
}

/// Size of a file in bytes.
pub fn file_bytes(file: &File, path: &DiskPath) -> Result<u64> {
    persist(|| file.bytes()).map_err(|e| Error::io("stat", path, &e))
}

/// Maps a published file.
pub fn map(file: &File, path: &DiskPath) -> Result<Map> {
    persist(|| file.map()).map_err(|e| Error::io("map", path, &e))
}

/// Removes a file; a missing one is fine. The directory is not synced: a removal undone by a crash is harmless.
pub fn remove(path: &DiskPath) -> Result<()> {
    match persist(|| path.disk().remove(path)) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("remove", path, &e)),
    }
}

/// A random number.
pub fn random(path: &DiskPath) -> Result<u64> {
    let mut bytes = [0; 8];
    path.disk()
        .random(&mut bytes)
        .map_err(|error| Error::new(ErrorCode::Io, format!("the system provides no random numbers: {error}")))?;
    Ok(u64::from_le_bytes(bytes))
}
