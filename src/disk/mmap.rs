//! Read-only maps of immutable files: the only `unsafe` of the project.
//!
//! A map is safe as long as nobody changes or truncates the file under it. FastK never writes a published file in
//! place and unlinks it only (an unlinked file stays mapped), the store's directory is locked against a second
//! writer, and length and footer are checked with ordinary reads before mapping. What remains: another program that
//! truncates a live file makes the kernel raise SIGBUS; the documentation says so.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap};

use crate::error::{Error, Result};

/// A mapped file. Cheap to clone; unmapped when the last slice is gone.
#[derive(Clone, Debug)]
pub struct Map {
    map: Arc<Mmap>,
    bytes: Bytes,
}

struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Map {
    /// Maps a published, immutable file.
    pub fn new(file: &File, path: &Path) -> Result<Self> {
        // SAFETY: the file is published and immutable (see the head of this module), so the bytes behind the
        // shared reference do not change while the map lives.
        let map = unsafe { Mmap::map(file) }.map_err(|e| Error::io("map", path, &e))?;
        let map = Arc::new(map);
        let bytes = Bytes::from_owner(Owner(Arc::clone(&map)));
        Ok(Self { map, bytes })
    }

    /// All bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// A part of the map that keeps it alive, without copying. Empty when it lies outside.
    pub fn slice(&self, offset: usize, length: usize) -> Bytes {
        match offset.checked_add(length) {
            Some(end) if end <= self.bytes.len() => self.bytes.slice(offset..end),
            _ => Bytes::new(),
        }
    }

    /// Brings a part into memory, so that nobody downstream waits for the disk. Best effort.
    pub fn populate(&self, offset: usize, length: usize) {
        if self.map.advise_range(Advice::PopulateRead, offset, length).is_err() {
            let _ = self.map.advise_range(Advice::WillNeed, offset, length);
        }
    }
}
