//! The source column of each column of the series, and whether a file has a header row.
//!
//! Flags have precedence; other columns are found by name, ignoring case. The order of columns is never used: sources
//! differ in it.

use crate::error::{Error, Result};
use crate::ingest::source::{CellSource, FileLayout, Preview, flags_for, looks_like_time};
use crate::types::kind::{built_in_named, is_preset};
use crate::types::tick_kinds::{NumberGroup, number_group};
use crate::types::{ColumnType, SeriesDef};

use super::args::ImportSettings;

/// Names of the time column, the most reliable first; `Open Time` and `open-time` match `open_time`.
const TIME_NAMES: [&str; 20] = [
    "ts",
    "open_time",
    "opentime",
    "open_time_utc",
    "open_time_ms",
    "timestamp",
    "timestamp_utc",
    "timestamp_ms",
    "timestamp_us",
    "timestamp_ns",
    "utc_timestamp",
    "time",
    "time_utc",
    "date",
    "date_utc",
    "datetime",
    "datetime_utc",
    "utc",
    "unix",
    "unix_timestamp",
];

/// The role of a number column of the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberRole {
    /// Open, high, low, close: one number of digits for all four.
    Price,
    Volume,
    Value,
    Extra,
}

/// A number column of the series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetColumn {
    pub name: String,
    pub role: NumberRole,
    /// Whether its cells can be null, and so its source be absent.
    pub nullable: bool,
    /// Whether its cells are texts, which are kept as they are.
    pub is_text: bool,
    /// Other names of the column in sources.
    aliases: Vec<String>,
}

/// The number columns an import fills, in the order of the registration.
///
/// # Errors
/// `invalid_argument` for an impossible column of `--extra`, `--map` or `--set`.
pub fn targets(settings: &ImportSettings, registered: Option<&SeriesDef>) -> Result<Vec<TargetColumn>> {
    let mut names: Vec<(String, NumberRole)> = match settings.key.name() {
        None => ["open", "high", "low", "close"].map(|name| (name.to_string(), NumberRole::Price)).to_vec(),
        Some(_) => vec![("value".into(), NumberRole::Value)],
    };
    if settings.key.name().is_none() {
        names.push(("volume".into(), NumberRole::Volume));
    }
    match registered {
        Some(def) => {
            names = def
                .columns
                .iter()
                .map(|column| {
                    let of_preset = || names.iter().find(|(name, _)| *name == column.name).map(|(_, role)| *role);
                    let role = match is_preset(def.kind()) || built_in_named(def.kind()).is_none() {
                        true => of_preset(),
                        false => number_group(&column.name).map(|group| match group {
                            NumberGroup::Price => NumberRole::Price,
                            NumberGroup::Quantity => NumberRole::Volume,
                        }),
                    };
                    (column.name.clone(), role.unwrap_or(NumberRole::Extra))
                })
                .collect();
            if let Some(extra) = settings.extra.iter().find(|extra| def.column(&extra.name).is_none()) {
                return Err(Error::invalid(format!("--extra {}: {} has no such column", extra.name, def.key))
                    .with_hint("the columns of a series are fixed by its registration"));
            }
        }
        None => {
            for extra in &settings.extra {
                if names.iter().any(|(name, _)| *name == extra.name) {
                    return Err(Error::invalid(format!("--extra {}: the column exists already", extra.name)));
                }
                names.push((extra.name.clone(), NumberRole::Extra));
            }
        }
    }
    for (flag, pairs) in [("--map", &settings.map), ("--set", &settings.set)] {
        if let Some((name, _)) = pairs.iter().find(|(name, _)| name != "ts" && !names.iter().any(|(n, _)| n == name)) {
            return Err(Error::invalid(format!("{flag} {name}: the series has no such column"))
                .with_hint(format!("columns: ts, {}; more with --extra", comma_list(names.iter().map(|(n, _)| n)))));
        }
    }
    let alias = settings.key.name().map(str::to_string);
    let is_event = built_in_named(settings.key.kind()).is_some_and(|kind| !is_preset(&kind.name));
    Ok(names
        .into_iter()
        .map(|(name, role)| {
            let aliases = match role {
                NumberRole::Value => alias.iter().cloned().collect(),
                _ if is_event => event_aliases(&name).iter().map(|alias| (*alias).to_owned()).collect(),
                _ => Vec::new(),
            };
            let column = registered.and_then(|def| def.columns.iter().find(|column| column.name == name));
            let nullable = column.is_some_and(|column| column.nullable);
            let is_text = column.is_some_and(|column| column.kind == ColumnType::Text);
            TargetColumn { name, role, nullable, is_text, aliases }
        })
        .collect())
}

/// Names that vendors give the fields of the kinds of market events.
fn event_aliases(name: &str) -> &'static [&'static str] {
    match name {
        "qty" => &["quantity", "amount", "size"],
        "trade_id" => &["id", "tradeid"],
        "ts_recv" => &["local_timestamp", "receive_time"],
        "bid_price" => &["bid", "bid_px", "best_bid_price"],
        "bid_qty" => &["bid_size", "bid_amount", "best_bid_qty"],
        "ask_price" => &["ask", "ask_px", "best_ask_price"],
        "ask_qty" => &["ask_size", "ask_amount", "best_ask_qty"],
        "rate" => &["funding_rate", "fundingrate"],
        _ => &[],
    }
}

fn comma_list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// A column of a file that is not imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OmittedColumn {
    /// Header of the column, or `column N`.
    pub name: String,
    /// The flags that import it into a new series; `None` if it does not contain numbers.
    pub kept_by: Option<ExtraColumnFlags>,
}

/// The flags that import a source column as an extra column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraColumnFlags {
    /// Column name for `--extra`.
    pub extra: String,
    /// Zero-based position for `--map`, if the name alone does not find the column.
    pub map: Option<usize>,
}

/// The columns of the file that are not read.
pub fn left_out(layout: &FileLayout, targets: &[TargetColumn], preview: &Preview) -> Vec<OmittedColumn> {
    let used = layout.positions();
    let rows = || preview.rows.iter().skip(usize::from(layout.header));
    let width = rows().map(Vec::len).chain(layout.names.as_ref().map(Vec::len)).max().unwrap_or(0);
    let mut found = Vec::new();
    for at in (0..width).filter(|at| !used.contains(at)) {
        let cells = || rows().filter_map(|row| row.get(at)).filter(|cell| !cell.is_empty());
        let holds_numbers = cells().next().is_some() && cells().all(|cell| is_number(cell) || is_nan(cell));
        let kept_by = holds_numbers.then(|| keep(layout, targets, at));
        if cells().next().is_some() || layout.names.as_ref().is_some_and(|names| at < names.len()) {
            found.push(OmittedColumn { name: layout.source_name(at), kept_by });
        }
    }
    found
}

fn keep(layout: &FileLayout, targets: &[TargetColumn], at: usize) -> ExtraColumnFlags {
    let names = layout.names.iter().flatten();
    let name = layout.names.as_ref().and_then(|names| names.get(at)).map(|name| column_name(name));
    let alone = |name: &String| {
        let begins = name.starts_with(|first: char| first.is_ascii_lowercase()) && name.len() <= 32;
        begins
            && name != "ts"
            && !targets.iter().any(|target| target.name == *name)
            && names.clone().filter(|other| column_name(other) == *name).count() == 1
    };
    match name.filter(alone) {
        Some(extra) => ExtraColumnFlags { extra, map: None },
        None => ExtraColumnFlags { extra: format!("column_{at}"), map: Some(at) },
    }
}

/// Resolves the layout of a file. `file` is its name in messages.
///
/// # Errors
/// `invalid_argument` when a column has no source or more than one.
pub fn resolve(
    settings: &ImportSettings,
    targets: &[TargetColumn],
    preview: &Preview,
    file: &str,
) -> Result<FileLayout> {
    if let Some(names) = &preview.names {
        let rows: Vec<&[String]> = preview.rows.iter().map(Vec::as_slice).collect();
        return LayoutResolver { settings, targets, names: Some(names), rows: &rows, file }.layout(false);
    }
    let rows: Vec<&[String]> = preview.rows.iter().map(Vec::as_slice).collect();
    let Some((first, rest)) = rows.split_first() else {
        return LayoutResolver { settings, targets, names: None, rows: &rows, file }.layout(false);
    };
    let by_position = LayoutResolver { settings, targets, names: None, rows: &rows, file };
    if settings.no_header {
        return by_position.layout(false);
    }
    let positional = by_position.layout(false);
    match positional {
        // Every column is mapped by position: the first row is a header if its number cells are words.
        Ok(mut layout) => {
            let cells: Vec<&String> = layout
                .columns
                .iter()
                .filter_map(|origin| match origin {
                    CellSource::Position(at) => first.get(*at),
                    CellSource::Constant(_) | CellSource::Absent => None,
                })
                .collect();
            let word = |cell: &&String| !cell.is_empty() && !is_number(cell);
            layout.header = !cells.is_empty() && cells.iter().all(word) && !cells.iter().any(|cell| is_nan(cell));
            if layout.header {
                layout.names = Some(first.to_vec());
            }
            Ok(layout)
        }
        // Numbers and times are not column names.
        Err(error) if first.iter().all(|cell| cell.is_empty() || is_number(cell) || looks_like_time(cell)) => {
            Err(error)
        }
        Err(_) => {
            let layout = LayoutResolver { settings, targets, names: Some(first), rows: rest, file }.layout(true)?;
            let width =
                rest.iter().map(|row| row.iter().rposition(|cell| !cell.is_empty()).map_or(0, |at| at + 1)).max();
            if width > Some(first.len()) {
                return Err(Error::invalid(format!(
                    "{file}: the header names {} columns, its rows have {}",
                    first.len(),
                    width.unwrap_or(0)
                ))
                .with_hint("map the columns by position, such as --map ts=0+1,open=2,high=3,low=4,close=5,volume=6"));
            }
            Ok(layout)
        }
    }
}

/// Whether a cell is a number in any form that flags may allow, and so not a name.
fn is_number(cell: &str) -> bool {
    crate::types::number::fraction_digits(cell.as_bytes()).is_some() || flags_for(cell.as_bytes()).is_some()
}

fn is_nan(cell: &str) -> bool {
    ["nan", "inf", "-inf", "null", "none", "na", "n/a"].iter().any(|word| cell.eq_ignore_ascii_case(word))
}

struct LayoutResolver<'a> {
    settings: &'a ImportSettings,
    targets: &'a [TargetColumn],
    names: Option<&'a [String]>,
    /// Data rows.
    rows: &'a [&'a [String]],
    file: &'a str,
}

impl LayoutResolver<'_> {
    fn layout(&self, header: bool) -> Result<FileLayout> {
        let ts = match self.mapped("ts") {
            Some(source) => self.ts_source(source)?,
            None => self.ts_by_name()?,
        };
        let mut columns = Vec::new();
        let mut missing = Vec::new();
        for target in self.targets {
            let constant = self.settings.set.iter().find(|(name, _)| *name == target.name);
            if let Some((_, number)) = constant {
                columns.push(CellSource::Constant(number.clone()));
            } else if let Some(source) = self.mapped(&target.name) {
                columns.push(CellSource::Position(self.position(&target.name, source)?));
            } else {
                match self.by_name(target)? {
                    Some(at) => columns.push(CellSource::Position(at)),
                    None if target.nullable => columns.push(CellSource::Absent),
                    None => missing.push(target),
                }
            }
        }
        if !missing.is_empty() {
            let names = comma_list(missing.iter().map(|target| &target.name));
            return Err(self.no_source(&names, self.hint_for(&missing)));
        }
        Ok(FileLayout { header, ts, columns, names: self.names.map(<[String]>::to_vec) })
    }

    fn mapped(&self, name: &str) -> Option<&str> {
        self.settings.map.iter().find(|(column, _)| column == name).map(|(_, source)| source.as_str())
    }

    /// The error for columns without a source; the hint names the flags for them.
    fn no_source(&self, columns: &str, hint: String) -> Error {
        let has = match self.names {
            Some(names) => {
                format!("its columns are {}", names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", "))
            }
            None => "it has no header".into(),
        };
        let hint = match self.names {
            Some(_) => hint,
            None => "the order of columns without a header is not guessed: --map by zero-based position, such as \
                     --map ts=0,open=1,high=2,low=3,close=4,volume=5"
                .into(),
        };
        Error::invalid(format!("{}: no source for {columns}; {has}", self.file)).with_hint(hint)
    }

    /// The flags for columns that were not found by name.
    fn hint_for(&self, missing: &[&TargetColumn]) -> String {
        let price = |target: &&&TargetColumn| target.role == NumberRole::Price;
        match missing {
            [target] if target.role == NumberRole::Volume => {
                "--set volume=0 for bars without a volume, or --map volume=COLUMN with one of these columns".into()
            }
            _ if missing.iter().filter(price).count() == 4 => {
                "a row of a kline has open, high, low and close: --map open=COLUMN,high=COLUMN,… if these columns hold \
                 them under other names; a single value, such as a price or a rate, is imported into \
                 --series scalar/CATEGORY/SYMBOL/TIMEFRAME/NAME with --map value=COLUMN"
                    .into()
            }
            [target] if target.role == NumberRole::Value => "--map value=COLUMN with one of these columns".into(),
            _ => {
                let maps = missing.iter().map(|target| format!("{}=COLUMN", target.name)).collect::<Vec<_>>().join(",");
                format!("--map {maps} with their source columns; --set COLUMN=NUMBER for a constant")
            }
        }
    }

    /// The flags for the time column: names a column with times, if there is one.
    fn hint_for_ts(&self) -> String {
        let first = |at: usize| self.rows.first().and_then(|row| row.get(at)).map_or("", |cell| cell.as_str());
        let mut names = self.names.into_iter().flatten().enumerate();
        match names.find(|(at, name)| !name.is_empty() && looks_like_time(first(*at))) {
            Some((_, name)) => format!("--map ts={name} uses the times of that column"),
            None => "--map ts=COLUMN names the column of times, --map ts=DATE+TIME two that make one; times of day \
                     alone need --base-date"
                .into(),
        }
    }

    /// The position of a source, which is a name or a number.
    fn position(&self, column: &str, source: &str) -> Result<usize> {
        if let Some(at) = self.find(source)? {
            return Ok(at);
        }
        if let Ok(at) = source.parse::<usize>() {
            let width = self.names.map(<[String]>::len).into_iter().chain(self.rows.iter().map(|row| row.len())).max();
            if at < width.unwrap_or(0) {
                return Ok(at);
            }
            return Err(Error::invalid(format!(
                "{}: --map {column}={source}, but it has {} columns, counted from 0",
                self.file,
                width.unwrap_or(0)
            )));
        }
        let hint = format!("set --map {column}= to one of these names, or a zero-based position");
        Err(self.no_source(&format!("{column}={source}"), hint))
    }

    /// The column with a name: exactly, else ignoring case.
    fn find(&self, name: &str) -> Result<Option<usize>> {
        let Some(names) = self.names else { return Ok(None) };
        for same in [|a: &str, b: &str| a == b, |a: &str, b: &str| a.eq_ignore_ascii_case(b)] {
            let mut hits = names.iter().enumerate().filter(|(_, known)| same(known.trim(), name)).map(|(at, _)| at);
            if let Some(at) = hits.next() {
                if hits.next().is_some() {
                    return Err(Error::invalid(format!("{}: more than one column is called {name:?}", self.file))
                        .with_hint("map it by its zero-based position"));
                }
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn by_name(&self, target: &TargetColumn) -> Result<Option<usize>> {
        for name in std::iter::once(&target.name).chain(&target.aliases) {
            if let Some(at) = self.find(name)? {
                return Ok(Some(at));
            }
        }
        // `adj_close` matches `Adj Close`.
        Ok(self.find_normalized(&target.name).filter(|_| target.role == NumberRole::Extra))
    }

    /// The only column whose header, normalized, is this name.
    fn find_normalized(&self, name: &str) -> Option<usize> {
        let mut hits = self.names?.iter().enumerate().filter(|(_, known)| column_name(known) == name);
        hits.next().filter(|_| hits.next().is_none()).map(|(at, _)| at)
    }

    /// Resolves `ts=a+b`, unless a column has exactly that name.
    fn ts_source(&self, source: &str) -> Result<Vec<usize>> {
        if self.find(source)?.is_some() || !source.contains('+') {
            return Ok(vec![self.position("ts", source)?]);
        }
        source.split('+').map(|part| self.position("ts", part.trim())).collect()
    }

    fn ts_by_name(&self) -> Result<Vec<usize>> {
        let first = |at: usize| self.rows.first().and_then(|row| row.get(at)).map_or("", |cell| cell.as_str());
        // A date and a time of day in two columns.
        if let (Some(date), Some(time)) = (self.find("date")?, self.find("time")?)
            && looks_like_time(first(date))
            && !looks_like_time(first(time))
            && first(time).contains(':')
        {
            return Ok(vec![date, time]);
        }
        for name in TIME_NAMES {
            if let Some(at) = self.find(name)?.or_else(|| self.find_normalized(name)) {
                return Ok(vec![at]);
            }
        }
        let unnamed: Vec<usize> = self
            .names
            .into_iter()
            .flat_map(|names| names.iter().enumerate())
            .filter(|(at, name)| name.trim().is_empty() && looks_like_time(first(*at)))
            .map(|(at, _)| at)
            .collect();
        match unnamed.as_slice() {
            [at] => Ok(vec![*at]),
            _ => Err(self.no_source("ts", self.hint_for_ts())),
        }
    }
}

/// Normalizes a header to a column name: lower case, `_` for other characters between letters and digits.
fn column_name(text: &str) -> String {
    let lower = text.trim().to_ascii_lowercase();
    lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::args::{ImportSettings, tests::args};
    use super::*;

    fn resolved(flags: &str, named: Option<&[&str]>, rows: &[&[&str]]) -> Result<FileLayout> {
        let settings = ImportSettings::of(&args(&format!("f --root r --series kline/X/1m {flags}"))).unwrap();
        let text = |row: &[&str]| row.iter().map(|cell| (*cell).to_string()).collect::<Vec<String>>();
        let preview = Preview { names: named.map(text), rows: rows.iter().map(|row| text(row)).collect() };
        resolve(&settings, &targets(&settings, None)?, &preview, "f")
    }

    fn at(positions: &[usize]) -> Vec<CellSource> {
        positions.iter().map(|at| CellSource::Position(*at)).collect()
    }

    const ROW: &[&str] = &["1640995200000", "1", "3", "0.5", "2", "10"];

    #[test]
    fn headers_are_matched_ignoring_case() {
        let layout = resolved("", None, &[&["DATE", "Volume", "OPEN", "HIGH", "LOW", "CLOSE"], ROW]).unwrap();
        assert_eq!((layout.header, layout.ts.as_slice()), (true, &[0][..]));
        assert_eq!(layout.columns, at(&[2, 3, 4, 5, 1]));
        let names = &["open_time", "date", "open", "high", "low", "close", "volume"];
        assert_eq!(resolved("", Some(names), &[ROW]).unwrap().ts, [0], "open_time has precedence over date");
    }

    #[test]
    fn a_first_row_of_words_is_a_header_and_one_of_numbers_is_not() {
        let map = "--map ts=0,open=1,close=2,high=3,low=4,volume=5";
        assert!(!resolved(map, None, &[ROW, ROW]).unwrap().header);
        assert_eq!(resolved(map, None, &[ROW]).unwrap().columns, at(&[1, 3, 4, 2, 5]));
        let words: &[&str] = &["t", "o", "c", "h", "l", "v"];
        assert!(resolved(map, None, &[words, ROW]).unwrap().header);
        assert!(!resolved(&format!("{map} --no-header"), None, &[words, ROW]).unwrap().header);
        let missing: &[&str] = &["1640995200000", "NaN", "NaN", "NaN", "NaN", ""];
        assert!(!resolved(map, None, &[missing, ROW]).unwrap().header, "a row of missing values is data");
        let bad: &[&str] = &["1640995200000", "x", "1", "1", "1", "1"];
        assert!(!resolved(map, None, &[bad, ROW]).unwrap().header, "one bad cell makes no header");
    }

    #[test]
    fn a_header_with_fewer_columns_than_its_rows_needs_positions() {
        let header: &[&str] = &["Date", "Open", "High", "Low", "Close", "Volume"];
        let row: &[&str] = &["2006-01-02", "09:01:00", "1", "3", "0.5", "2", "10"];
        assert!(resolved("", None, &[header, row]).unwrap_err().hint().unwrap().contains("ts=0+1"));
        let layout = resolved("--map ts=0+1,open=2,high=3,low=4,close=5,volume=6", None, &[header, row]).unwrap();
        assert_eq!((layout.header, layout.ts.as_slice()), (true, &[0, 1][..]));
    }

    #[test]
    fn an_unnamed_column_of_times_is_the_time_column() {
        let header: &[&str] = &["", "Open", "High", "Low", "Close", "Volume"];
        assert_eq!(resolved("", None, &[header, &["2004-08-19", "1", "1", "1", "1", "1"]]).unwrap().ts, [0]);
        let counter: &[&str] = &["0", "1", "1", "1", "1", "1"];
        assert!(resolved("", None, &[header, counter]).is_err(), "a row counter is not a time");
    }

    #[test]
    fn date_and_time_columns_are_comma_list() {
        let header: &[&str] = &["Date", "Time", "Open", "High", "Low", "Close", "Volume"];
        let row: &[&str] = &["2006-01-02", "09:01:00", "1", "3", "0.5", "2", "10"];
        assert_eq!(resolved("", None, &[header, row]).unwrap().ts, [0, 1]);
        assert_eq!(resolved("--map ts=date+Time", None, &[header, row]).unwrap().ts, [0, 1]);
    }

    #[test]
    fn constants_and_extra_columns_fill_the_rest() {
        let header: &[&str] = &["timestamp", "open", "high", "low", "close", "Adj Close", "n"];
        let row: &[&str] = &["2012-02-01", "1", "1", "1", "1", "2", "3"];
        let flags = "--set volume=0 --extra adj_close:6,trades --map trades=n";
        let layout = resolved(flags, None, &[header, row]).unwrap();
        assert_eq!(
            layout.columns.get(4..).unwrap(),
            [CellSource::Constant("0".into()), CellSource::Position(5), CellSource::Position(6)]
        );
        assert_eq!(layout.positions(), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn time_columns_are_found_in_every_spelling() {
        for name in ["timestamp_utc", "Open Time", "open-time", "openTime", "Datetime UTC", "unix", "timestamp_ms"] {
            let header: &[&str] = &["open", "high", "low", "close", "volume", name];
            let row: &[&str] = &["1", "3", "0.5", "2", "10", "1640995200000"];
            assert_eq!(resolved("", None, &[header, row]).unwrap().ts, [5], "{name}");
        }
    }

    #[test]
    fn columns_not_imported_are_named_with_the_flags_that_import_them() {
        let settings = ImportSettings::of(&args("f --root r --series kline/X/1m")).unwrap();
        let targets = targets(&settings, None).unwrap();
        let header = ["ts", "Symbol", "open", "high", "low", "close", "volume", "Quote Volume", "Close", "empty"];
        let row = ["1640995200000", "BTC", "1", "3", "0.5", "2", "10", "1,234.5", "2", ""];
        let text = |row: &[&str]| row.iter().map(|cell| (*cell).to_string()).collect::<Vec<String>>();
        let preview = Preview { names: None, rows: vec![text(&header), text(&row)] };
        let layout = resolve(&settings, &targets, &preview, "f").unwrap();
        let keep = |extra: &str, map| Some(ExtraColumnFlags { extra: extra.into(), map });
        let expected = [
            ("Symbol", None),
            ("Quote Volume", keep("quote_volume", None)),
            ("Close", keep("column_8", Some(8))),
            ("empty", None),
        ];
        let expected = expected.map(|(name, kept_by)| OmittedColumn { name: name.into(), kept_by });
        assert_eq!(left_out(&layout, &targets, &preview), expected);
    }

    #[test]
    fn columns_without_a_source_are_named() {
        let header: &[&str] = &["timestamp", "open", "high", "low", "close"];
        let row: &[&str] = &["2012-02-01", "1", "1", "1", "1"];
        let error = resolved("", None, &[header, row]).unwrap_err();
        assert!(error.detail().contains("no source for volume"), "{error}");
        assert!(resolved("--map volume=Vol", None, &[header, row]).unwrap_err().detail().contains("volume=Vol"));
        assert!(resolved("--map volume=9", None, &[header, row]).unwrap_err().detail().contains("5 columns"));
        assert!(resolved("--map vol=1", None, &[header, row]).unwrap_err().detail().contains("no such column"));
        let error = resolved("", None, &[ROW, ROW]).unwrap_err();
        assert!(error.detail().contains("no header"), "the order of columns is not used: {error}");
        let hint =
            |names: &[&str], flags: &str| resolved(flags, Some(names), &[row]).unwrap_err().hint().unwrap().to_string();
        assert!(error.hint().unwrap().contains("--map ts=0,open=1"));
        assert!(hint(&["timestamp", "open", "high", "low", "close"], "").starts_with("--set volume=0"));
        assert!(hint(&["timestamp", "price", "amount"], "").contains("--series scalar/"));
        assert!(hint(&["ts_event", "open", "high", "low", "close", "volume"], "").starts_with("--map ts=ts_event"));
        assert!(hint(&["timestamp", "open", "high", "close", "volume"], "").starts_with("--map low=COLUMN"));
        assert!(hint(header, "--map volume=Vol").starts_with("set --map volume= to one of these names"));
        let twice: &[&str] = &["timestamp", "open", "Open", "OPEN", "high", "low", "close", "volume"];
        assert!(resolved("", None, &[twice, row]).is_ok(), "the exact name has precedence");
        let twice: &[&str] = &["timestamp", "Open", "OPEN", "high", "low", "close", "volume"];
        assert!(resolved("", None, &[twice, row]).unwrap_err().detail().contains("more than one"));
    }
}
