//! The target of imported rows: an open store, or a running server.

use std::sync::Arc;

use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;

use crate::error::{Error, ErrorCode, Result};
use crate::format::chunk::chunk_schema;
use crate::ingest::ParsedRows;
use crate::query::{Block, NumberFormat, ResultSchema};
use crate::service::operations::{
    ChangeRequest, ChangeSeries, Compact, DescribeKind, DropRequest, DropSeries, KindRequest, Register,
};
use crate::service::{CompactRequest, Precondition, RowMode, SeriesInfo, SeriesPatch, WriteMethod, WriteOptions};
use crate::types::{ColumnCells, ColumnChange, KindDef, Rows, SeriesDef, SeriesKey, SeriesSpec, SharedCells};

use super::super::rows::BodyOptions;
use super::super::target::{CommandTarget, TargetArgs};

/// The result of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkReply {
    /// Distinct rows stored.
    pub rows: u64,
    /// Rows that replaced a stored row.
    pub replaced: u64,
}

/// A registered series.
#[derive(Clone, Debug)]
pub struct RegisteredSeries {
    pub def: SeriesDef,
    /// Earliest stored time.
    pub first_ts: Option<i64>,
}

/// A target for the rows of one series.
pub trait Sink {
    /// A directory or an address, for messages.
    fn name(&self) -> String;

    /// A series, if it is registered.
    fn registered(&mut self, key: &SeriesKey) -> Result<Option<RegisteredSeries>>;

    /// The kind of a series that is not registered, which has its columns; `not_found` where there is none.
    fn kind(&mut self, key: &SeriesKey) -> Result<KindDef>;

    /// Registers a series; repeating the same definition is no error.
    fn register(&mut self, spec: &SeriesSpec) -> Result<SeriesDef>;

    /// Changes columns of a registered series.
    fn change(&mut self, key: &SeriesKey, columns: Vec<ColumnChange>) -> Result<SeriesDef>;

    /// Drops the series if this sink registered it and it has not changed since. Best effort: the caller reports the
    /// error that made it necessary.
    fn unregister(&mut self, key: &SeriesKey);

    /// Writes rows as one atomic commit and returns when they are durable. Their consistency (high, low, …) and times
    /// were checked before and are not checked again.
    fn write(&mut self, def: &SeriesDef, rows: Rows, mode: RowMode) -> Result<SinkReply>;

    /// Seals the written rows into chunk files.
    fn seal(&mut self, key: &SeriesKey) -> Result<()>;
}

/// Opens the target of the flags. A dry run creates no store, and needs none.
pub fn open(target: &TargetArgs, dry_run: bool) -> Result<Option<Box<dyn Sink>>> {
    match CommandTarget::open(target, !dry_run) {
        Ok(target) => Ok(Some(Box::new(StoreSink { target, created: None }))),
        Err(error) if dry_run && error.code() == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// An open store, or the server that owns it.
struct StoreSink {
    target: CommandTarget,
    /// Entity tag of the series when this sink registered it.
    created: Option<String>,
}

impl Sink for StoreSink {
    fn name(&self) -> String {
        match &self.target {
            CommandTarget::Local(_) => "local".into(),
            CommandTarget::Remote(client) => client.url().to_string(),
        }
    }

    fn registered(&mut self, key: &SeriesKey) -> Result<Option<RegisteredSeries>> {
        match self.target.series(key) {
            Ok(info) => Ok(Some(RegisteredSeries { first_ts: info.first_ts, def: definition(info) })),
            Err(error) if error.code() == ErrorCode::SeriesNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn kind(&mut self, key: &SeriesKey) -> Result<KindDef> {
        let info = self.target.run::<DescribeKind>(KindRequest { kind: key.kind().to_owned() })?;
        Ok(KindDef {
            name: info.kind,
            key: info.key,
            unit: info.unit,
            order: info.order,
            fields: info.fields,
            rules: info.rules,
            partition: info.partition,
            sql_name: Some(info.sql_name),
        })
    }

    fn register(&mut self, spec: &SeriesSpec) -> Result<SeriesDef> {
        let reply = self.target.run::<Register>(spec.clone())?;
        self.created = reply.created.then(|| reply.info.etag.clone());
        Ok(definition(reply.info))
    }

    fn change(&mut self, key: &SeriesKey, columns: Vec<ColumnChange>) -> Result<SeriesDef> {
        let patch = SeriesPatch { columns, ..SeriesPatch::default() };
        let info = self.target.run::<ChangeSeries>(ChangeRequest { series: key.clone(), patch })?;
        if self.created.is_some() {
            self.created = Some(info.etag.clone());
        }
        Ok(definition(info))
    }

    fn unregister(&mut self, key: &SeriesKey) {
        let Some(etag) = self.created.take() else { return };
        let request = DropRequest { series: key.clone(), if_version: None };
        let untouched = Precondition { if_match: Some(etag), if_version: None };
        if let Err(error) = self.target.run_if::<DropSeries>(request, &untouched) {
            tracing::warn!(series = %key, %error, "the series of an import that stored no row was not dropped");
        }
    }

    fn write(&mut self, def: &SeriesDef, rows: Rows, mode: RowMode) -> Result<SinkReply> {
        let reply = match &self.target {
            CommandTarget::Local(service) => {
                let parsed = ParsedRows { rows, ..ParsedRows::default() };
                service.write(&def.key, parsed, mode, &Precondition::default())?
            }
            CommandTarget::Remote(_) => {
                // Timestamps were checked before, with their file and line.
                let options =
                    BodyOptions { format: "arrow".into(), validate: Some("none".into()), ..BodyOptions::default() }
                        .any_time();
                let write_options = WriteOptions { method: WriteMethod::Mode(mode), ..WriteOptions::default() };
                self.target.write(&def.key, arrow_stream(def, rows)?.into(), &options, &write_options)?.reply
            }
        };
        Ok(SinkReply { rows: reply.rows_written, replaced: reply.rows_replaced })
    }

    fn seal(&mut self, key: &SeriesKey) -> Result<()> {
        self.target.run_job::<Compact>(&CompactRequest { series: vec![key.clone()] }).map(|_| ())
    }
}

fn definition(info: SeriesInfo) -> SeriesDef {
    SeriesDef {
        key: info.series,
        key_names: info.key_names,
        unit: info.unit,
        partition: info.partition,
        interval_ms: info.interval_ms,
        origin: info.origin,
        calendar: info.calendar,
        retention: info.retention,
        value_index: info.value_index,
        description: info.description,
        schema_version: 0,
        order: info.order,
        rules: info.rules,
        columns: info.columns,
    }
}

/// Rows per Arrow record batch: with 64 columns at most 64 MiB.
const MESSAGE_ROWS: usize = 65_536;

/// The rows as an Arrow IPC stream with the columns of the series.
fn arrow_stream(def: &SeriesDef, rows: Rows) -> Result<Vec<u8>> {
    let broken = |error: ArrowError| Error::internal(format!("cannot encode rows as Arrow: {error}"));
    let schema = Arc::new(chunk_schema(def));
    let count = rows.len();
    let texts = rows.texts;
    let ts = ColumnCells::from(rows.ts);
    let columns: Vec<SharedCells> = std::iter::once(ts).chain(rows.columns).map(SharedCells::from).collect();
    let shape = ResultSchema::of(def, &texts, None, NumberFormat::Stored, 0, 0);
    let batch = shape.record_batch(&schema, &Block::new(count, columns)?)?;
    let mut writer =
        StreamWriter::try_new(Vec::with_capacity(count * 8 * (def.columns.len() + 1)), &schema).map_err(broken)?;
    for first in (0..count).step_by(MESSAGE_ROWS) {
        writer.write(&batch.slice(first, MESSAGE_ROWS.min(count - first))).map_err(broken)?;
    }
    writer.into_inner().map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest;
    use crate::types::{Column, ColumnType};

    #[test]
    fn the_stream_for_a_server_decodes_to_the_same_rows() {
        let mut spec = SeriesSpec::of_key(&SeriesKey::parse("kline/X/1m").unwrap());
        spec.price_digits = Some(2);
        spec.extra_columns = serde_json::from_str(r#"[{"name":"count","type":"int64"}]"#).unwrap();
        let def = spec.resolve().unwrap();
        let mut rows = Rows::with_capacity(&def.columns, 70_000);
        for row in 0..70_000_i64 {
            rows.push(row * 60_000, &[row, row + 2, row, row, 0.5_f64.to_bits().cast_signed(), -row]);
        }
        let body = arrow_stream(&def, rows.clone()).unwrap();
        let options = ingest::DecodeOptions { validate: ingest::RowRules::None, ..ingest::DecodeOptions::default() };
        assert_eq!(ingest::parse(ingest::BodyFormat::Arrow, &def, &body, &options).unwrap().rows, rows);
    }

    #[test]
    fn nulls_flags_and_dictionaries_pass_the_stream_unchanged() {
        let column = |name: &str, kind| Column { nullable: true, ..Column::new(name, kind) };
        let columns = vec![
            column("wide", ColumnType::WideDecimal { digits: 2 }),
            column("flag", ColumnType::Bool),
            Column { values: vec!["a".into(), "b".into()], ..column("side", ColumnType::Enum) },
            column("venue", ColumnType::Text),
            column("hash", ColumnType::Bytes { length: 3 }),
        ];
        let key = SeriesKey::parse("scalar/c/X/tick/n").unwrap();
        let def = SeriesDef { columns, ..SeriesSpec::of_key(&key).resolve().unwrap() };
        let csv = "ts,wide,flag,side,venue,hash\n1,-1.5,t,b,X,00ff01\n2,,,,,\n3,1e30,f,a,\"\",abcdef\n";
        let options = ingest::DecodeOptions::default();
        let rows = ingest::parse(ingest::BodyFormat::Csv, &def, csv.as_bytes(), &options).unwrap().rows;
        let body = arrow_stream(&def, rows.clone()).unwrap();
        assert_eq!(ingest::parse(ingest::BodyFormat::Arrow, &def, &body, &options).unwrap().rows, rows);
    }
}
