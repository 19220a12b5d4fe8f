//! `fastk sql`: statements, and those that run on a server.

use std::io::{BufWriter, ErrorKind, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;

use super::print;
use super::remote::{Call, json_body};
use super::target::{CommandTarget, PlainArgs};
use crate::egress::{BatchEncoder, EncodeOptions, JsonShape, OutFormat, TimeFormat};
use crate::error::{Error, Result};
use crate::service::SqlStatement;
use crate::service::operations::{CancelSqlQuery, ListSqlQueries, NoRequest, SqlQueryRequest};
use crate::sql::column_type;

/// Maximum rows of a table.
const TABLE_ROWS_MAX: usize = 1_000;

#[derive(Debug, clap::Args)]
pub struct SqlArgs {
    /// One query, such as "SELECT * FROM klines_1m LIMIT 5"; `-`, or nothing when standard input is no terminal, reads
    /// standard input. `SHOW TABLES` lists the tables.
    #[arg(value_name = "STATEMENT", required_unless_present_any = ["queries", "cancel"])]
    statement: Option<String>,
    /// Value of the next parameter `?` of the statement: a number, null, true, false, or text; repeatable.
    #[arg(long = "param", value_name = "VALUE", allow_hyphen_values = true)]
    params: Vec<String>,
    /// table, csv, json, ndjson, arrow or parquet.
    #[arg(long, default_value = "table")]
    format: String,
    /// epoch or rfc3339, in text formats; tables have rfc3339.
    #[arg(long)]
    times: Option<String>,
    /// Read under this snapshot, or dataset:NAME@VERSION.
    #[arg(long, value_name = "NAME")]
    as_of: Option<String>,
    /// Time limit, if it is shorter than the configured one.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// List the statements that run on the server.
    #[arg(long, conflicts_with_all = ["statement", "cancel"])]
    queries: bool,
    /// Cancel a statement that runs on the server.
    #[arg(long, value_name = "ID", conflicts_with = "statement")]
    cancel: Option<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Runs a statement, or lists or cancels those of a server.
pub fn run(args: SqlArgs) -> Result<u8> {
    let SqlArgs { statement, params, format, times, as_of, timeout_ms, queries, cancel, plain } = args;
    let target = CommandTarget::open(&plain.target, false)?;
    if queries {
        let list = target.run::<ListSqlQueries>(NoRequest {})?;
        if plain.json {
            print::reply(&list, true)?;
        } else {
            let rows = list.queries.into_iter().map(|query| {
                vec![
                    query.id.to_string(),
                    query.status,
                    query.started_at,
                    query.elapsed_ms.to_string(),
                    query.rows.to_string(),
                    query.sql,
                ]
            });
            print::out(&print::table(&["id", "status", "started_at", "elapsed_ms", "rows", "sql"], rows.collect()))?;
        }
        return Ok(0);
    }
    if let Some(id) = cancel {
        let reply = target.run::<CancelSqlQuery>(SqlQueryRequest { id })?;
        print::reply(&reply, plain.json)?;
        return Ok(0);
    }
    let sql = match statement.as_deref() {
        Some("-") | None => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Error::io("read", Path::new("standard input"), &error))?;
            text
        }
        Some(text) => text.to_owned(),
    };
    let params = params.iter().map(|text| parameter(text)).collect();
    let statement = SqlStatement { sql, params, as_of, timeout_ms };
    let format = if plain.json { "json".to_owned() } else { format };
    if format == "table" {
        return table(&target, &statement, times.as_deref());
    }
    let times = times.as_deref().map(TimeFormat::from_name).transpose()?.unwrap_or_default();
    let options = EncodeOptions { format: OutFormat::from_name(&format)?, times, shape: JsonShape::Rows };
    if !options.format.is_text() && std::io::stdout().is_terminal() {
        return Err(Error::invalid(format!("{format} is not for a terminal")).with_hint("redirect it to a file"));
    }
    let mut stdout = BufWriter::with_capacity(1 << 18, std::io::stdout().lock());
    let mut is_closed = false;
    let failed = |error: &std::io::Error| Error::io("write to", Path::new("standard output"), error);
    let result = target.sql(&statement, options, &mut |bytes| {
        stdout.write_all(&bytes).map_err(|error| {
            is_closed = error.kind() == ErrorKind::BrokenPipe;
            failed(&error)
        })
    });
    if is_closed {
        return Ok(0);
    }
    result?;
    if options.format == OutFormat::Json {
        let _ = stdout.write_all(b"\n");
    }
    match stdout.flush() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(failed(&error)),
        _ => Ok(0),
    }
}

/// A parameter as it is typed: JSON where it is a number, true, false or null, else text.
fn parameter(text: &str) -> serde_json::Value {
    match serde_json::from_str(text) {
        Ok(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_) | serde_json::Value::Null)) => value,
        _ => text.into(),
    }
}

/// Prints the first rows as a table.
fn table(target: &CommandTarget, statement: &SqlStatement, times: Option<&str>) -> Result<u8> {
    let times = times.map_or(Ok(TimeFormat::Rfc3339), TimeFormat::from_name)?;
    let options = EncodeOptions { format: OutFormat::Csv, times, shape: JsonShape::Rows };
    let mut text = Vec::new();
    let mut lines = 0;
    let enough = || Error::invalid("enough rows");
    let result = target.sql(statement, options, &mut |bytes| {
        lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        text.extend_from_slice(&bytes);
        // Texts can have line ends: then the table is shorter.
        if lines > 4 * TABLE_ROWS_MAX { Err(enough()) } else { Ok(()) }
    });
    let is_cut = lines > 4 * TABLE_ROWS_MAX;
    if !is_cut {
        result?;
    }
    let broken = |error: csv::Error| Error::internal(format!("result as CSV: {error}"));
    let mut reader = csv::ReaderBuilder::new().flexible(is_cut).from_reader(text.as_slice());
    let header: Vec<String> = reader.headers().map_err(broken)?.iter().map(str::to_owned).collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for record in reader.records().take(TABLE_ROWS_MAX + 1) {
        rows.push(record.map_err(broken)?.iter().map(str::to_owned).collect());
    }
    let is_longer = rows.len() > TABLE_ROWS_MAX;
    rows.truncate(TABLE_ROWS_MAX);
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    print::out(&print::table(&header, rows))?;
    if is_longer {
        print::note(&format!("first {TABLE_ROWS_MAX} rows only; LIMIT or --format give others"));
    }
    Ok(0)
}

impl CommandTarget {
    /// Passes the encoded rows of a statement to `sink`. After an error they are not a valid result.
    pub fn sql(
        &self,
        statement: &SqlStatement,
        options: EncodeOptions,
        sink: &mut dyn FnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        match self {
            CommandTarget::Local(service) => {
                let rows = service.sql_blocking(statement.clone())?;
                let schema = Arc::clone(rows.schema());
                let label =
                    |field: &Arc<arrow::datatypes::Field>| (field.name().clone(), column_type(field.data_type()));
                let columns = schema.fields().iter().map(label).collect();
                let rows_max = service.sql_settings().json_rows_max;
                for piece in BatchEncoder::new(schema, columns, options, Some(rows_max), rows)? {
                    sink(piece?)?;
                }
                Ok(())
            }
            CommandTarget::Remote(client) => {
                let times = (options.times == TimeFormat::Rfc3339).then_some("rfc3339");
                let call =
                    Call::new(Method::POST, "/v1/sql").param("format", options.format.name()).maybe("times", times);
                client.stream(json_body(call, statement)?, sink)
            }
        }
    }
}
