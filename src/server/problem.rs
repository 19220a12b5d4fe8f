//! The problem document: how errors are represented to clients of both protocols (RFC 9457).

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, RowError};

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:fastk:error:` followed by the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:fastk:error:series_not_found")]
    pub kind: String,
    /// One sentence, the same for every occurrence.
    #[schema(example = "The series is not registered.")]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 404)]
    pub status: u16,
    /// Stable error code.
    #[schema(example = "series_not_found")]
    pub code: String,
    /// Description of this occurrence.
    #[schema(example = "series kline/BTCUSDT/1m is not registered")]
    pub detail: String,
    /// How to resolve the problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The first hundred offending rows of a rejected body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<RowError>,
    /// The `x-request-id` of the response, which log lines of the server also contain.
    pub request_id: String,
}

impl Problem {
    /// The document of an error. Details of the codes `internal` and `io` stay in the log.
    pub fn new(error: &Error, request_id: &str) -> Self {
        let code = error.code();
        let detail = match code {
            ErrorCode::Internal | ErrorCode::Io => "the cause is in the log under the request id".to_string(),
            _ => error.detail().to_string(),
        };
        Self {
            kind: format!("urn:fastk:error:{code}"),
            title: code.title().into(),
            status: code.http(),
            code: code.name().into(),
            detail,
            hint: error.hint().map(Into::into),
            errors: error.rows().to_vec(),
            request_id: request_id.into(),
        }
    }
}
