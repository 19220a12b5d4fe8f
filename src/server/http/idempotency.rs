//! `Idempotency-Key`: used where rows are written, rejected elsewhere.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;

use crate::error::{Error, Result};
use crate::service::IdempotencyKey;

/// Request header with the key.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Response header: the reply is that of an earlier request with the same key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The key of a request.
///
/// # Errors
/// `invalid_argument` for several keys, or one that is not 1 to 255 visible ASCII characters.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>> {
    let mut values = headers.get_all(&KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid("Idempotency-Key is given twice"));
    }
    // A value that is not text fails to parse.
    value.to_str().unwrap_or_default().parse().map(Some)
}

/// Rejects a key where none is needed: a caller must not assume that it is used.
///
/// # Errors
/// `invalid_argument`.
pub fn reject(headers: &HeaderMap) -> Result<()> {
    if headers.contains_key(&KEY) {
        return Err(Error::invalid(
            "Idempotency-Key applies only to writes and merges of rows; this request can be repeated without one",
        )
        .with_hint("a repeat changes nothing: the object already has the requested state, or no longer exists"));
    }
    Ok(())
}

/// Rejects a key where a repeat creates another object.
///
/// # Errors
/// `invalid_argument`.
pub fn reject_for_new_version(headers: &HeaderMap) -> Result<()> {
    if headers.contains_key(&KEY) {
        return Err(Error::invalid(
            "Idempotency-Key applies only to writes and merges of rows; this request creates a new version each time",
        )
        .with_hint("before repeating it, list the existing versions"));
    }
    Ok(())
}

/// Marks a response as that of an earlier request.
pub fn mark(response: &mut Response, repeated: bool) {
    if repeated {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_of_visible_ascii_is_parsed_without_its_quotes() {
        let mut headers = HeaderMap::new();
        assert_eq!(idempotency_key(&headers).unwrap(), None);
        assert!(reject(&headers).is_ok());
        headers.append(KEY, HeaderValue::from_static("\"8e03978e\""));
        assert_eq!(idempotency_key(&headers).unwrap().unwrap().as_str(), "8e03978e");
        assert!(reject(&headers).unwrap_err().detail().contains("Idempotency-Key"));
        headers.append(KEY, HeaderValue::from_static("b"));
        assert!(idempotency_key(&headers).unwrap_err().detail().contains("twice"));
        for bad in [&b""[..], b"a b", b"\xff"] {
            headers.insert(KEY, HeaderValue::from_bytes(bad).unwrap());
            assert!(idempotency_key(&headers).unwrap_err().detail().contains("Idempotency-Key"), "{bad:?}");
        }
    }
}
