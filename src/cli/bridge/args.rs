//! The flags of the commands of `fastk bridge`.

use std::path::PathBuf;

use super::predicate::PredicateArgs;
use crate::cli::target::TargetArgs;
use crate::error::{Error, Result};

/// Category of indicators.
pub const INDICATOR: &str = "indicator";

#[derive(Debug, clap::Args)]
pub struct KlineArgs {
    #[arg(long)]
    pub symbol: String,
    /// Such as 1m or 4h.
    #[arg(long)]
    pub timeframe: String,
    #[command(flatten)]
    pub target: TargetArgs,
}

#[derive(Debug, clap::Args)]
pub struct ScalarArgs {
    #[command(flatten)]
    pub base: KlineArgs,
    #[arg(long)]
    pub category: String,
    #[arg(long)]
    pub name: String,
}

#[derive(Debug, clap::Args)]
pub struct IndicatorArgs {
    #[command(flatten)]
    pub base: KlineArgs,
    /// Name of the scalar series in the category `indicator`.
    #[arg(long)]
    pub indicator_name: String,
}

/// A closed range in milliseconds since the epoch, UTC.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct RangeArgs {
    /// First timestamp, in milliseconds since the epoch.
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    pub start_ts: i64,
    /// Last timestamp, in milliseconds since the epoch, inclusive.
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    pub end_ts: i64,
}

#[derive(Debug, clap::Args)]
pub struct InputArgs {
    /// File with the rows as JSON; `-` or no file reads standard input.
    #[arg(long, value_name = "FILE")]
    pub input_json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct ReadKlinesArgs {
    #[command(flatten)]
    pub series: KlineArgs,
    #[command(flatten)]
    pub range: RangeArgs,
}

#[derive(Debug, clap::Args)]
pub struct WriteKlinesArgs {
    #[command(flatten)]
    pub series: KlineArgs,
    #[command(flatten)]
    pub input: InputArgs,
}

#[derive(Debug, clap::Args)]
pub struct ReadIndicatorArgs {
    #[command(flatten)]
    pub series: IndicatorArgs,
    #[command(flatten)]
    pub range: RangeArgs,
}

#[derive(Debug, clap::Args)]
pub struct WriteIndicatorArgs {
    #[command(flatten)]
    pub series: IndicatorArgs,
    #[command(flatten)]
    pub input: InputArgs,
}

#[derive(Debug, clap::Args)]
pub struct ReadScalarsArgs {
    #[command(flatten)]
    pub series: ScalarArgs,
    #[command(flatten)]
    pub range: RangeArgs,
}

#[derive(Debug, clap::Args)]
pub struct WriteScalarsArgs {
    #[command(flatten)]
    pub series: ScalarArgs,
    #[command(flatten)]
    pub input: InputArgs,
}

#[derive(Debug, clap::Args)]
pub struct BridgeQueryArgs {
    #[command(flatten)]
    pub series: ScalarArgs,
    #[command(flatten)]
    pub range: RangeArgs,
    #[command(flatten)]
    pub predicate: PredicateArgs,
}

impl IndicatorArgs {
    /// The scalar series of an indicator.
    pub fn scalar(self) -> ScalarArgs {
        ScalarArgs { base: self.base, category: INDICATOR.into(), name: self.indicator_name }
    }
}

impl RangeArgs {
    pub fn check(self) -> Result<Self> {
        if self.start_ts > self.end_ts {
            return Err(Error::invalid(format!("--start-ts {} is after --end-ts {}", self.start_ts, self.end_ts))
                .with_hint("ranges are closed: start <= end"));
        }
        Ok(self)
    }
}
