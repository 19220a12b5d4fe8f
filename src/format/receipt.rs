//! Receipts: what a write under an idempotency key did, so that its retry gets the same answer and changes nothing.
//!
//! A receipt stands in the log with its commit; when the log is trimmed it moves to a receipt file. Keys and bodies
//! are kept as 128-bit XXH3 hashes.
//!
//! The payload of a receipt file's envelope: number of receipts (`u32`), then each as a `u32` length and its bytes.

use super::bytes::{Reader, put_blob};
use super::envelope;
use crate::error::{Error, Result};

/// First bytes of a receipt file.
pub const RECEIPTS_MAGIC: &[u8; 8] = b"FASTKRCP";
/// Version of receipt files.
pub const RECEIPTS_VERSION: u32 = 1;

/// What a write did to one series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub series_id: u64,
    /// Distinct rows stored, `rows_replaced` of which existed.
    pub rows_written: u64,
    pub rows_replaced: u64,
    pub rows_duplicate: u64,
    /// Rows the caller left out beforehand; only carried along.
    pub rows_skipped: u64,
    pub version: u64,
    pub commit: u64,
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
    pub durable: bool,
}

/// A write that was done under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Hash of the key.
    pub key: u128,
    /// Hash of what was written and how.
    pub fingerprint: u128,
    /// Wall clock of the write in milliseconds: receipts are forgotten by age.
    pub wall_ms: i64,
    /// One entry a series, in the order of the write.
    pub written: Vec<Written>,
}

impl Receipt {
    /// Appends the receipt's bytes.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.to_le_bytes());
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        out.extend_from_slice(&self.wall_ms.to_le_bytes());
        out.extend_from_slice(&u32::try_from(self.written.len()).unwrap_or(u32::MAX).to_le_bytes());
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

    /// Reads a receipt that takes up all of `bytes`.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes, "receipt");
        let (key, fingerprint, wall_ms) = (reader.u128()?, reader.u128()?, reader.i64()?);
        let count = reader.u32()?;
        let mut written = Vec::new();
        for _ in 0..count {
            let (series_id, rows_written, rows_replaced) = (reader.u64()?, reader.u64()?, reader.u64()?);
            let (rows_duplicate, rows_skipped) = (reader.u64()?, reader.u64()?);
            let (version, commit) = (reader.u64()?, reader.u64()?);
            let (durable, has_rows) = (reader.u8()? != 0, reader.u8()? != 0);
            let (first, last) = (reader.i64()?, reader.i64()?);
            written.push(Written {
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

/// Bytes of a receipt file.
pub fn encode_receipts<'a>(receipts: impl Iterator<Item = &'a Receipt>) -> Vec<u8> {
    let mut body = Vec::new();
    let mut one = Vec::new();
    let mut count = 0_u32;
    for receipt in receipts {
        one.clear();
        receipt.put(&mut one);
        put_blob(&mut body, &one);
        count += 1;
    }
    let mut payload = count.to_le_bytes().to_vec();
    payload.append(&mut body);
    envelope::seal(RECEIPTS_MAGIC, RECEIPTS_VERSION, &payload)
}

/// Reads a receipt file.
pub fn decode_receipts(file: &[u8]) -> Result<Vec<Receipt>> {
    let payload = envelope::open("receipt file", RECEIPTS_MAGIC, RECEIPTS_VERSION, file)?;
    let mut reader = Reader::new(payload, "receipt file");
    let count = reader.u32()?;
    let mut receipts = Vec::new();
    for _ in 0..count {
        receipts.push(Receipt::read(reader.blob()?)?);
    }
    reader.finish().map_err(|error| Error::corrupt(error.detail().to_owned()))?;
    Ok(receipts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_survive_their_bytes_and_notice_every_flipped_bit() {
        let written = Written {
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
        let empty = Written { first_ts: None, last_ts: None, durable: false, ..written };
        let receipts = [
            Receipt { key: u128::MAX - 3, fingerprint: 1 << 100, wall_ms: 77, written: vec![written, empty] },
            Receipt { key: 5, fingerprint: 6, wall_ms: 78, written: Vec::new() },
        ];
        let file = encode_receipts(receipts.iter());
        assert_eq!(decode_receipts(&file).unwrap(), receipts);
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_receipts(&damaged).is_err(), "bit {bit}");
        }
    }
}
