//! Which rows of a chunk a merge with conditions has to check, by zone map and value index.

use std::ops::Range;
use std::sync::Arc;

use crate::format::chunk::{BlockMeta, ZONE_ROWS};
use crate::format::zone_map::ZoneSummary;
use crate::store::read::chunk::{MapCache, OpenChunk};
use crate::store::read::sidecar::Zones;
use crate::types::width::to_usize;
use crate::types::{ColumnType, OrderRule, SeriesDef, cells};

/// Rows that a reader selects: those whose cell in one column has an order key inside some range, or is null. A merge
/// may skip rows that zone maps or value indexes rule out; it does not check those it yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedKeys {
    /// Position of the column in the registration; `ts` is 0.
    pub column: usize,
    /// Closed ranges of order keys, ascending and disjoint.
    pub ranges: Arc<Vec<(i64, i64)>>,
    /// Whether nulls are wanted too.
    pub nulls: bool,
}

impl WantedKeys {
    /// Whether cells of which this is known can have one that is wanted.
    pub fn can_be_among(&self, cells: ZoneSummary) -> bool {
        let (min, max) = cells.keys;
        let at = self.ranges.partition_point(|(_, high)| *high < min);
        self.nulls && cells.has_nulls || min <= max && self.ranges.get(at).is_some_and(|(low, _)| *low <= max)
    }
}

/// Where a chunk has the keys of a wanted column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoredKeys {
    /// In this column of the chunk, and they compare with the wanted ones.
    Column(usize),
    /// The chunk is older than the column: all cells are null.
    AllNull,
    /// They do not compare: those of other digits, for example.
    Other,
}

/// Where a chunk under another registration has the keys of a column of the present one.
fn stored_keys(stored: &SeriesDef, def: &SeriesDef, column: usize) -> StoredKeys {
    let Some(position) = column.checked_sub(1) else { return StoredKeys::Column(0) };
    let Some(wanted) = def.columns.get(position) else { return StoredKeys::Other };
    let Some(at) = stored.column(&wanted.name) else {
        return if wanted.nullable { StoredKeys::AllNull } else { StoredKeys::Other };
    };
    let is_same = stored.columns.get(at).is_some_and(|column| has_same_keys(column.kind, wanted.kind));
    if is_same { StoredKeys::Column(at + 1) } else { StoredKeys::Other }
}

/// Whether a value has the same key in columns of both types.
fn has_same_keys(one: ColumnType, other: ColumnType) -> bool {
    // The key of an integer is the integer itself, of whatever width.
    let is_integer = |kind| {
        matches!(
            kind,
            ColumnType::Int64
                | ColumnType::Int32
                | ColumnType::Int16
                | ColumnType::Int8
                | ColumnType::UInt32
                | ColumnType::UInt16
                | ColumnType::UInt8
        )
    };
    // A wide decimal of the same digits is the same integer, as long as 8 bytes hold it.
    let digits = |kind| match kind {
        ColumnType::Decimal { digits } | ColumnType::WideDecimal { digits } => Some(digits),
        _ => None,
    };
    one == other || is_integer(one) && is_integer(other) || digits(one).is_some() && digits(one) == digits(other)
}

/// What a merge considered and what it could skip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeStats {
    pub chunks_considered: u64,
    pub chunks_pruned: u64,
    /// Blocks of these chunks within the range, and those no row of which has to be read.
    pub blocks_considered: u64,
    pub blocks_pruned: u64,
    pub zones_considered: u64,
    pub zones_pruned: u64,
    /// Chunks whose zone map was missing or unusable.
    pub zone_maps_missing: u64,
    /// Chunks of which only rows were read that a value index names.
    pub value_indexes_used: u64,
}

pub struct MergeContext<'a> {
    pub cache: &'a MapCache,
    pub def: &'a SeriesDef,
    pub keys: &'a [WantedKeys],
    pub desc: bool,
    pub start: i64,
    pub end: i64,
}

/// Adjacent rows of a chunk that are skipped or checked together: a zone, or a block where there is no zone
/// map.
struct RowStretch {
    rows: Range<usize>,
    /// Whether rows of it may hide older ones of other sources: then all of them are checked.
    hides: bool,
}

/// Appends rows, joined with those before when they follow at once.
fn push_rows(kept: &mut Vec<(usize, usize)>, rows: Range<usize>) {
    match kept.last_mut() {
        Some((_, end)) if *end == rows.start => *end = rows.end,
        _ => kept.push((rows.start, rows.end)),
    }
}

/// Rows of a chunk that have to be checked: half-open ranges of positions, rising and disjoint. `None` for all of them.
///
/// Zones that cannot hold a matching row are excluded first, then, where an indexed column selects few rows of the
/// rest, all rows but those. Rows that may hide something in an older source always stay.
pub fn rows_to_check(
    open: &OpenChunk,
    context: &MergeContext<'_>,
    older: &[(i64, i64)],
    stats: &mut MergeStats,
) -> Option<Vec<(usize, usize)>> {
    stats.chunks_considered += 1;
    let places = |w: &WantedKeys| stored_keys(&open.meta.series, context.def, w.column);
    let places: Vec<StoredKeys> = context.keys.iter().map(places).collect();
    if places.iter().all(|place| *place == StoredKeys::Other) {
        stats.zone_maps_missing += 1;
        return None;
    }
    let replaces = context.def.order != OrderRule::Arrival;
    let hides = |first: i64, last: i64| {
        let at = older.partition_point(|(_, to)| *to < first);
        replaces && older.get(at).is_some_and(|(from, _)| *from <= last)
    };
    let zones = open.zones(context.cache);
    let stretches = match zones {
        Some(zones) => match zones_to_check(open, zones, (context, &places), hides, stats) {
            Some(stretches) => stretches,
            None => return Some(Vec::new()),
        },
        None => {
            stats.zone_maps_missing += 1;
            let blocks = open.blocks().iter().enumerate();
            let within = blocks.filter(|(_, block)| block.ts_max >= context.start && block.ts_min <= context.end);
            let stretch = |(position, block): (usize, &BlockMeta)| {
                let first = open.first_row(position);
                let rows = to_usize(block.rows);
                RowStretch { rows: first..first + rows, hides: hides(block.ts_min, block.ts_max) }
            };
            within.map(stretch).collect()
        }
    };
    let named = rows_by_index(open, context, &places, &stretches);
    if zones.is_none() && named.is_none() {
        return None;
    }
    stats.value_indexes_used += u64::from(named.is_some());
    let mut kept = Vec::new();
    for stretch in stretches {
        match &named {
            Some(named) if !stretch.hides => {
                let from = named.partition_point(|row| *row < stretch.rows.start);
                let inside = cells::from(named, from).iter();
                let mut found = false;
                for row in inside.take_while(|row| **row < stretch.rows.end) {
                    found = true;
                    push_rows(&mut kept, *row..*row + 1);
                }
                stats.zones_pruned += u64::from(!found && zones.is_some());
            }
            _ => push_rows(&mut kept, stretch.rows),
        }
    }
    stats.chunks_pruned += u64::from(kept.is_empty());
    Some(kept)
}

/// Counts the blocks of a chunk within the range, and those without any of the retained rows (ascending and disjoint).
pub fn count_blocks(
    open: &OpenChunk,
    context: &MergeContext<'_>,
    kept: Option<&[(usize, usize)]>,
    stats: &mut MergeStats,
) {
    for (position, block) in open.blocks().iter().enumerate() {
        if block.ts_max < context.start || block.ts_min > context.end {
            continue;
        }
        stats.blocks_considered += 1;
        let first = open.first_row(position);
        let end = first + to_usize(block.rows);
        let is_kept = kept.is_none_or(|kept| {
            let next = kept.partition_point(|(_, to)| *to <= first);
            kept.get(next).is_some_and(|(from, _)| *from < end)
        });
        stats.blocks_pruned += u64::from(!is_kept);
    }
}

/// Zones within the range that can hold a matching row or may hide an older one; `None` when none of the chunk can.
fn zones_to_check(
    open: &OpenChunk,
    zones: &Zones,
    (context, places): (&MergeContext<'_>, &[StoredKeys]),
    hides: impl Fn(i64, i64) -> bool,
    stats: &mut MergeStats,
) -> Option<Vec<RowStretch>> {
    let times = zones.map.columns.first()?;
    let first = times.max.partition_point(|last| *last < context.start);
    let end = times.min.partition_point(|first| *first <= context.end).max(first);
    stats.zones_considered += (end - first) as u64;
    let can_match = |summary: &dyn Fn(usize) -> Option<ZoneSummary>| {
        context.keys.iter().zip(places).all(|(wanted, place)| match place {
            StoredKeys::Column(column) => summary(*column).is_none_or(|cells| wanted.can_be_among(cells)),
            StoredKeys::AllNull => wanted.nulls,
            StoredKeys::Other => true,
        })
    };
    // For most chunks the bounds of the entire chunk exclude every match.
    if !can_match(&|column| zones.whole.get(column).copied()) && !hides(open.meta.ts_min, open.meta.ts_max) {
        stats.zones_pruned += (end - first) as u64;
        stats.chunks_pruned += 1;
        return None;
    }
    let rows = to_usize(open.meta.rows);
    let mut stretches = Vec::new();
    for zone in first..end {
        let summary = |column: usize| zones.map.columns.get(column).and_then(|column| column.zone(zone));
        let hides = summary(0).is_none_or(|times| hides(times.keys.0, times.keys.1));
        if hides || can_match(&summary) {
            let from = zone * ZONE_ROWS;
            stretches.push(RowStretch { rows: from..rows.min(from + ZONE_ROWS), hides });
        } else {
            stats.zones_pruned += 1;
        }
    }
    if stretches.is_empty() {
        stats.chunks_pruned += 1;
        return None;
    }
    Some(stretches)
}

/// The fewest rows that an index of one of the columns names, where that is worth reading them one by one.
fn rows_by_index(
    open: &OpenChunk,
    context: &MergeContext<'_>,
    places: &[StoredKeys],
    stretches: &[RowStretch],
) -> Option<Vec<usize>> {
    let mut rows_left: usize =
        stretches.iter().filter(|stretch| !stretch.hides).map(|stretch| stretch.rows.len()).sum();
    let mut best: Option<Vec<u32>> = None;
    for (keys, place) in context.keys.iter().zip(places) {
        // An index has no nulls.
        let StoredKeys::Column(position) = place else { continue };
        if keys.nulls {
            continue;
        }
        let name = keys.column.checked_sub(1).and_then(|column| context.def.columns.get(column));
        if !name.is_some_and(|column| context.def.value_index.contains(&column.name)) {
            continue;
        }
        if let Some(rows) = open.indexed_rows(context.cache, *position, &keys.ranges, rows_left)
            && best.as_ref().is_none_or(|best| rows.len() < best.len())
        {
            // Another index has to name fewer rows than this one.
            rows_left = rows_left.min(rows.len());
            best = Some(rows);
        }
    }
    best.map(|rows| rows.into_iter().map(|row| row as usize).collect())
}
