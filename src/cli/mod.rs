//! The command line: raw flags in, validated settings out, one file a verb.
//!
//! Errors go to standard error as `error[code]: …` and `hint: …`; the exit status comes from the error table.

mod admin;
mod backup;
pub mod bridge;
mod certificates;
mod coverage;
mod dataset;
mod definition;
mod engine;
mod files;
mod inspect;
mod job;
mod log;
mod print;
mod read;
mod register;
pub mod remote;
mod repair;
mod snapshot;
mod stats;
pub mod target;
mod token;
mod verify;
mod write;

pub mod demo;
pub mod import;
pub mod serve;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::{ErrorCode, Result};
use crate::registry::RecordKind;

/// FastK: a storage engine and query server for market-data time series.
#[derive(Debug, Parser)]
#[command(name = "fastk", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server over a data directory.
    Serve(serve::ServeArgs),
    /// Start a server over sample data in a temporary directory and show what to ask it.
    Demo(demo::DemoArgs),
    /// Import files of bars into a series, exact to the last digit.
    Import(Box<import::ImportArgs>),
    /// Register a series.
    Register(register::RegisterArgs),
    /// Write the rows of a file or of standard input to a series.
    Write(write::WriteArgs),
    /// Delete a closed time range of a series.
    Delete(write::DeleteArgs),
    /// Drop a series and all its rows.
    Drop(write::DropArgs),
    /// Read rows of a series.
    Query(read::QueryArgs),
    /// Read rows of a series into a file.
    Export(read::ExportArgs),
    /// Name, list and drop views of the whole store that stay readable.
    Snapshot(snapshot::SnapshotArgs),
    /// Name series as a snapshot shows them, in versions that never change.
    Dataset(dataset::DatasetArgs),
    /// Register how features are computed, and from what.
    Feature(definition::DefinitionArgs),
    /// Register how factors are computed, and from what.
    Factor(definition::DefinitionArgs),
    /// Show what stands in a file of a data directory.
    Inspect(inspect::InspectArgs),
    /// Look after a store.
    Admin(admin::AdminArgs),
    /// Show which intervals of a series have rows, and the gaps.
    Coverage(coverage::CoverageArgs),
    /// List the chunk files that are exactly a series, to read them without FastK. Exit status 1 when there are none such.
    Files(files::FilesArgs),
    /// The JSON commands of FastK 0.1, for programs that call FastK as a subprocess.
    Bridge(Box<bridge::BridgeArgs>),
}

/// Runs the program on its own arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match run(cli.verb) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            print::error(&error);
            ExitCode::from(error.code().exit())
        }
    }
}

/// Says what is wrong with the arguments, or shows the help that was asked for. Programs that call the bridge read
/// standard output only.
fn refuse(error: &clap::Error) -> ExitCode {
    let status = u8::try_from(error.exit_code()).unwrap_or(1);
    if error.use_stderr() && std::env::args_os().nth(1).is_some_and(|word| word == "bridge") {
        let text = error.to_string();
        let sentence = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        let sentence: Vec<&str> = sentence.split_whitespace().collect();
        let _ = bridge::fail(ErrorCode::InvalidArgument, &sentence.join(" "));
    }
    if error.use_stderr() {
        print::usage(&error.render().to_string());
        return ExitCode::from(status);
    }
    let styled = error.render();
    let text = if std::io::stdout().is_terminal() { styled.ansi().to_string() } else { styled.to_string() };
    match print::out(&text) {
        Ok(()) => ExitCode::from(status),
        Err(failed) => {
            print::error(&failed);
            ExitCode::from(failed.code().exit())
        }
    }
}

/// All verbs as they are typed, such as `query` or `admin health`.
pub fn verbs() -> Vec<String> {
    let mut out = Vec::new();
    for verb in Cli::command().get_subcommands() {
        let mut nested = verb.get_subcommands().peekable();
        if nested.peek().is_none() {
            out.push(verb.get_name().to_string());
        }
        out.extend(nested.map(|inner| format!("{} {}", verb.get_name(), inner.get_name())));
    }
    out
}

fn run(verb: Command) -> Result<u8> {
    if !matches!(verb, Command::Serve(_) | Command::Demo(_)) {
        log::init(&log::level("warn"), crate::config::LogFormat::Text)?;
    }
    match verb {
        Command::Serve(args) => serve::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Import(args) => import::run(*args),
        Command::Register(args) => register::run(args),
        Command::Write(args) => write::write(args),
        Command::Delete(args) => write::delete(args),
        Command::Drop(args) => write::drop(args),
        Command::Query(args) => read::query(args),
        Command::Export(args) => read::export(args),
        Command::Snapshot(args) => snapshot::run(args),
        Command::Dataset(args) => dataset::run(args),
        Command::Feature(args) => definition::run(RecordKind::Feature, args),
        Command::Factor(args) => definition::run(RecordKind::Factor, args),
        Command::Inspect(args) => inspect::run(args),
        Command::Admin(args) => admin::run(args),
        Command::Coverage(args) => coverage::run(args),
        Command::Files(args) => files::run(args),
        Command::Bridge(args) => bridge::run(*args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
