//! Detects the format of a file by its content, and reads its decompressed bytes.
//!
//! File names and extensions are ignored. A byte-order mark of UTF-8 is skipped; other encodings are refused by name.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::disk::local;
use crate::error::{Error, ErrorCode, Result};

/// The format of the decompressed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    Csv,
    Json,
    Parquet,
    ArrowFile,
    ArrowStream,
}

impl FileFormat {
    pub fn name(self) -> &'static str {
        match self {
            FileFormat::Csv => "csv",
            FileFormat::Json => "json",
            FileFormat::Parquet => "parquet",
            FileFormat::ArrowFile => "arrow file",
            FileFormat::ArrowStream => "arrow stream",
        }
    }
}

/// The compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Called with the number of bytes that each read takes from the file.
pub type ReadProgress = Rc<dyn Fn(u64)>;

/// A callback that ignores the progress.
pub fn unobserved() -> ReadProgress {
    Rc::new(|_| ())
}

/// A file of rows, with its format.
#[derive(Clone, Debug)]
pub struct Input {
    pub path: PathBuf,
    /// Name of the input in messages: the path as given, or `standard input`.
    pub label: String,
    pub format: FileFormat,
    pub compression: Compression,
    /// Bytes on disk.
    pub bytes: u64,
}

const BOM: &[u8] = b"\xef\xbb\xbf";
/// Bytes read to detect the format.
const HEAD_BYTES: usize = 4_096;

impl Input {
    /// Detects the format from the first bytes of a file.
    ///
    /// # Errors
    /// `io` when it cannot be read, `unsupported_media_type` for an unknown format, `invalid_argument` when it is empty
    /// or not a regular file.
    pub fn detect(path: &Path) -> Result<Self> {
        Self::labelled(path, path.display().to_string())
    }

    /// Detects the format of a file whose name in messages is `label`.
    pub fn labelled(path: &Path, label: String) -> Result<Self> {
        let file = local::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::new(ErrorCode::NotFound, format!("file {label} does not exist")),
            _ => Error::io("open", path, &error),
        })?;
        let meta = file.metadata().map_err(|error| Error::io("read", path, &error))?;
        if !meta.is_file() {
            return Err(Error::invalid(format!("{label} is not a regular file"))
                .with_hint("files are read more than once; a pipe is read from standard input: fastk import - …"));
        }
        let head = read_head(file).map_err(|error| Error::io("read", path, &error))?;
        let compression = match head.as_slice() {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        };
        let mut input = Self { path: path.into(), label, format: FileFormat::Csv, compression, bytes: meta.len() };
        let head = match compression {
            Compression::None => head,
            _ => read_head(input.bytes(&unobserved())?).map_err(|error| input.broken(&error))?,
        };
        input.format = input.detect_format(&head)?;
        Ok(input)
    }

    fn detect_format(&self, head: &[u8]) -> Result<FileFormat> {
        let refuse = |what: &str, hint: &str| {
            Error::new(ErrorCode::UnsupportedMediaType, format!("{} is {what}", self.label)).with_hint(hint)
        };
        let kinds = "import reads CSV, JSON arrays, NDJSON, Parquet, Arrow and Feather, plain or in gzip or zstd";
        if head.is_empty() {
            return Err(Error::invalid(format!("{} is empty", self.label)));
        }
        match head {
            [b'P', b'A', b'R', b'1', ..] => return Ok(FileFormat::Parquet),
            [b'A', b'R', b'R', b'O', b'W', b'1', ..] => return Ok(FileFormat::ArrowFile),
            [b'F', b'E', b'A', b'1', ..] => {
                return Err(refuse("a Feather file of version 1", "convert it to version 2 or Parquet"));
            }
            [0xff, 0xff, 0xff, 0xff, ..] => return Ok(FileFormat::ArrowStream),
            [b'P', b'K', 3 | 5, ..] => return Err(refuse("a zip archive", "unzip -p FILE.zip | fastk import - …")),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
                return Err(refuse("text in UTF-16", "iconv -f UTF-16 -t UTF-8 FILE | fastk import - …"));
            }
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                return Err(refuse("compressed twice", "decompress it once"));
            }
            _ => {}
        }
        let text = head.strip_prefix(BOM).unwrap_or(head);
        if text.contains(&0) {
            return Err(refuse("of an unknown binary format", kinds));
        }
        match text.trim_ascii_start() {
            [] => Err(Error::invalid(format!("{} has only white space", self.label))),
            [b'[' | b'{', ..] => Ok(FileFormat::Json),
            _ => Ok(FileFormat::Csv),
        }
    }

    /// The decompressed bytes; `progress` counts the bytes on disk.
    pub fn bytes(&self, progress: &ReadProgress) -> Result<Box<dyn Read>> {
        let file = local::open(&self.path).map_err(|error| Error::io("open", &self.path, &error))?;
        let file = ProgressReader { inner: file, progress: Rc::clone(progress) };
        Ok(match self.compression {
            Compression::None => Box::new(file),
            Compression::Gzip => {
                Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file)))
            }
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(file).map_err(|error| self.broken(&error))?),
        })
    }

    /// The decompressed text, without a byte-order mark.
    pub fn text(&self, progress: &ReadProgress) -> Result<Box<dyn BufRead>> {
        let mut reader = BufReader::with_capacity(1 << 16, self.bytes(progress)?);
        let mut first = Vec::with_capacity(BOM.len());
        reader.by_ref().take(3).read_to_end(&mut first).map_err(|error| self.broken(&error))?;
        if first == BOM {
            return Ok(Box::new(reader));
        }
        Ok(Box::new(io::Cursor::new(first).chain(reader)))
    }

    /// The error of a failed read: `invalid_argument` for a damaged file, else `io`.
    pub fn broken(&self, error: &io::Error) -> Error {
        use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
        match error.kind() {
            InvalidData | InvalidInput | UnexpectedEof | Other => {
                Error::invalid(format!("{} is damaged or truncated: {error}", self.label))
            }
            _ => Error::io("read", &self.path, error),
        }
    }
}

fn read_head(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    reader.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Counts the bytes that are read as progress.
struct ProgressReader<R> {
    inner: R,
    progress: ReadProgress,
}

impl<R: Read> Read for ProgressReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        (self.progress)(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::io::Write;

    /// A file with these bytes in a new directory, which is removed with the returned guard.
    pub fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    pub fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_format_depends_on_the_content_not_on_the_name() {
        let zstd = zstd::encode_all(&b"{\"ts\":1}\n"[..], 1).unwrap();
        for (bytes, format, compression) in [
            (b"ts,open\n1,2\n".to_vec(), FileFormat::Csv, Compression::None),
            (b"\xef\xbb\xbfts,open\n".to_vec(), FileFormat::Csv, Compression::None),
            (b" [[1,2]]".to_vec(), FileFormat::Json, Compression::None),
            (gzip(b"{\"ts\":1}"), FileFormat::Json, Compression::Gzip),
            (zstd, FileFormat::Json, Compression::Zstd),
            (b"PAR1....".to_vec(), FileFormat::Parquet, Compression::None),
            (b"ARROW1\0\0".to_vec(), FileFormat::ArrowFile, Compression::None),
            (gzip(b"ARROW1\0\0"), FileFormat::ArrowFile, Compression::Gzip),
            (b"\xff\xff\xff\xff\x10\0\0\0".to_vec(), FileFormat::ArrowStream, Compression::None),
        ] {
            let (_folder, path) = file("x.parquet", &bytes);
            let input = Input::detect(&path).unwrap();
            assert_eq!((input.format, input.compression), (format, compression));
        }
    }

    #[test]
    fn errors_name_the_file() {
        for (bytes, code) in [
            (b"PK\x03\x04....".to_vec(), ErrorCode::UnsupportedMediaType),
            (b"\xff\xfet\0s\0".to_vec(), ErrorCode::UnsupportedMediaType),
            (b"a\0b".to_vec(), ErrorCode::UnsupportedMediaType),
            (gzip(&gzip(b"x")), ErrorCode::UnsupportedMediaType),
            (b"".to_vec(), ErrorCode::InvalidArgument),
            (b" \n".to_vec(), ErrorCode::InvalidArgument),
            (gzip(b"ts,open\n1,2\n").split_at(12).0.to_vec(), ErrorCode::InvalidArgument),
        ] {
            let (_folder, path) = file("x.csv", &bytes);
            let error = Input::detect(&path).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.detail().contains("x.csv"), "{error}");
        }
        assert_eq!(Input::detect(Path::new("/nowhere/x")).unwrap_err().code(), ErrorCode::NotFound);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Input::detect(folder.path()).unwrap_err().code(), ErrorCode::InvalidArgument);
    }

    #[test]
    fn one_byte_order_mark_is_skipped() {
        for (bytes, expected) in [(&b"\xef\xbb\xbfts"[..], "ts"), (b"ts", "ts"), (b"t", "t")] {
            let (_folder, path) = file("x", &gzip(bytes));
            let input = Input::detect(&path).unwrap();
            let mut text = String::new();
            input.text(&unobserved()).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, expected);
        }
    }
}
