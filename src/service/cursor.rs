//! Cursors as text: the commit and the position at which a result continues, and the query it belongs to.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::query::{MultiLayout, NumberFormat, PagePosition, Predicate, Query, RowOrder, TimeValue};

/// Where a result continues. It is valid only for a query with the same hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCursor {
    pub commit: u64,
    pub order: RowOrder,
    pub position: PagePosition,
    pub query_hash: u64,
}

impl PageCursor {
    /// The cursor of a query.
    ///
    /// # Errors
    /// `invalid_argument` for text that is no cursor.
    pub fn of(query: &Query) -> Result<Option<Self>> {
        let parse = |text: &String| {
            Self::from_text(text)
                .ok_or_else(|| Error::invalid(format!("cursor {text:?} is not a cursor of this server")))
        };
        query.cursor.as_ref().map(parse).transpose()
    }

    pub fn to_text(self) -> String {
        let order = if self.order == RowOrder::Asc { 'a' } else { 'd' };
        let query_hash = self.query_hash;
        let body = match self.position {
            PagePosition::Range { series_id, start, end, skip } => {
                format!("{}.{series_id}.{start}.{end}.{skip}.q{query_hash:016x}.{order}", self.commit)
            }
            PagePosition::Row { series_id, ts, skip } => {
                format!("{}.{series_id}.{ts}.{skip}.m{query_hash:016x}.{order}", self.commit)
            }
        };
        format!("{body}.{:08x}", crc32c::crc32c(body.as_bytes()))
    }

    fn from_text(text: &str) -> Option<Self> {
        let (body, crc) = text.rsplit_once('.')?;
        if format!("{:08x}", crc32c::crc32c(body.as_bytes())) != crc {
            return None;
        }
        let mut parts = body.split('.');
        let commit = parts.next()?.parse().ok()?;
        let series_id = parts.next()?.parse().ok()?;
        let first = parts.next()?.parse().ok()?;
        let second: i64 = parts.next()?.parse().ok()?;
        let third = parts.next()?;
        let (position, query_hash) = match third.strip_prefix('m') {
            Some(query_hash) => {
                let skip = u64::try_from(second).ok()?;
                (PagePosition::Row { series_id, ts: first, skip }, query_hash)
            }
            None => {
                let skip = third.parse().ok()?;
                let position = PagePosition::Range { series_id, start: first, end: second, skip };
                (position, parts.next()?.strip_prefix('q')?)
            }
        };
        let query_hash = u64::from_str_radix(query_hash, 16).ok()?;
        let order = match parts.next()? {
            "a" => RowOrder::Asc,
            "d" => RowOrder::Desc,
            _ => return None,
        };
        parts.next().is_none().then_some(Self { commit, order, position, query_hash })
    }
}

/// The error for a cursor of another query.
pub fn foreign_cursor() -> Error {
    Error::invalid(
        "the cursor belongs to another query: series, range, where, latest, order, layout, join, every or as_of differ",
    )
    .with_hint(
        "repeat the query that returned the cursor; only columns, numbers, limit, ties and the format may change",
    )
}

/// A bound in canonical form: a number in a URL is text, in JSON it need not be.
fn canonical_bound(when: Option<&TimeValue>) -> Option<String> {
    when.map(|when| match when {
        TimeValue::Epoch(ts) => ts.to_string(),
        TimeValue::Text(text) => text.parse::<i64>().map_or_else(|_| text.clone(), |ts| ts.to_string()),
    })
}

/// Hash of what determines the rows and their order: a cursor is valid only for the same hash. Columns, number format
/// and page length may change. The hash is the same in every process, since cursors outlive a process.
pub fn hash_query(query: &Query, dataset: Option<&str>) -> u64 {
    let Query { series, start, end, predicates, latest, latest_complete, layout, order, as_of, .. } = query;
    let conditions: Vec<String> = predicates.iter().flatten().map(Predicate::to_text).collect();
    let as_of = dataset.or(as_of.as_deref());
    // In a raw read the same text is a different value.
    let raw = query.numbers == NumberFormat::Raw && !conditions.is_empty();
    let (start, end, layout) =
        (canonical_bound(start.as_ref()), canonical_bound(end.as_ref()), layout.unwrap_or_default());
    let text = format!(
        "{series:?} {start:?} {end:?} {conditions:?} {raw} {latest:?} {latest_complete:?} {layout:?} {order:?} {as_of:?}"
    );
    // Other queries keep their hash.
    let text = match &query.join {
        Some(join) if layout == MultiLayout::Wide => format!("{text} {}", join.to_text()),
        _ => text,
    };
    let text = match &query.every {
        None => text,
        Some(every) => {
            let Query { align, tz, session, offset, fill, partial, agg, .. } = query;
            format!("{text} {every:?} {align:?} {tz:?} {session:?} {offset:?} {fill:?} {partial:?} {agg:?}")
        }
    };
    xxh3_64(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_as_text_and_reject_modified_ones() {
        for (position, query_hash) in [
            (PagePosition::Range { series_id: 2, start: -3, end: i64::MAX, skip: 0 }, 0),
            (PagePosition::Range { series_id: 2, start: i64::MIN, end: 7, skip: u64::MAX }, u64::MAX),
            (PagePosition::Row { series_id: 2, ts: -3, skip: 0 }, u64::MAX - 7),
            (PagePosition::Row { series_id: 2, ts: i64::MAX, skip: 9 }, 0),
        ] {
            let cursor = PageCursor { commit: 5, order: RowOrder::Desc, position, query_hash };
            let text = cursor.to_text();
            assert_eq!(PageCursor::from_text(&text), Some(cursor));
            assert!(PageCursor::from_text(&text.replacen('5', "6", 1)).is_none());
        }
        assert!(PageCursor::from_text("garbage").is_none());
    }
}
