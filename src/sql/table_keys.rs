//! How the rows of a table name their series.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::DataType;

use super::index::{TableIndex, is_common, table_name};
use super::series_table::SeriesTable;
use super::view::SqlView;
use crate::error::Result;
use crate::types::kind::{built_in, built_in_named};
use crate::types::{KindDef, SeriesKey};

/// A word of the keys of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
enum KeyWord {
    /// The cell of this column.
    Column(String),
    Fixed(String),
}

/// A table into which rows can be written.
#[derive(Clone, Debug)]
pub struct TableKeys {
    pub kind: String,
    words: Vec<KeyWord>,
    /// Whether the caller can see a series of it.
    pub exists: bool,
    /// Columns that are decimals in all series.
    pub decimals: BTreeSet<String>,
}

impl TableKeys {
    /// The table of a listed name or of the key of a series, or the one that a series of this name would be in; `None`
    /// where no kind has such tables.
    pub fn of(view: &SqlView, index: &TableIndex, name: &str) -> Option<Self> {
        if name.contains('/') {
            let key = SeriesKey::parse(name).ok()?;
            let words = key.words().map(|word| KeyWord::Fixed(word.to_owned())).collect();
            let table = SeriesTable::of_series(view, &key);
            return Some(Self::new(key.kind().to_owned(), words, table.as_ref()));
        }
        if let Some(group) = index.named(name) {
            let def = kind_of(view, &group.kind)?;
            let label: Vec<&str> = if group.label.is_empty() { Vec::new() } else { group.label.split('/').collect() };
            let table = SeriesTable::of_group(view, group);
            return Some(Self::new(def.name.clone(), words_of(&def, &label), table.as_ref()));
        }
        let registered = view.state.kinds.values().map(|kind| Arc::clone(&kind.def));
        let mut kinds = built_in().iter().cloned().map(Arc::new).chain(registered);
        kinds.find_map(|def| {
            let label = label_of(&def, name)?;
            let label: Vec<&str> = label.iter().map(String::as_str).collect();
            // A label that folds to another name cannot be made from it.
            (table_name(&def, &label) == name).then(|| Self::new(def.name.clone(), words_of(&def, &label), None))
        })
    }

    fn new(kind: String, words: Vec<KeyWord>, table: Option<&SeriesTable>) -> Self {
        let decimals = table
            .into_iter()
            .flat_map(|table| &table.columns)
            .filter(|column| matches!(column.data_type, DataType::Decimal128(..)));
        Self { kind, words, exists: table.is_some(), decimals: decimals.map(|column| column.name.clone()).collect() }
    }

    /// Names of the columns that name the series of a row.
    pub fn columns<'a>(&'a self) -> Vec<&'a str> {
        let column = |word: &'a KeyWord| match word {
            KeyWord::Column(name) => Some(name.as_str()),
            KeyWord::Fixed(_) => None,
        };
        self.words.iter().filter_map(column).collect()
    }

    /// The series of a row with these cells in the columns.
    ///
    /// # Errors
    /// `invalid_argument` for a word that no key has.
    pub fn key(&self, cells: &[&str]) -> Result<SeriesKey> {
        let mut cells = cells.iter();
        let words: Vec<&str> = self
            .words
            .iter()
            .map(|word| match word {
                KeyWord::Column(_) => cells.next().copied().unwrap_or_default(),
                KeyWord::Fixed(word) => word,
            })
            .collect();
        SeriesKey::new(&self.kind, &words)
    }
}

fn kind_of(view: &SqlView, name: &str) -> Option<Arc<KindDef>> {
    let built_in = built_in_named(name).cloned().map(Arc::new);
    built_in.or_else(|| view.state.kinds.get(name).map(|kind| Arc::clone(&kind.def)))
}

/// The words of keys of a kind, of which some are given.
fn words_of(def: &KindDef, label: &[&str]) -> Vec<KeyWord> {
    let mut label = label.iter();
    let word = |name: &String| match is_common(def, name) {
        true => KeyWord::Fixed(label.next().copied().unwrap_or_default().to_owned()),
        false => KeyWord::Column(name.clone()),
    };
    def.key.iter().map(word).collect()
}

/// The common words of the series in a table of a kind, from its name.
fn label_of(def: &KindDef, name: &str) -> Option<Vec<String>> {
    let rest = name.strip_prefix(def.table())?;
    // A timeframe of months is folded.
    let unfolded = |word: &str| word.strip_suffix("mo").map_or_else(|| word.to_owned(), |number| format!("{number}M"));
    match (def.key.iter().filter(|name| is_common(def, name)).count(), rest.strip_prefix('_')) {
        (0, None) if rest.is_empty() => Some(Vec::new()),
        (1, Some(label)) => Some(vec![unfolded(label)]),
        (2, Some(label)) => {
            let (category, timeframe) = label.rsplit_once('_')?;
            Some(vec![category.to_owned(), unfolded(timeframe)])
        }
        _ => None,
    }
}
