//! Content encodings of responses.
//!
//! A [`BodyCompressor`] that is dropped leaves a stream without its end, so that an aborted response never decodes as
//! if it were complete.

use std::io::Write;

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;

use crate::egress::accept::weighted;
use crate::error::{Error, Result};

/// Content encoding of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseCoding {
    Identity,
    Gzip,
    Zstd,
}

impl ResponseCoding {
    /// The encoding that a client prefers: zstd before gzip at equal quality; identity unless it accepts another.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut gzip = None;
        let mut zstd = None;
        let mut identity = 0;
        for value in headers.get_all(header::ACCEPT_ENCODING) {
            for (name, quality) in weighted(value.to_str().unwrap_or_default()) {
                match name.as_str() {
                    "gzip" | "x-gzip" => gzip = Some(quality),
                    "zstd" => zstd = Some(quality),
                    "identity" => identity = quality,
                    // A wildcard names no encoding.
                    _ => {}
                }
            }
        }
        let (gzip, zstd) = (gzip.unwrap_or(0), zstd.unwrap_or(0));
        if zstd > 0 && zstd >= gzip && zstd >= identity {
            ResponseCoding::Zstd
        } else if gzip > 0 && gzip >= identity {
            ResponseCoding::Gzip
        } else {
            ResponseCoding::Identity
        }
    }

    /// Suffix of the entity tag.
    pub fn suffix(self) -> &'static str {
        match self {
            ResponseCoding::Identity => "",
            ResponseCoding::Gzip => "+gzip",
            ResponseCoding::Zstd => "+zstd",
        }
    }

    /// Value of `Content-Encoding`, if any.
    pub fn header(self) -> Option<HeaderValue> {
        match self {
            ResponseCoding::Identity => None,
            ResponseCoding::Gzip => Some(HeaderValue::from_static("gzip")),
            ResponseCoding::Zstd => Some(HeaderValue::from_static("zstd")),
        }
    }

    /// A new compressor.
    pub fn compressor(self) -> Result<BodyCompressor> {
        Ok(match self {
            ResponseCoding::Identity => BodyCompressor::Identity,
            ResponseCoding::Gzip => {
                BodyCompressor::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()))
            }
            ResponseCoding::Zstd => {
                BodyCompressor::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1).map_err(failed)?)
            }
        })
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::internal(format!("content encoding: {error}"))
}

/// Encodes one body.
pub enum BodyCompressor {
    Identity,
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl BodyCompressor {
    /// Compresses a piece; returns the output so far, which may be empty.
    pub fn piece(&mut self, piece: Bytes) -> Result<Bytes> {
        let out = match self {
            BodyCompressor::Identity => return Ok(piece),
            BodyCompressor::Gzip(encoder) => {
                encoder.write_all(&piece).map_err(failed)?;
                std::mem::take(encoder.get_mut())
            }
            BodyCompressor::Zstd(encoder) => {
                encoder.write_all(&piece).map_err(failed)?;
                std::mem::take(encoder.get_mut())
            }
        };
        Ok(Bytes::from(out))
    }

    /// Finishes the body.
    pub fn end(self) -> Result<Bytes> {
        Ok(match self {
            BodyCompressor::Identity => Bytes::new(),
            BodyCompressor::Gzip(encoder) => Bytes::from(encoder.finish().map_err(failed)?),
            BodyCompressor::Zstd(encoder) => Bytes::from(encoder.finish().map_err(failed)?),
        })
    }
}

impl std::fmt::Debug for BodyCompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BodyCompressor::Identity => "identity",
            BodyCompressor::Gzip(_) => "gzip",
            BodyCompressor::Zstd(_) => "zstd",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn an_encoding_is_used_only_when_accepted() {
        for (accept, coding) in [
            ("", ResponseCoding::Identity),
            ("*", ResponseCoding::Identity),
            ("identity", ResponseCoding::Identity),
            ("br", ResponseCoding::Identity),
            ("gzip", ResponseCoding::Gzip),
            ("gzip, deflate, zstd", ResponseCoding::Zstd),
            ("gzip;q=1.0, zstd;q=0.5", ResponseCoding::Gzip),
            ("gzip;q=0, zstd;q=0", ResponseCoding::Identity),
            ("identity;q=1, gzip;q=0.5", ResponseCoding::Identity),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, accept.parse().unwrap())]);
            assert_eq!(ResponseCoding::of(&headers), coding, "{accept}");
        }
    }

    #[test]
    fn bodies_decode_completely_and_only_after_their_end() {
        let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        for coding in [ResponseCoding::Identity, ResponseCoding::Gzip, ResponseCoding::Zstd] {
            let mut compressor = coding.compressor().unwrap();
            let mut out = Vec::new();
            for piece in bytes.chunks(100_000) {
                out.extend(compressor.piece(Bytes::copy_from_slice(piece)).unwrap());
            }
            let unfinished = out.clone();
            out.extend(compressor.end().unwrap());
            let decode = |out: &[u8]| {
                let mut back = Vec::new();
                match coding {
                    ResponseCoding::Identity => out.to_vec().as_slice().read_to_end(&mut back).map(|_| back),
                    ResponseCoding::Gzip => flate2::read::GzDecoder::new(out).read_to_end(&mut back).map(|_| back),
                    ResponseCoding::Zstd => zstd::decode_all(out),
                }
            };
            assert!(decode(&out).unwrap() == bytes, "{coding:?}");
            assert_eq!(decode(&unfinished).is_ok(), coding == ResponseCoding::Identity, "{coding:?}");
        }
    }
}
