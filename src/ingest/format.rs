//! The formats of bodies, and their detection.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Format of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum BodyFormat {
    #[default]
    Json,
    Ndjson,
    Csv,
    /// Arrow IPC stream.
    Arrow,
    Parquet,
}

impl BodyFormat {
    /// All formats.
    pub const ALL: [BodyFormat; 5] = [Self::Json, Self::Ndjson, Self::Csv, Self::Arrow, Self::Parquet];

    /// The format of a `Content-Type`, ignoring its parameters.
    pub fn from_media_type(text: &str) -> Option<Self> {
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        Some(match essence.as_str() {
            "application/json" | "text/json" => Self::Json,
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
                Self::Ndjson
            }
            "text/csv" | "application/csv" => Self::Csv,
            "application/vnd.apache.arrow.stream" | "application/vnd.apache.arrow.file" => Self::Arrow,
            "application/vnd.apache.parquet" => Self::Parquet,
            _ => return None,
        })
    }

    /// Detects the format of a body without `Content-Type` from its first bytes: the magic bytes of Arrow and Parquet,
    /// a bracket of JSON, or a CSV header. `None` where it is ambiguous.
    pub fn of_body(body: &[u8]) -> Option<Self> {
        /// Bytes within which the header or the first name must lie.
        const HEAD_BYTES: usize = 64 * 1024;
        if body.starts_with(b"PAR1") {
            return Some(Self::Parquet);
        }
        // A message of an Arrow stream starts with a continuation marker and its length, an Arrow file with its magic.
        if body.starts_with(&[0xff; 4]) || body.starts_with(b"ARROW1\0\0") {
            return Some(Self::Arrow);
        }
        let text = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body).trim_ascii_start();
        let head = text.get(..HEAD_BYTES).unwrap_or(text);
        match head.first()? {
            b'[' => Some(Self::Json),
            b'{' => {
                // A JSON object has one of three fields; an NDJSON row has the columns of a series.
                let name = head.get(1..)?.trim_ascii_start().strip_prefix(b"\"")?;
                let name = name.split(|byte| *byte == b'"').next()?;
                let is_json = matches!(name, b"rows" | b"columns" | b"writes");
                Some(if is_json { Self::Json } else { Self::Ndjson })
            }
            _ => {
                let header = head.split(|byte| matches!(byte, b'\n' | b'\r')).next()?;
                let mut names = header.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                let is_ts = |name: &[u8]| matches!(name, b"ts" | b"\"ts\"");
                (header.contains(&b',') && names.any(is_ts)).then_some(Self::Csv)
            }
        }
    }

    /// The format of a value of `format=`.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == text)
    }

    /// As [`from_name`](Self::from_name).
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn named(text: &str) -> Result<Self> {
        Self::from_name(text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|format| format.name()).collect();
            Error::invalid(format!("format {text:?} is not one of {}", names.join(", ")))
        })
    }

    /// The value of `format=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }

    /// The media type of requests and responses.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}
