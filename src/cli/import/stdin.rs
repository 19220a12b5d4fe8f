//! Stages standard input in a file, since an import reads its input more than once.
//!
//! The file is in its own directory under the directory for temporary files (`TMPDIR`) and is removed when the import
//! ends.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::disk::{self, DiskPath, StagedFile};
use crate::error::{Error, Result};

/// The FILE argument for standard input.
pub const STDIN: &str = "-";
/// Most bytes to stage, before decompression.
pub const STAGED_BYTES_MAX: u64 = 64 << 30;
/// Size of the copy buffer in bytes.
const PART_BYTES: usize = 1 << 20;

/// A file with standard input, removed when this value is dropped.
#[derive(Debug)]
pub struct StagedInput {
    folder: DiskPath,
    /// `None` only during removal.
    staged: Option<StagedFile>,
}

impl StagedInput {
    /// Reads the input to its end.
    ///
    /// # Errors
    /// `io` and `storage_full` of reading and writing, `invalid_argument` for more than `bytes_max` bytes.
    pub fn of(mut input: impl Read, temporary: &Path, bytes_max: u64) -> Result<Self> {
        let temporary = DiskPath::os(temporary);
        let folder = temporary.join(format!("fastk-import-{:016x}", disk::random(&temporary)?));
        disk::create_dir(&folder)?;
        let private = std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700));
        private.map_err(|error| Error::io("restrict access to", &folder, &error))?;
        let staged = StagedFile::create(&folder);
        let mut this = Self { folder, staged: None };
        let staged = this.staged.insert(staged?);
        let mut part = vec![0; PART_BYTES];
        let mut bytes = 0_u64;
        loop {
            let count = match input.read(&mut part) {
                Ok(0) => return Ok(this),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read", Path::new("standard input"), &error)),
            };
            bytes += count as u64;
            if bytes > bytes_max {
                return Err(Error::invalid(format!("standard input is longer than {bytes_max} bytes"))
                    .with_hint("import it in parts, or from a file"));
            }
            staged
                .put(part.get(..count).unwrap_or_default())
                .map_err(|error| error.with_hint("set TMPDIR to a directory with more space"))?;
        }
    }

    pub fn path(&self) -> &Path {
        self.staged.as_ref().map_or(self.folder.as_ref(), |staged| staged.path().as_ref())
    }
}

impl Drop for StagedInput {
    fn drop(&mut self) {
        self.staged = None;
        disk::remove_dir_if_empty(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn names(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn standard_input_is_a_private_file_during_the_import() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = b"ts,open\n1,2\n".repeat(PART_BYTES / 4);
        let staged = StagedInput::of(bytes.as_slice(), folder.path(), STAGED_BYTES_MAX).unwrap();
        assert_eq!(std::fs::read(staged.path()).unwrap(), bytes);
        let mode = std::fs::metadata(staged.path().parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(staged);
        assert_eq!(names(folder.path()), 0);
    }

    #[test]
    fn an_endless_input_is_refused_and_its_file_removed() {
        let folder = tempfile::tempdir().unwrap();
        let error = StagedInput::of(io::repeat(b'1'), folder.path(), 3 << 20).unwrap_err();
        assert_eq!(error.code(), crate::ErrorCode::InvalidArgument);
        assert_eq!(names(folder.path()), 0);
    }
}
