//! Receipts: the outcome of a write with an idempotency key, so that a retry gets the same response and changes
//! nothing.
//!
//! A receipt is part of its commit in the log; when the log is trimmed it moves to a receipt file. Keys and bodies are
//! stored as 128-bit XXH3 hashes.
//!
//! A receipt file is a sequence of pages, each in its own envelope, so that damage is limited to one page. The
//! payload of a page: its number from 0 (`u32`), number of pages (`u32`), number of receipts (`u32`), then each receipt
//! as a `u32` length and its bytes. A file has at least one page.

use std::ops::Range;

use super::bytes::{ByteReader, put_blob, put_length};
use super::envelope;
use crate::error::{Error, ErrorCode, Result};
use crate::types::cells;

/// First bytes of a receipt file.
pub const RECEIPTS_MAGIC: &[u8; 8] = b"FASTKRCP";
/// Version of receipt files.
pub const RECEIPTS_VERSION: u32 = 1;
/// Maximum number of receipts of a page.
pub const PAGE_RECEIPTS: usize = 1_024;

/// Outcome of a write for one series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesReceipt {
    pub series_id: u64,
    /// Distinct rows stored; `rows_replaced` of them existed before.
    pub rows_written: u64,
    pub rows_replaced: u64,
    pub rows_duplicate: u64,
    /// Rows left out before the write; recorded for the response.
    pub rows_skipped: u64,
    pub version: u64,
    pub commit: u64,
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
    pub durable: bool,
}

/// A completed write with an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Hash of the key.
    pub key: u128,
    /// Hash of the written rows and the options.
    pub fingerprint: u128,
    /// Wall clock of the write in milliseconds; receipts expire by age.
    pub wall_ms: i64,
    /// One entry per series, in the order of the write.
    pub written: Vec<SeriesReceipt>,
}

impl Receipt {
    /// Appends the encoded receipt.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.to_le_bytes());
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        out.extend_from_slice(&self.wall_ms.to_le_bytes());
        put_length(out, self.written.len());
        for written in &self.written {
            for value in [
                written.series_id,
                written.rows_written,
                written.rows_replaced,
                written.rows_duplicate,
                written.rows_skipped,
                written.version,
                written.commit,
            ] {
                out.extend_from_slice(&value.to_le_bytes());
            }
            out.push(u8::from(written.durable));
            out.push(u8::from(written.first_ts.is_some()));
            for ts in [written.first_ts, written.last_ts] {
                out.extend_from_slice(&ts.unwrap_or(0).to_le_bytes());
            }
        }
    }

    /// Decodes a receipt from all of `bytes`.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut reader = ByteReader::new(bytes, "receipt");
        let (key, fingerprint, wall_ms) = (reader.u128()?, reader.u128()?, reader.i64()?);
        let count = reader.u32()?;
        let mut written = Vec::new();
        for _ in 0..count {
            let (series_id, rows_written, rows_replaced) = (reader.u64()?, reader.u64()?, reader.u64()?);
            let (rows_duplicate, rows_skipped) = (reader.u64()?, reader.u64()?);
            let (version, commit) = (reader.u64()?, reader.u64()?);
            let (durable, has_rows) = (reader.u8()? != 0, reader.u8()? != 0);
            let (first, last) = (reader.i64()?, reader.i64()?);
            written.push(SeriesReceipt {
                series_id,
                rows_written,
                rows_replaced,
                rows_duplicate,
                rows_skipped,
                version,
                commit,
                first_ts: has_rows.then_some(first),
                last_ts: has_rows.then_some(last),
                durable,
            });
        }
        reader.finish()?;
        Ok(Self { key, fingerprint, wall_ms, written })
    }
}

/// Encodes a receipt file.
pub fn encode_receipts<'a>(receipts: impl Iterator<Item = &'a Receipt>) -> Vec<u8> {
    let receipts: Vec<&Receipt> = receipts.collect();
    let page_count = receipts.len().div_ceil(PAGE_RECEIPTS).max(1);
    let mut file = Vec::new();
    let (mut payload, mut one) = (Vec::new(), Vec::new());
    for number in 0..page_count {
        let page = receipts.iter().skip(number * PAGE_RECEIPTS).take(PAGE_RECEIPTS);
        payload.clear();
        for value in [number, page_count, page.len()] {
            put_length(&mut payload, value);
        }
        for receipt in page {
            one.clear();
            receipt.put(&mut one);
            put_blob(&mut payload, &one);
        }
        file.append(&mut envelope::seal(RECEIPTS_MAGIC, RECEIPTS_VERSION, &payload));
    }
    file
}

/// One page of a receipt file.
struct ReceiptPage {
    number: u32,
    page_count: u32,
    receipts: Vec<Receipt>,
}

impl ReceiptPage {
    /// The page at the start of `bytes`, and the bytes after it.
    fn read(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let (payload, rest) = envelope::open_first("receipt file", RECEIPTS_MAGIC, RECEIPTS_VERSION, bytes)?;
        let mut reader = ByteReader::new(payload, "receipt file");
        let (number, page_count, count) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let mut receipts = Vec::new();
        for _ in 0..count {
            receipts.push(Receipt::read(reader.blob()?)?);
        }
        reader.finish()?;
        Ok((Self { number, page_count, receipts }, rest))
    }
}

/// Decodes a receipt file and verifies every byte.
pub fn decode_receipts(file: &[u8]) -> Result<Vec<Receipt>> {
    let mut receipts = Vec::new();
    let mut rest = file;
    for expected in 0.. {
        let (mut page, after) = ReceiptPage::read(rest)?;
        if page.number != expected {
            return Err(Error::corrupt(format!("receipt file: found page {}, expected page {expected}", page.number)));
        }
        receipts.append(&mut page.receipts);
        rest = after;
        if page.number.saturating_add(1) >= page.page_count {
            break;
        }
    }
    if rest.is_empty() {
        Ok(receipts)
    } else {
        Err(Error::corrupt(format!("receipt file has {} surplus bytes", rest.len())))
    }
}

/// The intact parts of a damaged receipt file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiptSalvage {
    pub receipts: Vec<Receipt>,
    /// Byte ranges without an intact page.
    pub damaged: Vec<Range<u64>>,
    /// Number of lost pages; `None` without an intact page, which has the total.
    pub pages_lost: Option<u32>,
}

/// Decodes the intact pages of a receipt file.
///
/// # Errors
/// `unsupported_format` for a newer file. Other errors are reported as damage.
pub fn salvage_receipts(file: &[u8]) -> Result<ReceiptSalvage> {
    let mut found = ReceiptSalvage::default();
    let (mut at, mut lost_from, mut pages_found) = (0, None, 0);
    let lose = |from: usize, to: usize, found: &mut ReceiptSalvage| found.damaged.push(from as u64..to as u64);
    while at < file.len() {
        let rest = cells::range(file, at..file.len());
        match ReceiptPage::read(rest) {
            Ok((mut page, after)) => {
                if let Some(from) = lost_from.take() {
                    lose(from, at, &mut found);
                }
                pages_found += 1;
                found.pages_lost = Some(page.page_count);
                found.receipts.append(&mut page.receipts);
                at += rest.len() - after.len();
            }
            Err(error) if error.code() == ErrorCode::UnsupportedFormat => return Err(error),
            Err(_) => {
                lost_from.get_or_insert(at);
                // The next offset where a page could start.
                let ahead = cells::range(rest, 1..rest.len());
                let next = ahead.windows(RECEIPTS_MAGIC.len()).position(|bytes| bytes == RECEIPTS_MAGIC);
                at = next.map_or(file.len(), |next| at + 1 + next);
            }
        }
    }
    if let Some(from) = lost_from {
        lose(from, file.len(), &mut found);
    }
    found.pages_lost = found.pages_lost.map(|count| count.saturating_sub(pages_found));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_round_trip_and_detect_every_flipped_bit() {
        let written = SeriesReceipt {
            series_id: 3,
            rows_written: 2,
            rows_replaced: 1,
            rows_duplicate: 0,
            rows_skipped: 4,
            version: 9,
            commit: 11,
            first_ts: Some(-5),
            last_ts: Some(7),
            durable: true,
        };
        let empty = SeriesReceipt { first_ts: None, last_ts: None, durable: false, ..written };
        let receipts = [
            Receipt { key: u128::MAX - 3, fingerprint: 1 << 100, wall_ms: 77, written: vec![written, empty] },
            Receipt { key: 5, fingerprint: 6, wall_ms: 78, written: Vec::new() },
        ];
        let file = encode_receipts(receipts.iter());
        assert_eq!(decode_receipts(&file).unwrap(), receipts);
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_receipts(&damaged).unwrap_err().code(), ErrorCode::CorruptData, "bit {bit}");
        }
    }

    /// A file of three pages.
    fn long() -> (Vec<u8>, Vec<Receipt>) {
        let receipts: Vec<Receipt> = (0..2 * PAGE_RECEIPTS as i64 + 9)
            .map(|at| Receipt { key: at as u128, fingerprint: 1, wall_ms: at, written: Vec::new() })
            .collect();
        let file = encode_receipts(receipts.iter());
        assert_eq!(decode_receipts(&file).unwrap(), receipts);
        assert_eq!(decode_receipts(&encode_receipts([].iter())).unwrap(), []);
        let salvage = salvage_receipts(&file).unwrap();
        assert_eq!(salvage, ReceiptSalvage { receipts: receipts.clone(), damaged: Vec::new(), pages_lost: Some(0) });
        (file, receipts)
    }

    #[test]
    fn damage_loses_only_the_page_it_hits() {
        let (file, receipts) = long();
        let page_bytes = envelope::ENVELOPE_BYTES + 12 + PAGE_RECEIPTS * (4 + 44);
        for byte in (0..file.len()).step_by(1_009).chain([page_bytes - 1, page_bytes, 2 * page_bytes, file.len() - 1]) {
            let mut damaged = file.clone();
            damaged[byte] ^= 0x20;
            assert!(decode_receipts(&damaged).is_err(), "byte {byte}");
            let found = salvage_receipts(&damaged).unwrap();
            let page = byte / page_bytes;
            let mut left = receipts.clone();
            left.drain(page * PAGE_RECEIPTS..((page + 1) * PAGE_RECEIPTS).min(receipts.len()));
            assert!(found.receipts == left, "byte {byte}");
            assert_eq!(found.pages_lost, Some(1), "byte {byte}");
            let range = (page * page_bytes) as u64..((page + 1) * page_bytes).min(file.len()) as u64;
            assert_eq!(found.damaged, [range], "byte {byte}");
        }
    }

    #[test]
    fn a_truncation_loses_the_pages_after_it_and_is_detected_even_between_pages() {
        let (file, receipts) = long();
        let page_bytes = envelope::ENVELOPE_BYTES + 12 + PAGE_RECEIPTS * (4 + 44);
        for length in (0..file.len()).step_by(1_013).chain([page_bytes, 2 * page_bytes, file.len() - 1]) {
            let cut = &file[..length];
            assert!(decode_receipts(cut).is_err(), "cut at {length}");
            let found = salvage_receipts(cut).unwrap();
            let pages = length / page_bytes;
            assert!(found.receipts == receipts[..pages * PAGE_RECEIPTS], "cut at {length}");
            assert_eq!(found.pages_lost, (pages > 0).then_some(3 - pages as u32), "cut at {length}");
        }
    }
}
