//! Columns of a resampled result: which rule combines which column of the series, and the type of what it yields.

use crate::error::{Error, ErrorCode, Result};
use crate::query::condition::Condition;
use crate::query::predicate::{self, Predicate};
use crate::query::result::NumberFormat;
use crate::store::SeriesState;
use crate::types::kind::are_bar_rules;
use crate::types::schema::{COLUMNS_MAX, check_column_name};
use crate::types::{Column, ColumnType, Dictionary, MergeRule, SeriesDef, cells};

/// Column with the number of rows of a bucket.
pub const ROWS_COLUMN: &str = "source_rows";
/// Column that says whether each expected interval of a bucket has a row.
pub const COMPLETE_COLUMN: &str = "complete";
/// Column that says whether rows after a bucket are stored.
pub const CLOSED_COLUMN: &str = "closed";

/// How the cells of a bucket are combined. Nulls are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateRule {
    First,
    Last,
    Min,
    Max,
    /// In the type of the column, integers in 8 bytes; 0 without rows.
    Sum,
    /// As a decimal of 16 bytes.
    WideSum,
    /// Sum over count, rounded half to even to the digits of the column.
    Mean,
    /// Number of cells that are not null.
    Count,
    /// Σ(price·quantity)/Σ(quantity), rounded half to even to the digits of the price.
    Vwap,
}

impl AggregateRule {
    const NAMES: [(&'static str, Self); 9] = [
        ("first", Self::First),
        ("last", Self::Last),
        ("min", Self::Min),
        ("max", Self::Max),
        ("sum", Self::Sum),
        ("wide_sum", Self::WideSum),
        ("mean", Self::Mean),
        ("count", Self::Count),
        ("vwap", Self::Vwap),
    ];

    fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, rule)| *rule)
    }

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, rule)| *rule == self).map_or("", |(name, _)| name)
    }

    fn of(merge: MergeRule) -> Self {
        match merge {
            MergeRule::First => Self::First,
            MergeRule::Sum => Self::Sum,
            MergeRule::Min => Self::Min,
            MergeRule::Max => Self::Max,
            MergeRule::Last => Self::Last,
        }
    }
}

/// One aggregate as a caller writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// Name of the column of the result.
    pub name: String,
    pub rule: AggregateRule,
    /// Column of the series; absent for the number of rows.
    pub column: Option<String>,
    /// Quantity of a `vwap`.
    pub weight: Option<String>,
    /// Condition on the rows that count.
    pub condition: Option<Predicate>,
}

impl Aggregate {
    /// Parses `COLUMN:RULE`, `vwap(PRICE,QUANTITY)` or `count`, each optionally with ` if COLUMN:OP:VALUE` and ` as NAME`.
    ///
    /// # Errors
    /// `invalid_argument` naming the text.
    pub fn parse(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(120).collect();
        let invalid = |what: &str| {
            Error::invalid(format!("agg {shown:?}: {what}")).with_hint(
                "COLUMN:first|last|min|max|sum|wide_sum|mean|count, vwap(PRICE,QUANTITY) or count, with `if \
                 COLUMN:OP:VALUE` and `as NAME` where wanted",
            )
        };
        let (rest, name) = match text.rsplit_once(" as ") {
            Some((rest, name)) => (rest, Some(name.trim())),
            None => (text, None),
        };
        let (what, condition) = match rest.split_once(" if ") {
            Some((what, condition)) => (what.trim(), Some(Predicate::parse(condition.trim())?)),
            None => (rest.trim(), None),
        };
        let (rule, column, weight) = if let Some(columns) = what.strip_prefix("vwap(") {
            let columns = columns.strip_suffix(')').and_then(|columns| columns.split_once(','));
            let (price, quantity) = columns.ok_or_else(|| invalid("vwap takes two columns"))?;
            (AggregateRule::Vwap, Some(price.trim()), Some(quantity.trim()))
        } else if what == "count" {
            (AggregateRule::Count, None, None)
        } else {
            let (column, rule) = what.rsplit_once(':').ok_or_else(|| invalid("a rule is missing"))?;
            match AggregateRule::from_name(rule) {
                Some(AggregateRule::Vwap) => return Err(invalid("vwap takes two columns")),
                Some(rule) => (rule, Some(column), None),
                None => return Err(invalid(&format!("{:?} is not a rule", rule.chars().take(40).collect::<String>()))),
            }
        };
        let name = name.map_or_else(
            || match (rule, column) {
                (AggregateRule::Vwap, _) | (_, None) => rule.name().to_owned(),
                (_, Some(column)) => format!("{column}_{}", rule.name()),
            },
            str::to_owned,
        );
        check_column_name(&name).map_err(|error| invalid(error.detail()))?;
        let owned = |column: Option<&str>| column.map(str::to_owned);
        Ok(Self { name, rule, column: owned(column), weight: owned(weight), condition })
    }

    /// Each column of a series by its merge rule.
    fn by_merge_rules(def: &SeriesDef) -> Vec<Self> {
        let of = |column: &Column| Self {
            name: column.name.clone(),
            rule: AggregateRule::of(column.merge),
            column: Some(column.name.clone()),
            weight: None,
            condition: None,
        };
        def.columns.iter().map(of).collect()
    }
}

/// What fills the cell of a bucket without rows, under `fill=prev` and `fill=linear`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapValue {
    Zero,
    /// The value of the column before.
    Own,
    /// The value before of the output at this position.
    Of(usize),
}

/// What a column of a resampled result has.
#[derive(Clone, Debug)]
pub enum OutputSource {
    Aggregate(ResolvedAggregate),
    Rows,
    Complete,
    Closed,
}

/// An aggregate of a certain series.
#[derive(Clone, Debug)]
pub struct ResolvedAggregate {
    pub rule: AggregateRule,
    /// Position and type of the column of the series; `ts` is not counted.
    pub column: Option<(usize, ColumnType)>,
    /// Position and type of the quantities of a `vwap`.
    pub weight: Option<(usize, ColumnType)>,
    pub conditions: Vec<Condition>,
    /// Type of the values.
    pub kind: ColumnType,
    pub gap: GapValue,
}

/// A column of a resampled result of one series.
#[derive(Clone, Debug)]
pub struct Output {
    pub column: Column,
    pub dictionary: Dictionary,
    pub source: OutputSource,
}

/// The columns of the result of one series: `agg`, or each column by its merge rule, and three about each bucket.
///
/// # Errors
/// `schema_mismatch` for an unknown column; `invalid_argument` for a rule that does not apply to a type, and for a name
/// that occurs twice.
pub fn outputs(
    series: &SeriesState,
    agg: Option<&[Aggregate]>,
    has_null_rows: bool,
    numbers: NumberFormat,
) -> Result<Vec<Output>> {
    let def = &series.def;
    let defaults;
    let wanted = match agg {
        Some(agg) => agg,
        None => {
            defaults = Aggregate::by_merge_rules(def);
            &defaults
        }
    };
    if wanted.is_empty() || wanted.len() > COLUMNS_MAX {
        return Err(Error::invalid(format!("agg lists {} columns, not 1 to {COLUMNS_MAX}", wanted.len())));
    }
    let close =
        wanted.iter().position(|one| one.name == "close").filter(|_| agg.is_none() && are_bar_rules(&def.rules));
    let mut found = Vec::with_capacity(wanted.len() + 3);
    for one in wanted {
        let mut output = resolve(series, one, numbers)?;
        output.column.nullable |= has_null_rows;
        if let (OutputSource::Aggregate(aggregate), Some(close)) = (&mut output.source, close)
            && matches!(one.name.as_str(), "open" | "high" | "low")
        {
            aggregate.gap = GapValue::Of(close);
        }
        found.push(output);
    }
    for (name, kind, source) in [
        (ROWS_COLUMN, ColumnType::UInt64, OutputSource::Rows),
        (COMPLETE_COLUMN, ColumnType::Bool, OutputSource::Complete),
        (CLOSED_COLUMN, ColumnType::Bool, OutputSource::Closed),
    ] {
        let nullable = name == COMPLETE_COLUMN;
        let column = Column { nullable, ..Column::new(name, kind) };
        found.push(Output { column, dictionary: Dictionary::default(), source });
    }
    let names = || found.iter().map(|output| output.column.name.as_str());
    let twice = names().enumerate().find(|(at, name)| names().take(*at).any(|earlier| earlier == *name));
    if let Some((_, name)) = twice {
        return Err(Error::invalid(format!("the result of resampling {} has two columns {name:?}", def.key))
            .with_hint("name the columns by agg, such as close:last as price"));
    }
    Ok(found)
}

fn resolve(series: &SeriesState, wanted: &Aggregate, numbers: NumberFormat) -> Result<Output> {
    let def = &series.def;
    let position = |name: &Option<String>| name.as_deref().map(|name| def.column_named(name)).transpose();
    let (column, weight) = (position(&wanted.column)?, position(&wanted.weight)?);
    let typed = |at: usize| (at, cells::column(&def.columns, at).kind);
    let rule = wanted.rule;
    let kind = match (column.map(typed), weight.map(typed)) {
        (Some((at, kind)), weight) => value_type(rule, kind, weight.map(|(_, kind)| kind)).ok_or_else(|| {
            let of = weight.map_or(String::new(), |(_, kind)| format!(" and {}", kind.text()));
            let name = &cells::column(&def.columns, at).name;
            let hint = match rule {
                AggregateRule::WideSum => "use sum for floats",
                _ => "name the columns by columns=, or their rules by agg=",
            };
            Error::invalid(format!(
                "{} of column {name} of {}: {} does not apply to it",
                rule.name(),
                def.key,
                kind.text() + &of
            ))
            .with_hint(hint)
        })?,
        (None, _) => ColumnType::UInt64,
    };
    let conditions = match &wanted.condition {
        Some(condition) => predicate::compile(def, &series.dictionaries, std::slice::from_ref(condition), numbers)?,
        None => Vec::new(),
    };
    let is_count = matches!(rule, AggregateRule::Sum | AggregateRule::WideSum | AggregateRule::Count);
    let source = column.map(|at| cells::column(&def.columns, at));
    let is_nullable = |at: Option<usize>| at.is_some_and(|at| cells::column(&def.columns, at).nullable);
    let nullable = match rule {
        AggregateRule::Count => false,
        AggregateRule::Sum | AggregateRule::WideSum => is_nullable(column),
        AggregateRule::Vwap => true,
        _ => is_nullable(column) || wanted.condition.is_some(),
    };
    let keeps_labels = kind.has_dictionary();
    Ok(Output {
        column: Column {
            name: wanted.name.clone(),
            kind,
            merge: MergeRule::default(),
            nullable,
            values: source.filter(|_| keeps_labels).map(|source| source.values.clone()).unwrap_or_default(),
        },
        dictionary: column
            .filter(|_| keeps_labels)
            .and_then(|at| series.dictionaries.get(at).cloned())
            .unwrap_or_default(),
        source: OutputSource::Aggregate(ResolvedAggregate {
            rule,
            column: column.map(typed),
            weight: weight.map(typed),
            conditions,
            kind,
            gap: if is_count { GapValue::Zero } else { GapValue::Own },
        }),
    })
}

/// Type of the values of a rule; `None` where it does not apply to the type of the column.
fn value_type(rule: AggregateRule, kind: ColumnType, weight: Option<ColumnType>) -> Option<ColumnType> {
    use ColumnType as T;
    let is_signed = matches!(kind, T::Int64 | T::Int32 | T::Int16 | T::Int8);
    let is_unsigned = matches!(kind, T::UInt64 | T::UInt32 | T::UInt16 | T::UInt8);
    let is_float = matches!(kind, T::Float64 | T::Float32);
    match rule {
        AggregateRule::First | AggregateRule::Last => Some(kind),
        AggregateRule::Min | AggregateRule::Max => {
            (!matches!(kind, T::Bool | T::Enum | T::Text | T::Bytes { .. })).then_some(kind)
        }
        AggregateRule::Count => Some(T::UInt64),
        AggregateRule::Sum | AggregateRule::Mean => match kind {
            T::Decimal { .. } | T::WideDecimal { .. } => Some(kind),
            _ if is_float => Some(T::Float64),
            _ if rule == AggregateRule::Mean => (is_signed || is_unsigned).then_some(T::Float64),
            _ if is_signed => Some(T::Int64),
            _ => is_unsigned.then_some(T::UInt64),
        },
        AggregateRule::WideSum => match kind {
            T::Decimal { digits } | T::WideDecimal { digits } => Some(T::WideDecimal { digits }),
            _ => (is_signed || is_unsigned).then_some(T::WideDecimal { digits: 0 }),
        },
        AggregateRule::Vwap => {
            let is_number = |kind: T| {
                !matches!(
                    kind,
                    T::Bool | T::Enum | T::Text | T::Bytes { .. } | T::Timestamp { .. } | T::WideDecimal { .. }
                )
            };
            let weight = weight.filter(|weight| is_number(*weight))?;
            match (kind, weight) {
                (T::Decimal { .. }, weight) if !matches!(weight, T::Float64 | T::Float32) => Some(kind),
                _ => is_number(kind).then_some(T::Float64),
            }
        }
    }
}

/// The error of a value that does not fit the type of its column.
pub fn overflow(def: &SeriesDef, output: &Output, ts: i64) -> Error {
    let name = &output.column.name;
    let detail = format!(
        "column {name} of series {}: the value of the bucket at {ts} does not fit {}",
        def.key,
        output.column.kind.text()
    );
    let error = Error::new(ErrorCode::SchemaMismatch, detail);
    match &output.source {
        OutputSource::Aggregate(ResolvedAggregate { rule: AggregateRule::Sum, column: Some((at, _)), .. }) => {
            let column = def.columns.get(*at).map_or("", |column| column.name.as_str());
            error.with_hint(format!("agg={column}:wide_sum as {name} has 38 digits"))
        }
        _ => error.with_hint("use shorter buckets"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregates_are_parsed_with_names_and_conditions() {
        let of = |text: &str| Aggregate::parse(text).unwrap();
        assert_eq!((of("price:first").name, of("price:first").rule), ("price_first".into(), AggregateRule::First));
        assert_eq!(of("price:max as high").name, "high");
        let vwap = of("vwap(price, qty)");
        assert_eq!((vwap.name.as_str(), vwap.weight.as_deref()), ("vwap", Some("qty")));
        assert_eq!((of("count").column, of("count").name), (None, "count".into()));
        let buys = of("qty:sum if side:eq:buy as buy_volume");
        assert_eq!((buys.name.as_str(), buys.condition.unwrap().to_text()), ("buy_volume", "side:eq:buy".to_owned()));
    }

    #[test]
    fn what_is_no_aggregate_is_refused() {
        for (text, part) in [
            ("price", "rule is missing"),
            ("price:median", "median"),
            ("vwap(price)", "two columns"),
            ("price:vwap", "two columns"),
            ("price:first as First", "[a-z]"),
            ("price:first as ts", "reserved"),
            ("price:sum if side", "predicate"),
        ] {
            let error = Aggregate::parse(text).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{text}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
