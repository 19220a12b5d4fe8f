//! Request ids: every response of both interfaces and every log line about it carry one.

use ::http::{HeaderMap, HeaderName};

/// Header with the request id; a value sent by the client of up to 64 letters, digits and `. _ -` is used.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request with these headers.
pub fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    match given {
        Some(id) if (1..=64).contains(&id.len()) && id.bytes().all(legal) => id.to_string(),
        _ => random_id(),
    }
}

/// Sixteen random hexadecimal digits.
pub fn random_id() -> String {
    let mut bytes = [0_u8; 8];
    // Without random bytes ids repeat, which only makes them useless in a log.
    let _ = getrandom::fill(&mut bytes);
    format!("{:016x}", u64::from_le_bytes(bytes))
}
