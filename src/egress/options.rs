//! How a result is encoded: format, and representation of rows and times.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Format of a response body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum OutFormat {
    #[default]
    Json,
    Ndjson,
    Csv,
    /// A stream of the Arrow IPC format.
    Arrow,
    /// A file of the Arrow IPC format, also known as Feather version 2.
    #[serde(rename = "arrow-file")]
    ArrowFile,
    Parquet,
}

impl OutFormat {
    /// All formats; the first acceptable one wins where a client has no preference.
    pub const ALL: [OutFormat; 6] = [
        OutFormat::Json,
        OutFormat::Ndjson,
        OutFormat::Csv,
        OutFormat::Arrow,
        OutFormat::ArrowFile,
        OutFormat::Parquet,
    ];

    /// The value of `format=`, also used in entity tags.
    pub fn name(self) -> &'static str {
        match self {
            OutFormat::Json => "json",
            OutFormat::Ndjson => "ndjson",
            OutFormat::Csv => "csv",
            OutFormat::Arrow => "arrow",
            OutFormat::ArrowFile => "arrow-file",
            OutFormat::Parquet => "parquet",
        }
    }

    /// All values of `format=`, for errors.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// Parses a value of `format=`.
    ///
    /// # Errors
    /// `invalid_argument` naming the value.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| Error::invalid(format!("format {name:?} is not one of {}", Self::names())))
    }

    /// The `Content-Type` of a body.
    pub fn content_type(self) -> &'static str {
        match self {
            OutFormat::Json => "application/json",
            OutFormat::Ndjson => "application/x-ndjson",
            OutFormat::Csv => "text/csv; charset=utf-8",
            OutFormat::Arrow => "application/vnd.apache.arrow.stream",
            OutFormat::ArrowFile => "application/vnd.apache.arrow.file",
            OutFormat::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// Whether cells are written as text.
    pub fn is_text(self) -> bool {
        matches!(self, OutFormat::Json | OutFormat::Ndjson | OutFormat::Csv)
    }
}

/// Representation of timestamps in text formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum TimeFormat {
    /// Integers in the unit of the series.
    #[default]
    Epoch,
    /// RFC 3339 text in UTC.
    Rfc3339,
}

impl TimeFormat {
    /// Parses a value of `times=`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "epoch" => Ok(TimeFormat::Epoch),
            "rfc3339" => Ok(TimeFormat::Rfc3339),
            other => Err(Error::invalid(format!("times {other:?} is not one of epoch, rfc3339"))),
        }
    }
}

/// Layout of a JSON response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum JsonShape {
    /// One object per row.
    #[default]
    Rows,
    /// One array per column.
    Columns,
}

impl JsonShape {
    /// Parses a value of `shape=`.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "rows" => Ok(JsonShape::Rows),
            "columns" => Ok(JsonShape::Columns),
            other => Err(Error::invalid(format!("shape {other:?} is not one of rows, columns"))),
        }
    }
}

/// Options for encoding a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    pub format: OutFormat,
    pub times: TimeFormat,
    pub shape: JsonShape,
}

impl EncodeOptions {
    /// Rejects options that the format does not support.
    pub fn check(&self) -> Result<()> {
        if self.shape == JsonShape::Columns && self.format != OutFormat::Json {
            return Err(Error::invalid(format!("shape=columns is for json, not for {}", self.format.name())));
        }
        if self.times == TimeFormat::Rfc3339 && !self.format.is_text() {
            return Err(Error::invalid(format!(
                "times=rfc3339 is for json, ndjson and csv; {} has its own timestamp type",
                self.format.name()
            )));
        }
        Ok(())
    }
}
