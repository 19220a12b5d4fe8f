//! Errors as gRPC statuses.
//!
//! The code table is [`ErrorCode::grpc`], mapped here to tonic's names. A status carries the problem as text (`code:
//! detail (hint)`, then a line per offending row, as many as fit), its code as metadata [`CODE_KEY`], and the problem
//! document of REST as JSON in two places: in metadata [`PROBLEM_KEY`], and at the end of gRPC's status details. These
//! details are the message `google.rpc.Status` that gRPC libraries expect. The total stays below what clients accept,
//! because they reject trailers of more than 8 KiB and would report that instead.

use bytes::Bytes;
use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::error::{Error, ErrorCode, GrpcCode, RowError};
use crate::server::blocking::current_permit;
use crate::server::problem::Problem;
use crate::service::Caller;

/// Trailer with [`ErrorCode::name`].
pub const CODE_KEY: &str = "fastk-error-code";
/// Trailer with the problem as JSON.
pub const PROBLEM_KEY: &str = "fastk-problem-bin";
/// Maximum size of the problem JSON, which is sent twice; row errors are omitted from the end until it fits.
const PROBLEM_BYTES_MAX: usize = 1536;
/// Maximum size of the status message; non-ASCII characters are escaped to three times their size.
const TEXT_BYTES_MAX: usize = 1024;
/// Maximum size of detail and hint in the problem, and of the message within the status details.
const SENTENCE_BYTES_MAX: usize = 512;
/// Message of tonic for a message above the decoding limit, its only identification.
const DECODER_TOO_LARGE: &str = "message length too large";

/// The status of an error. Internal causes are logged and not sent, and callers limited to some series get no paths,
/// ids or ranges.
pub(super) fn status(error: &Error) -> Status {
    status_for(current_permit().as_ref().map(|permit| permit.caller()), error)
}

impl From<Error> for Status {
    /// As [`status`].
    fn from(error: Error) -> Self {
        status(&error)
    }
}

/// Like [`status`], for a caller whose call may be served by another task.
pub(super) fn status_for(caller: Option<&Caller>, error: &Error) -> Status {
    let code = error.code();
    if matches!(code, ErrorCode::Internal | ErrorCode::Io | ErrorCode::CorruptData) {
        tracing::error!(%error, "flight request failed");
    }
    let redacted = caller.map_or_else(|| error.clone(), |caller| caller.redact(error.clone()));
    let error = &redacted;
    let Problem { detail, .. } = Problem::new(error, "");
    let message = match error.hint() {
        Some(hint) => format!("{code}: {detail} ({hint})"),
        None => format!("{code}: {detail}"),
    };
    let message = with_rows(truncate(&message, TEXT_BYTES_MAX), error.rows());
    let problem = problem(error);
    let mut metadata = MetadataMap::new();
    metadata.insert(CODE_KEY, MetadataValue::from_static(code.name()));
    metadata.insert_bin(PROBLEM_KEY, MetadataValue::from_bytes(problem.as_bytes()));
    let details = details(grpc(code), truncate(&message, SENTENCE_BYTES_MAX / 2), &problem);
    Status::with_details_and_metadata(grpc(code), message, details, metadata)
}

/// A message with a line per offending row, as many as fit: exceptions of clients show them.
fn with_rows(message: &str, rows: &[RowError]) -> String {
    let mut text = message.to_owned();
    for row in rows {
        let series = row.series.as_ref().map_or_else(String::new, |series| format!(" of {series}"));
        let line = format!("\nrow {}{series}, {}: {} ({})", row.row, row.field, row.message, row.reason);
        if text.len() + line.len() > TEXT_BYTES_MAX {
            break;
        }
        text.push_str(&line);
    }
    text
}

/// `google.rpc.Status`, restricted to the fields that are sent.
#[derive(Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `google.protobuf.StringValue`.
#[derive(Message)]
struct StringValue {
    #[prost(string, tag = "1")]
    value: String,
}

/// The status details, with the problem at the end.
fn details(code: Code, message: &str, problem: &str) -> Bytes {
    let value = StringValue { value: problem.to_owned() }.encode_to_vec().into();
    let problem = Any { type_url: "type.googleapis.com/google.protobuf.StringValue".to_owned(), value };
    RpcStatus { code: code.into(), message: message.to_owned(), details: vec![problem] }.encode_to_vec().into()
}

/// The problem as JSON, with as many row errors as fit. The id of the call is in the response headers.
fn problem(error: &Error) -> String {
    let mut problem = Problem::new(error, "");
    for text in std::iter::once(&mut problem.detail).chain(&mut problem.hint) {
        text.truncate(truncate(text, SENTENCE_BYTES_MAX).len());
    }
    let rows = std::mem::take(&mut problem.errors);
    let encode = |problem: &Problem| {
        let mut value = serde_json::to_value(problem).unwrap_or_default();
        value.as_object_mut().map(|object| object.remove("request_id"));
        value.to_string()
    };
    let mut text = encode(&problem);
    for row in rows {
        problem.errors.push(row);
        let longer = encode(&problem);
        if longer.len() > PROBLEM_BYTES_MAX {
            break;
        }
        text = longer;
    }
    text
}

/// The longest prefix of the text within `bytes_max` that ends at a character.
fn truncate(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The status of a failure to read a message of a client: our own error if the message was too large.
pub(super) fn input_status(from_library: Status, message_bytes_max: usize) -> Status {
    if from_library.code() == Code::OutOfRange && from_library.message().contains(DECODER_TOO_LARGE) {
        return status(&too_large(message_bytes_max));
    }
    from_library
}

/// The error of a message above the size limit.
pub(super) fn too_large(message_bytes_max: usize) -> Error {
    Error::new(ErrorCode::TooLarge, format!("the record batch is larger than {message_bytes_max} bytes"))
        .with_hint("send smaller batches: write_table(table, max_chunksize=65536)")
}

/// The error of a method or action that is not supported.
pub(super) fn unimplemented(what: &str) -> Error {
    Error::new(ErrorCode::Unimplemented, format!("{what} is not supported by this version"))
}

fn grpc(code: ErrorCode) -> Code {
    match code.grpc() {
        GrpcCode::InvalidArgument => Code::InvalidArgument,
        GrpcCode::Unauthenticated => Code::Unauthenticated,
        GrpcCode::PermissionDenied => Code::PermissionDenied,
        GrpcCode::NotFound => Code::NotFound,
        GrpcCode::Unimplemented => Code::Unimplemented,
        GrpcCode::DeadlineExceeded => Code::DeadlineExceeded,
        GrpcCode::AlreadyExists => Code::AlreadyExists,
        GrpcCode::FailedPrecondition => Code::FailedPrecondition,
        GrpcCode::Aborted => Code::Aborted,
        GrpcCode::OutOfRange => Code::OutOfRange,
        GrpcCode::ResourceExhausted => Code::ResourceExhausted,
        GrpcCode::Internal => Code::Internal,
        GrpcCode::DataLoss => Code::DataLoss,
        GrpcCode::Unavailable => Code::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(status: &Status) -> Vec<u8> {
        status.metadata().get_bin(PROBLEM_KEY).unwrap().to_bytes().unwrap().to_vec()
    }

    #[test]
    fn every_code_is_sent_by_name_and_by_number() {
        for code in ErrorCode::ALL {
            let status = status(&Error::new(*code, "the thing").with_hint("do it otherwise"));
            assert_eq!(status.metadata().get(CODE_KEY).unwrap(), code.name());
            assert_ne!(status.code(), Code::Ok);
            let problem: serde_json::Value = serde_json::from_slice(&sent(&status)).unwrap();
            assert_eq!(problem["code"], code.name());
            assert_eq!(problem["hint"], "do it otherwise");
            assert!(status.message().starts_with(code.name()));
        }
    }

    #[test]
    fn internal_causes_are_not_sent() {
        let status = status(&Error::internal("the secret of /var/lib"));
        assert!(!status.message().contains("secret"));
        assert!(!String::from_utf8_lossy(&sent(&status)).contains("secret"));
    }

    #[test]
    fn trailers_stay_under_what_clients_accept() {
        let row = |row| RowError {
            series: None,
            row,
            field: "close".into(),
            reason: "ohlc".into(),
            message: "ä".repeat(100),
        };
        let error = Error::new(ErrorCode::InvalidRows, "ü".repeat(4_000)).with_rows((0..100).map(row).collect());
        let status = status(&error);
        assert!(status.message().len() <= TEXT_BYTES_MAX);
        assert!(sent(&status).len() <= PROBLEM_BYTES_MAX);
        let mut trailers = http::HeaderMap::new();
        status.add_header(&mut trailers).unwrap();
        let bytes: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(bytes < 8 * 1024, "{bytes}");
        // A short detail leaves space for rows, in order.
        let error = Error::new(ErrorCode::InvalidRows, "rows").with_rows((0..100).map(row).collect());
        let problem: serde_json::Value = serde_json::from_slice(&sent(&super::status(&error))).unwrap();
        assert_eq!(problem["errors"][0]["row"], 0);
    }

    #[test]
    fn status_details_are_the_message_that_libraries_expect_and_end_with_the_problem() {
        let status = status(&Error::new(ErrorCode::InvalidRows, "2 rows").with_hint("look"));
        let read = RpcStatus::decode(status.details()).unwrap();
        assert_eq!((read.code, read.message.as_str()), (i32::from(Code::InvalidArgument), status.message()));
        assert_eq!(status.message(), "invalid_rows: 2 rows (look)");
        let value = StringValue::decode(read.details[0].value.clone()).unwrap().value;
        assert_eq!(value.as_bytes(), sent(&status));
        assert!(status.details().ends_with(value.as_bytes()));
        let problem: serde_json::Value = serde_json::from_str(&value).unwrap();
        assert_eq!((&problem["type"], &problem["hint"]), (&"urn:fastk:error:invalid_rows".into(), &"look".into()));
    }
}
