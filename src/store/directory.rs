//! What a directory holds: a store, a backup, or an unfinished backup or restore.

use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::FORMAT_VERSION;

/// Says which format the store has.
pub const FORMAT_FILE: &str = "FORMAT";

/// Locked by the process that has the store open.
pub const LOCK_FILE: &str = "LOCK";

/// Directories of a store.
pub const DIRECTORIES: [&str; 6] = ["wal", "runs", "manifest", "chunks", "tmp", "quarantine"];

/// Whether a file of a data directory belongs to the access control of servers, not to the store.
pub fn is_token_file(name: &str) -> bool {
    name.starts_with("tokens.")
}

/// Text of FORMAT.
pub fn format_text() -> String {
    let body = format!("{{\"format\":{FORMAT_VERSION},\"required_features\":[]}}");
    format!("{body} {:08x}\n", crc32c::crc32c(body.as_bytes()))
}

#[derive(serde::Deserialize)]
struct StoreFormat {
    format: u32,
    required_features: Vec<String>,
}

/// Refuses a store of another format, or one whose format cannot be read.
pub fn check_format(root: &DiskPath) -> Result<()> {
    let path = root.join(FORMAT_FILE);
    let text = disk::read(&path)?;
    let damaged = || Error::corrupt(format!("{} is damaged", path.display()));
    let text = std::str::from_utf8(&text).map_err(|_| damaged())?;
    let (body, crc) = text.strip_suffix('\n').and_then(|line| line.rsplit_once(' ')).ok_or_else(damaged)?;
    if format!("{:08x}", crc32c::crc32c(body.as_bytes())) != crc {
        return Err(damaged());
    }
    let format: StoreFormat = serde_json::from_str(body).map_err(|_| damaged())?;
    if format.format < FORMAT_VERSION {
        let (path, found) = (path.display(), format.format);
        return Err(Error::new(
            ErrorCode::UnsupportedFormat,
            format!(
                "{path} has format {found}, of a program before the first release; this program reads {FORMAT_VERSION}"
            ),
        )
        .with_hint("export the rows with the program that wrote them, and import them into a new directory"));
    }
    let newer = format.format > FORMAT_VERSION;
    if newer || !format.required_features.is_empty() {
        return Err(Error::new(
            ErrorCode::UnsupportedFormat,
            format!(
                "{} has format {} with features {:?}; this program supports format {FORMAT_VERSION}",
                path.display(),
                format.format,
                format.required_features
            ),
        )
        .with_hint("open it with the program that wrote it"));
    }
    Ok(())
}

/// The listing of a finished backup.
pub const LISTING: &str = "backup.json";

/// Says of which history of a store an unfinished first backup is.
pub const BACKUP_BEGUN: &str = "backup.begun";

/// Exists in a directory while it is being restored into.
pub const RESTORE_BEGUN: &str = "restore.begun";

/// Refuses a directory with an unfinished backup or restore.
pub fn check_finished(root: &DiskPath) -> Result<()> {
    let incomplete = |what: &str, hint: &str| {
        Err(Error::new(ErrorCode::NotFound, format!("{} has an incomplete {what}", root.display())).with_hint(hint))
    };
    if root.join(BACKUP_BEGUN).exists() && !root.join(LISTING).exists() {
        return incomplete("backup", "run `fastk admin backup` again, or remove it");
    }
    if root.join(RESTORE_BEGUN).exists() {
        return incomplete("restore", "run `fastk admin restore` again, or remove it");
    }
    Ok(())
}

/// Refuses to change a backup.
pub fn check_no_backup(root: &DiskPath) -> Result<()> {
    check_finished(root)?;
    if root.join(LISTING).exists() { Err(read_only(root)) } else { Ok(()) }
}

pub fn read_only(root: &DiskPath) -> Error {
    Error::new(ErrorCode::WriterStopped, format!("{} is a backup: it is read-only", root.display()))
        .with_hint("create a store from it with `fastk admin restore BACKUP --root DIR --apply`")
}
