//! Content negotiation: the format of a response by its `Accept` header.

use crate::egress::options::OutFormat;
use crate::error::{Error, ErrorCode, Result};

impl OutFormat {
    /// Media types of the format, the canonical one first.
    pub fn media_types(self) -> &'static [&'static str] {
        match self {
            OutFormat::Json => &["application/json"],
            OutFormat::Ndjson => &["application/x-ndjson", "application/ndjson", "application/jsonl"],
            OutFormat::Csv => &["text/csv", "application/csv"],
            OutFormat::Arrow => &["application/vnd.apache.arrow.stream"],
            OutFormat::ArrowFile => &["application/vnd.apache.arrow.file"],
            OutFormat::Parquet => &["application/vnd.apache.parquet", "application/x-parquet"],
        }
    }

    /// The best format for an `Accept` header: highest quality, then the most specific range, then the order of the
    /// header, then JSON before NDJSON, CSV, Arrow and Parquet. An empty header accepts everything.
    ///
    /// # Errors
    /// `not_acceptable` when no format fits.
    pub fn from_accept(accept: &str) -> Result<Self> {
        let ranges: Vec<(String, u16)> = weighted(accept).collect();
        if ranges.is_empty() {
            return Ok(OutFormat::default());
        }
        let mut best: Option<((u16, u8, usize), OutFormat)> = None;
        for format in OutFormat::ALL {
            // The most specific range decides the quality of a format.
            let rank = ranges
                .iter()
                .enumerate()
                .filter_map(|(position, (range, quality))| {
                    Some((specificity(format, range)?, usize::MAX - position, *quality))
                })
                .max();
            let Some((specific, earliness, quality)) = rank else { continue };
            let rank = (quality, specific, earliness);
            if quality > 0 && best.as_ref().is_none_or(|(best, _)| rank > *best) {
                best = Some((rank, format));
            }
        }
        best.map(|(_, format)| format).ok_or_else(|| {
            let shown: String = accept.chars().take(80).collect();
            Error::new(ErrorCode::NotAcceptable, format!("none of the formats of this response is in {shown:?}"))
                .with_hint(format!("set Accept or format= to one of {}", Self::names()))
        })
    }
}

/// How specifically a media range matches a format: 2 for the media type, 1 for `type/*`, 0 for `*/*`.
fn specificity(format: OutFormat, range: &str) -> Option<u8> {
    if format.media_types().contains(&range) {
        return Some(2);
    }
    if range == "*/*" {
        return Some(0);
    }
    let family = range.strip_suffix("/*")?;
    format.media_types().iter().any(|media_type| media_type.split('/').next() == Some(family)).then_some(1)
}

/// The members of an `Accept` or `Accept-Encoding` header in lower case, each with its quality in thousandths.
pub fn weighted(header: &str) -> impl Iterator<Item = (String, u16)> + '_ {
    header.split(',').filter_map(|member| {
        let mut parts = member.split(';');
        let name = parts.next()?.trim().to_ascii_lowercase();
        if name.is_empty() {
            return None;
        }
        let quality = parts
            .filter_map(|part| part.trim().split_once('='))
            .find(|(key, _)| key.trim().eq_ignore_ascii_case("q"))
            .map_or(1000, |(_, value)| thousandths(value.trim()));
        Some((name, quality))
    })
}

/// A quality in thousandths, such as 500 for `0.5`; 0 for malformed text.
fn thousandths(text: &str) -> u16 {
    let (integer, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 {
        return 0;
    }
    let Ok(fraction) = format!("{fraction:0<3}").parse::<u16>() else { return 0 };
    match integer {
        "1" if fraction == 0 => 1000,
        "0" => fraction,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_format_is_chosen() {
        for (accept, format) in [
            ("", OutFormat::Json),
            ("*/*", OutFormat::Json),
            ("text/html,application/xhtml+xml,*/*;q=0.8", OutFormat::Json),
            ("application/vnd.apache.arrow.stream", OutFormat::Arrow),
            ("application/vnd.apache.arrow.stream, */*", OutFormat::Arrow),
            ("application/json;q=0.5, text/csv;q=0.9", OutFormat::Csv),
            ("application/json;q=0, */*", OutFormat::Ndjson),
            ("text/*", OutFormat::Csv),
            ("Application/X-NDJSON", OutFormat::Ndjson),
            ("application/vnd.apache.parquet;q=1.000, application/json;q=0.999", OutFormat::Parquet),
            ("text/csv, application/json", OutFormat::Csv),
        ] {
            assert_eq!(OutFormat::from_accept(accept).unwrap(), format, "{accept}");
        }
    }

    #[test]
    fn a_header_without_a_supported_format_is_not_acceptable() {
        for accept in ["text/html", "image/*", "application/json;q=0", "application/json;q=2", "*/*;q=0.0"] {
            assert_eq!(OutFormat::from_accept(accept).unwrap_err().code(), ErrorCode::NotAcceptable, "{accept}");
        }
    }
}
