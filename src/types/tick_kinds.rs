//! The built-in kinds of market events: trades, quotes, books and what exchanges report beside them.
//!
//! Their numbers are `float64`, or decimals where a registration states digits: those of all prices and those of all
//! quantities. Times besides `ts` have the unit of the series.

use super::number::DIGITS_MAX;
use super::schema::{Column, ColumnType, MergeRule, OrderRule, Partition};
use super::time::TimeUnit;
use crate::error::{Error, Result};

/// Levels of each side of a `depth` row.
pub const DEPTH_LEVELS: usize = 10;
/// Digits of a funding rate.
const RATE_DIGITS: u8 = 12;
/// Fields by which rows of one timestamp can be told apart.
const IDS: [&str; 2] = ["trade_id", "seq"];

/// Which digits of a registration a number has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberGroup {
    Price,
    Quantity,
}

fn field(name: &str, kind: ColumnType) -> Column {
    Column::new(name, kind)
}

fn nullable(column: Column) -> Column {
    Column { nullable: true, ..column }
}

fn number(name: &str) -> Column {
    field(name, ColumnType::Float64)
}

fn sum(name: &str) -> Column {
    Column { merge: MergeRule::Sum, ..number(name) }
}

fn time(name: &str) -> Column {
    nullable(field(name, ColumnType::Timestamp { unit: TimeUnit::Us }))
}

fn words(name: &str, values: &[&str]) -> Column {
    Column { values: values.iter().map(|value| (*value).to_owned()).collect(), ..field(name, ColumnType::Enum) }
}

/// The fields that every event has: when it was received, its sequence number, and flags.
fn event(fields: Vec<Column>) -> Vec<Column> {
    let common =
        [time("ts_recv"), nullable(field("seq", ColumnType::UInt64)), nullable(field("flags", ColumnType::UInt8))];
    common.into_iter().chain(fields).collect()
}

fn side() -> Column {
    nullable(words("side", &["buy", "sell"]))
}

fn depth_fields() -> Vec<Column> {
    let level = |level: usize| {
        ["bid_price", "bid_qty", "ask_price", "ask_qty"].map(|name| nullable(number(&format!("{name}_{level}"))))
    };
    (0..DEPTH_LEVELS).flat_map(level).collect()
}

/// A kind of market events, whose keys are a symbol and a channel.
#[derive(Clone, Debug)]
pub struct TickKind {
    pub name: &'static str,
    /// Name of its table in SQL.
    pub table: &'static str,
    pub partition: Partition,
    pub order: OrderRule,
    pub fields: Vec<Column>,
}

impl TickKind {
    /// Names of the fields that are not below zero.
    pub fn quantities(&self) -> impl Iterator<Item = &str> {
        let names = self.fields.iter().map(|field| field.name.as_str());
        names.filter(|name| number_group(name) == Some(NumberGroup::Quantity))
    }
}

/// The kinds.
pub fn tick_kinds() -> Vec<TickKind> {
    let kind = |name, table, partition, order, fields| TickKind { name, table, partition, order, fields };
    let arrival = || OrderRule::Arrival;
    let trade = vec![
        number("price"),
        sum("qty"),
        side(),
        nullable(field("trade_id", ColumnType::UInt64)),
        nullable(field("cond", ColumnType::Text)),
    ];
    let quote = ["bid_price", "bid_qty", "ask_price", "ask_qty"].map(|name| nullable(number(name))).to_vec();
    let book = vec![
        nullable(field("seq_first", ColumnType::UInt64)),
        nullable(field("seq_prev", ColumnType::UInt64)),
        words("action", &["add", "update", "delete", "clear"]),
        nullable(words("side", &["bid", "ask"])),
        nullable(number("price")),
        nullable(number("qty")),
        nullable(field("order_id", ColumnType::UInt64)),
        nullable(field("level", ColumnType::UInt16)),
    ];
    let rate = field("rate", ColumnType::Decimal { digits: RATE_DIGITS });
    let funding =
        vec![rate, nullable(field("interval_s", ColumnType::UInt32)), time("next_ts"), nullable(number("mark_price"))];
    let liquidation = vec![number("price"), sum("qty"), side(), nullable(field("order_id", ColumnType::UInt64))];
    let status = vec![field("state", ColumnType::Text), nullable(field("reason", ColumnType::Text))];
    vec![
        kind("trade", "trades", Partition::Day, arrival(), event(trade)),
        kind("quote", "quotes", Partition::Day, arrival(), event(quote)),
        kind("book", "book", Partition::Hour, arrival(), event(book)),
        kind("depth", "depth", Partition::Day, arrival(), event(depth_fields())),
        kind("funding", "funding", Partition::All, OrderRule::default(), funding),
        kind(
            "open_interest",
            "open_interest",
            Partition::Month,
            OrderRule::default(),
            vec![number("qty"), nullable(number("notional"))],
        ),
        kind("liquidation", "liquidations", Partition::Month, arrival(), event(liquidation)),
        kind("status", "statuses", Partition::All, arrival(), event(status)),
    ]
}

/// Which digits a field of one of the kinds has; `None` where its type is that of the kind.
pub fn number_group(name: &str) -> Option<NumberGroup> {
    let is = |word: &str| name == word || name.ends_with(&format!("_{word}")) || name.contains(&format!("_{word}_"));
    match () {
        () if is("price") => Some(NumberGroup::Price),
        () if is("qty") || name == "notional" => Some(NumberGroup::Quantity),
        () => None,
    }
}

/// What a registration says of the numbers and times of a series of one of the kinds.
#[derive(Clone, Copy, Debug)]
pub struct TickTypes<'a> {
    pub price_digits: Option<u8>,
    pub volume_digits: Option<u8>,
    pub unit: TimeUnit,
    /// The field that tells rows of one timestamp apart; without one they are in the order of arrival.
    pub dedup: Option<&'a str>,
}

/// The columns and the order of a series of a kind with this name, these fields and this order.
///
/// # Errors
/// `invalid_argument` for digits that the kind has no numbers for, or for another field than an id.
pub fn typed(
    name: &str,
    fields: &[Column],
    order: &OrderRule,
    types: TickTypes<'_>,
) -> Result<(Vec<Column>, OrderRule)> {
    let mut columns = fields.to_vec();
    for (what, group, digits) in [
        ("price_digits", NumberGroup::Price, types.price_digits),
        ("volume_digits", NumberGroup::Quantity, types.volume_digits),
    ] {
        let Some(digits) = digits else { continue };
        if digits > DIGITS_MAX {
            return Err(Error::invalid(format!("{what}: {digits} digits are more than {DIGITS_MAX}")));
        }
        let mut found = false;
        for column in columns.iter_mut().filter(|column| number_group(&column.name) == Some(group)) {
            column.kind = ColumnType::Decimal { digits };
            found = true;
        }
        if !found {
            return Err(Error::invalid(format!("{what}: kind {name} has no such numbers")));
        }
    }
    for column in &mut columns {
        if let ColumnType::Timestamp { unit } = &mut column.kind {
            *unit = types.unit;
        }
    }
    let Some(dedup) = types.dedup else { return Ok((columns, order.clone())) };
    if *order != OrderRule::Arrival {
        return Err(Error::invalid(format!("dedup: kind {name} has one row per timestamp")));
    }
    match columns.iter_mut().find(|column| column.name == dedup && IDS.contains(&dedup)) {
        Some(id) => id.nullable = false,
        None => {
            let has = |id: &&str| fields.iter().any(|field| field.name == *id);
            let ids: Vec<&str> = IDS.into_iter().filter(has).collect();
            return Err(Error::invalid(format!("dedup {dedup:?} is not a field with the ids of rows"))
                .with_hint(format!("kind {name} has {}", ids.join(" and "))));
        }
    }
    Ok((columns, OrderRule::Unique(vec![dedup.to_owned()])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn typed_as(kind: &str, types: TickTypes<'_>) -> Result<(Vec<Column>, OrderRule)> {
        let kind = tick_kinds().into_iter().find(|known| known.name == kind).unwrap();
        typed(kind.name, &kind.fields, &kind.order, types)
    }

    const NONE: TickTypes<'static> =
        TickTypes { price_digits: None, volume_digits: None, unit: TimeUnit::Us, dedup: None };

    #[test]
    fn digits_make_decimals_of_prices_and_of_quantities() {
        let types = TickTypes { price_digits: Some(2), volume_digits: Some(5), unit: TimeUnit::Ns, ..NONE };
        let (columns, order) = typed_as("quote", types).unwrap();
        let kind = |name: &str| columns.iter().find(|column| column.name == name).unwrap().kind;
        assert_eq!(kind("bid_price"), ColumnType::Decimal { digits: 2 });
        assert_eq!(kind("ask_qty"), ColumnType::Decimal { digits: 5 });
        assert_eq!((kind("ts_recv"), order), (ColumnType::Timestamp { unit: TimeUnit::Ns }, OrderRule::Arrival));
        let (columns, _) = typed_as("depth", types).unwrap();
        let decimals = columns.iter().filter(|column| matches!(column.kind, ColumnType::Decimal { .. })).count();
        assert_eq!((columns.len(), decimals), (43, 40));
        for (kind, types) in [
            ("status", TickTypes { price_digits: Some(2), ..NONE }),
            ("trade", TickTypes { price_digits: Some(19), ..NONE }),
            ("trade", TickTypes { dedup: Some("price"), ..NONE }),
            ("quote", TickTypes { dedup: Some("trade_id"), ..NONE }),
            ("funding", TickTypes { dedup: Some("seq"), ..NONE }),
        ] {
            assert_eq!(typed_as(kind, types).unwrap_err().code(), ErrorCode::InvalidArgument, "{kind} {types:?}");
        }
    }

    #[test]
    fn an_id_tells_rows_of_one_timestamp_apart() {
        let (columns, order) = typed_as("trade", TickTypes { dedup: Some("trade_id"), ..NONE }).unwrap();
        assert_eq!(order, OrderRule::Unique(vec!["trade_id".into()]));
        assert!(!columns.iter().find(|column| column.name == "trade_id").unwrap().nullable);
    }
}
