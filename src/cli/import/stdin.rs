//! Stages standard input in a file, since an import reads its input more than once.
//!
//! The file is in its own directory under the directory for temporary files (`TMPDIR`) and is removed when the import
//! ends.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::disk::local::{self, TempDir};
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
    path: PathBuf,
    /// Removed on drop.
    _dir: TempDir,
}

impl StagedInput {
    /// Reads the input to its end.
    ///
    /// # Errors
    /// `io` and `storage_full` of reading and writing, `invalid_argument` for more than `bytes_max` bytes.
    pub fn of(mut input: impl Read, temporary: &Path, bytes_max: u64) -> Result<Self> {
        let dir = local::temporary_dir(temporary, "fastk-import-");
        let dir = dir.map_err(|error| Error::io("create a directory in", temporary, &error))?;
        let path = dir.path().join("input");
        let mut file = local::create(&path)?;
        let mut part = vec![0; PART_BYTES];
        let mut bytes = 0_u64;
        loop {
            let count = match input.read(&mut part) {
                Ok(0) => return Ok(Self { path, _dir: dir }),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read", Path::new("standard input"), &error)),
            };
            bytes += count as u64;
            if bytes > bytes_max {
                return Err(Error::invalid(format!("standard input is longer than {bytes_max} bytes"))
                    .with_hint("import it in parts, or from a file"));
            }
            file.write_all(part.get(..count).unwrap_or_default()).map_err(|error| {
                Error::io("write", &path, &error).with_hint("set TMPDIR to a directory with more space")
            })?;
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

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
