//! Pages of series, ordered by key.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::service::caller::Caller;
use crate::service::replies::SeriesFilter;
use crate::store::{SeriesState, StoreState};
use crate::types::key::check_kind_name;
use crate::types::kind::built_in_named;
use crate::types::schema::TIMEFRAME;
use crate::types::{SeriesDef, SeriesKey};

/// Default and maximum number of series in a page.
const PAGE_DEFAULT: u64 = 1_000;
const PAGE_MAX: u64 = 10_000;

/// The series that a filter selects and the caller can see, and the cursor after them.
pub fn select(
    state: &StoreState,
    filter: &SeriesFilter,
    caller: &Caller,
) -> Result<(Vec<Arc<SeriesState>>, Option<String>)> {
    let limit = filter.limit.unwrap_or(PAGE_DEFAULT);
    if limit == 0 || limit > PAGE_MAX {
        return Err(Error::invalid(format!("limit {limit} is not between 1 and {PAGE_MAX}")));
    }
    // A cursor is the last key of the page.
    let after = filter.cursor.as_deref().map(SeriesKey::parse).transpose().map_err(|_| {
        Error::invalid(format!("cursor {:?} is not a cursor of this server", filter.cursor.as_deref().unwrap_or("")))
    })?;
    let matches = |expected: &Option<String>, found: Option<&str>| expected.as_deref().is_none_or(|w| Some(w) == found);
    if let Some(kind) = filter.kind.as_deref().filter(|kind| built_in_named(kind).is_none()) {
        check_kind_name(kind)?;
        if !state.kinds.contains_key(kind) {
            return Err(state.kind_not_found(kind));
        }
    }
    let by_word = [
        ("symbol", &filter.symbol),
        (TIMEFRAME, &filter.timeframe),
        ("category", &filter.category),
        ("name", &filter.name),
    ];
    let selects = |key: &SeriesKey| {
        filter.kind.as_deref().is_none_or(|kind| kind == key.kind())
            && caller.can_see(key)
            && filter.prefix.as_deref().is_none_or(|prefix| key.as_str().starts_with(prefix))
    };
    let has_words = |def: &SeriesDef| by_word.iter().all(|(name, expected)| matches(expected, def.key_word(name)));
    let range = match after {
        Some(after) => (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded),
        None => (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded),
    };
    let mut found: Vec<Arc<SeriesState>> = Vec::new();
    for (key, id) in state.keys.range(range).filter(|(key, _)| selects(key)) {
        let series = state.series.get(id).filter(|series| series.def.key == *key);
        assert!(series.is_some(), "series {id} does not have the key {key}");
        let Some(series) = series.filter(|series| has_words(&series.def)) else { continue };
        if found.len() as u64 == limit {
            let cursor = found.last().map(|series| series.def.key.to_string());
            return Ok((found, cursor));
        }
        found.push(Arc::clone(series));
    }
    Ok((found, None))
}
