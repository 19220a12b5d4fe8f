//! Read-only maps of immutable files, and whether they are resident. Together with the append buffers of runs this is
//! the only `unsafe` code of the project.
//!
//! A map is safe as long as no one changes or truncates the mapped file. FastK never writes a published file in place
//! and unlinks it only (an unlinked file stays mapped), the store's directory is locked against a second writer, and
//! length and footer are checked with ordinary reads before mapping. One risk remains, which the documentation states:
//! if another program truncates a live file, the kernel raises SIGBUS.

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow::alloc::Allocation;
use arrow::buffer::Buffer;
use bytes::Bytes;
use memmap2::{Advice, Mmap};

use crate::types::cells;

/// A mapped file. Cheap to clone; unmapped when the last slice is dropped.
#[derive(Clone, Debug)]
pub struct Map {
    /// `None` for bytes in memory.
    map: Option<Arc<Mmap>>,
    bytes: Bytes,
}

struct MapOwner(Arc<Mmap>);

struct CopiedMap(Buffer);

impl AsRef<[u8]> for CopiedMap {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for MapOwner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Whether every page of some bytes is in memory, so that reading them does not wait for the disk. False when unknown.
pub fn is_resident(bytes: &[u8]) -> bool {
    const PAGES_MAX: usize = 512;
    let page = rustix::param::page_size();
    let lead = bytes.as_ptr().addr() % page;
    let pages = (lead + bytes.len()).div_ceil(page);
    let mut known = [0_u8; PAGES_MAX];
    let Some(known) = known.get_mut(..pages) else { return false };
    let first = bytes.as_ptr().wrapping_sub(lead).cast_mut().cast();
    // SAFETY: the range consists of the full pages that contain a live slice, the kernel does not change them, and it
    // writes one byte per page to `known`, which has that length.
    let outcome = unsafe { libc::mincore(first, lead + bytes.len(), known.as_mut_ptr()) };
    outcome == 0 && known.iter().all(|state| state & 1 != 0)
}

impl Map {
    /// Maps a published, immutable file.
    pub fn of(file: &File) -> io::Result<Self> {
        // SAFETY: the file is published and immutable (see the module documentation), so the bytes behind the
        // shared reference do not change while the map lives.
        let map = Arc::new(unsafe { Mmap::map(file) }?);
        let bytes = Bytes::from_owner(MapOwner(Arc::clone(&map)));
        Ok(Self { map: Some(map), bytes })
    }

    /// A copy of bytes in memory instead of a map, aligned to 64 bytes.
    pub fn copied(bytes: &[u8]) -> Self {
        Self { map: None, bytes: Bytes::from_owner(CopiedMap(Buffer::from_slice_ref(bytes))) }
    }

    /// All bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// A part of the map, which keeps the map alive, without copying.
    ///
    /// # Panics
    /// When the map ends before.
    pub fn slice(&self, offset: usize, length: usize) -> Bytes {
        self.bytes.slice(offset..offset + length)
    }

    /// A part of the map as a column buffer, which keeps the map alive and accounts only for its own size.
    ///
    /// # Panics
    /// When the map ends before.
    pub fn column(&self, offset: usize, length: usize) -> Buffer {
        let Some(map) = &self.map else { return Buffer::from(self.slice(offset, length)) };
        let part = cells::range(map, offset..offset + length);
        let owner: Arc<dyn Allocation> = Arc::clone(map) as _;
        // SAFETY: the bytes lie within the map, which `owner` keeps alive, and do not change (see the module
        // documentation).
        unsafe { Buffer::from_custom_allocation(NonNull::from(part).cast(), part.len(), owner) }
    }

    /// Loads a part into memory, so that later readers do not wait for the disk. Best effort.
    pub fn populate(&self, offset: usize, length: usize) {
        let Some(map) = &self.map else { return };
        if map.advise_range(Advice::PopulateRead, offset, length).is_err() {
            let _ = map.advise_range(Advice::WillNeed, offset, length);
        }
    }
}
