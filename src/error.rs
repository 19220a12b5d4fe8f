//! The one error type and the one table of error codes.
//!
//! All interfaces (REST, Flight, command line) take their status from [`ErrorCode`]. An [`Error`] is opaque: a code, a
//! message that names the object, and optionally a hint and row errors. Internal causes are logged where they occur and
//! never sent to a client.

use std::fmt;

/// Result of every fallible FastK call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// gRPC status of an error. Defined here so that this layer needs no gRPC library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcCode {
    InvalidArgument,
    Unauthenticated,
    PermissionDenied,
    NotFound,
    Unimplemented,
    DeadlineExceeded,
    AlreadyExists,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    ResourceExhausted,
    Internal,
    DataLoss,
    Unavailable,
}

macro_rules! error_codes {
    ($($variant:ident $name:literal $http:literal $grpc:ident $exit:literal $title:literal;)*) => {
        /// Stable error code, shared by all interfaces.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $title] $variant,)*
        }

        impl ErrorCode {
            /// All codes, in the order of the table.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The name used in bodies, metadata and messages.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// HTTP status.
            pub fn http(self) -> u16 {
                match self { $(ErrorCode::$variant => $http,)* }
            }

            /// gRPC status.
            pub fn grpc(self) -> GrpcCode {
                match self { $(ErrorCode::$variant => GrpcCode::$grpc,)* }
            }

            /// Exit status of the command line.
            pub fn exit(self) -> u8 {
                match self { $(ErrorCode::$variant => $exit,)* }
            }

            /// Human-readable title, the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(ErrorCode::$variant => $title,)* }
            }
        }
    };
}

error_codes! {
    InvalidArgument "invalid_argument" 400 InvalidArgument 2 "An argument is malformed or out of range.";
    SchemaMismatch "schema_mismatch" 400 InvalidArgument 2 "The columns do not match the registration of the series.";
    Unauthenticated "unauthenticated" 401 Unauthenticated 5 "Valid credentials are missing.";
    PermissionDenied "permission_denied" 403 PermissionDenied 5 "The credentials do not allow this.";
    NotFound "not_found" 404 NotFound 3 "No such object exists.";
    SeriesNotFound "series_not_found" 404 NotFound 3 "The series is not registered.";
    SnapshotNotFound "snapshot_not_found" 404 NotFound 3 "There is no snapshot of this name.";
    JobNotFound "job_not_found" 404 NotFound 3 "There is no job of this id.";
    DatasetNotFound "dataset_not_found" 404 NotFound 3 "There is no dataset of this name.";
    MethodNotAllowed "method_not_allowed" 405 Unimplemented 2 "The path exists, the method does not.";
    NotAcceptable "not_acceptable" 406 InvalidArgument 2 "None of the accepted formats can be produced.";
    RequestTimeout "request_timeout" 408 DeadlineExceeded 7 "The request did not arrive in time.";
    SeriesExists "series_exists" 409 AlreadyExists 4 "The series is registered with another definition.";
    KindExists "kind_exists" 409 AlreadyExists 4 "The kind is defined differently, or its name is reserved.";
    KindInUse "kind_in_use" 409 FailedPrecondition 4 "Series of the kind exist; nothing was changed.";
    SnapshotExists "snapshot_exists" 409 AlreadyExists 4 "A snapshot of this name exists.";
    RowsExist "rows_exist" 409 AlreadyExists 4 "Insert found rows that already exist; nothing was written.";
    OutOfOrder "out_of_order" 409 FailedPrecondition 4 "Append needs ascending timestamps after the last stored one; nothing was written.";
    StoreLocked "store_locked" 409 FailedPrecondition 4 "Another process owns the store.";
    IdempotencyMismatch "idempotency_mismatch" 409 FailedPrecondition 4 "The idempotency key was used with another body.";
    CommitGone "commit_gone" 410 FailedPrecondition 4 "The commit is no longer retained.";
    CommitConflict "commit_conflict" 412 Aborted 4 "The series changed since the given version; nothing was written.";
    TooLarge "too_large" 413 OutOfRange 6 "The request is larger than the limit.";
    UriTooLong "uri_too_long" 414 InvalidArgument 2 "The request target is too long.";
    UnsupportedMediaType "unsupported_media_type" 415 InvalidArgument 2 "The body format is not supported.";
    RangeNotSatisfiable "range_not_satisfiable" 416 OutOfRange 2 "The body has none of the requested bytes.";
    InvalidRows "invalid_rows" 422 InvalidArgument 2 "Rows are invalid; nothing was written.";
    RateLimited "rate_limited" 429 ResourceExhausted 6 "Too many requests.";
    HeadersTooLarge "headers_too_large" 431 InvalidArgument 2 "The request headers are too large.";
    Internal "internal" 500 Internal 8 "The server failed; the cause is in its log.";
    Io "io" 500 Internal 8 "An operating system call failed.";
    CorruptData "corrupt_data" 500 DataLoss 8 "Stored data failed its checksum and is not served.";
    UnsupportedFormat "unsupported_format" 500 FailedPrecondition 8 "The store was written by a newer or unknown format.";
    Unimplemented "unimplemented" 501 Unimplemented 2 "This build does not offer the operation.";
    Overloaded "overloaded" 503 Unavailable 7 "The server is at one of its limits; retry.";
    WriterStopped "writer_stopped" 503 Unavailable 7 "Writes stopped after a failed write or flush; reads continue.";
    NotReady "not_ready" 503 Unavailable 7 "The server is starting or draining.";
    DeadlineExceeded "deadline_exceeded" 504 DeadlineExceeded 7 "The request did not finish in time.";
    StorageFull "storage_full" 507 ResourceExhausted 6 "The file system is full; nothing was written.";
}

impl ErrorCode {
    /// The code of this name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Maximum number of row errors in one error.
pub const ROW_ERRORS_MAX: usize = 100;

/// One invalid cell or row of a rejected write.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RowError {
    /// Key of the series, where the body has rows of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// Zero-based position in the body.
    pub row: u64,
    /// Column name.
    pub field: String,
    /// Stable reason: `missing`, `not_a_number`, `not_finite`, `overflow`, `precision_loss`, `bad_time`,
    /// `time_out_of_range`, `implausible_ts`, `off_grid`, `ohlc`, `negative_volume`, `at_least`, `at_most`,
    /// `non_negative`, `duplicate`, `out_of_order`, `wrong_type`, `unknown_value`, `bad_text`, `too_long`,
    /// `dictionary_full`, `bad_bytes`.
    pub reason: String,
    /// Human-readable message with the value.
    pub message: String,
}

/// An error: a code, a detail that names the object, optionally a hint and row errors.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: ErrorCode,
    detail: String,
    hint: Option<String>,
    rows: Vec<RowError>,
    is_refusal: bool,
}

/// Operating-system error numbers for "too many open files" in the system (ENFILE) and in the process (EMFILE).
const OUT_OF_FILES: [i32; 2] = [23, 24];

impl Error {
    /// An error with a detail in lower case, without a full stop, that names the object.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Error(Box::new(Inner { code, detail: detail.into(), hint: None, rows: Vec::new(), is_refusal: false }))
    }

    /// Adds a hint how the caller can resolve the error.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds row errors, at most [`ROW_ERRORS_MAX`].
    pub fn with_rows(mut self, mut rows: Vec<RowError>) -> Self {
        rows.truncate(ROW_ERRORS_MAX);
        self.0.rows = rows;
        self
    }

    /// `invalid_argument`.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, detail)
    }

    /// `internal`: a broken invariant. The detail is for the log.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, detail)
    }

    /// `corrupt_data`.
    pub fn corrupt(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::CorruptData, detail)
    }

    /// An operating-system error on a path: `storage_full` for a full file system or a file size limit, `overloaded`
    /// when no more files can be opened, else `io`.
    pub fn io(action: &str, path: &std::path::Path, source: &std::io::Error) -> Self {
        let is_out_of_files = source.raw_os_error().is_some_and(|number| OUT_OF_FILES.contains(&number));
        let code = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
                ErrorCode::StorageFull
            }
            _ if is_out_of_files => ErrorCode::Overloaded,
            _ => ErrorCode::Io,
        };
        let mut error = Self::new(code, format!("cannot {action} {}: {source}", path.display()));
        if is_out_of_files {
            error = error.with_hint("retry shortly; raise the limit on open files (ulimit -n) if it persists");
        }
        error.0.is_refusal = is_out_of_files || source.kind() == std::io::ErrorKind::PermissionDenied;
        error
    }

    /// Whether the operating system refused to open or create a file (EMFILE, ENFILE, EACCES, EPERM). Such an error
    /// precedes every write: no byte of the file was changed.
    pub fn is_refusal(&self) -> bool {
        self.0.is_refusal
    }

    /// The same error for a caller limited to some series: without paths, ids and ranges, which may belong to other
    /// series. The log has the full text.
    pub fn redacted(self) -> Self {
        let detail = match self.0.code {
            ErrorCode::CorruptData => "stored data failed its checksum",
            ErrorCode::StorageFull => "the file system of the server is full",
            ErrorCode::WriterStopped => "the store is read-only until it is opened again",
            ErrorCode::UnsupportedFormat => "the store has a file of another format",
            ErrorCode::Io | ErrorCode::Internal => "the server failed",
            ErrorCode::Overloaded if self.0.is_refusal => "the server cannot open more files",
            _ => return self,
        };
        Self::new(self.0.code, format!("{detail}; see the server log for this request id"))
    }

    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn rows(&self) -> &[RowError] {
        &self.0.rows
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.detail)
    }
}

impl std::error::Error for Error {}

/// The message of a panic.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".to_owned())
}
