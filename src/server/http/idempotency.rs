//! `Idempotency-Key`: heeded where rows are written, refused elsewhere.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;

use crate::error::{Error, Result};
use crate::service::IdempotencyKey;

/// The header of a request.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Tells that an answer is that of an earlier request with the same key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The key of a request.
///
/// # Errors
/// `invalid_argument` for several, or one that is not 1 to 255 visible ASCII characters.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>> {
    let mut values = headers.get_all(&KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid("Idempotency-Key is given twice"));
    }
    // A value that is no text fails as such.
    value.to_str().unwrap_or_default().parse().map(Some)
}

/// Refuses a key where none is needed: a caller that relies on it must not believe it was heeded.
///
/// # Errors
/// `invalid_argument`.
pub fn refuse(headers: &HeaderMap) -> Result<()> {
    if headers.contains_key(&KEY) {
        return Err(Error::invalid(
            "Idempotency-Key is for writes and merges of rows; this can be repeated without one",
        )
        .with_hint("a second time it changes nothing more: it finds the thing as it should be, or gone"));
    }
    Ok(())
}

/// Refuses a key where repeating makes another thing.
///
/// # Errors
/// `invalid_argument`.
pub fn refuse_new(headers: &HeaderMap) -> Result<()> {
    if headers.contains_key(&KEY) {
        return Err(Error::invalid(
            "Idempotency-Key is for writes and merges of rows; this makes a new version each time",
        )
        .with_hint("before repeating it, list the versions there are"));
    }
    Ok(())
}

/// Marks an answer as that of an earlier request.
pub fn mark(response: &mut Response, repeated: bool) {
    if repeated {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_of_visible_ascii_is_read_and_its_quotes_taken_off() {
        let mut headers = HeaderMap::new();
        assert_eq!(idempotency_key(&headers).unwrap(), None);
        assert!(refuse(&headers).is_ok());
        headers.append(KEY, HeaderValue::from_static("\"8e03978e\""));
        assert_eq!(idempotency_key(&headers).unwrap().unwrap().as_str(), "8e03978e");
        assert!(refuse(&headers).unwrap_err().detail().contains("Idempotency-Key"));
        headers.append(KEY, HeaderValue::from_static("b"));
        assert!(idempotency_key(&headers).unwrap_err().detail().contains("twice"));
        for bad in [&b""[..], b"a b", b"\xff"] {
            headers.insert(KEY, HeaderValue::from_bytes(bad).unwrap());
            assert!(idempotency_key(&headers).unwrap_err().detail().contains("Idempotency-Key"), "{bad:?}");
        }
    }
}
