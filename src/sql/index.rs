//! The tables of a store: which series form one, and its name.
//!
//! A table has all series of a kind and a timeframe; scalars also have one table per category. Listed names are lower
//! case without signs: `klines_1mo` has the bars of `1M`. Two labels that fold to one name are reachable as
//! `kline."1M"` only.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use crate::store::{RegisteredKind, SeriesState, StoreState};
use crate::types::kind::{built_in_named, is_preset};
use crate::types::schema::TIMEFRAME;
use crate::types::{KindDef, SeriesKey};

/// Word of the keys of scalars that is part of the name of their table.
const CATEGORY: &str = "category";

/// The series of one table.
#[derive(Debug)]
pub struct Group {
    /// Name of the kind.
    pub kind: String,
    /// The words of the keys that all series have in common, joined by `/`.
    pub label: String,
    /// The listed name.
    pub name: String,
    /// Names of the other words: the first columns of the table.
    pub key_columns: Vec<String>,
    /// The series in the order of the key columns: those, and the key.
    pub series: Vec<(Box<[Arc<str>]>, SeriesKey)>,
}

/// All tables of a state.
#[derive(Debug, Default)]
pub struct TableIndex {
    keys: OrdMap<SeriesKey, u64>,
    kinds: OrdMap<String, RegisteredKind>,
    groups: Vec<Group>,
    /// Positions of groups by their listed name; `None` where two groups have it.
    names: BTreeMap<String, Option<usize>>,
}

impl TableIndex {
    /// The tables of a state.
    pub fn of(state: &StoreState) -> Self {
        let mut found: BTreeMap<(String, String), Group> = BTreeMap::new();
        for key in state.keys.keys() {
            let words: Vec<&str> = key.words().collect();
            let def = built_in_named(key.kind()).or_else(|| state.kinds.get(key.kind()).map(|kind| kind.def.as_ref()));
            let Some(def) = def.filter(|def| def.key.len() == words.len()) else { continue };
            let named = || def.key.iter().zip(&words);
            let common: Vec<&str> = named().filter(|(name, _)| is_common(def, name)).map(|(_, word)| *word).collect();
            let label = common.join("/");
            let group = found.entry((key.kind().to_owned(), label.clone())).or_insert_with(|| Group {
                kind: key.kind().to_owned(),
                name: table_name(def, &common),
                label,
                key_columns: def.key.iter().filter(|name| !is_common(def, name)).cloned().collect(),
                series: Vec::new(),
            });
            let own = named().filter(|(name, _)| !is_common(def, name)).map(|(_, word)| Arc::from(*word)).collect();
            group.series.push((own, key.clone()));
        }
        let mut groups: Vec<Group> = found.into_values().collect();
        let mut names: BTreeMap<String, Option<usize>> = BTreeMap::new();
        // Keys are ordered by their text, which is not the order of their words.
        for (position, group) in groups.iter_mut().enumerate() {
            group.series.sort();
            names.entry(group.name.clone()).and_modify(|taken| *taken = None).or_insert(Some(position));
        }
        Self { keys: state.keys.clone(), kinds: state.kinds.clone(), groups, names }
    }

    /// Whether these are the tables of a state.
    pub fn is_of(&self, state: &StoreState) -> bool {
        self.keys.ptr_eq(&state.keys) && self.kinds.ptr_eq(&state.kinds)
    }

    /// The group with a listed name.
    pub fn named(&self, name: &str) -> Option<&Group> {
        self.groups.get((*self.names.get(name)?)?)
    }

    /// The group of a kind by its exact label.
    pub fn labelled(&self, kind: &str, label: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.kind == kind && group.label == label)
    }

    /// The groups with listed names, by name.
    pub fn listed(&self) -> impl Iterator<Item = &Group> {
        self.names.values().filter_map(|position| self.groups.get((*position)?))
    }

    /// The groups of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Group> {
        self.groups.iter().filter(move |group| group.kind == kind)
    }
}

/// Name of the table of a series.
pub fn table_of(state: &StoreState, series: &SeriesState) -> Option<String> {
    let key = &series.def.key;
    let def = built_in_named(key.kind()).or_else(|| state.kinds.get(key.kind()).map(|kind| kind.def.as_ref()))?;
    let common = def.key.iter().zip(key.words()).filter(|(name, _)| is_common(def, name)).map(|(_, word)| word);
    Some(table_name(def, &common.collect::<Vec<_>>()))
}

/// Whether all series of a table have this word of their keys in common: then it is part of the name of the table.
pub fn is_common(def: &KindDef, word: &str) -> bool {
    word == TIMEFRAME || word == CATEGORY && is_preset(&def.name)
}

/// The listed name of a table.
pub fn table_name(def: &KindDef, common: &[&str]) -> String {
    let mut name = def.table().to_owned();
    for word in common {
        name.push('_');
        for letter in word.chars() {
            match letter {
                // A label such as `1M` is a month, `1m` a minute.
                'M' if word.starts_with(|first: char| first.is_ascii_digit()) => name.push_str("mo"),
                letter if letter.is_ascii_alphanumeric() => name.push(letter.to_ascii_lowercase()),
                _ => name.push('_'),
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SeriesSpec;

    fn index(keys: &[&str]) -> TableIndex {
        let mut state = StoreState::default();
        for (id, key) in (1..).zip(keys) {
            let def = SeriesSpec::of_key(&SeriesKey::parse(key).unwrap()).resolve().unwrap();
            state.put(SeriesState::new(id, Arc::new(def), 1));
        }
        TableIndex::of(&state)
    }

    #[test]
    fn a_table_has_a_timeframe_and_scalars_have_one_per_category() {
        let index = index(&[
            "kline/BTC/1m",
            "kline/BTC/1M",
            "kline/ETH/1m",
            "scalar/Feature/BTC/1h/rsi_14",
            "scalar/risk/BTC/1h/var",
        ]);
        let names: Vec<&str> = index.listed().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["klines_1m", "klines_1mo", "scalars_feature_1h", "scalars_risk_1h"]);
        assert_eq!(index.named("klines_1m").unwrap().key_columns, ["symbol"]);
        assert_eq!(index.named("scalars_risk_1h").unwrap().key_columns, ["symbol", "name"]);
        assert_eq!(index.labelled("scalar", "Feature/1h").unwrap().series.len(), 1);
    }

    #[test]
    fn names_that_fold_together_are_reached_by_their_label_only() {
        let index = index(&["scalar/Risk/BTC/1h/var", "scalar/risk/BTC/1h/var"]);
        assert!(index.named("scalars_risk_1h").is_none() && index.listed().next().is_none());
        assert!(index.labelled("scalar", "Risk/1h").is_some() && index.labelled("scalar", "risk/1h").is_some());
    }

    #[test]
    fn series_are_in_the_order_of_their_symbols() {
        let index = index(&["kline/A-B/1m", "kline/A/1m", "kline/A.C/1m"]);
        let symbols: Vec<&str> = index.named("klines_1m").unwrap().series.iter().map(|(words, _)| &*words[0]).collect();
        assert_eq!(symbols, ["A", "A-B", "A.C"]);
    }
}
