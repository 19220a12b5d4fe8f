//! Conditions on cells of every type, with and without nulls, against values that are compared one by one.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use fastk::error::ErrorCode;
use fastk::format::order_key::{NativeType, append_keys};
use fastk::format::zone_map::ZoneMap;
use fastk::query::predicate::compile;
use fastk::query::{Condition, IndexUsed, NumberFormat, Operator, Predicate, Scan, ScanSpec};
use fastk::store::{Store, StoreOptions, WriteMode};
use fastk::types::{
    CellLayout, CellSlice, Column, ColumnCells, ColumnType, Dictionary, OrderRule, Rows, SeriesDef, SeriesKey,
    SeriesSpec, SharedCells, TimeUnit,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value as Json;

const ROWS: usize = 2_500;

/// A value of a cell, or of a predicate.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    /// Whole units of the last digit of the column, and tenths of one: -1, 0 or 1.
    Number(i128, i8),
    Double(f64),
    Float(f32),
    Flag(bool),
    Text(String),
    Bytes(Vec<u8>),
}

impl Value {
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a, tenths), Self::Number(b, others)) => (a, tenths).cmp(&(b, others)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b).unwrap(),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b).unwrap(),
            (Self::Flag(a), Self::Flag(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            _ => unreachable!("{self:?} and {other:?}"),
        }
    }

    /// The value as text, for a column of so many digits.
    fn text(&self, digits: usize) -> String {
        match self {
            Self::Number(units, tenths) => {
                let same_sign = *tenths == 0 || (*units > 0) == (*tenths > 0) || *units == 0;
                let magnitude = if same_sign {
                    format!("{}{}", units.unsigned_abs(), tenths.unsigned_abs())
                } else {
                    format!("{}9", units.unsigned_abs() - 1)
                };
                let padded = format!("{magnitude:0>width$}", width = digits + 2);
                let (whole, fraction) = padded.split_at(padded.len() - digits - 1);
                let is_negative = *units < 0 || *units == 0 && *tenths < 0;
                let text = format!("{}{whole}.{fraction}", if is_negative { "-" } else { "" });
                if *tenths == 0 { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
            }
            Self::Double(value) => format!("{value:e}"),
            Self::Float(value) => format!("{value:e}"),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => text.clone(),
            Self::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// What a predicate means for a cell.
fn holds(op: Operator, cell: Option<&Value>, values: &[Value]) -> bool {
    let Some(cell) = cell else { return op == Operator::IsNull };
    let is = |value: &Value| cell.compare(value) == Ordering::Equal;
    match op {
        Operator::IsNull => false,
        Operator::IsNotNull => true,
        Operator::Eq | Operator::In => values.iter().any(is),
        Operator::Ne | Operator::NotIn => !values.iter().any(is),
        Operator::Gt => cell.compare(&values[0]).is_gt(),
        Operator::Gte => cell.compare(&values[0]).is_ge(),
        Operator::Lt => cell.compare(&values[0]).is_lt(),
        Operator::Lte => cell.compare(&values[0]).is_le(),
        Operator::Between => cell.compare(&values[0]).is_ge() && cell.compare(&values[1]).is_le(),
        Operator::BetweenExclusive => cell.compare(&values[0]).is_gt() && cell.compare(&values[1]).is_lt(),
        Operator::Prefix => match (cell, &values[0]) {
            (Value::Text(cell), Value::Text(prefix)) => cell.starts_with(prefix.as_str()),
            (Value::Bytes(cell), Value::Bytes(prefix)) => cell.starts_with(prefix),
            _ => unreachable!(),
        },
    }
}

fn applies(op: Operator, kind: ColumnType) -> bool {
    match op {
        Operator::Prefix => matches!(kind, ColumnType::Text | ColumnType::Enum | ColumnType::Bytes { .. }),
        Operator::Gt
        | Operator::Gte
        | Operator::Lt
        | Operator::Lte
        | Operator::Between
        | Operator::BetweenExclusive => !matches!(kind, ColumnType::Text | ColumnType::Enum | ColumnType::Bool),
        _ => true,
    }
}

fn kinds() -> Vec<ColumnType> {
    let mut kinds = vec![
        ColumnType::Float64,
        ColumnType::Float32,
        ColumnType::Int64,
        ColumnType::Int32,
        ColumnType::Int16,
        ColumnType::Int8,
        ColumnType::UInt64,
        ColumnType::UInt32,
        ColumnType::UInt16,
        ColumnType::UInt8,
        ColumnType::Bool,
        ColumnType::Enum,
        ColumnType::Text,
    ];
    kinds.extend([0, 2, 18].map(|digits| ColumnType::Decimal { digits }));
    kinds.extend([0, 9, 38].map(|digits| ColumnType::WideDecimal { digits }));
    kinds.extend([TimeUnit::Ms, TimeUnit::Ns].map(|unit| ColumnType::Timestamp { unit }));
    kinds.extend([1, 2, 3, 8, 9, 16, 20].map(|length| ColumnType::Bytes { length }));
    kinds
}

/// Lowest and highest units of a type of numbers.
fn limits(kind: ColumnType) -> (i128, i128) {
    match kind {
        ColumnType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        ColumnType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        ColumnType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        ColumnType::Int64 | ColumnType::Timestamp { .. } => (i64::MIN.into(), i64::MAX.into()),
        ColumnType::UInt8 => (0, u8::MAX.into()),
        ColumnType::UInt16 => (0, u16::MAX.into()),
        ColumnType::UInt32 => (0, u32::MAX.into()),
        ColumnType::UInt64 => (0, u64::MAX.into()),
        ColumnType::Decimal { .. } => (1 - 10_i128.pow(18), 10_i128.pow(18) - 1),
        ColumnType::WideDecimal { .. } => (1 - 10_i128.pow(38), 10_i128.pow(38) - 1),
        _ => unreachable!(),
    }
}

const LABELS: [&str; 9] = ["buy", "sell", "b", "buyer", "Buy", "späte", "", "a,b", "\"q\""];

fn labels(kind: ColumnType) -> &'static [&'static str] {
    if kind == ColumnType::Enum { &LABELS[..6] } else { &LABELS }
}

/// Cells and the values that they are.
struct TestColumn {
    values: Vec<Option<Value>>,
    cells: ColumnCells,
}

/// A value of the type: from few different ones, so that predicates find some, or near a limit.
fn value(rng: &mut StdRng, kind: ColumnType, center: i128) -> Value {
    match kind {
        ColumnType::Float64 => {
            let special = [0.0, -0.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 0.1, -1e-300];
            match rng.random_range(0..4) {
                0 => Value::Double(special[rng.random_range(0..special.len())]),
                _ => Value::Double(f64::from(rng.random_range(-20..20)) / 8.0 + center as f64),
            }
        }
        ColumnType::Float32 => {
            let special = [0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 0.1, -1e-30];
            match rng.random_range(0..4) {
                0 => Value::Float(special[rng.random_range(0..special.len())]),
                _ => Value::Float(rng.random_range(-20..20) as f32 / 8.0 + center as f32),
            }
        }
        ColumnType::Bool => Value::Flag(rng.random_bool(0.5)),
        ColumnType::Enum | ColumnType::Text => {
            let labels = labels(kind);
            Value::Text(labels[rng.random_range(0..labels.len())].to_owned())
        }
        ColumnType::Bytes { length } => {
            let byte = |rng: &mut StdRng| [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)];
            let mut bytes = vec![byte(rng); length.into()];
            let last = bytes.len() - 1;
            bytes[last] = byte(rng);
            bytes[0] = byte(rng);
            Value::Bytes(bytes)
        }
        _ => {
            let (low, high) = limits(kind);
            let near = i128::from(rng.random_range(0..12_i64));
            let units = match rng.random_range(0..8) {
                0 => low + near,
                1 => high - near,
                _ => center + near,
            };
            Value::Number(units.clamp(low, high), 0)
        }
    }
}

fn push(cells: &mut ColumnCells, kind: ColumnType, labels: &[&str], value: Option<&Value>) {
    let Some(value) = value else { return cells.push_null() };
    match value {
        Value::Number(units, _) => match kind {
            ColumnType::Int8 => cells.push(i8::try_from(*units).unwrap()),
            ColumnType::Int16 => cells.push(i16::try_from(*units).unwrap()),
            ColumnType::Int32 => cells.push(i32::try_from(*units).unwrap()),
            ColumnType::UInt8 => cells.push(u8::try_from(*units).unwrap()),
            ColumnType::UInt16 => cells.push(u16::try_from(*units).unwrap()),
            ColumnType::UInt32 => cells.push(u32::try_from(*units).unwrap()),
            ColumnType::UInt64 => cells.push(u64::try_from(*units).unwrap()),
            ColumnType::WideDecimal { .. } => cells.push(*units),
            _ => cells.push(i64::try_from(*units).unwrap()),
        },
        Value::Double(value) => cells.push(*value),
        Value::Float(value) => cells.push(*value),
        Value::Flag(flag) => cells.push(u8::from(*flag)),
        Value::Text(text) => {
            let position = labels.iter().position(|label| label == text).unwrap();
            match kind {
                ColumnType::Enum => cells.push(u8::try_from(position).unwrap()),
                _ => cells.push(u32::try_from(position).unwrap()),
            }
        }
        Value::Bytes(bytes) => {
            let layout = CellLayout::Bytes(u16::try_from(bytes.len()).unwrap());
            cells.extend(SharedCells::unpacked(layout, bytes.clone().into(), None).slice(0, 1));
        }
    }
}

/// Rows of which zones lie apart from each other; one zone has nulls only, if there are nulls.
fn column(rng: &mut StdRng, kind: ColumnType, has_nulls: bool) -> TestColumn {
    let mut cells = ColumnCells::new(kind.layout());
    let mut values = Vec::with_capacity(ROWS);
    for row in 0..ROWS {
        let zone = row / 1_024;
        let is_null = has_nulls && (zone == 1 || zone == 2 && rng.random_bool(0.3));
        let value = (!is_null).then(|| value(rng, kind, [5, 60, 110][zone]));
        push(&mut cells, kind, labels(kind), value.as_ref());
        values.push(value);
    }
    TestColumn { values, cells }
}

fn named_column(name: &str, kind: ColumnType, nullable: bool) -> Column {
    let labels: &[&str] = if kind == ColumnType::Enum { labels(kind) } else { &[] };
    let values = labels.iter().map(|label| (*label).to_owned()).collect();
    Column { nullable, values, ..Column::new(name, kind) }
}

fn key() -> SeriesKey {
    SeriesKey::scalar("c", "X", "tick", "n").unwrap()
}

fn def(kind: ColumnType, nullable: bool) -> SeriesDef {
    let mut def = SeriesSpec::of_key(&key()).resolve().unwrap();
    def.columns = vec![named_column("value", kind, nullable)];
    def
}

fn predicate_values(rng: &mut StdRng, kind: ColumnType, stored: &[Option<Value>], op: Operator) -> Vec<Value> {
    let count = match op {
        Operator::IsNull | Operator::IsNotNull => 0,
        Operator::Between | Operator::BetweenExclusive => 2,
        Operator::In | Operator::NotIn => rng.random_range(1..6),
        _ => 1,
    };
    let mut values: Vec<Value> = (0..count)
        .map(|_| {
            let stored = stored[rng.random_range(0..stored.len())].clone();
            let center = [0, 5, 60, 110, 400][rng.random_range(0..5)];
            let mut value = stored.filter(|_| rng.random_bool(0.7)).unwrap_or_else(|| value(rng, kind, center));
            match &mut value {
                // Between two values of the column.
                Value::Number(_, tenths) if !matches!(kind, ColumnType::Timestamp { .. }) => {
                    *tenths = [0, 0, 0, -1, 1][rng.random_range(0..5)];
                }
                Value::Text(text) if kind == ColumnType::Text && rng.random_bool(0.2) => *text = "other".into(),
                Value::Bytes(bytes) if op == Operator::Prefix => bytes.truncate(rng.random_range(0..=bytes.len())),
                Value::Text(text) if op == Operator::Prefix => {
                    let chars = text.chars().count();
                    *text = text.chars().take(rng.random_range(0..=chars)).collect();
                }
                _ => {}
            }
            value
        })
        .collect();
    // Beyond all values of the type.
    if let (Some(Value::Number(units, _)), 0) = (values.first_mut(), rng.random_range(0..12)) {
        let is_wide = matches!(kind, ColumnType::WideDecimal { .. });
        *units = if is_wide { units.signum() * 10_i128.pow(38) } else { units.signum() * 10_i128.pow(30) };
    }
    if rng.random_bool(0.9) && op != Operator::In {
        values.sort_by(Value::compare);
    }
    values
}

fn digits(kind: ColumnType) -> usize {
    match kind {
        ColumnType::Decimal { digits } | ColumnType::WideDecimal { digits } => digits.into(),
        _ => 0,
    }
}

fn predicate(name: &str, kind: ColumnType, op: Operator, values: &[Value], digits: usize) -> Predicate {
    let texts: Vec<Json> = values.iter().map(|value| Json::from(value.text(digits))).collect();
    let value = match texts.as_slice() {
        [] => Json::Null,
        [one] => match (kind, one.as_str()) {
            (ColumnType::Bool, Some(flag)) => Json::Bool(flag == "true"),
            _ => one.clone(),
        },
        _ => Json::Array(texts),
    };
    Predicate { column: Some(name.to_owned()), op, value }
}

fn dictionaries(kind: ColumnType) -> Vec<Dictionary> {
    let mut dictionary = Dictionary::default();
    if kind == ColumnType::Text {
        LABELS.iter().for_each(|label| assert!(dictionary.insert(label).is_some()));
    }
    vec![dictionary]
}

/// Rows that a condition keeps, found in every way.
fn found(condition: &Condition, cells: CellSlice<'_>) -> Vec<bool> {
    let mut marks = vec![true; cells.len()];
    condition.keep(cells, &mut marks);
    let matches = marks.iter().filter(|mark| **mark).count();
    assert!(condition.count(cells).is_none_or(|count| count == matches), "{condition:?}");
    let mut rows: Vec<u32> = (0..cells.len() as u32).filter(|row| row % 3 != 1).collect();
    let kept: Vec<u32> = rows.iter().copied().filter(|row| marks[*row as usize]).collect();
    condition.retain(cells, &mut rows);
    assert!(rows == kept, "{condition:?}");
    marks
}

#[test]
fn every_operator_on_every_type_finds_the_rows_that_a_comparison_of_values_finds() {
    let mut rng = StdRng::seed_from_u64(18);
    let (mut zones_excluded, mut rows_matched) = (0, 0);
    for kind in kinds() {
        for has_nulls in [false, true] {
            let def = def(kind, has_nulls);
            let native = NativeType::of(kind);
            let column = column(&mut rng, kind, has_nulls);
            let mut zones = ZoneMap::new(1, 1);
            zones.add_block(&[column.cells.as_slice()], &[native]);
            assert_eq!(ZoneMap::decode(&zones.encode()).unwrap(), zones);
            let mut entries = Vec::new();
            append_keys(column.cells.as_slice(), native, 0, &mut entries);
            let packed = SharedCells::from(column.cells.clone()).packed_slice(0, ROWS);
            for (op, name) in Operator::ALL {
                for _ in 0..12 {
                    let values = predicate_values(&mut rng, kind, &column.values, op);
                    let predicate = predicate("value", kind, op, &values, digits(kind));
                    let shown = format!("{name} of {} with {values:?}, nulls {has_nulls}", kind.text());
                    let compiled =
                        compile(&def, &dictionaries(kind), std::slice::from_ref(&predicate), NumberFormat::Stored);
                    if !applies(op, kind) {
                        assert_eq!(compiled.unwrap_err().code(), ErrorCode::InvalidArgument, "{shown}");
                        continue;
                    }
                    let condition = compiled.unwrap_or_else(|error| panic!("{shown}: {error:?}")).remove(0);
                    let wanted: Vec<bool> =
                        column.values.iter().map(|cell| holds(op, cell.as_ref(), &values)).collect();
                    let marks = found(&condition, column.cells.as_slice());
                    if let Some(row) = (0..ROWS).find(|row| marks[*row] != wanted[*row]) {
                        panic!("{shown}: row {row}, {:?}, is {}", column.values[row], marks[row]);
                    }
                    rows_matched += wanted.iter().filter(|is| **is).count();
                    // The same rows of memory with flags as bits, from any of them on.
                    let (from, rows) = (rng.random_range(0..1_100), rng.random_range(1..1_400));
                    let part = from..from + rows;
                    assert!(found(&condition, packed.slice(from, rows)) == wanted[part.clone()], "{shown}: {part:?}");
                    assert!(found(&condition, column.cells.as_slice().slice(from, rows)) == wanted[part], "{shown}");
                    // No zone with a match is excluded.
                    let keys = condition.wanted_keys();
                    for (zone, wanted) in wanted.chunks(1_024).enumerate() {
                        let is_read = keys.can_be_among(zones.columns[0].zone(zone).unwrap());
                        assert!(is_read || !wanted.contains(&true), "{shown}: zone {zone}");
                        zones_excluded += usize::from(!is_read);
                    }
                    let any = wanted.contains(&true);
                    assert!(keys.can_be_among(zones.chunk_summaries()[0]) || !any, "{shown}: the chunk");
                    // An index names every match, and only matches where different values have different keys.
                    let is_exact = !matches!(native, NativeType::I128 | NativeType::Bytes(9..));
                    let is_named = |key: i64| condition.keys().iter().any(|(low, high)| (*low..=*high).contains(&key));
                    for (key, row) in &entries {
                        let (is_named, wanted) = (is_named(*key), wanted[*row as usize]);
                        assert!(is_named || !wanted, "{shown}: row {row} has no key");
                        assert!(!is_exact || is_named == wanted, "{shown}: row {row} has a key");
                    }
                    let nulls_match = column.values.iter().zip(&wanted).any(|(cell, wanted)| cell.is_none() && *wanted);
                    assert!(!nulls_match || keys.nulls, "{shown}");
                }
            }
        }
    }
    assert!(zones_excluded > 1_000 && rows_matched > 100_000, "{zones_excluded} zones, {rows_matched} rows");
}

#[test]
fn raw_values_of_decimals_are_units_of_the_last_digit() {
    let mut rng = StdRng::seed_from_u64(19);
    for kind in [ColumnType::Decimal { digits: 2 }, ColumnType::WideDecimal { digits: 9 }, ColumnType::Int16] {
        let column = column(&mut rng, kind, true);
        for op in [Operator::Eq, Operator::Gt, Operator::NotIn, Operator::Between] {
            let values = predicate_values(&mut rng, kind, &column.values, op);
            let predicate = predicate("value", kind, op, &values, 0);
            let condition = compile(&def(kind, true), &[], &[predicate], NumberFormat::Raw).unwrap().remove(0);
            let wanted: Vec<bool> = column.values.iter().map(|cell| holds(op, cell.as_ref(), &values)).collect();
            assert!(found(&condition, column.cells.as_slice()) == wanted, "{op:?} {values:?}");
        }
    }
}

#[test]
fn times_of_a_column_are_compared_as_those_of_rows_are() {
    let unit = TimeUnit::Us;
    let kind = ColumnType::Timestamp { unit };
    let day = 86_400_000_000_i64;
    let cells = ColumnCells::from([-1, 0, day - 1, day, day + day / 2]);
    let matching = |text: &str| {
        let predicate = Predicate::parse(text).unwrap();
        let condition = compile(&def(kind, false), &[], &[predicate], NumberFormat::Stored).unwrap().remove(0);
        let marks = found(&condition, cells.as_slice());
        (0..5).filter(|row| marks[*row]).collect::<Vec<usize>>()
    };
    assert_eq!(matching("value:eq:1970-01-01"), [1, 2]);
    assert_eq!(matching("value:ne:1970-01-01"), [0, 3, 4]);
    assert_eq!(matching("value:gt:1970-01-01"), [3, 4]);
    assert_eq!(matching("value:lte:1970-01-01T23:59:59.999999Z"), [0, 1, 2]);
    assert_eq!(matching("value:eq:86400000000"), [3]);
    assert_eq!(matching("eq:1970-01-02T12:00:00Z"), [4]);
}

#[test]
fn what_cannot_be_compared_is_refused_with_a_way_out() {
    let refused = |kind: ColumnType, text: &str| {
        let predicate = Predicate::parse(text).unwrap();
        let error = compile(&def(kind, true), &dictionaries(kind), &[predicate], NumberFormat::Stored).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{text}");
        format!("{} ({})", error.detail(), error.hint().unwrap_or_default())
    };
    assert!(refused(ColumnType::Enum, "value:eq:hold").contains("buy, sell, b, buyer"));
    assert!(refused(ColumnType::Enum, "value:gt:buy").contains("use one of eq, ne, in, not_in, prefix, is_null"));
    assert!(refused(ColumnType::Text, "value:between:a,b").contains("operator between does not apply to type text"));
    assert!(refused(ColumnType::Bool, "value:eq:1").contains("is not true or false"));
    assert!(refused(ColumnType::Bool, "value:lt:true").contains("does not apply"));
    assert!(refused(ColumnType::Int8, "value:prefix:1").contains("does not apply"));
    assert!(refused(ColumnType::Int8, "value:eq:x").contains("\"x\" is not a number"));
    assert!(refused(ColumnType::Int8, "value:is_null:1").contains("takes no value"));
    assert!(refused(ColumnType::Bytes { length: 4 }, "value:eq:abc").contains("hexadecimal"));
    assert!(refused(ColumnType::Bytes { length: 4 }, "value:eq:abcd").contains("has 2 bytes, a cell has 4"));
    assert!(refused(ColumnType::Bytes { length: 1 }, "value:prefix:abcd").contains("has 2 bytes, a cell has 1"));
    // A null is not a value: no cell is equal to it.
    for (value, says) in [("null", "takes 1 value, not 0"), ("[null]", "is_null"), ("[[1]]", "is not a number or text")]
    {
        let predicate: Predicate = serde_json::from_str(&format!(r#"{{"op":"eq","value":{value}}}"#)).unwrap();
        let error = compile(&def(ColumnType::Int8, true), &[], &[predicate], NumberFormat::Stored).unwrap_err();
        assert!(format!("{error:?}").contains(says), "{value}: {error:?}");
    }
}

/// A series with a column of each type, and the rows that it has, by timestamp and order of arrival. The first column is
/// the number of the row.
struct Stored {
    store: Store,
    order: OrderRule,
    rows: BTreeMap<(i64, i64), Vec<Option<Value>>>,
    written: i64,
}

impl Stored {
    fn open(root: &std::path::Path, order: OrderRule) -> Self {
        let options =
            StoreOptions { background_maintenance: false, tail_rows_max: u64::MAX, ..StoreOptions::default() };
        let store = Store::open(root, true, options).unwrap();
        let mut def = def(ColumnType::Int64, false);
        let columns = kinds().into_iter().enumerate();
        def.columns.extend(columns.map(|(at, kind)| named_column(&format!("c{at}"), kind, at % 3 > 0)));
        def.value_index = def.columns.iter().skip(1).map(|column| column.name.clone()).collect();
        def.order = order.clone();
        store.register(def).unwrap();
        Self { store, order, rows: BTreeMap::new(), written: 0 }
    }

    fn write(&mut self, rng: &mut StdRng, span: std::ops::Range<i64>, count: usize) {
        let columns: Vec<Column> = self.store.snapshot().get(&key()).unwrap().def.columns.clone();
        let mut rows = Rows::with_capacity(&columns, count);
        // Other positions than those of the series.
        let mut labels_of_write = LABELS;
        labels_of_write.rotate_left(rng.random_range(0..LABELS.len()));
        let mut dictionary = Dictionary::default();
        labels_of_write.iter().for_each(|label| assert!(dictionary.insert(label).is_some()));
        let texts_of = |column: &Column| match column.kind {
            ColumnType::Text => dictionary.clone(),
            _ => Dictionary::default(),
        };
        rows.texts = columns.iter().map(texts_of).collect();
        for _ in 0..count {
            let ts = rng.random_range(span.clone());
            self.written += 1;
            let mut values = vec![Some(Value::Number(self.written.into(), 0))];
            for column in columns.iter().skip(1) {
                let center = i128::from(ts / 1_000) * 30;
                let is_null = column.nullable && rng.random_bool(if ts / 1_000 == 1 { 0.995 } else { 0.1 });
                values.push((!is_null).then(|| value(rng, column.kind, center)));
            }
            rows.ts.push(ts);
            for ((cells, column), value) in rows.columns.iter_mut().zip(&columns).zip(&values) {
                let labels = if column.kind == ColumnType::Enum { labels(column.kind) } else { &labels_of_write };
                push(cells, column.kind, labels, value.as_ref());
            }
            let arrival = if self.order == OrderRule::Arrival { self.written } else { 0 };
            self.rows.insert((ts, arrival), values);
        }
        self.store.write(&key(), rows, WriteMode::Upsert, None).unwrap();
    }

    /// Compares the rows that predicates find; returns how many zones were excluded, and whether an index was used.
    fn check(&self, rng: &mut StdRng, op: Operator, at: usize) -> (u64, bool) {
        let state = self.store.snapshot();
        let series = state.get(&key()).unwrap();
        let column = &series.def.columns[at];
        let stored: Vec<Option<Value>> = self.rows.values().map(|values| values[at].clone()).collect();
        let values = predicate_values(rng, column.kind, &stored, op);
        let predicate = predicate(&column.name, column.kind, op, &values, digits(column.kind));
        let shown = format!("{} of {} with {values:?}, {:?}", op.name(), column.kind.text(), self.order);
        let filter = compile(&series.def, &series.dictionaries, &[predicate], NumberFormat::Stored).unwrap();
        let spec = ScanSpec { filter, columns: Some(vec![0]), ..ScanSpec::range((i64::MIN, i64::MAX)) };
        let mut scan = Scan::new(series, self.store.cache(), &spec);
        let mut found = Vec::new();
        for block in scan.by_ref() {
            found.extend_from_slice(block.unwrap().words(1));
        }
        let matching = self.rows.values().filter(|cells| holds(op, cells[at].as_ref(), &values));
        let wanted: Vec<i64> = matching
            .map(|cells| match cells[0] {
                Some(Value::Number(number, _)) => i64::try_from(number).unwrap(),
                _ => unreachable!(),
            })
            .collect();
        assert!(found == wanted, "{shown}: {} rows, expected {}", found.len(), wanted.len());
        let stats = scan.stats();
        (stats.zones_pruned, matches!(stats.index_used, IndexUsed::ValueIndex | IndexUsed::Both))
    }
}

#[test]
fn a_store_finds_by_zone_maps_and_indexes_of_every_type_what_a_comparison_of_all_rows_finds() {
    let mut rng = StdRng::seed_from_u64(20);
    for order in [OrderRule::default(), OrderRule::Arrival] {
        let root = tempfile::tempdir().unwrap();
        let mut stored = Stored::open(root.path(), order);
        stored.write(&mut rng, 0..3_000, 3_000);
        stored.write(&mut rng, 3_000..6_000, 3_000);
        stored.store.seal(&[]).unwrap();
        // Some of these rows replace earlier ones, which must stay hidden.
        stored.write(&mut rng, 1_500..2_500, 300);
        stored.store.seal(&[]).unwrap();
        stored.write(&mut rng, 2_000..7_000, 100);
        let (mut zones_excluded, mut indexes_used) = (0, 0);
        for (at, kind) in kinds().into_iter().enumerate() {
            for (op, _) in Operator::ALL.into_iter().filter(|(op, _)| applies(*op, kind)) {
                for _ in 0..3 {
                    let (zones, index) = stored.check(&mut rng, op, at + 1);
                    zones_excluded += zones;
                    indexes_used += usize::from(index);
                }
            }
        }
        assert!(zones_excluded > 50 && indexes_used > 50, "{zones_excluded} zones, {indexes_used} indexes");
    }
}
