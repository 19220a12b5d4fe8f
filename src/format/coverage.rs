//! Coverage sidecars of chunks: the buckets of a grid with a row at their start, and the timestamps of the other rows.
//!
//! Every row of the chunk is in exactly one of the two: a bit of the bitmap, or an entry of the list of rows off the
//! grid. The coverage after a delete of any range therefore follows without the rows. Derived data: a missing or
//! damaged sidecar, or one for another grid, costs time but never changes a result.
//!
//! The payload of the envelope: chunk id (`u64`), footer checksum of the chunk (`u32`), kind of interval (`u32`: 1 of
//! equal length, 2 calendar months), its length and phase in ticks or months (`i64` each), number of rows off the grid
//! (`u64`), their timestamps (`i64` each), then the bitmap in the portable 64-bit Roaring format. The bit of a bucket
//! is its number plus 2^63, so that negative buckets come first.

use roaring::RoaringTreemap;

use super::bytes::{ByteReader, put_words};
use super::envelope;
use crate::error::{Error, Result};
use crate::types::width::to_usize;
use crate::types::{Grid, TimeUnit};

/// First bytes of a coverage sidecar.
pub const COVERAGE_MAGIC: &[u8; 8] = b"FASTKCOV";
/// Version of coverage sidecars.
pub const COVERAGE_VERSION: u32 = 1;

const FIXED: u32 = 1;
const MONTHS: u32 = 2;
const SIGN: u64 = 1 << 63;

/// Bit of a bucket; the order of buckets is preserved.
pub fn bit_of(bucket: i64) -> u64 {
    bucket.cast_unsigned() ^ SIGN
}

/// Bucket of a bit.
pub fn bucket_of(bit: u64) -> i64 {
    (bit ^ SIGN).cast_signed()
}

/// Coverage of a grid by the rows of one chunk or run.
#[derive(Clone, Debug, PartialEq)]
pub struct Coverage {
    pub chunk_id: u64,
    /// Footer checksum of the chunk, to detect coverage of another file with the same id.
    pub footer_crc: u32,
    pub grid: Grid,
    /// Bits of the buckets with a row at their start.
    pub aligned: RoaringTreemap,
    /// Timestamps of the other rows, ascending.
    pub off_grid: Vec<i64>,
}

impl Coverage {
    /// Coverage without rows.
    pub fn new(chunk_id: u64, grid: Grid) -> Self {
        Self { chunk_id, footer_crc: 0, grid, aligned: RoaringTreemap::new(), off_grid: Vec::new() }
    }

    /// Adds rows; timestamps must ascend, also across calls.
    pub fn add(&mut self, mut ts: &[i64]) {
        while let Some((first, rest)) = ts.split_first() {
            let bucket = self.grid.bucket_of(*first);
            ts = rest;
            if self.grid.start_of(bucket) != *first {
                self.off_grid.push(*first);
                continue;
            }
            let mut last = bucket;
            if let Grid::Fixed { length, .. } = self.grid {
                // Rows one interval apart need no division.
                let mut expected = first.checked_add(length);
                while let Some((next, rest)) = ts.split_first()
                    && Some(*next) == expected
                {
                    ts = rest;
                    last += 1;
                    expected = next.checked_add(length);
                }
            }
            self.aligned.insert_range(bit_of(bucket)..=bit_of(last));
        }
    }

    /// Compacts the bitmap, once all rows are added.
    pub fn optimize(&mut self) {
        self.aligned.optimize();
        self.off_grid.shrink_to_fit();
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.aligned.len() + self.off_grid.len() as u64
    }

    /// Encodes the sidecar file.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, length, phase) = match self.grid {
            Grid::Fixed { length, phase } => (FIXED, length, phase),
            Grid::Months { length, phase, .. } => (MONTHS, length, phase),
        };
        let mut payload = Vec::new();
        payload.extend_from_slice(&self.chunk_id.to_le_bytes());
        payload.extend_from_slice(&self.footer_crc.to_le_bytes());
        payload.extend_from_slice(&kind.to_le_bytes());
        put_words(&mut payload, &[length, phase]);
        payload.extend_from_slice(&(self.off_grid.len() as u64).to_le_bytes());
        put_words(&mut payload, &self.off_grid);
        let written = self.aligned.serialize_into(&mut payload);
        assert!(written.is_ok(), "a bitmap could not be written to memory: {written:?}");
        envelope::seal(COVERAGE_MAGIC, COVERAGE_VERSION, &payload)
    }

    /// Decodes a sidecar file of a series with this time unit.
    pub fn decode(file: &[u8], unit: TimeUnit) -> Result<Self> {
        let payload = envelope::open("coverage", COVERAGE_MAGIC, COVERAGE_VERSION, file)?;
        let mut reader = ByteReader::new(payload, "coverage");
        let (chunk_id, footer_crc, kind) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let (length, phase) = (reader.i64()?, reader.i64()?);
        let grid = match kind {
            FIXED => Grid::Fixed { length, phase },
            MONTHS => Grid::Months { length, phase, unit },
            other => return Err(Error::corrupt(format!("coverage: unknown interval kind {other}"))),
        };
        if length <= 0 || !(0..length).contains(&phase) {
            return Err(Error::corrupt(format!(
                "coverage: intervals of length {length} and phase {phase} are invalid"
            )));
        }
        let count = to_usize(reader.u64()?);
        let off_grid = reader.words(count)?;
        let mut rest = reader.rest();
        let aligned = RoaringTreemap::deserialize_from(&mut rest)
            .map_err(|error| Error::corrupt(format!("bitmap of coverage: {error}")))?;
        if !rest.is_empty() {
            return Err(Error::corrupt(format!("coverage has {} surplus bytes", rest.len())));
        }
        Ok(Self { chunk_id, footer_crc, grid, aligned, off_grid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_on_the_grid_or_in_the_list() {
        let grid = Grid::Fixed { length: 10, phase: 3 };
        let mut coverage = Coverage::new(1, grid);
        coverage.add(&[-27, -17, -7, 2]);
        coverage.add(&[3, 13, 14, 23, 43, 59]);
        let buckets: Vec<i64> = coverage.aligned.iter().map(bucket_of).collect();
        assert_eq!(buckets, [-3, -2, -1, 0, 1, 2, 4]);
        assert_eq!((coverage.off_grid.as_slice(), coverage.rows()), (&[2, 14, 59][..], 10));
        let months = Grid::Months { length: 1, phase: 0, unit: TimeUnit::Ms };
        let mut coverage = Coverage::new(1, months);
        let starts: Vec<i64> = (-3..3).map(|bucket| months.start_of(bucket)).collect();
        coverage.add(&starts);
        assert_eq!(coverage.aligned.iter().map(bucket_of).collect::<Vec<_>>(), [-3, -2, -1, 0, 1, 2]);
        let ends = [i64::MIN, i64::MAX];
        assert!(ends.map(bit_of) == [0, u64::MAX] && ends.map(|end| bucket_of(bit_of(end))) == ends);
    }

    #[test]
    fn coverage_round_trips_and_detects_every_flipped_bit() {
        for grid in [Grid::Fixed { length: 60_000, phase: 7 }, Grid::Months { length: 3, phase: 1, unit: TimeUnit::Us }]
        {
            let mut coverage = Coverage::new(7, grid);
            coverage.footer_crc = 42;
            let mut ts: Vec<i64> = (-900..900).filter(|n| n % 7 != 0).map(|n| grid.start_of(n)).collect();
            ts.push(ts[ts.len() - 1] + 1);
            coverage.add(&ts);
            coverage.optimize();
            let file = coverage.encode();
            assert_eq!(Coverage::decode(&file, TimeUnit::Us).unwrap(), coverage);
            for bit in 0..file.len() * 8 {
                let mut damaged = file.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(Coverage::decode(&damaged, TimeUnit::Us).is_err(), "bit {bit}");
            }
        }
        let payload = [&[0; 16][..], &[255; 24]].concat();
        assert!(Coverage::decode(&envelope::seal(COVERAGE_MAGIC, 1, &payload), TimeUnit::Ms).is_err());
    }
}
