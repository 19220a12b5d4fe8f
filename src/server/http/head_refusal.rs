//! Requests whose head hyper cannot read: it answers them by itself, with a status and an empty body, before anything of
//! ours sees them. Here these answers are recognised on their way out and get the problem document that every other
//! refusal has.

use axum::http::{HeaderMap, StatusCode, Uri};
use bytes::Bytes;

use super::problem::{PROBLEM, Problem};
use crate::error::{Error, ErrorCode};
use crate::server::ids::{REQUEST_ID, request_id};
use crate::server::metrics;

/// Bytes of the head that are kept to say what is wrong with it.
const HEAD_BYTES: usize = 1024;
/// Characters that a request target has to have percent-encoded, beside spaces, control characters and all that are not
/// ASCII.
const ENCODED: &[u8] = b"\"<>\\^`{|}";

/// What came of the head of the request that is being read, and what is still to be sent of its refusal.
#[derive(Debug, Default)]
pub(super) struct HeadRefusal {
    head: Vec<u8>,
    pub refusal: Option<Bytes>,
}

impl HeadRefusal {
    /// Keeps the beginning of a head.
    pub fn hear(&mut self, bytes: &[u8], begins: bool) {
        if begins {
            self.head.clear();
        }
        let room = HEAD_BYTES - self.head.len().min(HEAD_BYTES);
        self.head.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Makes the document when these bytes are an answer of hyper's own. Ours carry the id of their request.
    pub fn refuse(&mut self, answer: &[u8]) {
        if self.refusal.is_some() || !answer.starts_with(b"HTTP/1.") || !answer.ends_with(b"\r\n\r\n") {
            return;
        }
        let Ok(text) = std::str::from_utf8(answer) else { return };
        let mut lines = text.split("\r\n");
        let status =
            lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse::<StatusCode>().ok());
        let Some(status) = status.filter(StatusCode::is_client_error) else { return };
        let is_ours = |line: &str| line.to_ascii_lowercase().starts_with(REQUEST_ID.as_str());
        if lines.any(is_ours) {
            return;
        }
        self.refusal = Some(self.document(status));
    }

    /// The whole answer.
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
        tracing::debug!(request_id = id, %error, "request refused");
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
        let plain = |byte: &u8| (0x21..0x7f).contains(byte) && !ENCODED.contains(byte);
        let is_read = std::str::from_utf8(target).is_ok_and(|target| target.parse::<Uri>().is_ok());
        let hint = "such as %3E for >, %3C for <, %20 for a space; curl does it: curl -G URL --data-urlencode \
                    'where=close:gt:100'";
        if let Some(byte) = target.iter().find(|byte| !plain(byte)).filter(|_| !is_read) {
            let shown =
                if byte.is_ascii_graphic() { char::from(*byte).to_string() } else { format!("byte {byte:#04x}") };
            return Error::invalid(format!("the request target has {shown}, which has to be percent-encoded"))
                .with_hint(hint);
        }
        if words.count() > 1 {
            return Error::invalid("the request target has a space, which has to be percent-encoded").with_hint(hint);
        }
        Error::invalid("the head of the request is not HTTP: its request line or one of its headers is malformed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    fn refusal(head: &[u8], answer: &[u8]) -> Option<serde_json::Value> {
        let mut unread = HeadRefusal::default();
        unread.hear(head, false);
        unread.refuse(answer);
        let refusal = unread.refusal?;
        let text = std::str::from_utf8(&refusal).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(text.contains(&format!("content-length: {}\r\n", body.len())));
        Some(serde_json::from_str(body).unwrap())
    }

    #[test]
    fn the_character_that_cannot_be_read_is_named() {
        for (target, named) in [
            ("/v1/klines/X/1m?where=close>100", "has >,"),
            ("/x?a<b", "has <,"),
            ("/x?a b", "a space"),
            ("/x?\u{1}", "0x01"),
        ] {
            let problem = refusal(format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes(), BARE).unwrap();
            assert!(problem["detail"].as_str().unwrap().contains(named), "{target}: {problem}");
            assert_eq!((&problem["code"], &problem["status"]), (&"invalid_argument".into(), &400.into()));
            assert!(!problem["request_id"].as_str().unwrap().is_empty());
        }
        let problem = refusal(b"nonsense\r\n\r\n", BARE).unwrap();
        assert!(problem["detail"].as_str().unwrap().contains("is not HTTP"), "{problem}");
    }

    #[test]
    fn answers_of_ours_go_out_as_they_are() {
        let ours = b"HTTP/1.1 400 Bad Request\r\nx-request-id: a\r\ncontent-length: 0\r\n\r\n";
        let fine = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        for answer in [ours.as_slice(), fine, b"ts,close\r\n\r\n", b""] {
            assert!(refusal(b"GET / HTTP/1.1\r\n", answer).is_none());
        }
    }
}
