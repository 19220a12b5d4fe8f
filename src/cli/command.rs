//! The commands: the first words of the command line, and what runs them.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use super::{
    admin, bridge, coverage, dataset, definition, demo, files, import, inspect, kind, log, print, read, register,
    serve, snapshot, sql, write,
};
use crate::error::{ErrorCode, Result};
use crate::registry::RecordKind;

/// FastK: a storage engine and query server for market-data time series.
#[derive(Debug, Parser)]
#[command(name = "fastk", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server over a data directory.
    Serve(serve::ServeArgs),
    /// Start a server over sample data in a temporary directory and print example requests.
    Demo(demo::DemoArgs),
    /// Import files of bars into a series without losing a digit.
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
    /// Run a SQL statement.
    Sql(Box<sql::SqlArgs>),
    /// Read rows of a series into a file.
    Export(read::ExportArgs),
    /// Register, list and drop kinds of series.
    Kind(kind::KindArgs),
    /// Create, list and drop named snapshots of the whole store.
    Snapshot(snapshot::SnapshotArgs),
    /// Register datasets: immutable, versioned sets of series under a snapshot.
    Dataset(dataset::DatasetArgs),
    /// Register how features are computed, and from which inputs.
    Feature(definition::DefinitionArgs),
    /// Register how factors are computed, and from which inputs.
    Factor(definition::DefinitionArgs),
    /// Print the contents of data files.
    Inspect(inspect::InspectArgs),
    /// Administer a store.
    Admin(admin::AdminArgs),
    /// Print which intervals of a series have rows, and the gaps.
    Coverage(coverage::CoverageArgs),
    /// List the chunk files that contain exactly the rows of a series, to read them without FastK. Exit status 1 when
    /// they contain other rows or not all of them.
    Files(files::FilesArgs),
    /// The JSON commands of the fastk_bridge contract 0.1.0-rc.1, for programs that call FastK as a subprocess.
    Bridge(Box<bridge::BridgeArgs>),
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error),
    };
    match run(cli.command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            print::error(&error);
            ExitCode::from(error.code().exit())
        }
    }
}

/// Prints what is wrong with the arguments, or the requested help. Programs that call the bridge read standard output
/// only.
fn usage_error(error: &clap::Error) -> ExitCode {
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

/// All commands as they are typed, such as `query` or `admin health`.
pub fn commands() -> Vec<String> {
    let mut out = Vec::new();
    for command in Cli::command().get_subcommands() {
        let mut nested = command.get_subcommands().peekable();
        if nested.peek().is_none() {
            out.push(command.get_name().to_string());
        }
        out.extend(nested.map(|inner| format!("{} {}", command.get_name(), inner.get_name())));
    }
    out
}

fn run(command: Command) -> Result<u8> {
    if !matches!(command, Command::Serve(_) | Command::Demo(_)) {
        log::init(&log::level("warn"), crate::config::LogFormat::Text)?;
    }
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Import(args) => import::run(*args),
        Command::Register(args) => register::run(args),
        Command::Write(args) => write::write(args),
        Command::Delete(args) => write::delete(args),
        Command::Drop(args) => write::drop(args),
        Command::Query(args) => read::query(args),
        Command::Sql(args) => sql::run(*args),
        Command::Export(args) => read::export(args),
        Command::Kind(args) => kind::run(args),
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
    fn the_flags_of_every_command_are_consistent() {
        Cli::command().debug_assert();
    }
}
