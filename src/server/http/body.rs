//! Request bodies: decompressed, limited, staged and counted against the ingest budget.
//!
//! Invariants:
//! 1. No decompressed body exceeds its limit; the declared length is checked first.
//! 2. A body over [`MEMORY_BYTES_MAX`] is staged in an unlinked file, so that a slow sender holds no memory and a crash
//!    leaves no file.
//! 3. Staged bytes of all requests together stay within the ingest budget.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures::TryStreamExt;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::io::StreamReader;

use super::settings::HttpSettings;
use super::state::{AppState, BUDGET_UNIT};
use crate::disk::local;
use crate::error::{Error, ErrorCode, Result};
use crate::ingest::check_depth;
use crate::server::blocking::on_thread;

/// Bodies up to this length stay in memory.
pub const MEMORY_BYTES_MAX: usize = 1 << 20;

/// Maximum size of a body that creates a dataset, feature or factor: space for the longest names of 20,000 series, and
/// for a definition.
const RECORD_BYTES_MAX: u64 = 8 << 20;

/// Maximum window of a zstd body (8 MiB, which every decoder must support): it is allocated while the body is received,
/// however short the body is.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A complete, decompressed body.
#[derive(Debug)]
pub struct StagedBody {
    content: BodyContent,
    length: u64,
    permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum BodyContent {
    Memory(Vec<u8>),
    File(local::File, OwnedSemaphorePermit),
}

/// A body in memory, with its share of the budget.
#[derive(Debug)]
pub struct BufferedBody {
    pub bytes: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
}

impl BufferedBody {
    /// The body, and its share of the budget.
    pub fn into_parts(self) -> (Vec<u8>, Option<OwnedSemaphorePermit>) {
        (self.bytes, self.permit)
    }
}

impl StagedBody {
    /// Loads the body into memory; blocks.
    pub fn load(self) -> Result<BufferedBody> {
        let bytes = match self.content {
            BodyContent::Memory(bytes) => bytes,
            BodyContent::File(mut file, _file_permit) => {
                let mut bytes = Vec::with_capacity(usize::try_from(self.length).unwrap_or(0));
                file.seek(SeekFrom::Start(0))
                    .and_then(|_| file.read_to_end(&mut bytes))
                    .map_err(|error| Error::io("read", Path::new("a staged body"), &error))?;
                if bytes.len() as u64 != self.length {
                    return Err(Error::internal("the length of a staged body changed"));
                }
                bytes
            }
        };
        Ok(BufferedBody { bytes, permit: self.permit })
    }

    /// Loads JSON; blocks.
    ///
    /// # Errors
    /// `too_large` for JSON nested too deeply, `invalid_argument` for an array.
    pub fn load_json(self, depth_max: usize) -> Result<BufferedBody> {
        let loaded = self.load()?;
        check_depth(&loaded.bytes, depth_max)?;
        // Serde would accept an array for the fields of an object in order.
        if loaded.bytes.trim_ascii_start().starts_with(b"[") {
            return Err(Error::invalid("the body is invalid: expected a JSON object"));
        }
        Ok(loaded)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyCoding {
    Identity,
    Gzip,
    Zstd,
}

fn content_coding(headers: &HeaderMap) -> Result<BodyCoding> {
    let mut coding = BodyCoding::Identity;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let text = value.to_str().unwrap_or("?");
        for name in text.split(',').map(str::trim) {
            let next = match name.to_ascii_lowercase().as_str() {
                "identity" => continue,
                "gzip" | "x-gzip" => BodyCoding::Gzip,
                "zstd" => BodyCoding::Zstd,
                other => {
                    return Err(Error::new(
                        ErrorCode::UnsupportedMediaType,
                        format!("content encoding {other:?} is not supported"),
                    )
                    .with_hint("use gzip or zstd"));
                }
            };
            if coding != BodyCoding::Identity {
                return Err(Error::new(ErrorCode::UnsupportedMediaType, "a body has at most one content encoding"));
            }
            coding = next;
        }
    }
    Ok(coding)
}

/// The error of a body over `limit` bytes.
fn too_large(limit: u64) -> Error {
    Error::new(ErrorCode::TooLarge, format!("the body is longer than {limit} bytes"))
        .with_hint("send the rows in several requests")
}

/// The error of a body whose decompressed size is too large for its compressed size.
fn ratio_exceeded(decompression_ratio_max: u64) -> Error {
    Error::new(
        ErrorCode::TooLarge,
        format!("the body decompresses to more than {decompression_ratio_max} times its compressed size"),
    )
    .with_hint("send the body without a content encoding, or in several requests")
}

/// Limits of a body.
#[derive(Debug)]
pub struct BodyLimits<'a> {
    pub bytes_max: u64,
    pub settings: &'a HttpSettings,
    pub budget: &'a Arc<Semaphore>,
    /// Permits of bodies staged in files.
    pub files: &'a Arc<Semaphore>,
    /// Directory of staged bodies.
    pub staging_dir: &'a Path,
}

impl<'a> BodyLimits<'a> {
    /// The limits of a body of rows.
    pub fn of(app: &'a AppState, staging_dir: &'a Path) -> Self {
        let (settings, shared) = (app.config(), &app.shared);
        let bytes_max = settings.body_bytes_max;
        Self { bytes_max, settings, budget: &shared.ingest, files: &shared.staged_files, staging_dir }
    }
}

/// Receives a body.
///
/// # Errors
/// `too_large`, `overloaded` (budget), `request_timeout` (a stalled sender), `unsupported_media_type` (content
/// encoding), `invalid_argument` (a truncated body or one that does not decompress), `storage_full`.
pub async fn stage(headers: &HeaderMap, body: Body, limits: &BodyLimits<'_>) -> Result<StagedBody> {
    let coding = match content_coding(headers) {
        Ok(coding) => coding,
        Err(error) => {
            drain(headers, body).await;
            return Err(error);
        }
    };
    let declared = content_length(headers);
    if declared.is_some_and(|length| length > limits.bytes_max) {
        drain(headers, body).await;
        return Err(too_large(limits.bytes_max));
    }
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let counted = body.into_data_stream().inspect_ok(move |bytes| {
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    });
    let raw = StreamReader::new(TryStreamExt::map_err(counted, std::io::Error::other));
    let mut reader: Pin<Box<dyn AsyncRead + Send>> = match coding {
        BodyCoding::Identity => Box::pin(raw),
        BodyCoding::Gzip => {
            let mut decoder = GzipDecoder::new(raw);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
        BodyCoding::Zstd => {
            let window = DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX);
            let mut decoder = ZstdDecoder::with_params(raw, &[window]);
            decoder.multiple_members(true);
            Box::pin(decoder)
        }
    };
    let capacity = declared.filter(|_| coding == BodyCoding::Identity).and_then(|length| usize::try_from(length).ok());
    let mut memory: Vec<u8> = Vec::with_capacity(capacity.unwrap_or(64 * 1024).min(MEMORY_BYTES_MAX));
    let mut file: Option<(tokio::fs::File, OwnedSemaphorePermit)> = None;
    let (mut length, mut permit) = (0_u64, None);
    // The window of a zstd body uses memory too.
    let window = if coding == BodyCoding::Zstd { 1_u64 << ZSTD_WINDOW_LOG_MAX } else { 0 };
    let idle_timeout = Duration::from_millis(limits.settings.body_idle_timeout_ms);
    let timeout = Duration::from_millis(limits.settings.body_timeout_ms);
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        if memory.len() >= MEMORY_BYTES_MAX {
            let (file, _) = match &mut file {
                Some(file) => file,
                None => {
                    let file_permit = limits.files.clone().try_acquire_owned().map_err(|_| {
                        Error::new(ErrorCode::Overloaded, "too many large bodies are being received")
                            .with_hint("retry shortly, or send bodies of at most 1 MiB")
                    })?;
                    file.insert((unnamed_file(limits.staging_dir).await?, file_permit))
                }
            };
            file.write_all(&memory)
                .await
                .map_err(|error| Error::io("write a body under", limits.staging_dir, &error))?;
            memory.clear();
        }
        if memory.capacity() == memory.len() {
            memory.reserve(64 * 1024);
        }
        let read_timeout = idle_timeout.min(deadline.saturating_duration_since(tokio::time::Instant::now()));
        let read = tokio::time::timeout(read_timeout, reader.read_buf(&mut memory)).await.map_err(|_| {
            let (idle, timeout) = (idle_timeout.as_secs(), timeout.as_secs());
            Error::new(
                ErrorCode::RequestTimeout,
                format!("the body did not arrive within {timeout} seconds, or paused for {idle}"),
            )
        })?;
        let read = read.map_err(|error| unreadable(coding, &error))?;
        if read == 0 {
            break;
        }
        length += read as u64;
        if length > limits.bytes_max {
            if coding == BodyCoding::Identity {
                drain_reader(reader).await;
            }
            return Err(too_large(limits.bytes_max));
        }
        let allowed = sent.load(Ordering::Relaxed).saturating_mul(limits.settings.decompression_ratio_max);
        if coding != BodyCoding::Identity && length > allowed.max(MEMORY_BYTES_MAX as u64) {
            return Err(ratio_exceeded(limits.settings.decompression_ratio_max));
        }
        reserve(limits.budget, &mut permit, length.max(window))?;
    }
    let content = match file {
        None => BodyContent::Memory(memory),
        Some((mut file, file_permit)) => {
            let failed = |error: std::io::Error| Error::io("write a body under", limits.staging_dir, &error);
            file.write_all(&memory).await.map_err(failed)?;
            file.flush().await.map_err(failed)?;
            BodyContent::File(file.into_std().await, file_permit)
        }
    };
    Ok(StagedBody { content, length, permit })
}

/// Extends a share of the budget to `length` bytes.
fn reserve(budget: &Arc<Semaphore>, permit: &mut Option<OwnedSemaphorePermit>, length: u64) -> Result<()> {
    let current = permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) as u64;
    let more = length.div_ceil(BUDGET_UNIT).saturating_sub(current);
    if more == 0 {
        return Ok(());
    }
    // In units, so that not every read acquires a permit.
    let more = u32::try_from(more).unwrap_or(u32::MAX);
    let additional = budget.clone().try_acquire_many_owned(more).map_err(|_| {
        Error::new(ErrorCode::Overloaded, "the bodies being received fill the ingest budget").with_hint("retry shortly")
    })?;
    match permit {
        Some(permit) => permit.merge(additional),
        None => *permit = Some(additional),
    }
    Ok(())
}

fn unreadable(coding: BodyCoding, error: &std::io::Error) -> Error {
    match coding {
        BodyCoding::Identity => Error::invalid(format!("the body is truncated: {error}")),
        BodyCoding::Gzip => Error::invalid(format!("the body is not a complete gzip stream: {error}")),
        BodyCoding::Zstd => Error::invalid(format!("the body is not a complete zstd stream: {error}")),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A file without a name: the system frees it when it is closed, whatever happens to this process.
async fn unnamed_file(dir: &Path) -> Result<tokio::fs::File> {
    let dir = dir.to_owned();
    Ok(tokio::fs::File::from_std(on_thread(move || local::unnamed(&dir)).await?))
}

/// Reads what a client is still sending, so that it receives the response instead of a connection reset. Limited in
/// bytes and time; not done for a client that waits for `100 Continue`.
pub async fn drain(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let all = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
            if bytes > 1 << 30 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
}

/// Like [`drain`], for a body that is already being read.
async fn drain_reader(mut reader: Pin<Box<dyn AsyncRead + Send>>) {
    let all = async {
        let mut scratch = vec![0; 64 * 1024];
        while reader.read(&mut scratch).await.is_ok_and(|read| read > 0) {}
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
}

/// Whether a request has no body.
pub fn is_empty(headers: &HeaderMap, body: &Body) -> bool {
    use axum::body::HttpBody;
    body.is_end_stream() || content_length(headers) == Some(0)
}

/// Receives the JSON of a request of the type `T`.
///
/// # Errors
/// As [`receive_json`]; `invalid_argument` for JSON of the wrong shape.
pub async fn json<T: serde::de::DeserializeOwned>(app: &AppState, headers: &HeaderMap, body: Body) -> Result<T> {
    let staged = receive_json(app, headers, body, false).await?;
    let loaded = staged.load_json(app.service().limits().json_depth_max)?;
    serde_json::from_slice(&loaded.bytes).map_err(|error| Error::invalid(format!("the body is invalid: {error}")))
}

/// Receives the JSON of a request; that of a dataset, feature or factor is long. Others never leave memory.
///
/// # Errors
/// As [`stage`]; `unsupported_media_type` for another content type.
pub async fn receive_json(app: &AppState, headers: &HeaderMap, body: Body, is_long: bool) -> Result<StagedBody> {
    let bytes_max = if is_long { RECORD_BYTES_MAX } else { MEMORY_BYTES_MAX as u64 - 1 };
    let staging_dir = app.service().staging_dir();
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?").to_ascii_lowercase());
    if let Some(kind) = kind {
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if essence != "application/json" && !essence.ends_with("+json") {
            drain(headers, body).await;
            return Err(Error::new(
                ErrorCode::UnsupportedMediaType,
                format!("this path requires application/json, not {essence:?}"),
            )
            .with_hint("send the header Content-Type: application/json"));
        }
    }
    let limits = BodyLimits::of(app, &staging_dir);
    stage(headers, body, &BodyLimits { bytes_max: bytes_max.min(limits.bytes_max), ..limits }).await
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::server::http::state::budget;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn staged(coding: &str, body: Vec<u8>, bytes_max: u64, budget_bytes: u64) -> Result<Vec<u8>> {
        staged_within(u64::MAX, coding, body, bytes_max, budget_bytes)
    }

    fn staged_within(
        decompression_ratio_max: u64,
        coding: &str,
        body: Vec<u8>,
        bytes_max: u64,
        budget_bytes: u64,
    ) -> Result<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let mut headers = HeaderMap::new();
        if !coding.is_empty() {
            headers.insert(header::CONTENT_ENCODING, coding.parse().unwrap());
        }
        let budget = budget(budget_bytes);
        let limits = BodyLimits {
            bytes_max,
            settings: &HttpSettings { decompression_ratio_max, ..HttpSettings::default() },
            budget: &budget,
            files: &Arc::new(Semaphore::new(1)),
            staging_dir: dir.path(),
        };
        let result = run(stage(&headers, Body::from(body), &limits));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a staged body is unlinked");
        let loaded = result?.load()?;
        assert!(loaded.bytes.is_empty() || budget.available_permits() < budget_bytes.div_ceil(BUDGET_UNIT) as usize);
        let bytes = loaded.bytes.clone();
        drop(loaded);
        assert_eq!(budget.available_permits() as u64, budget_bytes.div_ceil(BUDGET_UNIT), "the budget is released");
        Ok(bytes)
    }

    #[test]
    fn a_body_has_at_most_one_known_coding() {
        let coding_of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, text.parse().unwrap());
            content_coding(&headers).map_err(|error| error.code())
        };
        assert_eq!(content_coding(&HeaderMap::new()).unwrap(), BodyCoding::Identity);
        for (text, coding) in
            [("identity", BodyCoding::Identity), ("GZIP", BodyCoding::Gzip), (" identity, zstd", BodyCoding::Zstd)]
        {
            assert_eq!(coding_of(text), Ok(coding), "{text}");
        }
        for text in ["", ",", "gzip,", "gzip, zstd", "br"] {
            assert_eq!(coding_of(text), Err(ErrorCode::UnsupportedMediaType), "{text:?}");
        }
    }

    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|position| (position % 251) as u8).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn bodies_of_any_length_and_coding_are_restored() {
        for length in [0, 1, MEMORY_BYTES_MAX - 1, MEMORY_BYTES_MAX, 3 * MEMORY_BYTES_MAX + 17] {
            let bytes = sample(length);
            assert_eq!(staged("", bytes.clone(), 1 << 30, 1 << 30).unwrap(), bytes);
            assert_eq!(staged("gzip", gzip(&bytes), 1 << 30, 1 << 30).unwrap(), bytes);
            assert_eq!(staged("zstd", zstd::encode_all(&*bytes, 1).unwrap(), 1 << 30, 1 << 30).unwrap(), bytes);
        }
    }

    #[test]
    fn the_limit_counts_decoded_bytes() {
        let bytes = vec![0_u8; 10 << 20];
        let packed = gzip(&bytes);
        assert!(packed.len() < 1 << 20);
        assert_eq!(staged("gzip", packed, (10 << 20) - 1, 1 << 30).unwrap_err().code(), ErrorCode::TooLarge);
        assert_eq!(staged("", sample(100), 99, 1 << 30).unwrap_err().code(), ErrorCode::TooLarge);
        assert!(staged("", sample(100), 100, 1 << 30).is_ok());
    }

    #[test]
    fn a_body_above_the_decompression_ratio_is_rejected() {
        let zeros = vec![0_u8; 20 << 20];
        for (coding, bomb) in [("gzip", gzip(&zeros)), ("zstd", zstd::encode_all(&*zeros, 1).unwrap())] {
            let error = staged_within(100, coding, bomb, 1 << 30, 1 << 30).unwrap_err();
            assert_eq!(error.code(), ErrorCode::TooLarge, "{coding}");
            assert!(error.detail().contains("100 times"), "{}", error.detail());
        }
        // Rows of bars are far below it, and short bodies are not limited.
        let rows: String = (0..300_000).map(|row| format!("{row},42000.10,42001.00\n")).collect();
        assert_eq!(staged_within(100, "gzip", gzip(rows.as_bytes()), 1 << 30, 1 << 30).unwrap(), rows.as_bytes());
        let short = vec![0_u8; MEMORY_BYTES_MAX];
        assert_eq!(staged_within(100, "gzip", gzip(&short), 1 << 30, 1 << 30).unwrap(), short);
    }

    #[test]
    fn a_full_budget_rejects() {
        assert_eq!(staged("", sample(3 << 20), 1 << 30, 2 << 20).unwrap_err().code(), ErrorCode::Overloaded);
    }

    #[test]
    fn damaged_codings_are_rejected() {
        let mut cut = gzip(&sample(100_000));
        cut.truncate(cut.len() - 10);
        assert_eq!(staged("gzip", cut, 1 << 30, 1 << 30).unwrap_err().code(), ErrorCode::InvalidArgument);
        let mut cut = zstd::encode_all(&*sample(100_000), 1).unwrap();
        cut.truncate(cut.len() - 10);
        assert_eq!(staged("zstd", cut, 1 << 30, 1 << 30).unwrap_err().code(), ErrorCode::InvalidArgument);
        for coding in ["br", "gzip, gzip", "deflate"] {
            assert_eq!(
                staged(coding, sample(10), 1 << 30, 1 << 30).unwrap_err().code(),
                ErrorCode::UnsupportedMediaType
            );
        }
    }
}
