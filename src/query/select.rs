//! Series selection of a query: keys, and globs over the parts of keys.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::store::{SeriesState, StoreState};
use crate::types::SeriesKey;
use crate::types::key::KEY_WORDS_MAX;
use crate::types::kind::built_in_named;
use crate::types::schema::series_not_found;

/// Maximum number of series of one query.
pub const SERIES_MAX: usize = 10_000;
/// Maximum number of series of one panel: each is open for the whole scan.
pub const PANEL_SERIES_MAX: usize = 1_000;
/// Maximum number of globs of one query: each is matched against all registered keys.
pub const GLOBS_MAX: usize = 100;
/// Maximum length of a glob in bytes.
const GLOB_BYTES_MAX: usize = 256;

/// The series of a query.
#[derive(Debug)]
pub enum Selection {
    /// A single key: the result has the columns of this series.
    One(Arc<SeriesState>),
    /// Globs or several entries: each row has its series. Ascending by key, without duplicates, at least one.
    Many(Vec<Arc<SeriesState>>),
}

/// Finds the series of a query in a state; globs match only series for which `sees` is true.
///
/// Whether the result has a `series` column depends only on the query, not on what a glob matches.
///
/// # Errors
/// `series_not_found` naming the key or the glob that matches nothing, `invalid_argument` for series of several kinds
/// in one query or text that is neither key nor glob, `too_large` beyond [`SERIES_MAX`] series.
pub fn select(state: &StoreState, selectors: &[String], sees: &dyn Fn(&SeriesKey) -> bool) -> Result<Selection> {
    match selectors {
        [only] if !only.contains('*') => return Ok(Selection::One(Arc::clone(find(state, only)?))),
        _ => {}
    }
    let mut found: BTreeMap<SeriesKey, Arc<SeriesState>> = BTreeMap::new();
    each_match(state, selectors, sees, &mut |series| {
        found.insert(series.def.key.clone(), Arc::clone(series));
        check_count(found.len())
    })?;
    // The keys are in order, so the first and last one are of different kinds if any two are.
    if let (Some((first, _)), Some((last, _))) = (found.first_key_value(), found.last_key_value())
        && first.kind() != last.kind()
    {
        return Err(Error::invalid(format!("{first} and {last} are in one query"))
            .with_hint("query each kind separately, or layout wide, which has a column for each series and field"));
    }
    Ok(Selection::Many(found.into_values().collect()))
}

/// The series of a panel: of any kinds, in the order of the list, those of a glob by key; each once.
///
/// # Errors
/// `series_not_found` as [`select`]; `invalid_argument` for text that is neither key nor glob, `too_large` beyond
/// [`PANEL_SERIES_MAX`] series.
pub fn select_panel(
    state: &StoreState,
    selectors: &[String],
    sees: &dyn Fn(&SeriesKey) -> bool,
) -> Result<Vec<Arc<SeriesState>>> {
    let mut found = Vec::new();
    let mut known = HashSet::new();
    each_match(state, selectors, sees, &mut |series| {
        if known.insert(series.id) {
            found.push(Arc::clone(series));
        }
        if found.len() > PANEL_SERIES_MAX {
            let detail = format!("a panel of more than {PANEL_SERIES_MAX} series");
            return Err(Error::new(ErrorCode::TooLarge, detail)
                .with_hint("split it into several panels, pinned to one commit by commit"));
        }
        Ok(())
    })?;
    Ok(found)
}

fn find<'a>(state: &'a StoreState, text: &str) -> Result<&'a Arc<SeriesState>> {
    let key = SeriesKey::parse(text)?;
    state.get(&key).ok_or_else(|| series_not_found(&key))
}

/// Calls `add` with each series of each entry, those of a glob by key.
fn each_match(
    state: &StoreState,
    selectors: &[String],
    sees: &dyn Fn(&SeriesKey) -> bool,
    add: &mut dyn FnMut(&Arc<SeriesState>) -> Result<()>,
) -> Result<()> {
    if selectors.is_empty() {
        return Err(Error::invalid("series names no series"));
    }
    let globs = selectors.iter().filter(|text| text.contains('*')).count();
    if globs > GLOBS_MAX {
        return Err(too_many(format!("{globs} globs in one query, more than {GLOBS_MAX}")));
    }
    for text in selectors {
        if !text.contains('*') {
            add(find(state, text)?)?;
            continue;
        }
        let glob = Glob::parse(text)?;
        let mut matches = 0_u64;
        for (key, id) in state.keys.range(SeriesKey::lower_bound(glob.literal())..) {
            if !key.as_str().starts_with(glob.literal()) {
                break;
            }
            if glob.matches(key) && sees(key) {
                matches += 1;
                state.series.get(id).map_or(Ok(()), &mut *add)?;
            }
        }
        if matches == 0 {
            return Err(Error::new(ErrorCode::SeriesNotFound, format!("no series matches {text:?}"))
                .with_hint("* matches any characters within one part of a key, such as kline/*/1m"));
        }
    }
    Ok(())
}

fn too_many(detail: String) -> Error {
    Error::new(ErrorCode::TooLarge, detail).with_hint("split it into several queries, pinned to one commit by `commit`")
}

fn check_count(series: usize) -> Result<()> {
    if series > SERIES_MAX {
        return Err(too_many(format!("the query selects more than {SERIES_MAX} series")));
    }
    Ok(())
}

/// A key with `*` in some of its parts.
#[derive(Debug)]
struct Glob<'t> {
    text: &'t str,
    parts: Vec<&'t str>,
}

impl<'t> Glob<'t> {
    fn parse(text: &'t str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-:@+=^$&*".contains(&b);
        let is_legal = parts.iter().all(|part| !part.is_empty() && !part.starts_with('.') && part.bytes().all(legal));
        let built_in = parts.first().and_then(|kind| built_in_named(kind));
        let words = parts.len().saturating_sub(1);
        let has_words = built_in.map_or((1..=KEY_WORDS_MAX).contains(&words), |kind| kind.key.len() == words);
        if text.len() > GLOB_BYTES_MAX || !is_legal || !has_words {
            let shown: String = text.chars().take(80).collect();
            return Err(Error::invalid(format!("glob {shown:?} is not of the form of a series key"))
                .with_hint("the kind and 1 to 4 words, * in any part, such as kline/*/1m"));
        }
        Ok(Self { text, parts })
    }

    /// The literal prefix of all keys that match.
    fn literal(&self) -> &str {
        self.text.split('*').next().unwrap_or_default()
    }

    fn matches(&self, key: &SeriesKey) -> bool {
        let mut words = key.as_str().split('/');
        let same = self.parts.iter().all(|part| words.next().is_some_and(|word| part_matches(part, word)));
        same && words.next().is_none()
    }
}

/// Whether a part of a key matches a part of a glob. Of several `*` only the last one seen is extended, so the time is
/// bounded by the product of the lengths.
fn part_matches(glob: &str, word: &str) -> bool {
    let (glob, word) = (glob.as_bytes(), word.as_bytes());
    let (mut g, mut w) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(letter) = word.get(w) {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, w));
                g += 1;
            }
            Some(other) if other == letter => {
                g += 1;
                w += 1;
            }
            _ => match &mut star {
                None => return false,
                Some((at, taken)) => {
                    *taken += 1;
                    g = *at + 1;
                    w = *taken;
                }
            },
        }
    }
    glob.get(g..).unwrap_or_default().iter().all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_its_part() {
        let matches = |glob: &str, key: &str| Glob::parse(glob).unwrap().matches(&SeriesKey::parse(key).unwrap());
        for (glob, key, expected) in [
            ("kline/*/1m", "kline/BTCUSDT/1m", true),
            ("kline/*/1m", "kline/BTCUSDT/1h", false),
            ("kline/*USDT/*", "kline/BTCUSDT/1h", true),
            ("kline/*USDT/*", "kline/BTCUSD/1h", false),
            ("kline/B*C*T/1m", "kline/BTCUSDT/1m", true),
            ("kline/*/*", "scalar/feature/BTCUSDT/1h/rsi_14", false),
            ("*/BTCUSDT/1m", "kline/BTCUSDT/1m", true),
            ("scalar/feature/*/1h/rsi_*", "scalar/feature/BTCUSDT/1h/rsi_14", true),
            ("scalar/feature/*/1h/rsi_*", "scalar/feature/BTCUSDT/1h/rsi_", true),
            ("scalar/feature/*/1h/rsi_*", "scalar/factor/BTCUSDT/1h/rsi_14", false),
            ("scalar/*/*/*/**4", "scalar/factor/BTCUSDT/1h/rsi_14", true),
            ("greeks/*/C5000", "greeks/SPX/C5000", true),
            ("greeks/*/*", "greeks/SPX/C5000", true),
            ("greeks/*", "greeks/SPX/C5000", false),
            ("kline/*a*a*a*b/1m", "kline/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/1m", false),
        ] {
            assert_eq!(matches(glob, key), expected, "{glob} {key}");
        }
        for bad in ["*", "kline/*", "kline/*/1m/x", "a/b/c/d/e/*", "kline//*", "kline/a b*/1m", "kline/*/../1m"] {
            assert_eq!(Glob::parse(bad).unwrap_err().code(), ErrorCode::InvalidArgument, "{bad}");
        }
    }
}
