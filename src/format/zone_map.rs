//! Zone map sidecars of chunks: the lowest and highest value of every column in every zone.
//!
//! Derived data: a missing or damaged zone map costs time but never changes a result. Values are stored as order keys,
//! so that doubles and integers compare alike.
//!
//! The payload of the envelope: chunk id (`u64`), footer checksum of the chunk (`u32`), number of columns with `ts`
//! first (`u32`), number of zones (`u32`), then for each column the lowest keys of all zones and the highest keys of
//! all zones (`i64` each).

use super::bytes::{ByteReader, put_length, put_words};
use super::chunk::ZONE_ROWS;
use super::envelope;
use crate::error::{Error, Result};
use crate::types::schema::COLUMNS_MAX;
use crate::types::{CellSlice, cells};

/// First bytes of a zone map.
pub const ZONE_MAP_MAGIC: &[u8; 8] = b"FASTKZMP";
/// Version of zone maps.
pub const ZONE_MAP_VERSION: u32 = 1;

/// Order key of a cell: the integer itself, or for a double an integer with the same order (both zeros have the same
/// key).
#[inline]
pub fn order_key(word: i64, is_float: bool) -> i64 {
    if !is_float {
        return word;
    }
    // Only the sign bit set is minus zero.
    let bits = if word == i64::MIN { 0 } else { word };
    // Negative doubles order backwards by their bits: flip all but the sign.
    bits ^ ((bits >> 63) & i64::MAX)
}

/// Lowest and highest keys by column and zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneMap {
    pub chunk_id: u64,
    /// Footer checksum of the chunk, to detect a map of another file with the same id.
    pub footer_crc: u32,
    /// One entry per column, `ts` first; all have the same number of zones.
    pub columns: Vec<ZoneColumn>,
}

/// Keys of one column, by zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneColumn {
    pub min: Vec<i64>,
    pub max: Vec<i64>,
}

impl ZoneMap {
    /// A map without zones.
    pub fn new(chunk_id: u64, column_count: usize) -> Self {
        Self { chunk_id, footer_crc: 0, columns: vec![ZoneColumn::default(); column_count] }
    }

    /// Adds the zones of a block; blocks start on zone boundaries.
    pub fn add_block(&mut self, columns: &[CellSlice<'_>], is_float: impl Fn(usize) -> bool) {
        for (position, (zones, words)) in self.columns.iter_mut().zip(columns).enumerate() {
            let float = is_float(position);
            for zone in words.words().chunks(ZONE_ROWS) {
                let keys = zone.iter().map(|word| order_key(*word, float));
                let (min, max) = keys.fold((i64::MAX, i64::MIN), |(min, max), key| (min.min(key), max.max(key)));
                zones.min.push(min);
                zones.max.push(max);
            }
        }
    }

    /// Number of zones.
    pub fn zones(&self) -> usize {
        cells::column(&self.columns, 0).min.len()
    }

    /// Lowest and highest key of each column in the chunk.
    pub fn chunk_bounds(&self) -> Vec<(i64, i64)> {
        // Without a zone the bounds contain no key.
        let lowest = |keys: &[i64]| keys.iter().fold(i64::MAX, |low, key| low.min(*key));
        let highest = |keys: &[i64]| keys.iter().fold(i64::MIN, |high, key| high.max(*key));
        self.columns.iter().map(|column| (lowest(&column.min), highest(&column.max))).collect()
    }

    /// Encodes the sidecar file.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend_from_slice(&self.chunk_id.to_le_bytes());
        payload.extend_from_slice(&self.footer_crc.to_le_bytes());
        put_length(&mut payload, self.columns.len());
        put_length(&mut payload, self.zones());
        for column in &self.columns {
            put_words(&mut payload, &column.min);
            put_words(&mut payload, &column.max);
        }
        envelope::seal(ZONE_MAP_MAGIC, ZONE_MAP_VERSION, &payload)
    }

    /// Decodes a sidecar file.
    pub fn decode(file: &[u8]) -> Result<Self> {
        let payload = envelope::open("zone map", ZONE_MAP_MAGIC, ZONE_MAP_VERSION, file)?;
        let mut reader = ByteReader::new(payload, "zone map");
        let (chunk_id, footer_crc) = (reader.u64()?, reader.u32()?);
        let column_count = reader.length()?;
        if !(1..=COLUMNS_MAX + 1).contains(&column_count) {
            return Err(Error::corrupt(format!("zone map with {column_count} columns")));
        }
        let zones = reader.length()?;
        let mut columns = Vec::with_capacity(column_count);
        for _ in 0..column_count {
            columns.push(ZoneColumn { min: reader.words(zones)?, max: reader.words(zones)? });
        }
        reader.finish()?;
        Ok(Self { chunk_id, footer_crc, columns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_doubles_preserve_their_order() {
        let ascending = [f64::NEG_INFINITY, -1e300, -2.5, -1e-300, 0.0, 1e-300, 1.0, 1.5, 1e300, f64::INFINITY];
        let keys: Vec<i64> = ascending.iter().map(|v| order_key(v.to_bits() as i64, true)).collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "{keys:?}");
        assert_eq!(order_key((-0.0_f64).to_bits() as i64, true), order_key(0.0_f64.to_bits() as i64, true));
    }

    #[test]
    fn a_zone_map_round_trips_and_detects_every_flipped_bit() {
        let mut map = ZoneMap::new(7, 2);
        let ts: Vec<i64> = (0..2_000).collect();
        let values: Vec<i64> = (0..2_000).map(|row| (f64::from(row) - 1_000.0).to_bits() as i64).collect();
        map.add_block(&[&ts, &values].map(|words| CellSlice::of_words(words)), |column| column == 1);
        assert_eq!((map.zones(), map.columns[0].max[0], map.columns[0].min[1]), (2, 1_023, 1_024));
        let file = map.encode();
        assert_eq!(ZoneMap::decode(&file).unwrap(), map);
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ZoneMap::decode(&damaged).is_err(), "bit {bit}");
        }
        let no_columns = [&[0; 16][..], &7_u32.to_le_bytes()].concat();
        assert!(ZoneMap::decode(&envelope::seal(ZONE_MAP_MAGIC, 1, &no_columns)).is_err());
    }
}
