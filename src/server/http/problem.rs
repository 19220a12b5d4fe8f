//! Errors as RFC 9457 problem documents with the request id.
//!
//! A handler fails with a [`ProblemResponse`]; the middleware renders it, and does the same with empty error responses
//! of libraries.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::{Error, ErrorCode};
pub use crate::server::problem::Problem;

/// Media type of a problem document.
pub const PROBLEM: &str = "application/problem+json";

/// Result of a handler.
pub type HandlerResult = std::result::Result<Response, ProblemResponse>;

/// A failed handler. Its response has a status and no body until [`render`] adds the document.
#[derive(Clone, Debug)]
pub struct ProblemResponse(pub Error);

impl From<Error> for ProblemResponse {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for ProblemResponse {
    fn into_response(self) -> Response {
        let mut response = status_of(self.0.code()).into_response();
        response.extensions_mut().insert(self.0);
        response
    }
}

fn status_of(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Renders an error response; other responses pass unchanged. Headers already set (`Allow`) remain.
pub fn render(mut response: Response, method: &Method, path: &str, request_id: &str) -> Response {
    let error = match response.extensions_mut().remove::<Error>() {
        Some(error) => error,
        None if is_library_error(&response) => library_error(response.status(), method, path),
        None => return response,
    };
    if matches!(error.code(), ErrorCode::Internal | ErrorCode::Io | ErrorCode::CorruptData) {
        tracing::error!(request_id, %method, path, %error, "request failed");
    } else {
        tracing::debug!(request_id, %method, path, %error, "request rejected");
    }
    let body = serde_json::to_vec(&Problem::new(&error, request_id)).unwrap_or_default();
    let (mut parts, _) = response.into_parts();
    parts.status = status_of(error.code());
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
    if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&parts.status) {
        parts.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Response::from_parts(parts, Body::from(body))
}

/// Whether a library returned an error without a problem document.
fn is_library_error(response: &Response) -> bool {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    (status.is_client_error() || status.is_server_error()) && !kind.is_some_and(|kind| kind.starts_with("application/"))
}

fn library_error(status: StatusCode, method: &Method, path: &str) -> Error {
    let path: String = path.chars().take(200).collect();
    match status {
        StatusCode::NOT_FOUND => Error::new(ErrorCode::NotFound, format!("{path} does not exist")),
        StatusCode::METHOD_NOT_ALLOWED => {
            Error::new(ErrorCode::MethodNotAllowed, format!("{path} does not support {method}"))
                .with_hint("the Allow header lists the methods")
        }
        StatusCode::NOT_ACCEPTABLE => Error::new(ErrorCode::NotAcceptable, "none of the accepted formats is available"),
        StatusCode::REQUEST_TIMEOUT => Error::new(ErrorCode::RequestTimeout, "the request did not arrive in time"),
        StatusCode::PAYLOAD_TOO_LARGE => Error::new(ErrorCode::TooLarge, "the body is larger than its limit"),
        StatusCode::URI_TOO_LONG => Error::new(ErrorCode::UriTooLong, "the request target is too long"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Error::new(ErrorCode::UnsupportedMediaType, "the body format is not supported")
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            Error::new(ErrorCode::HeadersTooLarge, "the request headers are too large")
        }
        status if status.is_client_error() => Error::invalid(format!("the request to {path} is malformed")),
        status => Error::internal(format!("{method} {path} ended with an empty {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_document_with_its_own_status() {
        for code in ErrorCode::ALL {
            let error = Error::new(*code, "a detail").with_hint("a hint");
            let response = render(ProblemResponse(error).into_response(), &Method::GET, "/x", "id1");
            assert_eq!(response.status().as_u16(), code.http());
            assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM);
        }
    }

    #[test]
    fn internal_causes_stay_in_the_log() {
        let problem = Problem::new(&Error::internal("/secret/path"), "id1");
        assert!(!problem.detail.contains("secret"));
        assert_eq!(problem.request_id, "id1");
        assert!(Problem::new(&Error::corrupt("block 3 of chunk 7"), "id1").detail.contains("chunk 7"));
    }
}
