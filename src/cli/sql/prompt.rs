//! The prompt of `fastk sql`: statements are typed, run and printed until the end of the input.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use tokio::signal::unix::{SignalKind, signal};

use super::completion::{CompletedColumn, SqlHelper};
use super::output::SqlOutput;
use crate::cli::print;
use crate::cli::target::CommandTarget;
use crate::disk::local;
use crate::egress::{EncodeOptions, JsonShape, OutFormat, TimeFormat};
use crate::error::{Error, ErrorCode, Result};
use crate::service::SqlStatement;
use crate::service::operations::{CancelSqlQuery, ListSqlQueries, NoRequest, SqlQueryRequest};

/// Statements that are kept for other prompts.
const HISTORY_MAX: usize = 1_000;

const HELP: &str = "\
A statement ends with a semicolon and can have several lines. Tab completes names; Ctrl-C cancels what runs.
  \\d                     list the tables
  \\d TABLE               list the columns of a table
  \\as_of [NAME]          read under a snapshot or dataset:NAME@VERSION; without a name the present again
  \\format FORMAT         table, csv, json or ndjson
  \\timing                print the time of each statement, or no longer
  \\q                     quit, as Ctrl-D
";

/// What a wait ends with.
enum Event {
    Done(Result<()>),
    Interrupted,
}

/// The state of a prompt.
struct Prompt {
    target: CommandTarget,
    output: SqlOutput,
    as_of: Option<String>,
    timeout_ms: Option<u64>,
    is_timed: bool,
    events: Receiver<Event>,
    sender: Sender<Event>,
}

/// Reads statements from the terminal, runs them and prints their rows; errors are printed and do not end it.
///
/// # Errors
/// `io` when the terminal cannot be read.
pub fn run(target: CommandTarget, output: SqlOutput, as_of: Option<String>, timeout_ms: Option<u64>) -> Result<u8> {
    let (sender, events) = channel();
    let prompt = Prompt { target, output, as_of, timeout_ms, is_timed: false, events, sender };
    prompt.watch_interrupts()?;
    prompt.read()
}

fn terminal(error: &ReadlineError) -> Error {
    Error::new(ErrorCode::Io, format!("terminal: {error}"))
}

impl Prompt {
    fn read(mut self) -> Result<u8> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .max_history_size(HISTORY_MAX)
            .and_then(|config| config.history_ignore_dups(true))
            .map_err(|error| terminal(&error))?
            .build();
        let mut editor: Editor<SqlHelper, FileHistory> =
            Editor::with_config(config).map_err(|error| terminal(&error))?;
        let history = history_file();
        if let Some(file) = &history {
            // The first prompt has none.
            let _ = editor.load_history(file);
        }
        print::note("Statements end with a semicolon; \\? lists the commands.");
        editor.set_helper(Some(SqlHelper::new(self.columns())));
        let code = loop {
            let text = match editor.readline("fastk> ") {
                Ok(text) => text,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => break Ok(0),
                Err(error) => break Err(terminal(&error)),
            };
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let _ = editor.add_history_entry(text);
            let mut words = text.split_whitespace();
            let done = match words.next() {
                Some("\\q" | "\\quit" | "exit" | "quit" | "exit;" | "quit;") => break Ok(0),
                Some(command) if command.starts_with('\\') => self.command(command, words.next()),
                _ => self.statement(text),
            };
            if let Err(error) = done {
                print::error(&error);
            }
        };
        if let Some(file) = &history
            && let Err(error) = editor.save_history(file)
        {
            print::note(&format!("the history was not saved in {}: {error}", file.display()));
        }
        code
    }

    /// Runs a command of the prompt.
    fn command(&mut self, command: &str, argument: Option<&str>) -> Result<()> {
        match (command, argument) {
            ("\\?" | "\\h" | "\\help", _) => print::out(HELP),
            ("\\d", None) => self.statement("SHOW TABLES;"),
            ("\\d", Some(table)) => self.statement(&format!("DESCRIBE {};", table.trim_end_matches(';'))),
            ("\\as_of", name) => {
                self.read_as_of(name.map(str::to_owned));
                Ok(())
            }
            ("\\format", Some(format)) => {
                self.output = match SqlOutput::new(format, None)? {
                    SqlOutput::Encoded(options) if !options.format.is_text() && std::io::stdout().is_terminal() => {
                        return Err(Error::invalid(format!("{format} is not for a terminal"))
                            .with_hint("redirect it to a file: fastk sql STATEMENT --format FORMAT > FILE"));
                    }
                    output => output,
                };
                Ok(())
            }
            ("\\timing", None) => {
                self.is_timed = !self.is_timed;
                print::note(if self.is_timed { "times are printed" } else { "times are not printed" });
                Ok(())
            }
            _ => Err(Error::invalid(format!("{command} is no command, or its argument is missing or wrong"))
                .with_hint("\\? lists the commands")),
        }
    }

    /// Selects the snapshot of the statements that follow.
    fn read_as_of(&mut self, name: Option<String>) {
        print::note(&match &name {
            Some(name) => format!("statements read under {name}"),
            None => "statements read the present".to_owned(),
        });
        self.as_of = name;
    }

    /// Runs a statement and prints its rows.
    fn statement(&mut self, sql: &str) -> Result<()> {
        if let Some(name) = snapshot_set(sql) {
            self.read_as_of(Some(name.to_owned()));
            return Ok(());
        }
        // Interrupts that came before it.
        while self.events.try_recv().is_ok() {}
        let statement = SqlStatement {
            sql: sql.to_owned(),
            params: Vec::new(),
            as_of: self.as_of.clone(),
            timeout_ms: self.timeout_ms,
        };
        let started = Instant::now();
        let result = std::thread::scope(|scope| {
            let (target, output, sender, statement) = (&self.target, self.output, self.sender.clone(), &statement);
            scope.spawn(move || sender.send(Event::Done(output.print(target, statement))));
            loop {
                match self.events.recv() {
                    Ok(Event::Done(result)) => return result,
                    Ok(Event::Interrupted) => self.cancel(&statement.sql),
                    Err(_) => return Err(Error::internal("the statement ended without a result")),
                }
            }
        });
        if self.is_timed {
            print::note(&format!("{:.1} ms", started.elapsed().as_secs_f64() * 1e3));
        }
        result
    }

    /// Cancels the newest running statement with this text. A statement that ended meanwhile is no error.
    fn cancel(&self, sql: &str) {
        let queries = match self.target.run::<ListSqlQueries>(NoRequest {}) {
            Ok(list) => list.queries,
            Err(error) => return print::error(&error),
        };
        // The list has the beginnings of texts.
        let own = queries.iter().filter(|query| sql.starts_with(query.sql.trim_end_matches('…')));
        if let Some(id) = own.map(|query| query.id).max() {
            let _ = self.target.run::<CancelSqlQuery>(SqlQueryRequest { id: id.to_string() });
        }
    }

    /// The columns of all tables, for completion; none when they cannot be read.
    fn columns(&self) -> Vec<CompletedColumn> {
        let sql = "SELECT table_schema, table_name, column_name FROM information_schema.columns".to_owned();
        let statement = SqlStatement { sql, params: Vec::new(), as_of: None, timeout_ms: Some(2_000) };
        let options = EncodeOptions { format: OutFormat::Csv, times: TimeFormat::Epoch, shape: JsonShape::Rows };
        let mut text = Vec::new();
        let read = self.target.sql(&statement, options, &mut |bytes| {
            text.extend_from_slice(&bytes);
            Ok(())
        });
        if read.is_err() {
            return Vec::new();
        }
        let mut reader = csv::Reader::from_reader(text.as_slice());
        let rows = reader.records().filter_map(|record| {
            let record = record.ok()?;
            let (schema, table, column) = (record.get(0)?, record.get(1)?, record.get(2)?);
            let table = if schema == "public" { table.to_owned() } else { format!("{schema}.{table}") };
            Some(CompletedColumn { table, column: column.to_owned() })
        });
        rows.collect()
    }

    /// Sends an event at each Ctrl-C, which no longer ends the process.
    fn watch_interrupts(&self) -> Result<()> {
        let failed = |error: std::io::Error| Error::new(ErrorCode::Io, format!("cannot wait for signals: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let guard = runtime.enter();
        let mut interrupts = signal(SignalKind::interrupt()).map_err(failed)?;
        drop(guard);
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                while interrupts.recv().await.is_some() && sender.send(Event::Interrupted).is_ok() {}
            });
        });
        Ok(())
    }
}

/// The name in `SET fastk.as_of = 'name';` alone.
fn snapshot_set(sql: &str) -> Option<&str> {
    let (start, rest) = sql.trim().trim_end_matches(';').trim_end().split_at_checked("SET ".len())?;
    let (variable, value) = rest.split_once('=')?;
    let name = value.trim().strip_prefix('\'')?.strip_suffix('\'')?;
    let is_set = start.eq_ignore_ascii_case("SET ") && variable.trim().eq_ignore_ascii_case("fastk.as_of");
    (is_set && !name.contains('\'')).then_some(name)
}

/// The file of former statements, in the folder for the state of programs of the user. `None` without such a folder.
fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?.join("fastk");
    local::create_dir_all(&state).ok()?;
    Some(state.join("sql_history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_setting_selects_the_snapshot() {
        assert_eq!(snapshot_set("SET fastk.as_of = 'before';"), Some("before"));
        assert_eq!(snapshot_set("set FASTK.AS_OF='dataset:a@1'"), Some("dataset:a@1"));
        for sql in ["SELECT 1;", "SET fastk.as_of = 5;", "SET fastk.as_of = 'a'; SELECT 'b';", "SET other = 'a';", "SE"]
        {
            assert_eq!(snapshot_set(sql), None, "{sql}");
        }
    }
}
