//! The file of the registry, as far as its first bytes and its length show: the records in it are checked when it is
//! opened.

use crate::disk;
use crate::error::Result;
use crate::format::backup::REGISTRY_FILE;
use crate::store::check::verify::finding::{Finding, FindingKind};
use crate::store::check::verify::read_file::FileReadOutcome;
use crate::store::check::verify::run::VerifyRun;
use crate::store::directory::LISTING;

/// First bytes of a SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Bytes of the header of a SQLite file.
const HEADER_BYTES: usize = 100;
/// Prefix of the names of snapshots that datasets need.
pub const DATASET_SNAPSHOT: &str = "dataset:";

impl VerifyRun<'_> {
    pub fn registry(&mut self) -> Result<()> {
        // A backup has a copy of another name, which its listing covers.
        if self.root.join(LISTING).exists() {
            return Ok(());
        }
        let path = self.root.join(REGISTRY_FILE);
        let file = match crate::store::check::verify::read_file::open(&path) {
            FileReadOutcome::Is(file) => file,
            FileReadOutcome::Missing => {
                // A running server may be about to create it.
                if !self.live {
                    self.add_missing_registry("it is missing");
                }
                return Ok(());
            }
            FileReadOutcome::Unreadable(error) => {
                self.add(crate::store::check::verify::read_file::unreadable(REGISTRY_FILE, &error));
                return Ok(());
            }
        };
        let bytes = disk::file_bytes(&file, &path)?;
        self.count(0)?;
        if bytes == 0 {
            self.add_missing_registry("it is empty");
            return Ok(());
        }
        let header = disk::read_at(&file, &path, 0, HEADER_BYTES.min(usize::try_from(bytes).unwrap_or(HEADER_BYTES)))?;
        if header.len() < HEADER_BYTES || !header.starts_with(MAGIC) {
            let finding = Finding::new(FindingKind::DamagedRegistry, REGISTRY_FILE, "it is not an SQLite file");
            self.add(finding.at(0, header.len() as u64));
            return Ok(());
        }
        let page = match header.get(16..18) {
            Some([0, 1]) => 65_536,
            Some([high, low]) => u64::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        };
        // A writer lengthens it page by page.
        if !self.live && (page == 0 || bytes % page != 0) {
            let message = format!("its {bytes} bytes are not a multiple of the page size {page}");
            self.add(Finding::new(FindingKind::DamagedRegistry, REGISTRY_FILE, message));
        }
        Ok(())
    }

    /// A finding when there are snapshots that only a record of the registry explains.
    fn add_missing_registry(&mut self, how: &str) {
        let contents = self.contents();
        let names: Vec<&str> =
            contents.snapshots.keys().map(String::as_str).filter(|name| name.starts_with(DATASET_SNAPSHOT)).collect();
        let Some(first) = names.first() else { return };
        let message = match names.len() {
            1 => format!("{how}, but the snapshot {first} belongs to a dataset"),
            count => format!("{how}, but {count} snapshots belong to datasets, the first of them is {first}"),
        };
        self.add(Finding::new(FindingKind::DamagedRegistry, REGISTRY_FILE, message));
    }
}
