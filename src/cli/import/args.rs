//! The flags of `fastk import`, raw ([`ImportArgs`]) and validated ([`ImportSettings`]).
//!
//! No file is read here: what depends on the input is resolved when its header is known.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::error::{Error, Result};
use crate::ingest::source::{EpochUnit, NumberForms, parse_zone};
use crate::ingest::{DecodeOptions, GridRule, RowRules};
use crate::service::RowMode;
use crate::types::number::{DIGITS_MAX, parse_f64};
use crate::types::{Rounding, SeriesKey};

use super::super::target::TargetArgs;

/// `fastk import FILE… --series KEY (--root DIR | --server URL)`
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArgs {
    /// CSV, JSON arrays, NDJSON, Parquet or Arrow/Feather files, plain, gzip or zstd; the format is detected from the
    /// content. `-` reads standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Series to import into, such as kline/BTCUSDT/1m; registered if new
    #[arg(long, value_name = "KEY")]
    pub series: String,
    #[command(flatten)]
    pub target: TargetArgs,
    /// Source column of each column, by name or zero-based position: ts=open_time,open=1; ts=0+1 joins two with a space
    #[arg(long, value_name = "COLUMN=SOURCE,…", value_delimiter = ',')]
    pub map: Vec<String>,
    /// A constant for a column the source lacks, such as volume=0
    #[arg(long, value_name = "COLUMN=NUMBER,…", value_delimiter = ',', allow_hyphen_values = true)]
    pub set: Vec<String>,
    /// Treat the first row as data, not as a header
    #[arg(long)]
    pub no_header: bool,
    /// Field separator of CSV: one character, or `tab` [default: detected]
    #[arg(long, value_name = "CHAR")]
    pub delimiter: Option<String>,
    /// Unit of epoch times [default: by their magnitude]
    #[arg(long, value_name = "UNIT", value_parser = epoch_units())]
    pub time_unit: Option<EpochUnit>,
    /// strftime format of textual times, such as "%d/%m/%Y %H:%M"
    #[arg(long, value_name = "FORMAT")]
    pub time_format: Option<String>,
    /// Zone of textual times without an offset: an IANA name or a fixed offset such as -05:00
    #[arg(long, value_name = "ZONE", default_value = "UTC", allow_hyphen_values = true)]
    pub time_zone: String,
    /// Date of times without a date: YYYY-MM-DD, or `name` for the date in the name of each file
    #[arg(long, value_name = "DATE|name")]
    pub base_date: Option<String>,
    /// Thousands separator in numbers such as 1,234.56: `,`, `'` or `_`; without this, such numbers are invalid
    #[arg(long, value_name = "CHAR")]
    pub thousands: Option<String>,
    /// Accept the suffixes K, M, B and T of numbers such as 193.34M; without this, such numbers are invalid
    #[arg(long)]
    pub magnitudes: bool,
    /// Digits of open, high, low and close [default: those of the source and some headroom]
    #[arg(long, value_name = "N")]
    pub price_digits: Option<u8>,
    /// Digits of volume [default: those of the source and some headroom]
    #[arg(long, value_name = "N")]
    pub volume_digits: Option<u8>,
    /// Digits of the value of a scalar series [default: those of the source and some headroom]
    #[arg(long, value_name = "N")]
    pub value_digits: Option<u8>,
    /// Extra columns to import, each NAME or NAME:digits
    #[arg(long, value_name = "NAME[:DIGITS],…", value_delimiter = ',')]
    pub extra: Vec<String>,
    /// How to handle numbers with more digits than their column
    #[arg(long, value_enum, default_value = "exact")]
    pub rounding: RoundingFlag,
    /// How rows are combined with stored rows of the same timestamp
    #[arg(long, value_enum, default_value = "upsert")]
    pub mode: ModeFlag,
    /// Whether open, high, low, close and volume must be consistent
    #[arg(long, value_enum, default_value = "ohlc")]
    pub validate: ValidateFlag,
    /// Widen columns of a registered series, or of a new one of a registered kind, to the digits, integers and enum values
    /// of the files
    #[arg(long)]
    pub widen: bool,
    /// How to handle invalid rows: refuse the whole import, or skip them
    #[arg(long, value_enum, default_value = "reject")]
    pub on_invalid: OnInvalid,
    /// How to handle rows of the files that repeat a timestamp with different values; identical repeats are stored
    /// once
    #[arg(long, value_enum, default_value = "reject")]
    pub on_duplicate: OnDuplicate,
    /// How to handle rows whose time does not start an interval of the timeframe
    #[arg(long, value_enum, default_value = "reject")]
    pub off_grid: OffGrid,
    /// Read and check every row, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// `--rounding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RoundingFlag {
    /// The row is invalid
    Exact,
    /// Round half to even on the decimal form; rounded numbers are counted per column and listed
    Nearest,
}

impl From<RoundingFlag> for Rounding {
    fn from(flag: RoundingFlag) -> Self {
        match flag {
            RoundingFlag::Exact => Rounding::Exact,
            RoundingFlag::Nearest => Rounding::Nearest,
        }
    }
}

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeFlag {
    /// A row replaces the stored row of the same timestamp
    Upsert,
    /// The write is refused if a row of the same timestamp is stored
    Insert,
    /// Every row must be later than the stored rows
    Append,
}

impl From<ModeFlag> for RowMode {
    fn from(flag: ModeFlag) -> Self {
        match flag {
            ModeFlag::Upsert => RowMode::Upsert,
            ModeFlag::Insert => RowMode::Insert,
            ModeFlag::Append => RowMode::Append,
        }
    }
}

/// `--validate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ValidateFlag {
    /// high ≥ open, close, low; low ≤ open, close, high; volume ≥ 0; else the row is invalid
    Ohlc,
    /// Inconsistent rows are imported and reported
    None,
}

impl From<ValidateFlag> for RowRules {
    fn from(flag: ValidateFlag) -> Self {
        match flag {
            ValidateFlag::Ohlc => RowRules::Ohlc,
            ValidateFlag::None => RowRules::None,
        }
    }
}

/// `--on-invalid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnInvalid {
    Reject,
    Skip,
}

/// `--on-duplicate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnDuplicate {
    /// Refuse the whole import
    Reject,
    /// Store the last row of each timestamp
    Last,
    /// Store no row of a timestamp whose rows differ
    Identical,
}

/// `--off-grid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OffGrid {
    /// The row is invalid
    Reject,
    /// The row is stored and counted
    Allow,
}

impl From<OffGrid> for GridRule {
    fn from(flag: OffGrid) -> Self {
        match flag {
            OffGrid::Reject => GridRule::Reject,
            OffGrid::Allow => GridRule::Allow,
        }
    }
}

/// The units of `--time-unit`.
fn epoch_units() -> impl TypedValueParser<Value = EpochUnit> {
    PossibleValuesParser::new(EpochUnit::ALL.map(EpochUnit::name))
        .try_map(|name| EpochUnit::from_name(&name).ok_or("not a unit"))
}

/// The date for times of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseDate {
    Given(jiff::civil::Date),
    /// The first date in the name of the file, `YYYYMMDD` or `YYYY-MM-DD`.
    FileName,
}

/// An extra column to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraColumn {
    pub name: String,
    pub digits: Option<u8>,
}

/// Flags after validation.
#[derive(Clone, Debug)]
pub struct ImportSettings {
    pub key: SeriesKey,
    pub files: Vec<PathBuf>,
    /// Column of the series → name or position in the source, as written.
    pub map: Vec<(String, String)>,
    /// Column of the series → constant, as written.
    pub set: Vec<(String, String)>,
    pub no_header: bool,
    pub delimiter: Option<u8>,
    pub time_unit: Option<EpochUnit>,
    pub time_format: Option<String>,
    /// The zone of textual times without an offset.
    pub zone: jiff::tz::TimeZone,
    pub base_date: Option<BaseDate>,
    pub number_forms: NumberForms,
    pub price_digits: Option<u8>,
    pub volume_digits: Option<u8>,
    pub value_digits: Option<u8>,
    pub extra: Vec<ExtraColumn>,
    /// The rules of the validation.
    pub rules: DecodeOptions,
    pub mode: RowMode,
    /// Whether columns of a registered series may be widened.
    pub widen: bool,
    pub on_invalid: OnInvalid,
    pub on_duplicate: OnDuplicate,
    pub dry_run: bool,
}

impl ImportSettings {
    /// Validates what can be validated without the files.
    ///
    /// # Errors
    /// `invalid_argument`, naming the flag.
    pub fn of(args: &ImportArgs) -> Result<Self> {
        let extra = args.extra.iter().map(|text| parse_extra(text)).collect::<Result<Vec<_>>>()?;
        let map = pairs("--map", &args.map)?;
        let set = pairs("--set", &args.set)?;
        for (name, number) in &set {
            if name == "ts" {
                return Err(Error::invalid("--set cannot give ts: every row needs its own time"));
            }
            if parse_f64(number.as_bytes()).is_err() {
                return Err(Error::invalid(format!("--set {name}={number}: {number:?} is not a number")));
            }
            if map.iter().any(|(mapped, _)| mapped == name) {
                return Err(Error::invalid(format!("column {name} is in both --map and --set")));
            }
        }
        for (flag, digits) in [
            ("--price-digits", args.price_digits),
            ("--volume-digits", args.volume_digits),
            ("--value-digits", args.value_digits),
        ] {
            check_digits(flag, digits)?;
        }
        let mut files: Vec<PathBuf> = Vec::new();
        for file in &args.files {
            if files.contains(file) {
                return Err(Error::invalid(format!("{} is listed twice", file.display())));
            }
            files.push(file.clone());
        }
        Ok(Self {
            key: SeriesKey::parse(&args.series)?,
            files,
            map,
            set,
            no_header: args.no_header,
            delimiter: args.delimiter.as_deref().map(parse_delimiter).transpose()?,
            time_unit: args.time_unit,
            time_format: args.time_format.clone(),
            zone: parse_zone(&args.time_zone)?,
            base_date: args.base_date.as_deref().map(parse_base_date).transpose()?,
            number_forms: NumberForms {
                thousands: args.thousands.as_deref().map(parse_thousands).transpose()?,
                magnitudes: args.magnitudes,
            },
            price_digits: args.price_digits,
            volume_digits: args.volume_digits,
            value_digits: args.value_digits,
            extra,
            rules: DecodeOptions {
                rounding: args.rounding.into(),
                validate: args.validate.into(),
                grid: args.off_grid.into(),
                ..DecodeOptions::default()
            },
            mode: args.mode.into(),
            on_invalid: args.on_invalid,
            widen: args.widen,
            on_duplicate: args.on_duplicate,
            dry_run: args.dry_run,
        })
    }
}

fn check_digits(flag: &str, digits: Option<u8>) -> Result<()> {
    match digits {
        Some(digits) if digits > DIGITS_MAX => {
            Err(Error::invalid(format!("{flag}: {digits} digits are more than {DIGITS_MAX}")))
        }
        _ => Ok(()),
    }
}

/// `name=value` pairs, each name once.
fn pairs(flag: &str, entries: &[String]) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for entry in entries {
        let (name, value) = entry
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()))
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or_else(|| Error::invalid(format!("{flag} {entry:?} is not COLUMN=…")))?;
        if found.iter().any(|(seen, _)| seen == name) {
            return Err(Error::invalid(format!("{flag} names {name} twice")));
        }
        found.push((name.into(), value.into()));
    }
    Ok(found)
}

fn parse_extra(text: &str) -> Result<ExtraColumn> {
    let (name, digits) = match text.split_once(':') {
        None => (text, None),
        Some((name, digits)) => {
            let digits = digits
                .parse()
                .map_err(|_| Error::invalid(format!("--extra {text}: {digits:?} is not a number of digits")))?;
            (name, Some(digits))
        }
    };
    check_digits(&format!("--extra {name}"), digits)?;
    Ok(ExtraColumn { name: name.trim().into(), digits })
}

fn parse_delimiter(text: &str) -> Result<u8> {
    match text.as_bytes() {
        _ if text.eq_ignore_ascii_case("tab") || text == "\\t" => Ok(b'\t'),
        [byte] if !byte.is_ascii_alphanumeric() && !b"\"\r\n.+-".contains(byte) => Ok(*byte),
        _ => Err(Error::invalid(format!("--delimiter {text:?} is neither one separator character nor tab"))),
    }
}

fn parse_thousands(text: &str) -> Result<u8> {
    match text.as_bytes() {
        [byte @ (b',' | b'\'' | b'_')] => Ok(*byte),
        _ => Err(Error::invalid(format!("--thousands {text:?} is none of , ' and _"))),
    }
}

fn parse_base_date(text: &str) -> Result<BaseDate> {
    if text == "name" {
        return Ok(BaseDate::FileName);
    }
    text.parse().map(BaseDate::Given).map_err(|_| {
        Error::invalid(format!("--base-date {text:?} is not a date"))
            .with_hint("YYYY-MM-DD, or `name` for the date in the name of each file")
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct TestCli {
        #[command(flatten)]
        import: ImportArgs,
    }

    /// The flags of a command line as a shell without quotes would split it.
    pub fn args(line: &str) -> ImportArgs {
        let words = std::iter::once("import").chain(line.split_whitespace());
        TestCli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).import
    }

    #[test]
    fn flags_are_read_as_documented() {
        let line = "a.csv b.csv --series kline/X/1m --root /r --map ts=0+1,open=2 --set volume=-0.5,high=1 --delimiter ; \
                    --time-zone -05:00 --extra quote_volume:4,trades";
        let settings = ImportSettings::of(&args(line)).unwrap();
        assert_eq!(settings.map, [("ts".into(), "0+1".into()), ("open".into(), "2".into())]);
        assert_eq!(settings.set.first().unwrap(), &("volume".to_string(), "-0.5".to_string()));
        assert_eq!(settings.delimiter, Some(b';'));
        assert_eq!(settings.extra.first().unwrap(), &ExtraColumn { name: "quote_volume".into(), digits: Some(4) });
        assert_eq!(settings.extra.last().unwrap().digits, None);
        assert_eq!((settings.on_duplicate, settings.rules), (OnDuplicate::Reject, DecodeOptions::default()));
        let line = "- --series kline/X/1m --root r --base-date 2013-10-07 --thousands ' --magnitudes";
        let settings = ImportSettings::of(&args(line)).unwrap();
        assert_eq!(settings.base_date, Some(BaseDate::Given(jiff::civil::date(2013, 10, 7))));
        assert_eq!(settings.number_forms, NumberForms { thousands: Some(b'\''), magnitudes: true });
    }

    #[test]
    fn every_flag_is_documented_and_no_other() {
        let page = include_str!("../../../docs/import.md");
        let section = page.split("## Flags").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `--"));
        let mut documented: Vec<&str> = rows.map(|row| row.split(['`', ' ']).next().unwrap()).collect();
        let command = <TestCli as clap::CommandFactory>::command();
        let mut known: Vec<&str> = command.get_arguments().filter_map(|flag| flag.get_long()).collect();
        documented.sort_unstable();
        known.sort_unstable();
        known.retain(|flag| !["help", "version"].contains(flag));
        assert_eq!(documented, known);
    }

    #[test]
    fn contradicting_flags_are_refused_by_name() {
        for (flags, word) in [
            ("--map open", "--map"),
            ("--map open=1,open=2", "twice"),
            ("--map volume=1 --set volume=0", "both"),
            ("--set volume=none", "not a number"),
            ("--set ts=0", "ts"),
            ("--extra trades:x", "--extra"),
            ("--extra trades:19", "19"),
            ("--price-digits 19", "--price-digits"),
            ("--delimiter ab", "--delimiter"),
            ("--time-zone Mars/Olympus", "Mars/Olympus"),
            ("--base-date yesterday", "yesterday"),
            ("--thousands .", "--thousands"),
        ] {
            let error = ImportSettings::of(&args(&format!("a.csv --series kline/X/1m --root r {flags}"))).unwrap_err();
            assert_eq!(error.code(), crate::ErrorCode::InvalidArgument);
            assert!(error.detail().contains(word), "{flags}: {error}");
        }
        assert!(ImportSettings::of(&args("a.csv a.csv --series kline/X/1m --root r")).is_err());
    }
}
