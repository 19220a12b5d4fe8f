//! Requests whose head hyper cannot parse: hyper responds to them itself, with a status and an empty body, before our
//! code sees them. Here these responses are recognised on their way out and replaced by a problem document like that
//! of every other rejection.

use axum::http::{HeaderMap, StatusCode, Uri};
use bytes::Bytes;

use super::problem::{PROBLEM, Problem};
use crate::error::{Error, ErrorCode};
use crate::server::ids::{REQUEST_ID, request_id};
use crate::server::metrics;

/// Maximum number of bytes of the head that are retained for the error message.
const HEAD_BYTES: usize = 1024;
/// Characters that must be percent-encoded in a request target, in addition to spaces, control characters and non-ASCII
/// characters.
const ENCODED: &[u8] = b"\"<>\\^`{|}";

/// The head of the current request, and the unsent part of the response that rejects it.
#[derive(Debug, Default)]
pub(super) struct HeadRefusal {
    head: Vec<u8>,
    pub refusal: Option<Bytes>,
}

impl HeadRefusal {
    /// Records bytes of a head; the first ones replace those of the previous request.
    pub fn record(&mut self, bytes: &[u8], is_first: bool) {
        if is_first {
            self.head.clear();
        }
        let space = HEAD_BYTES - self.head.len().min(HEAD_BYTES);
        self.head.extend_from_slice(bytes.get(..space).unwrap_or(bytes));
    }

    /// Builds the document when these bytes are a response of hyper itself. Our responses carry a request id.
    pub fn replace_response(&mut self, response: &[u8]) {
        if self.refusal.is_some() || !response.starts_with(b"HTTP/1.") || !response.ends_with(b"\r\n\r\n") {
            return;
        }
        let Ok(text) = std::str::from_utf8(response) else { return };
        let mut lines = text.split("\r\n");
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse::<StatusCode>().ok());
        let Some(status) = status.filter(StatusCode::is_client_error) else { return };
        let is_own = |line: &str| line.to_ascii_lowercase().starts_with(REQUEST_ID.as_str());
        if lines.any(is_own) {
            return;
        }
        self.refusal = Some(self.document(status));
    }

    /// The complete response.
    fn document(&self, status: StatusCode) -> Bytes {
        let error = match status {
            StatusCode::URI_TOO_LONG => Error::new(ErrorCode::UriTooLong, "the request target is too long"),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                Error::new(ErrorCode::HeadersTooLarge, "the request has too many headers, or too large ones")
            }
            _ => self.malformed(),
        };
        let id = request_id(&HeaderMap::new());
        let status = StatusCode::from_u16(error.code().http()).unwrap_or(status);
        let body = serde_json::to_string(&Problem::new(&error, &id)).unwrap_or_default();
        tracing::debug!(request_id = id, %error, "request rejected");
        metrics::http_request("none", "other", status.as_u16(), std::time::Duration::ZERO);
        let (name, bytes) = (REQUEST_ID, body.len());
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM}\r\n{name}: {id}\r\ncontent-length: {bytes}\r\n\
             connection: close\r\n\r\n{body}"
        )
        .into()
    }

    fn malformed(&self) -> Error {
        let line = self.head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ');
        let target = words.nth(1).unwrap_or_default();
        let is_allowed = |byte: &u8| (0x21..0x7f).contains(byte) && !ENCODED.contains(byte);
        let is_parsed = std::str::from_utf8(target).is_ok_and(|target| target.parse::<Uri>().is_ok());
        let hint = "encode > as %3E, < as %3C, a space as %20; curl encodes it with: curl -G URL --data-urlencode \
                    'where=close:gt:100'";
        if let Some(byte) = target.iter().find(|byte| !is_allowed(byte)).filter(|_| !is_parsed) {
            let character =
                if byte.is_ascii_graphic() { char::from(*byte).to_string() } else { format!("byte {byte:#04x}") };
            return Error::invalid(format!("the request target has {character}, which must be percent-encoded"))
                .with_hint(hint);
        }
        if words.count() > 1 {
            return Error::invalid("the request target has a space, which must be percent-encoded").with_hint(hint);
        }
        Error::invalid("the request head is not HTTP: its request line or one of its headers is malformed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYPER_RESPONSE: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    fn refusal(head: &[u8], response: &[u8]) -> Option<serde_json::Value> {
        let mut refusal = HeadRefusal::default();
        refusal.record(head, false);
        refusal.replace_response(response);
        let bytes = refusal.refusal?;
        let text = std::str::from_utf8(&bytes).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(text.contains(&format!("content-length: {}\r\n", body.len())));
        Some(serde_json::from_str(body).unwrap())
    }

    #[test]
    fn the_invalid_character_is_named() {
        for (target, named) in [
            ("/v1/klines/X/1m?where=close>100", "has >,"),
            ("/x?a<b", "has <,"),
            ("/x?a b", "a space"),
            ("/x?\u{1}", "0x01"),
        ] {
            let problem =
                refusal(format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes(), HYPER_RESPONSE).unwrap();
            assert!(problem["detail"].as_str().unwrap().contains(named), "{target}: {problem}");
            assert_eq!((&problem["code"], &problem["status"]), (&"invalid_argument".into(), &400.into()));
            assert!(!problem["request_id"].as_str().unwrap().is_empty());
        }
        let problem = refusal(b"nonsense\r\n\r\n", HYPER_RESPONSE).unwrap();
        assert!(problem["detail"].as_str().unwrap().contains("is not HTTP"), "{problem}");
    }

    #[test]
    fn our_responses_are_unchanged() {
        let own = b"HTTP/1.1 400 Bad Request\r\nx-request-id: a\r\ncontent-length: 0\r\n\r\n";
        let fine = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        for response in [own.as_slice(), fine, b"ts,close\r\n\r\n", b""] {
            assert!(refusal(b"GET / HTTP/1.1\r\n", response).is_none());
        }
    }
}
