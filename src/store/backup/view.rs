//! A finished backup opened for reading.

use crate::disk::overlay::OverlayDisk;
use crate::disk::{self, DiskPath};
use crate::error::Result;
use crate::store::backup::listing::{EMPTY_LOG_BYTES, empty_log, read_listing};
use crate::store::directory::read_only;
use crate::store::open::engine::Engine;
use crate::store::options::StoreOptions;

/// Opens a finished backup for reading. What opening writes stays in memory.
pub fn open(root: &DiskPath, options: StoreOptions) -> Result<Engine> {
    let listing = read_listing(root)?;
    let names = listing.files.iter().map(|file| file.path.as_str()).filter(|name| !name.starts_with("wal/"));
    let view = OverlayDisk::of(root, names);
    for name in ["wal", "tmp"] {
        disk::create_dir(&view.join(name))?;
    }
    empty_log(&view)?;
    let options = StoreOptions { background_maintenance: false, wal_segment_bytes: EMPTY_LOG_BYTES, ..options };
    let engine = Engine::open(&view, false, options)?;
    engine.refuse(read_only(root));
    Ok(engine)
}
