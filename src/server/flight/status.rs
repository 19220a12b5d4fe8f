//! Errors on their way to a gRPC client.
//!
//! The code table is [`ErrorCode::grpc`]; here it only meets tonic's names. A status carries the problem as text
//! (`code: detail (hint)`), its code as metadata [`CODE_KEY`] and the whole problem as JSON in metadata
//! [`PROBLEM_KEY`]; not in gRPC's status details, which some clients insist on being a protobuf message. All of it
//! together stays under [`PROBLEM_BYTES_MAX`] and [`TEXT_BYTES_MAX`], because clients refuse trailers of more than
//! 8 KiB and would report that instead.

use std::time::Duration;

use serde_json::json;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::error::{Error, ErrorCode, GrpcCode, Result};
use crate::server::begin::{carried, held, too_long};
use crate::service::Caller;

/// Trailer that holds [`ErrorCode::name`].
pub const CODE_KEY: &str = "fastk-error-code";
/// Trailer that holds the problem as JSON.
pub const PROBLEM_KEY: &str = "fastk-problem-bin";
/// Most bytes of the problem JSON; row errors are left out from the end until it fits.
const PROBLEM_BYTES_MAX: usize = 3 * 1024;
/// Most bytes of the status message.
const TEXT_BYTES_MAX: usize = 1024;
/// What the library says of a message over the decoding limit; the only trace it leaves.
const DECODER_TOO_LARGE: &str = "message length too large";

/// The status of an error. Internal causes are logged and do not travel, and callers limited to some series are told no
/// paths, ids or ranges.
pub(super) fn status(error: &Error) -> Status {
    status_for(held().as_ref().map(|place| place.caller()), error)
}

/// The same for a caller whose call may be answered by another task.
pub(super) fn status_for(caller: Option<&Caller>, error: &Error) -> Status {
    let code = error.code();
    if matches!(code, ErrorCode::Internal | ErrorCode::Io | ErrorCode::CorruptData) {
        tracing::error!(error = %error, "flight request failed");
    }
    let shown = caller.map_or_else(|| error.clone(), |caller| caller.shown(error.clone()));
    let error = &shown;
    let detail = if matches!(code, ErrorCode::Internal | ErrorCode::Io) { code.title() } else { error.detail() };
    let detail = cut(detail, TEXT_BYTES_MAX);
    let hint = error.hint().map(|hint| cut(hint, TEXT_BYTES_MAX));
    let message = match hint {
        Some(hint) => format!("{code}: {detail} ({hint})"),
        None => format!("{code}: {detail}"),
    };
    let mut metadata = MetadataMap::new();
    metadata.insert(CODE_KEY, MetadataValue::from_static(code.name()));
    metadata.insert_bin(PROBLEM_KEY, MetadataValue::from_bytes(problem(error, detail, hint).as_bytes()));
    Status::with_metadata(grpc(code), cut(&message, TEXT_BYTES_MAX), metadata)
}

/// The problem as JSON, with as many row errors as fit.
fn problem(error: &Error, detail: &str, hint: Option<&str>) -> String {
    let code = error.code();
    let mut rows = error.rows();
    loop {
        let mut problem = json!({
            "type": "about:blank", "title": code.title(), "status": code.http(), "code": code.name(),
            "detail": detail,
        });
        if let Some(object) = problem.as_object_mut() {
            if let Some(hint) = hint {
                object.insert("hint".into(), json!(hint));
            }
            if !rows.is_empty() {
                object.insert("errors".into(), json!(rows));
            }
        }
        let text = problem.to_string();
        if text.len() <= PROBLEM_BYTES_MAX || rows.is_empty() {
            return text;
        }
        rows = rows.get(..rows.len() / 2).unwrap_or_default();
    }
}

/// The text up to the last character that ends within `bytes_max`.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The status of a failure to read a client's message: our own error where the message was too large.
pub(super) fn of_input(from_library: Status, message_bytes_max: usize) -> Status {
    if from_library.code() == Code::OutOfRange && from_library.message().contains(DECODER_TOO_LARGE) {
        return status(&too_large(message_bytes_max));
    }
    from_library
}

/// A message over the size limit.
pub(super) fn too_large(message_bytes_max: usize) -> Error {
    Error::new(ErrorCode::TooLarge, format!("the record batch is larger than {message_bytes_max} bytes"))
        .with_hint("send smaller batches: write_table(table, max_chunksize=65536)")
}

/// What this build does not offer.
pub(super) fn unimplemented(what: &str) -> Error {
    Error::new(ErrorCode::Unimplemented, format!("{what} is not offered by this version"))
}

/// Runs blocking work off the async workers, for so long at most. A panic in it becomes `internal`.
pub(super) async fn blocking_within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Status> {
    tokio::time::timeout(patience, blocking(work)).await.unwrap_or_else(|_| Err(status(&too_long(patience))))
}

/// Runs blocking work off the async workers. A panic in it becomes `internal`.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Status> {
    // The work holds the place of its call, also when nobody waits for it any more.
    match tokio::task::spawn_blocking(carried(work)).await {
        Ok(result) => result.map_err(|error| status(&error)),
        Err(join) => Err(status(&Error::internal(format!("a blocking task ended early: {join}")))),
    }
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
    use crate::error::RowError;

    fn sent(status: &Status) -> Vec<u8> {
        status.metadata().get_bin(PROBLEM_KEY).unwrap().to_bytes().unwrap().to_vec()
    }

    #[test]
    fn every_code_travels_by_name_and_by_number() {
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
    fn internal_causes_stay_inside() {
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
        // A short detail leaves room for rows, from the first on.
        let error = Error::new(ErrorCode::InvalidRows, "rows").with_rows((0..100).map(row).collect());
        let problem: serde_json::Value = serde_json::from_slice(&sent(&super::status(&error))).unwrap();
        assert_eq!(problem["errors"][0]["row"], 0);
    }
}
