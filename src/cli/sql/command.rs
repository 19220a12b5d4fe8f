//! `fastk sql`: statements, and those that run on a server.

use std::io::{IsTerminal, Read};
use std::path::Path;

use super::output::SqlOutput;
use super::prompt;
use crate::cli::print;
use crate::cli::target::{CommandTarget, PlainArgs};
use crate::error::{Error, Result};
use crate::service::SqlStatement;
use crate::service::operations::{CancelSqlQuery, ListSqlQueries, NoRequest, SqlQueryRequest};

#[derive(Debug, clap::Args)]
pub struct SqlArgs {
    /// One query, such as "SELECT * FROM klines_1m LIMIT 5"; `-`, or nothing when standard input is no terminal, reads
    /// standard input. Without one on a terminal, statements are asked for. `SHOW TABLES` lists the tables.
    #[arg(value_name = "STATEMENT")]
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
    let params: Vec<_> = params.iter().map(|text| parameter(text)).collect();
    let output = SqlOutput::new(if plain.json { "json" } else { &format }, times.as_deref())?;
    if statement.is_none() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        if !params.is_empty() {
            return Err(Error::invalid("--param is for one statement").with_hint("give the statement as an argument"));
        }
        return prompt::run(target, output, as_of, timeout_ms);
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
    let statement = SqlStatement { sql, params, as_of, timeout_ms };
    output.print(&target, &statement)?;
    Ok(0)
}

/// A parameter as it is typed: JSON where it is a number, true, false or null, else text.
fn parameter(text: &str) -> serde_json::Value {
    match serde_json::from_str(text) {
        Ok(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_) | serde_json::Value::Null)) => value,
        _ => text.into(),
    }
}
