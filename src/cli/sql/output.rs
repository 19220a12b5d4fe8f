//! Results of statements on standard output.

use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;

use crate::cli::print;
use crate::cli::remote::{Call, json_body};
use crate::cli::target::CommandTarget;
use crate::egress::{BatchEncoder, EncodeOptions, JsonShape, OutFormat, TimeFormat};
use crate::error::{Error, Result};
use crate::service::SqlStatement;
use crate::sql::column_type;

/// Maximum rows of a table.
const TABLE_ROWS_MAX: usize = 1_000;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlOutput {
    /// A table of the first rows.
    Table(TimeFormat),
    /// All rows in a format.
    Encoded(EncodeOptions),
}

impl SqlOutput {
    /// The output of `--format` and `--times`.
    ///
    /// # Errors
    /// `invalid_argument` for unknown names.
    pub fn new(format: &str, times: Option<&str>) -> Result<Self> {
        let times = times.map(TimeFormat::from_name).transpose()?;
        if format == "table" {
            return Ok(SqlOutput::Table(times.unwrap_or(TimeFormat::Rfc3339)));
        }
        let format = OutFormat::from_name(format)?;
        Ok(SqlOutput::Encoded(EncodeOptions { format, times: times.unwrap_or_default(), shape: JsonShape::Rows }))
    }

    /// Runs a statement and prints its rows.
    pub fn print(self, target: &CommandTarget, statement: &SqlStatement) -> Result<()> {
        match self {
            SqlOutput::Table(times) => table(target, statement, times),
            SqlOutput::Encoded(options) => encoded(target, statement, options),
        }
    }
}

/// Prints all rows in a format.
fn encoded(target: &CommandTarget, statement: &SqlStatement, options: EncodeOptions) -> Result<()> {
    if !options.format.is_text() && std::io::stdout().is_terminal() {
        return Err(Error::invalid(format!("{} is not for a terminal", options.format.name()))
            .with_hint("redirect it to a file"));
    }
    let mut stdout = BufWriter::with_capacity(1 << 18, std::io::stdout().lock());
    let mut is_closed = false;
    let failed = |error: &std::io::Error| Error::io("write to", Path::new("standard output"), error);
    let result = target.sql(statement, options, &mut |bytes| {
        stdout.write_all(&bytes).map_err(|error| {
            is_closed = error.kind() == ErrorKind::BrokenPipe;
            failed(&error)
        })
    });
    if is_closed {
        return Ok(());
    }
    result?;
    if options.format == OutFormat::Json {
        let _ = stdout.write_all(b"\n");
    }
    match stdout.flush() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(failed(&error)),
        _ => Ok(()),
    }
}

/// Prints the first rows as a table.
fn table(target: &CommandTarget, statement: &SqlStatement, times: TimeFormat) -> Result<()> {
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
    Ok(())
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
