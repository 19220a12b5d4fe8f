//! All access to files and maps. Independent of file formats; every error names the path.
//!
//! All operations go through [`Disk`] and [`DiskFile`]: [`os`] implements them, and tests have a simulated disk with power
//! loss and planned failures. Files are made durable in one way: written under `tmp/`, synced, linked to their final name
//! (which fails when the name exists, and never replaces), and the directory synced.

mod dirs;
mod files;
mod interface;
mod limits;
#[cfg(feature = "server")]
pub mod local;
mod lock;
pub mod machine;
pub mod mmap;
pub mod os;
pub mod overlay;
mod path;
mod retry;
mod staged;

pub use dirs::{create_dir, create_dirs, list, remove_dir_if_empty, remove_tree, resolve, sync_dir, sync_dirs};
pub use files::{file_bytes, link, map, open, random, read, read_at, read_parts, remove};
pub use interface::{DirHandle, Disk, DiskFile, File};
pub use limits::{lower_priority, raise_open_files_limit};
pub use lock::{Lock, SharedLock, process_lives};
pub use mmap::is_resident;
pub use path::DiskPath;
pub use staged::{StagedFile, WriteFile, publish, replace};
