//! The series of a table that the caller can see, and their common columns.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

use super::columns::{TableColumn, fields, finest, union};
use super::index::Group;
use super::view::SqlView;
use crate::error::Result;
use crate::query::NumberFormat;
use crate::query::resample::{ResampleSpec, Resampling};
use crate::store::SeriesState;
use crate::types::schema::OrderRule;
use crate::types::{SeriesDef, SeriesKey, TimeUnit};

/// One series of a table.
#[derive(Clone, Debug)]
pub struct Member {
    pub series: Arc<SeriesState>,
    /// The columns of its rows in the table.
    pub def: Arc<SeriesDef>,
    /// The cells of the key columns.
    pub words: Vec<Arc<str>>,
}

/// The series of a table and its columns.
#[derive(Debug)]
pub struct SeriesTable {
    pub name: String,
    pub view: SqlView,
    /// Names of the key columns.
    pub keys: Vec<String>,
    /// In the order of the key columns.
    pub members: Vec<Member>,
    /// The columns after the keys and `ts`.
    pub columns: Vec<TableColumn>,
    pub unit: TimeUnit,
    /// All columns.
    pub schema: SchemaRef,
    /// How the rows of each series are combined to those of the table.
    pub resample: Option<ResampleSpec>,
}

impl Member {
    fn new(series: &Arc<SeriesState>, words: Vec<Arc<str>>) -> Self {
        Self { series: Arc::clone(series), def: Arc::clone(&series.def), words }
    }
}

impl SeriesTable {
    /// The table of the visible series of a group; `None` when there is none.
    pub fn of_group(view: &SqlView, group: &Group) -> Option<Self> {
        let members: Vec<Member> = group
            .series
            .iter()
            .filter_map(|(words, key)| Some(Member::new(view.series(key)?, words.to_vec())))
            .collect();
        (!members.is_empty()).then(|| Self::new(view, group.name.clone(), group.key_columns.clone(), members))
    }

    /// The table of one series, without key columns; `None` when there is no visible one.
    pub fn of_series(view: &SqlView, key: &SeriesKey) -> Option<Self> {
        let member = Member::new(view.series(key)?, Vec::new());
        Some(Self::new(view, key.to_string(), Vec::new(), vec![member]))
    }

    fn new(view: &SqlView, name: String, keys: Vec<String>, members: Vec<Member>) -> Self {
        let columns = union(members.iter().map(|member| member.def.as_ref()));
        let unit = finest(members.iter().map(|member| member.series.def.unit));
        let schema = Arc::new(Schema::new(fields(&keys, unit, &columns)));
        Self { name, view: view.clone(), keys, members, columns, unit, schema, resample: None }
    }

    /// The table of the series whose last word is this one, without that column; `None` when there is none.
    pub fn of_last_word(&self, word: &str) -> Option<Self> {
        let members: Vec<Member> = self
            .members
            .iter()
            .filter_map(|member| match member.words.as_slice() {
                [words @ .., last] if **last == *word => Some(Member { words: words.to_vec(), ..member.clone() }),
                _ => None,
            })
            .collect();
        let keys = self.keys.iter().take(self.keys.len().saturating_sub(1)).cloned().collect();
        (!members.is_empty()).then(|| Self::new(&self.view, self.name.clone(), keys, members))
    }

    /// The columns by which rows are distinct, where that is the same in all series.
    pub fn primary_key(&self) -> Vec<String> {
        let mut orders = self.members.iter().map(|member| &member.def.order);
        let first = orders.next();
        match first {
            Some(OrderRule::Unique(fields)) if orders.all(|order| Some(order) == first) => {
                self.keys.iter().chain([&"ts".to_owned()]).chain(fields).cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    /// The table of the buckets of each series.
    ///
    /// # Errors
    /// Those of [`Resampling::of`].
    pub fn resampled(&self, spec: ResampleSpec) -> Result<Self> {
        let series: Vec<Arc<SeriesState>> = self.members.iter().map(|member| Arc::clone(&member.series)).collect();
        let resampling = Resampling::of(&spec, &series, NumberFormat::Decimal128)?;
        let members = self.members.iter().zip(&resampling.series);
        let members = members.map(|(member, one)| Member { def: Arc::clone(&one.shown.def), ..member.clone() });
        let table = Self::new(&self.view, self.name.clone(), self.keys.clone(), members.collect());
        Ok(Self { resample: Some(spec), ..table })
    }
}
