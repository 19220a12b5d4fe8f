//! Entity tags and the related headers.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::content_encoding::ResponseCoding;
use crate::egress::OutFormat;
use crate::error::{Error, ErrorCode, Result};
use crate::service::Precondition;

/// `Vary` of responses in several formats.
pub const VARY: HeaderValue = HeaderValue::from_static("Accept, Accept-Encoding");

/// `"<stem><format>[+gzip|+zstd]"`.
pub fn entity_tag(stem: &str, format: OutFormat, coding: ResponseCoding) -> String {
    format!("\"{stem}{}{}\"", format.name(), coding.suffix())
}

/// Whether `If-None-Match` contains the tag, by weak comparison, or is `*`.
pub fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(members)
        .any(|member| member == "*" || member.strip_prefix("W/").unwrap_or(member) == tag)
}

/// The members of a list of entity tags. Our own tags hold no commas, so a comma inside quotes only splits a tag that
/// could not match.
fn members(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|member| !member.is_empty())
}

/// 304 with the tag.
pub fn not_modified(tag: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    tag_headers(response.headers_mut(), tag);
    response
}

/// `ETag`, `Vary` and `Cache-Control: no-cache`, which requires revalidation.
pub fn tag_headers(headers: &mut HeaderMap, tag: &str) {
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::VARY, VARY);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
}

/// The precondition of a change: `If-Match` with one tag; `*` matches every registered series.
///
/// # Errors
/// `invalid_argument` for several tags or malformed text, `commit_conflict` for a weak tag, which never matches.
pub fn condition(headers: &HeaderMap) -> Result<Precondition> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let Some(value) = values.next() else { return Ok(Precondition::default()) };
    let text = value.to_str().unwrap_or_default().trim();
    if values.next().is_some() || members(text).count() != 1 {
        return Err(Error::invalid("If-Match must have exactly one entity tag"));
    }
    if text == "*" {
        return Ok(Precondition::default());
    }
    if text.starts_with("W/") {
        return Err(Error::new(ErrorCode::CommitConflict, "a weak entity tag never matches under If-Match"));
    }
    if text.len() < 2 || !text.starts_with('"') || !text.ends_with('"') {
        return Err(Error::invalid("If-Match is not an entity tag in quotes"));
    }
    Ok(Precondition { if_match: Some(text.into()), if_version: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn none_match_compares_weakly_over_lists_and_lines() {
        for (values, known) in [
            (&["\"a-1-json\""][..], true),
            (&["W/\"a-1-json\""], true),
            (&["\"x\", \"a-1-json\""], true),
            (&["\"x\"", "\"a-1-json\""], true),
            (&["*"], true),
            (&["\"a-1-csv\""], false),
            (&["a-1-json"], false),
            (&[], false),
        ] {
            assert_eq!(is_known(&headers(header::IF_NONE_MATCH, values), "\"a-1-json\""), known, "{values:?}");
        }
    }

    #[test]
    fn if_match_accepts_one_strong_tag() {
        let condition_of = |values: &[&'static str]| condition(&headers(header::IF_MATCH, values));
        assert_eq!(condition_of(&[]).unwrap(), Precondition::default());
        assert_eq!(condition_of(&["*"]).unwrap(), Precondition::default());
        assert_eq!(condition_of(&["\"a-1-2-any\""]).unwrap().if_match.as_deref(), Some("\"a-1-2-any\""));
        assert_eq!(condition_of(&["W/\"a\""]).unwrap_err().code(), ErrorCode::CommitConflict);
        for bad in ["\"a\", \"b\"", "a", "\"", ""] {
            assert_eq!(condition_of(&[bad]).unwrap_err().code(), ErrorCode::InvalidArgument, "{bad}");
        }
    }
}
