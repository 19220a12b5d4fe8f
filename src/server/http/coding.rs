//! Content encodings of answers.
//!
//! A [`Coder`] that is dropped leaves a stream without its end, so that an answer that failed half-way never
//! decodes as if it were whole.

use std::io::Write;

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;

use crate::egress::accept::weighted;
use crate::error::{Error, Result};

/// Content encoding of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    /// The encoding a client asked for: zstd before gzip where it likes both the same; none unless it asked.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut gzip = None;
        let mut zstd = None;
        let mut rest = 0;
        for value in headers.get_all(header::ACCEPT_ENCODING) {
            for (name, quality) in weighted(value.to_str().unwrap_or_default()) {
                match name.as_str() {
                    "gzip" | "x-gzip" => gzip = Some(quality),
                    "zstd" => zstd = Some(quality),
                    "identity" => rest = quality,
                    // A wildcard asks for nothing in particular.
                    _ => {}
                }
            }
        }
        let (gzip, zstd) = (gzip.unwrap_or(0), zstd.unwrap_or(0));
        if zstd > 0 && zstd >= gzip && zstd >= rest {
            Coding::Zstd
        } else if gzip > 0 && gzip >= rest {
            Coding::Gzip
        } else {
            Coding::Identity
        }
    }

    /// What it adds to an entity tag.
    pub fn suffix(self) -> &'static str {
        match self {
            Coding::Identity => "",
            Coding::Gzip => "+gzip",
            Coding::Zstd => "+zstd",
        }
    }

    /// The `Content-Encoding`, where there is one.
    pub fn header(self) -> Option<HeaderValue> {
        match self {
            Coding::Identity => None,
            Coding::Gzip => Some(HeaderValue::from_static("gzip")),
            Coding::Zstd => Some(HeaderValue::from_static("zstd")),
        }
    }

    /// A fresh encoder.
    pub fn coder(self) -> Result<Coder> {
        Ok(match self {
            Coding::Identity => Coder::Identity,
            Coding::Gzip => Coder::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast())),
            Coding::Zstd => Coder::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1).map_err(failed)?),
        })
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::internal(format!("content encoding: {error}"))
}

/// Encodes one body.
pub enum Coder {
    Identity,
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Coder {
    /// Takes a piece in; gives what came out, which may be nothing yet.
    pub fn piece(&mut self, piece: Bytes) -> Result<Bytes> {
        let out = match self {
            Coder::Identity => return Ok(piece),
            Coder::Gzip(encoder) => {
                encoder.write_all(&piece).map_err(failed)?;
                std::mem::take(encoder.get_mut())
            }
            Coder::Zstd(encoder) => {
                encoder.write_all(&piece).map_err(failed)?;
                std::mem::take(encoder.get_mut())
            }
        };
        Ok(Bytes::from(out))
    }

    /// The end of the body.
    pub fn end(self) -> Result<Bytes> {
        Ok(match self {
            Coder::Identity => Bytes::new(),
            Coder::Gzip(encoder) => Bytes::from(encoder.finish().map_err(failed)?),
            Coder::Zstd(encoder) => Bytes::from(encoder.finish().map_err(failed)?),
        })
    }
}

impl std::fmt::Debug for Coder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Coder::Identity => "identity",
            Coder::Gzip(_) => "gzip",
            Coder::Zstd(_) => "zstd",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn an_encoding_is_used_only_when_asked_for() {
        for (accept, coding) in [
            ("", Coding::Identity),
            ("*", Coding::Identity),
            ("identity", Coding::Identity),
            ("br", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("gzip, deflate, zstd", Coding::Zstd),
            ("gzip;q=1.0, zstd;q=0.5", Coding::Gzip),
            ("gzip;q=0, zstd;q=0", Coding::Identity),
            ("identity;q=1, gzip;q=0.5", Coding::Identity),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, accept.parse().unwrap())]);
            assert_eq!(Coding::of(&headers), coding, "{accept}");
        }
    }

    #[test]
    fn bodies_decode_whole_and_only_after_their_end() {
        let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        for coding in [Coding::Identity, Coding::Gzip, Coding::Zstd] {
            let mut coder = coding.coder().unwrap();
            let mut out = Vec::new();
            for piece in bytes.chunks(100_000) {
                out.extend(coder.piece(Bytes::copy_from_slice(piece)).unwrap());
            }
            let unfinished = out.clone();
            out.extend(coder.end().unwrap());
            let decode = |out: &[u8]| {
                let mut back = Vec::new();
                match coding {
                    Coding::Identity => out.to_vec().as_slice().read_to_end(&mut back).map(|_| back),
                    Coding::Gzip => flate2::read::GzDecoder::new(out).read_to_end(&mut back).map(|_| back),
                    Coding::Zstd => zstd::decode_all(out),
                }
            };
            assert!(decode(&out).unwrap() == bytes, "{coding:?}");
            assert_eq!(decode(&unfinished).is_ok(), coding == Coding::Identity, "{coding:?}");
        }
    }
}
