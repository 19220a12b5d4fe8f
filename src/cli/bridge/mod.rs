//! `fastk bridge`: the ten JSON commands of the fastk_bridge contract 0.1.0-rc.1, for programs that call FastK as a
//! subprocess.
//!
//! Invariants:
//! - Standard output is one JSON object on one line: the result, or `{"ok":false,"error":{…}}` with a non-zero exit
//!   status. All other text goes to standard error.
//! - Numbers are scaled integers and never pass through a double.
//! - The same call prints the same bytes whether it opens the store or goes through the server that owns it.

pub mod contract;
mod klines;
mod predicate;
mod rows;
mod scalars;
mod schemas;
mod series;

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;

use super::print;
use super::target::TargetArgs;
use crate::error::{Error, ErrorCode, Result};
use contract::{BridgeError, BridgeFailure};
use predicate::PredicateArgs;

pub use schemas::schemas;

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

#[derive(Debug, clap::Args)]
struct KlineArgs {
    #[arg(long)]
    symbol: String,
    /// Such as 1m or 4h.
    #[arg(long)]
    timeframe: String,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, clap::Args)]
struct ScalarArgs {
    #[command(flatten)]
    base: KlineArgs,
    #[arg(long)]
    category: String,
    #[arg(long)]
    name: String,
}

#[derive(Debug, clap::Args)]
struct IndicatorArgs {
    #[command(flatten)]
    base: KlineArgs,
    /// Name of the scalar series in the category `indicator`.
    #[arg(long)]
    indicator_name: String,
}

/// A closed range in milliseconds since the epoch, UTC.
#[derive(Clone, Copy, Debug, clap::Args)]
struct RangeArgs {
    /// First timestamp, in milliseconds since the epoch.
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    start_ts: i64,
    /// Last timestamp, in milliseconds since the epoch, inclusive.
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    end_ts: i64,
}

#[derive(Debug, clap::Args)]
struct InputArgs {
    /// File with the rows as JSON; `-` or no file reads standard input.
    #[arg(long, value_name = "FILE")]
    input_json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ReadKlinesArgs {
    #[command(flatten)]
    series: KlineArgs,
    #[command(flatten)]
    range: RangeArgs,
}

#[derive(Debug, clap::Args)]
struct WriteKlinesArgs {
    #[command(flatten)]
    series: KlineArgs,
    #[command(flatten)]
    input: InputArgs,
}

#[derive(Debug, clap::Args)]
struct ReadIndicatorArgs {
    #[command(flatten)]
    series: IndicatorArgs,
    #[command(flatten)]
    range: RangeArgs,
}

#[derive(Debug, clap::Args)]
struct WriteIndicatorArgs {
    #[command(flatten)]
    series: IndicatorArgs,
    #[command(flatten)]
    input: InputArgs,
}

#[derive(Debug, clap::Args)]
struct ReadScalarsArgs {
    #[command(flatten)]
    series: ScalarArgs,
    #[command(flatten)]
    range: RangeArgs,
}

#[derive(Debug, clap::Args)]
struct WriteScalarsArgs {
    #[command(flatten)]
    series: ScalarArgs,
    #[command(flatten)]
    input: InputArgs,
}

#[derive(Debug, clap::Args)]
struct BridgeQueryArgs {
    #[command(flatten)]
    series: ScalarArgs,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    predicate: PredicateArgs,
}

impl IndicatorArgs {
    /// The scalar series of an indicator.
    fn scalar(self) -> ScalarArgs {
        ScalarArgs { base: self.base, category: scalars::INDICATOR.into(), name: self.indicator_name }
    }
}

impl RangeArgs {
    fn check(self) -> Result<Self> {
        if self.start_ts > self.end_ts {
            return Err(Error::invalid(format!("--start-ts {} lies after --end-ts {}", self.start_ts, self.end_ts))
                .with_hint("ranges are closed: start <= end"));
        }
        Ok(self)
    }
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
    let mut text = serde_json::to_string(value).map_err(|error| Error::internal(format!("answer as JSON: {error}")))?;
    text.push('\n');
    Ok(text)
}
