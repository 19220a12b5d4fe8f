//! Zone map sidecars of chunks: the lowest and highest value of every column in every zone, and how many are null.
//!
//! Derived data: a missing or damaged zone map costs time but never changes a result. Values are stored as order keys,
//! so that those of all types compare alike.
//!
//! The payload of the envelope: chunk id (`u64`), footer checksum of the chunk (`u32`), number of columns with `ts`
//! first (`u32`), number of zones (`u32`), then for each column whether it has nulls (`u32`: 0 or 1), the lowest keys of
//! all zones and the highest keys of all zones (`i64` each), and for a column with nulls their number in each zone
//! (`u32` each). A zone of nulls only has the highest key below the lowest: no key is between them.

use super::bytes::{ByteReader, put_length, put_words};
use super::chunk::ZONE_ROWS;
use super::envelope;
use super::order_key::{NativeType, key_bounds};
use crate::error::{Error, Result};
use crate::types::schema::COLUMNS_MAX;
use crate::types::width::{narrow, to_usize};
use crate::types::{CellSlice, cells};

/// First bytes of a zone map.
pub const ZONE_MAP_MAGIC: &[u8; 8] = b"FASTKZMP";
/// Version of zone maps.
pub const ZONE_MAP_VERSION: u32 = 2;

/// Lowest and highest keys of no cell.
pub const NO_KEYS: (i64, i64) = (i64::MAX, i64::MIN);

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
    /// Lowest key of each zone; of a zone of nulls only that of [`NO_KEYS`].
    pub min: Vec<i64>,
    pub max: Vec<i64>,
    /// Number of nulls of each zone; empty when the column has none.
    pub nulls: Vec<u32>,
}

/// What is known about the cells of one column in a zone, or in an entire chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneSummary {
    /// Lowest and highest key; [`NO_KEYS`] when all cells are null.
    pub keys: (i64, i64),
    pub has_nulls: bool,
}

impl ZoneColumn {
    fn push(&mut self, zone: CellSlice<'_>, native: NativeType) {
        let nulls = zone.null_count();
        if nulls > 0 {
            self.nulls.resize(self.min.len(), 0);
            self.nulls.push(narrow(nulls));
        } else if !self.nulls.is_empty() {
            self.nulls.push(0);
        }
        let (min, max) = key_bounds(zone, native).unwrap_or(NO_KEYS);
        self.min.push(min);
        self.max.push(max);
    }

    /// What is known about a zone.
    pub fn zone(&self, zone: usize) -> Option<ZoneSummary> {
        let keys = (*self.min.get(zone)?, *self.max.get(zone)?);
        Some(ZoneSummary { keys, has_nulls: self.nulls.get(zone).is_some_and(|nulls| *nulls > 0) })
    }

    /// What is known about all zones together.
    fn whole(&self) -> ZoneSummary {
        let lowest = self.min.iter().fold(NO_KEYS.0, |low, key| low.min(*key));
        let highest = self.max.iter().fold(NO_KEYS.1, |high, key| high.max(*key));
        ZoneSummary { keys: (lowest, highest), has_nulls: !self.nulls.is_empty() }
    }
}

impl ZoneMap {
    /// A map without zones.
    pub fn new(chunk_id: u64, column_count: usize) -> Self {
        Self { chunk_id, footer_crc: 0, columns: vec![ZoneColumn::default(); column_count] }
    }

    /// Adds the zones of a block, whose columns are of these types, `ts` first; blocks start on zone boundaries.
    pub fn add_block(&mut self, columns: &[CellSlice<'_>], types: &[NativeType]) {
        for ((zones, cells), native) in self.columns.iter_mut().zip(columns).zip(types) {
            let mut from = 0;
            while from < cells.len() {
                let rows = ZONE_ROWS.min(cells.len() - from);
                zones.push(cells.slice(from, rows), *native);
                from += rows;
            }
        }
    }

    /// Number of zones.
    pub fn zones(&self) -> usize {
        cells::column(&self.columns, 0).min.len()
    }

    /// What is known about each column in the chunk.
    pub fn chunk_summaries(&self) -> Vec<ZoneSummary> {
        self.columns.iter().map(ZoneColumn::whole).collect()
    }

    /// Encodes the sidecar file.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend_from_slice(&self.chunk_id.to_le_bytes());
        payload.extend_from_slice(&self.footer_crc.to_le_bytes());
        put_length(&mut payload, self.columns.len());
        put_length(&mut payload, self.zones());
        for column in &self.columns {
            put_length(&mut payload, usize::from(!column.nulls.is_empty()));
            put_words(&mut payload, &column.min);
            put_words(&mut payload, &column.max);
            column.nulls.iter().for_each(|nulls| payload.extend_from_slice(&nulls.to_le_bytes()));
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
            let has_nulls = reader.u32()?;
            let (min, max) = (reader.words(zones)?, reader.words(zones)?);
            let nulls = match has_nulls {
                0 => Vec::new(),
                1 => (0..zones).map(|_| reader.u32()).collect::<Result<Vec<u32>>>()?,
                other => return Err(Error::corrupt(format!("zone map with a column of kind {other}"))),
            };
            if nulls.iter().any(|nulls| to_usize(*nulls) > ZONE_ROWS) {
                return Err(Error::corrupt(format!("zone map with more nulls than the {ZONE_ROWS} rows of a zone")));
            }
            columns.push(ZoneColumn { min, max, nulls });
        }
        reader.finish()?;
        Ok(Self { chunk_id, footer_crc, columns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CellLayout, ColumnCells};

    #[test]
    fn a_zone_map_round_trips_and_detects_every_flipped_bit() {
        let mut map = ZoneMap::new(7, 3);
        let ts: Vec<i64> = (0..2_000).collect();
        let values: ColumnCells = (0..2_000).map(|row| f64::from(row) - 1_000.0).collect::<Vec<f64>>().into();
        let mut sizes = ColumnCells::from((0..1_500).map(|row| row as u32).collect::<Vec<u32>>());
        (0..500).for_each(|_| sizes.push_null());
        let types = [NativeType::I64, NativeType::F64, NativeType::U32];
        map.add_block(&[CellSlice::of_words(&ts), values.as_slice(), sizes.as_slice()], &types);
        assert_eq!((map.zones(), map.columns[0].max[0], map.columns[0].min[1]), (2, 1_023, 1_024));
        assert_eq!((&map.columns[1].nulls, &map.columns[2].nulls), (&vec![], &vec![0, 500]));
        assert_eq!(map.columns[2].zone(1), Some(ZoneSummary { keys: (1_024, 1_499), has_nulls: true }));
        let file = map.encode();
        assert_eq!(ZoneMap::decode(&file).unwrap(), map);
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ZoneMap::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_map_of_an_impossible_form_is_refused() {
        let seal = |payload: &[u8]| envelope::seal(ZONE_MAP_MAGIC, ZONE_MAP_VERSION, payload);
        let head = |columns: u32, zones: u32| [&[0; 12][..], &columns.to_le_bytes(), &zones.to_le_bytes()].concat();
        let column = |kind: u32, nulls: &[u32]| {
            let nulls = nulls.iter().flat_map(|nulls| nulls.to_le_bytes()).collect::<Vec<u8>>();
            [&kind.to_le_bytes()[..], &[0; 16], &nulls].concat()
        };
        assert!(ZoneMap::decode(&seal(&[head(1, 1), column(1, &[1_024])].concat())).is_ok());
        assert!(ZoneMap::decode(&seal(&[head(1, 1), column(0, &[])].concat())).is_ok());
        for payload in [
            head(0, 1),
            head(u32::MAX, 1),
            head(1, u32::MAX),
            [head(1, 1), column(1, &[1_025])].concat(),
            [head(1, 1), column(1, &[])].concat(),
            [head(1, 1), column(0, &[7])].concat(),
            [head(1, 1), column(2, &[7])].concat(),
        ] {
            assert!(ZoneMap::decode(&seal(&payload)).is_err(), "{payload:?}");
        }
    }

    #[test]
    fn a_zone_of_nulls_has_no_keys_and_widens_no_bounds_of_the_chunk() {
        let mut column = ColumnCells::new(CellLayout::Bytes(2));
        (0..1_024).for_each(|_| column.push_null());
        column.push(5_i16);
        let mut map = ZoneMap::new(1, 1);
        map.add_block(&[column.as_slice()], &[NativeType::I16]);
        assert_eq!(map.columns[0].zone(0), Some(ZoneSummary { keys: NO_KEYS, has_nulls: true }));
        assert_eq!(map.columns[0].zone(1), Some(ZoneSummary { keys: (5, 5), has_nulls: false }));
        assert_eq!(map.chunk_summaries(), [ZoneSummary { keys: (5, 5), has_nulls: true }]);
        assert_eq!(ZoneMap::decode(&map.encode()).unwrap(), map);
    }
}
