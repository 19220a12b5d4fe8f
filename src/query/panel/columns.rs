//! The columns of a panel and their names.
//!
//! A column is named by its series and its field. The name of a series depends on the keys of the panel only:
//!
//! 1. `BTCUSDT.close` for a kline, `BTCUSDT.rsi_14` for the value of a scalar, and the words of the key joined by full
//!    stops for another kind.
//! 2. Where that names two series, the words of their keys without the kind: `BTCUSDT.1m.close`,
//!    `feature.BTCUSDT.1h.rsi_14`.
//! 3. Where that names two series or two columns, their keys: `kline/BTCUSDT/1m.close`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::query::result::{PanelColumn, ResultColumn};
use crate::store::SeriesState;
use crate::types::key::SCALAR;
use crate::types::{Column, Dictionary, SeriesKey, cells};

/// Most columns of a panel.
pub const COLUMNS_MAX: usize = 4_096;
/// The only column of most scalars, which their name stands for.
const SCALAR_VALUE: &str = "value";

/// The columns of a panel.
#[derive(Debug)]
pub struct PanelColumns {
    /// The columns, by series, as a registration would have them.
    pub columns: Vec<Column>,
    pub dictionaries: Vec<Dictionary>,
    pub sources: Vec<PanelColumn>,
    /// For each series the positions of its columns.
    pub members: Vec<Vec<usize>>,
}

/// How much of its key names a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameLength {
    Short,
    Words,
    Key,
}

impl PanelColumns {
    /// The named fields of each series, or all that `is_default` is true for. `has_nulls` says which series can lack a
    /// row.
    ///
    /// # Errors
    /// `schema_mismatch` for a name that no series has, and for a series that has none of them; `invalid_argument` for
    /// a name listed twice; `too_large`.
    pub fn of(
        series: &[Arc<SeriesState>],
        names: Option<&[&str]>,
        is_default: &dyn Fn(usize, usize) -> bool,
        has_nulls: &dyn Fn(usize) -> bool,
    ) -> Result<Self> {
        let names: Option<Vec<&str>> = names.map(|names| names.iter().copied().filter(|name| *name != "ts").collect());
        for (position, name) in names.iter().flatten().enumerate() {
            if names.iter().flatten().take(position).any(|earlier| earlier == name) {
                return Err(Error::invalid(format!("column {name:?} is listed twice")));
            }
            if !series.iter().any(|state| state.def.column(name).is_some()) {
                return Err(Error::new(ErrorCode::SchemaMismatch, format!("no series has a column {name:?}"))
                    .with_hint("columns of a panel are fields of its series, such as close or value"));
            }
        }
        let mut members = Vec::with_capacity(series.len());
        for (at, state) in series.iter().enumerate() {
            let def = &state.def;
            let positions: Vec<usize> = match &names {
                None => (0..def.columns.len()).filter(|position| is_default(at, *position)).collect(),
                Some(names) => names.iter().filter_map(|name| def.column(name)).collect(),
            };
            let is_wanted = names.as_ref().is_some_and(|names| !names.is_empty());
            if is_wanted && positions.is_empty() && has_nulls(at) {
                let known: Vec<&str> = def.columns.iter().map(|column| column.name.as_str()).collect();
                let detail = format!("series {} has none of the columns of the panel", def.key);
                return Err(Error::new(ErrorCode::SchemaMismatch, detail)
                    .with_hint(format!("it has {}: name one of them too, or leave the series out", known.join(", "))));
            }
            members.push(positions);
        }
        let count: usize = members.iter().map(Vec::len).sum();
        if count > COLUMNS_MAX {
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!("a panel of {count} columns, more than {COLUMNS_MAX}"),
            )
            .with_hint("select fewer series, or fewer fields with columns"));
        }
        let shown = column_names(series, &members);
        let (mut columns, mut dictionaries, mut sources) = (Vec::new(), Vec::new(), Vec::new());
        for (at, ((state, positions), names)) in series.iter().zip(&members).zip(shown).enumerate() {
            for (position, name) in positions.iter().zip(names) {
                let column = cells::column(&state.def.columns, *position);
                sources.push(PanelColumn { series: state.def.key.clone(), field: column.name.clone() });
                columns.push(Column { name, nullable: column.nullable || has_nulls(at), ..column.clone() });
                dictionaries.push(state.dictionaries.get(*position).cloned().unwrap_or_default());
            }
        }
        Ok(Self { columns, dictionaries, sources, members })
    }

    /// The columns of the result.
    pub fn shown(&self) -> Vec<ResultColumn> {
        let columns = self.columns.iter().zip(&self.dictionaries);
        columns.map(|(column, texts)| ResultColumn::of(column, Some(texts))).collect()
    }
}

/// Names of the columns of each series.
fn column_names(series: &[Arc<SeriesState>], members: &[Vec<usize>]) -> Vec<Vec<String>> {
    let mut lengths = vec![NameLength::Short; series.len()];
    let prefixes = |lengths: &[NameLength]| -> Vec<String> {
        series.iter().zip(lengths).map(|(state, length)| prefix(&state.def.key, *length)).collect()
    };
    let clash = |names: &[String], lengths: &mut [NameLength], longer: NameLength| {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        names.iter().for_each(|name| *counts.entry(name).or_default() += 1);
        for (name, length) in names.iter().zip(lengths) {
            if counts.get(name.as_str()).is_some_and(|count| *count > 1) {
                *length = longer;
            }
        }
    };
    clash(&prefixes(&lengths), &mut lengths, NameLength::Words);
    clash(&prefixes(&lengths), &mut lengths, NameLength::Key);
    let names_of = |lengths: &[NameLength]| -> Vec<Vec<String>> {
        let of_series = |((state, positions), prefix): ((&Arc<SeriesState>, &Vec<usize>), String)| {
            let name = |position: &usize| {
                let field = cells::column(&state.def.columns, *position).name.as_str();
                match state.def.key.kind() == SCALAR && field == SCALAR_VALUE {
                    true => prefix.clone(),
                    false => format!("{prefix}.{field}"),
                }
            };
            positions.iter().map(name).collect()
        };
        series.iter().zip(members).zip(prefixes(lengths)).map(of_series).collect()
    };
    // Words can have full stops: `A.B` with `c` and `A` with `B.c` would have the same name.
    let names = names_of(&lengths);
    let mut owners: HashMap<&str, usize> = HashMap::new();
    let mut doubles = Vec::new();
    for (at, name) in names.iter().enumerate().flat_map(|(at, names)| names.iter().map(move |name| (at, name))) {
        if let Some(other) = owners.insert(name, at) {
            doubles.extend([at, other]);
        }
    }
    if doubles.is_empty() {
        return names;
    }
    for (at, length) in lengths.iter_mut().enumerate() {
        if doubles.contains(&at) {
            *length = NameLength::Key;
        }
    }
    names_of(&lengths)
}

/// The part of the names of the columns that is the same for all of a series.
fn prefix(key: &SeriesKey, length: NameLength) -> String {
    let words = || key.words().collect::<Vec<_>>().join(".");
    match (length, key.symbol(), key.name()) {
        (NameLength::Key, _, _) => key.to_string(),
        (NameLength::Short, Some(symbol), None) => symbol.to_owned(),
        (NameLength::Short, Some(symbol), Some(name)) => format!("{symbol}.{name}"),
        _ => words(),
    }
}
