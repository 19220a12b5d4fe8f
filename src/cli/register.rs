//! `fastk register`: a key and flags, or a registration as JSON.

use std::path::PathBuf;

use super::print;
use super::target::{CommandTarget, TargetArgs};
use crate::error::{Error, Result};
use crate::service::operations::Register;
use crate::types::key::KLINE;
use crate::types::schema::ColumnSpec;
use crate::types::{MergeRule, SeriesKey, SeriesSpec, TimeUnit};

#[derive(Debug, clap::Args)]
pub struct RegisterArgs {
    /// kline/{symbol}/{timeframe}, scalar/{category}/{symbol}/{timeframe}/{name}, or another kind and its words, such as trade/{symbol}/{channel}.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    key: Option<String>,
    /// Registration as JSON, like the body of POST /v1/series; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Digits of open, high, low and close, or of all prices of market events [default: float64].
    #[arg(long, value_name = "N")]
    price_digits: Option<u8>,
    /// Digits of volume, or of all quantities of market events [default: float64].
    #[arg(long, value_name = "N")]
    volume_digits: Option<u8>,
    /// Digits of the value of a scalar [default: float64].
    #[arg(long, value_name = "N")]
    value_digits: Option<u8>,
    /// Field that tells rows of one timestamp apart, of market events: trade_id or seq [default: all rows are kept].
    #[arg(long, value_name = "FIELD")]
    dedup: Option<String>,
    /// A further column: NAME:TYPE[:MERGE], where TYPE is a number of digits, float64 or int64 and MERGE is sum, min, max or last.
    #[arg(long, value_name = "COLUMN")]
    extra: Vec<String>,
    /// Unit of timestamps: s, ms, us or ns [default: ms, or that of the kind].
    #[arg(long)]
    unit: Option<String>,
    /// auto, hour, day, month, year or all [default: that of the kind].
    #[arg(long)]
    partition: Option<String>,
    /// Length of an interval in milliseconds, for timeframes that do not define it.
    #[arg(long, value_name = "MS")]
    interval_ms: Option<i64>,
    /// A timestamp at which a bar starts.
    #[arg(long, value_name = "TS", allow_negative_numbers = true)]
    origin: Option<i64>,
    /// Text for people.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Registers the series.
pub fn run(args: RegisterArgs) -> Result<u8> {
    let spec = match (&args.file, &args.key) {
        (Some(path), _) => {
            let bytes = super::write::read_input(Some(path))?;
            serde_json::from_slice(&bytes)
                .map_err(|error| Error::invalid(format!("registration in {}: {error}", path.display())))?
        }
        (None, Some(key)) => spec(&args, &SeriesKey::parse(key)?)?,
        (None, None) => return Err(Error::invalid("a key or --file is missing")),
    };
    let reply = CommandTarget::open(&args.target, true)?.run::<Register>(spec)?;
    print::reply(&reply, args.json)?;
    Ok(0)
}

fn spec(args: &RegisterArgs, key: &SeriesKey) -> Result<SeriesSpec> {
    let mut spec = SeriesSpec::of_key(key);
    if let (KLINE, Some(_)) = (key.kind(), args.value_digits) {
        return Err(Error::invalid("--value-digits is for scalars").with_hint("a kline takes --price-digits"));
    }
    spec.price_digits = args.price_digits;
    spec.volume_digits = args.volume_digits;
    spec.dedup = args.dedup.clone();
    spec.value =
        args.value_digits.map(|digits| ColumnSpec { name: None, kind: None, digits: Some(digits), merge: None });
    spec.extra_columns = args.extra.iter().map(|text| extra_column(text)).collect::<Result<_>>()?;
    spec.unit = args.unit.as_deref().map(|unit| parse::<TimeUnit>("unit", unit)).transpose()?;
    spec.partition = args.partition.clone();
    spec.interval_ms = args.interval_ms;
    spec.origin = args.origin;
    spec.description = args.description.clone();
    Ok(spec)
}

fn extra_column(text: &str) -> Result<ColumnSpec> {
    let mut parts = text.split(':');
    let name = parts.next().filter(|name| !name.is_empty());
    let (kind, merge, rest) = (parts.next(), parts.next(), parts.next());
    if name.is_none() || rest.is_some() {
        return Err(Error::invalid(format!("extra column {text:?} is not NAME:TYPE[:MERGE]")));
    }
    let digits = kind.and_then(|kind| kind.parse::<u8>().ok());
    Ok(ColumnSpec {
        name: name.map(Into::into),
        kind: kind.filter(|_| digits.is_none()).map(Into::into),
        digits,
        merge: merge.map(|merge| parse::<MergeRule>("merge", merge)).transpose()?,
    })
}

/// Parses a value of an enumeration.
fn parse<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_value(text.into()).map_err(|error| Error::invalid(format!("{what} {text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_columns_are_parsed() {
        let column = extra_column("quote_volume:4:sum").unwrap();
        assert_eq!((column.digits, column.merge), (Some(4), Some(MergeRule::Sum)));
        let column = extra_column("trades:int64").unwrap();
        assert_eq!((column.kind.as_deref(), column.digits), (Some("int64"), None));
        for bad in ["", ":4", "a:4:sum:x", "a:4:median"] {
            assert!(extra_column(bad).is_err(), "{bad:?}");
        }
    }
}
