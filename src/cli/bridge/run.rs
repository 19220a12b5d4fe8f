//! Runs a command of the contract and prints its result.

use clap::Subcommand;
use serde::Serialize;

use super::args::{
    BridgeQueryArgs, IndicatorArgs, KlineArgs, ReadIndicatorArgs, ReadKlinesArgs, ReadScalarsArgs, ScalarArgs,
    WriteIndicatorArgs, WriteKlinesArgs, WriteScalarsArgs,
};
use super::contract::{BridgeError, BridgeFailure};
use super::{klines, scalars};
use crate::cli::print;
use crate::error::{Error, ErrorCode, Result};

#[derive(Debug, clap::Args)]
pub struct BridgeArgs {
    #[command(subcommand)]
    command: BridgeCommand,
}

#[derive(Debug, Subcommand)]
enum BridgeCommand {
    /// Read bars of a closed range.
    ReadKlineRange(ReadKlinesArgs),
    /// Write bars; registers a missing series.
    WriteKlineRange(WriteKlinesArgs),
    /// Report the stored data of a kline series by month.
    KlineInventory(KlineArgs),
    /// Read values of an indicator in a closed range.
    ReadIndicatorRange(ReadIndicatorArgs),
    /// Write values of an indicator; registers a missing series.
    WriteIndicatorRange(WriteIndicatorArgs),
    /// Report the stored data of an indicator by month.
    IndicatorInventory(IndicatorArgs),
    /// Read values of a scalar series in a closed range.
    ReadScalarRange(ReadScalarsArgs),
    /// Write values of a scalar series; registers a missing series.
    WriteScalarRange(WriteScalarsArgs),
    /// Find rows of a scalar series in a closed range whose value matches.
    QueryScalarPredicate(BridgeQueryArgs),
    /// Report the stored data of a scalar series by month.
    ScalarInventory(ScalarArgs),
}

/// Runs one of the commands and prints its result or failure to standard output. Returns the status of the error table.
pub fn run(args: BridgeArgs) -> Result<u8> {
    let result = match args.command {
        BridgeCommand::ReadKlineRange(args) => klines::read(&args.series, args.range).and_then(|reply| line(&reply)),
        BridgeCommand::WriteKlineRange(args) => klines::write(&args.series, &args.input).and_then(|reply| line(&reply)),
        BridgeCommand::KlineInventory(args) => klines::inventory(&args).and_then(|reply| line(&reply)),
        BridgeCommand::ReadIndicatorRange(args) => {
            scalars::read_indicator(&args.series.scalar(), args.range).and_then(|reply| line(&reply))
        }
        BridgeCommand::WriteIndicatorRange(args) => {
            scalars::write(&args.series.scalar(), &args.input).and_then(|reply| line(&reply))
        }
        BridgeCommand::IndicatorInventory(args) => scalars::inventory(&args.scalar()).and_then(|reply| line(&reply)),
        BridgeCommand::ReadScalarRange(args) => scalars::read(&args.series, args.range).and_then(|reply| line(&reply)),
        BridgeCommand::WriteScalarRange(args) => {
            scalars::write(&args.series, &args.input).and_then(|reply| line(&reply))
        }
        BridgeCommand::QueryScalarPredicate(args) => {
            scalars::query(&args.series, args.range, &args.predicate).and_then(|reply| line(&reply))
        }
        BridgeCommand::ScalarInventory(args) => scalars::inventory(&args).and_then(|reply| line(&reply)),
    };
    match result {
        Ok(text) => print::out(&text).map(|()| 0),
        Err(error) => {
            print::error(&error);
            fail(error.code(), &message(&error))
        }
    }
}

/// Prints a failure to standard output; returns its exit status.
pub fn fail(code: ErrorCode, message: &str) -> Result<u8> {
    let error = BridgeError { code: code.name().into(), message: message.into() };
    print::out(&line(&BridgeFailure { ok: false, error })?)?;
    Ok(code.exit())
}

/// The error in one sentence, with the first invalid row unless the sentence names it.
fn message(error: &Error) -> String {
    let mut text = error.detail().to_string();
    if let Some(row) = error.rows().first().filter(|row| !error.detail().contains(&row.message)) {
        text.push_str(&format!("; record {}, {}: {} ({})", row.row, row.field, row.message, row.reason));
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("; {hint}"));
    }
    text
}

fn line<T: Serialize>(value: &T) -> Result<String> {
    let mut text = serde_json::to_string(value).map_err(|error| Error::internal(format!("reply as JSON: {error}")))?;
    text.push('\n');
    Ok(text)
}
