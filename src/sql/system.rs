//! The schema `system`: the store as tables, of which the caller sees its series only.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, StringArray, TimestampMillisecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::{MemTable, SchemaProvider, TableProvider};
use datafusion::error::Result as SqlResult;

use super::failure::external;
use super::index::table_of;
use super::view::{SqlView, SystemTable, ViewSource};
use crate::error::{Error, Result};
use crate::store::SeriesState;
use crate::types::{TimeUnit, time};

/// Tables whose rows are those of the state.
const OF_STATE: [&str; 3] = ["series", "chunks", "snapshots"];

/// The tables of the schema `system`.
#[derive(Debug)]
pub struct SystemSchema {
    pub view: SqlView,
    pub views: Arc<dyn ViewSource>,
    pub others: Vec<SystemTable>,
}

#[async_trait::async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        let others = self.others.iter().map(|table| table.name);
        OF_STATE.into_iter().chain(others).map(str::to_owned).collect()
    }

    async fn table(&self, name: &str) -> SqlResult<Option<Arc<dyn TableProvider>>> {
        let Some(rows) = self.rows(name).map_err(external)? else { return Ok(None) };
        Ok(Some(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?)))
    }

    fn table_exist(&self, name: &str) -> bool {
        OF_STATE.contains(&name) || self.others.iter().any(|table| table.name == name)
    }
}

impl SystemSchema {
    /// The rows of a table; `None` when there is none of this name.
    ///
    /// # Errors
    /// Those of its rows.
    pub fn rows(&self, name: &str) -> Result<Option<RecordBatch>> {
        let rows = match name {
            "series" => series(&self.view),
            "chunks" => chunks(&self.view),
            "snapshots" => self.snapshots(),
            other => match self.others.iter().find(|table| table.name == other) {
                Some(table) => (table.rows)(),
                None => return Ok(None),
            },
        };
        rows.map(Some)
    }

    fn snapshots(&self) -> Result<RecordBatch> {
        let visible = self.view.state.snapshots.iter().filter(|(name, _)| self.views.sees_snapshot(name));
        let visible: Vec<_> = visible.collect();
        let created = visible.iter().map(|(_, snapshot)| Some(snapshot.created_ms));
        batch(vec![
            ("name", text(visible.iter().map(|(name, _)| Some(name.as_str())))),
            ("commit", numbers(visible.iter().map(|(_, snapshot)| snapshot.commit))),
            ("created_at", Arc::new(created.collect::<TimestampMillisecondArray>().with_timezone("UTC"))),
        ])
    }
}

/// The series that the caller can see, by key.
fn visible(view: &SqlView) -> Vec<&Arc<SeriesState>> {
    view.state.keys.keys().filter_map(|key| view.series(key)).collect()
}

fn series(view: &SqlView) -> Result<RecordBatch> {
    let series = visible(view);
    let of = |value: fn(&SeriesState) -> u64| numbers(series.iter().map(|series| value(series)));
    let words = |value: fn(&SeriesState) -> Option<&str>| text(series.iter().map(|series| value(series)));
    let tables: Vec<Option<String>> = series.iter().map(|series| table_of(&view.state, series)).collect();
    batch(vec![
        ("key", words(|series| Some(series.def.key.as_str()))),
        ("kind", words(|series| Some(series.def.key.kind()))),
        ("table_name", text(tables.iter().map(Option::as_deref))),
        ("symbol", words(|series| series.def.key.symbol())),
        ("timeframe", words(|series| series.def.key.timeframe())),
        ("unit", words(|series| Some(series.def.unit.name()))),
        ("rows", of(|series| series.rows)),
        ("first_ts", times(series.iter().map(|series| Some((series.bounds?.0, series.def.unit))))),
        ("last_ts", times(series.iter().map(|series| Some((series.bounds?.1, series.def.unit))))),
        ("chunks", of(|series| series.chunks.iter().count() as u64)),
        ("file_bytes", of(SeriesState::file_bytes)),
        ("tail_rows", of(SeriesState::tail_rows)),
        ("version", of(|series| series.version)),
    ])
}

fn chunks(view: &SqlView) -> Result<RecordBatch> {
    let series = visible(view);
    let all = || series.iter().flat_map(|series| series.chunks.iter().map(move |chunk| (*series, &chunk.record)));
    batch(vec![
        ("key", text(all().map(|(series, _)| Some(series.def.key.as_str())))),
        ("chunk", numbers(all().map(|(_, record)| record.id))),
        ("partition", text(all().map(|(_, record)| Some(record.partition.as_str())))),
        ("rows", numbers(all().map(|(_, record)| record.rows))),
        ("first_ts", times(all().map(|(series, record)| Some((record.ts_min, series.def.unit))))),
        ("last_ts", times(all().map(|(series, record)| Some((record.ts_max, series.def.unit))))),
        ("first_commit", numbers(all().map(|(_, record)| record.commit_lo))),
        ("last_commit", numbers(all().map(|(_, record)| record.commit_hi))),
        ("file_bytes", numbers(all().map(|(_, record)| record.file_bytes))),
    ])
}

fn text<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(texts.collect::<StringArray>())
}

fn numbers(numbers: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(numbers.collect::<UInt64Array>())
}

/// Times of any unit in nanoseconds, which all fit.
fn times(times: impl Iterator<Item = Option<(i64, TimeUnit)>>) -> ArrayRef {
    let nanos = times.map(|time| {
        let (ts, unit) = time?;
        time::convert(ts, unit.per_second(), TimeUnit::Ns)
    });
    Arc::new(nanos.collect::<TimestampNanosecondArray>().with_timezone("UTC"))
}

/// Columns of a table, of which those of integers have no nulls.
fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .map_err(|error| Error::internal(format!("a table of the schema system: {error}")))
}

/// The statements of a list as a table.
///
/// # Errors
/// `internal`.
pub fn queries(queries: &[super::RunningQuery]) -> Result<RecordBatch> {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let started = queries.iter().map(|query| Some(query.started_ms));
    let elapsed: Int64Array = queries.iter().map(|query| signed(query.elapsed_ms)).collect();
    batch(vec![
        ("id", numbers(queries.iter().map(|query| query.id))),
        ("token", text(queries.iter().map(|query| Some(&*query.owner.token).filter(|id| !id.is_empty())))),
        ("status", text(queries.iter().map(|query| Some(query.status.name())))),
        ("started_at", Arc::new(started.collect::<TimestampMillisecondArray>().with_timezone("UTC"))),
        ("elapsed_ms", Arc::new(elapsed)),
        ("rows", numbers(queries.iter().map(|query| query.rows))),
        ("memory_bytes_peak", numbers(queries.iter().map(|query| query.memory_bytes_peak))),
        ("sql", text(queries.iter().map(|query| Some(query.sql.as_str())))),
    ])
}
