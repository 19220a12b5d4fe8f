//! Changes of the columns of a registered series that keep every stored cell readable.
//!
//! Digits and integers become wider, nullable columns are added, an enum gets further values. Whatever else a caller
//! asks for is refused with what is possible instead.

use serde::{Deserialize, Serialize};

use super::kind::{check_rules, is_preset};
use super::schema::{
    COLUMNS_MAX, Column, ColumnParameters, ColumnType, MergeRule, SeriesDef, check_column_name, check_merge,
    column_type,
};
use super::time::TimeUnit;
use crate::error::{Error, ErrorCode, Result};

/// The change of a column, or a new column. Absent fields of an existing column stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ColumnChange {
    /// Name of the column.
    pub name: String,
    /// The wider type: a wider integer, `float64` instead of `float32`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// As many digits as before, or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digits: Option<u8>,
    /// `true` makes a decimal one of 16 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wide: Option<bool>,
    /// Unit of a new timestamp column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<TimeUnit>,
    /// Length of a new bytes column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u16>,
    /// The values of an enum: those before, then new ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
    /// `true` for a new column: rows before it have nulls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nullable: Option<bool>,
    /// Merge rule of a new column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergeRule>,
}

impl SeriesDef {
    /// The registration with changed and added columns.
    ///
    /// # Errors
    /// `invalid_argument` naming the column and what is possible.
    pub fn evolved(&self, changes: &[ColumnChange]) -> Result<SeriesDef> {
        let mut def = self.clone();
        for (position, change) in changes.iter().enumerate() {
            let name = &change.name;
            if changes.iter().take(position).any(|earlier| earlier.name == *name) {
                return Err(Error::invalid(format!("column {name:?} is listed twice")));
            }
            match def.columns.iter_mut().find(|column| column.name == *name) {
                Some(column) => change_column(column, change)?,
                None if self.key_names.contains(name) => {
                    return Err(Error::invalid(format!("column {name:?} is a word of the key too"))
                        .with_hint("choose another name"));
                }
                None => def.columns.push(new_column(change)?),
            }
        }
        if def.columns.len() > COLUMNS_MAX {
            return Err(Error::invalid(format!("{} columns are more than {COLUMNS_MAX}", def.columns.len())));
        }
        check_rules(&def.rules, &def.columns).map_err(|error| {
            Error::invalid(error.detail().to_owned()).with_hint("change the columns of a rule together")
        })?;
        if def.columns != self.columns {
            def.schema_version += 1;
        }
        Ok(def)
    }

    /// Whether the columns are those of `earlier`, or came from them by changes of [`SeriesDef::evolved`].
    pub fn has_evolved_from(&self, earlier: &SeriesDef) -> bool {
        let (Some(own), Some(new)) =
            (self.columns.get(..earlier.columns.len()), self.columns.get(earlier.columns.len()..))
        else {
            return false;
        };
        let is_wider = |(own, earlier): (&Column, &Column)| {
            own.name == earlier.name
                && own.merge == earlier.merge
                && own.nullable == earlier.nullable
                && can_become(earlier.kind, own.kind)
                && own.values.starts_with(&earlier.values)
        };
        own.iter().zip(&earlier.columns).all(is_wider) && new.iter().all(|column| column.nullable)
    }

    /// Whether two registrations describe the same rows. Fields that `PATCH` can change are ignored, but for columns of
    /// a kind whose registrations state them.
    pub fn same_rows_as(&self, other: &SeriesDef) -> bool {
        let same_columns = match is_preset(self.kind()) {
            true => self.columns == other.columns,
            false => self.has_evolved_from(other),
        };
        self.key == other.key
            && self.key_names == other.key_names
            && self.unit == other.unit
            && self.partition == other.partition
            && self.interval_ms == other.interval_ms
            && self.origin == other.origin
            && self.order == other.order
            && self.rules == other.rules
            && same_columns
    }

    /// # Errors
    /// `series_exists` unless this registered definition describes the same rows as the requested one.
    pub fn check_same_rows_as(&self, requested: &SeriesDef) -> Result<()> {
        if self.same_rows_as(requested) {
            return Ok(());
        }
        Err(Error::new(ErrorCode::SeriesExists, format!("series {} is registered with another definition", self.key))
            .with_hint("GET the series to compare; drop it first to register it again"))
    }
}

/// Whether every cell of a type is one of another type too, which its files then answer.
fn can_become(from: ColumnType, to: ColumnType) -> bool {
    use ColumnType::{Decimal, Float32, Float64, WideDecimal};
    match (from, to) {
        (Decimal { digits }, Decimal { digits: more } | WideDecimal { digits: more })
        | (WideDecimal { digits }, WideDecimal { digits: more }) => digits <= more,
        (Float32, Float64) => true,
        _ if from == to => true,
        _ => wider_integers(from).contains(&to),
    }
}

/// The integer types that have all values of one.
fn wider_integers(from: ColumnType) -> &'static [ColumnType] {
    use ColumnType::{Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64};
    match from {
        Int8 => &[Int16, Int32, Int64],
        Int16 => &[Int32, Int64],
        Int32 => &[Int64],
        UInt8 => &[UInt16, UInt32, UInt64, Int16, Int32, Int64],
        UInt16 => &[UInt32, UInt64, Int32, Int64],
        UInt32 => &[UInt64, Int64],
        _ => &[],
    }
}

/// What a type can become, for messages.
fn possible(from: ColumnType) -> String {
    match from {
        ColumnType::Decimal { digits } => {
            format!("decimal with {digits} to 18 digits, or a wide decimal with {digits} to 38 digits")
        }
        ColumnType::WideDecimal { digits } => format!("a wide decimal with {digits} to 38 digits"),
        ColumnType::Float32 => "float64".to_owned(),
        ColumnType::Enum => "an enum with further values after those it has".to_owned(),
        other => match wider_integers(other) {
            [] => "nothing else: values of this type have no wider one".to_owned(),
            wider => wider.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", "),
        },
    }
}

fn change_column(column: &mut Column, change: &ColumnChange) -> Result<()> {
    let name = &column.name;
    let from = column.kind;
    let refuse = |what: String| {
        Err(Error::invalid(format!("column {name}: {what}")).with_hint(format!(
            "column {name} is {}; it can become {}",
            from.text(),
            possible(from)
        )))
    };
    if change.nullable.is_some_and(|nullable| nullable != column.nullable) {
        return refuse("whether cells can be null cannot be changed".to_owned());
    }
    if change.merge.is_some_and(|merge| merge != column.merge) {
        return refuse("the merge rule cannot be changed".to_owned());
    }
    // What is not given stays, unless the type is another one.
    let kept = change.kind.as_deref().is_none_or(|kind| kind == from.name()).then_some(from);
    let (mut digits, mut wide, mut unit, mut length) = (None, false, None, None);
    match kept {
        Some(ColumnType::Decimal { digits: own }) => digits = Some(own),
        Some(ColumnType::WideDecimal { digits: own }) => (digits, wide) = (Some(own), true),
        Some(ColumnType::Timestamp { unit: own }) => unit = Some(own),
        Some(ColumnType::Bytes { length: own }) => length = Some(own),
        _ => {}
    }
    let values = match (&change.values, kept) {
        (Some(values), _) => values.clone(),
        (None, Some(_)) => column.values.clone(),
        (None, None) => Vec::new(),
    };
    let to = column_type(
        name,
        &ColumnParameters {
            kind: Some(change.kind.as_deref().unwrap_or(from.name())),
            digits: change.digits.or(digits),
            wide: change.wide.unwrap_or(wide),
            unit: change.unit.or(unit),
            length: change.length.or(length),
            values: &values,
        },
    )?;
    if !can_become(from, to) {
        return refuse(format!("{} cannot become {}", from.text(), to.text()));
    }
    if !values.starts_with(&column.values) {
        return refuse(format!("the values of the enum start with {}", column.values.join(", ")));
    }
    column.kind = to;
    column.values = values;
    Ok(())
}

fn new_column(change: &ColumnChange) -> Result<Column> {
    let name = &change.name;
    check_column_name(name)?;
    if change.nullable != Some(true) {
        return Err(Error::invalid(format!("column {name} is new and not nullable"))
            .with_hint(format!("rows stored before have no {name}: add \"nullable\": true; or check the name")));
    }
    let values = change.values.clone().unwrap_or_default();
    let kind = column_type(
        name,
        &ColumnParameters {
            kind: change.kind.as_deref(),
            digits: change.digits,
            wide: change.wide.unwrap_or_default(),
            unit: change.unit,
            length: change.length,
            values: &values,
        },
    )?;
    let column =
        Column { merge: change.merge.unwrap_or_default(), nullable: true, values, ..Column::new(name.clone(), kind) };
    check_merge(&column)?;
    Ok(column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{KindDef, SeriesKey, SeriesSpec};

    fn def() -> SeriesDef {
        let kind: KindDef = serde_json::from_str(
            r#"{"kind":"t","key":["x"],"fields":[{"name":"price","type":"decimal","digits":2},
                {"name":"total","type":"decimal","digits":2,"wide":true},{"name":"size","type":"uint16"},
                {"name":"level","type":"int8"},{"name":"ratio","type":"float32"},{"name":"id","type":"uint64"},
                {"name":"side","type":"enum","values":["buy","sell"]},{"name":"at","type":"timestamp","unit":"us"},
                {"name":"bid","type":"int16"},{"name":"ask","type":"int16"}],
                "rules":[{"rule":"at_least","field":"ask","of":["bid"]}]}"#,
        )
        .unwrap();
        SeriesSpec::of_key(&SeriesKey::new("t", &["x"]).unwrap()).resolve_as(&kind).unwrap()
    }

    fn evolve(changes: &str) -> Result<SeriesDef> {
        def().evolved(&serde_json::from_str::<Vec<ColumnChange>>(changes).unwrap())
    }

    #[test]
    fn columns_become_wider_and_new_ones_are_nullable() {
        let new = evolve(
            r#"[{"name":"price","digits":6},{"name":"total","digits":20},{"name":"size","type":"int64"},
                {"name":"level","type":"int16"},{"name":"ratio","type":"float64"},
                {"name":"side","values":["buy","sell","cross"]},{"name":"venue","type":"text","nullable":true},
                {"name":"fee","type":"decimal","digits":4,"nullable":true,"merge":"sum"}]"#,
        )
        .unwrap();
        let kind = |name: &str| new.columns[new.column(name).unwrap()].kind;
        assert_eq!(kind("price"), ColumnType::Decimal { digits: 6 });
        assert_eq!(kind("total"), ColumnType::WideDecimal { digits: 20 });
        assert_eq!(
            (kind("size"), kind("level"), kind("ratio")),
            (ColumnType::Int64, ColumnType::Int16, ColumnType::Float64)
        );
        assert_eq!(new.columns[6].values, ["buy", "sell", "cross"]);
        assert_eq!((new.columns.len(), new.columns[11].merge), (12, MergeRule::Sum));
        assert_eq!((def().schema_version, new.schema_version), (0, 1));
        assert!(new.has_evolved_from(&def()) && !def().has_evolved_from(&new));
        new.check_same_rows_as(&def()).unwrap();
        assert_eq!(def().check_same_rows_as(&new).unwrap_err().code(), ErrorCode::SeriesExists);
        let wide = evolve(r#"[{"name":"price","wide":true,"digits":30}]"#).unwrap();
        assert_eq!(wide.columns[0].kind, ColumnType::WideDecimal { digits: 30 });
        assert_eq!(evolve(r#"[{"name":"price"},{"name":"side","values":["buy","sell"]}]"#).unwrap(), def());
    }

    #[test]
    fn everything_else_is_refused_with_what_is_possible() {
        for (changes, reason) in [
            (r#"[{"name":"price","digits":1}]"#, "2 to 18 digits"),
            (r#"[{"name":"price","digits":19}]"#, "19 digits"),
            (r#"[{"name":"price","type":"float64"}]"#, "2 to 18 digits"),
            (r#"[{"name":"total","wide":false}]"#, "2 to 38 digits"),
            (r#"[{"name":"size","type":"uint8"}]"#, "uint32, uint64, int32, int64"),
            (r#"[{"name":"size","type":"int16"}]"#, "uint32, uint64, int32, int64"),
            (r#"[{"name":"level","type":"uint16"}]"#, "int16, int32, int64"),
            (r#"[{"name":"id","type":"int64"}]"#, "nothing else"),
            (r#"[{"name":"ratio","type":"int32"}]"#, "float64"),
            (r#"[{"name":"side","values":["sell","buy"]}]"#, "further values"),
            (r#"[{"name":"side","values":["buy"]}]"#, "further values"),
            (r#"[{"name":"side","type":"text"}]"#, "further values"),
            (r#"[{"name":"at","unit":"ns"}]"#, "nothing else"),
            (r#"[{"name":"size","nullable":true}]"#, "null cannot be changed"),
            (r#"[{"name":"size","merge":"sum"}]"#, "merge rule"),
            (r#"[{"name":"venue","type":"text"}]"#, "nullable"),
            (r#"[{"name":"ts","type":"text","nullable":true}]"#, "reserved"),
            (r#"[{"name":"x","type":"text","nullable":true}]"#, "word of the key"),
            (r#"[{"name":"venue","type":"text","nullable":true,"merge":"min"}]"#, "merged by min"),
            (r#"[{"name":"size","type":"int64"},{"name":"size","type":"int64"}]"#, "twice"),
            (r#"[{"name":"ask","type":"int32"}]"#, "together"),
        ] {
            let error = evolve(changes).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{changes}");
            let text = format!("{} {}", error.detail(), error.hint().unwrap_or_default());
            assert!(text.contains(reason), "{changes}: {text}");
        }
        assert!(evolve(r#"[{"name":"ask","type":"int32"},{"name":"bid","type":"int32"}]"#).is_ok());
        let many: Vec<String> =
            (0..55).map(|n| format!(r#"{{"name":"n{n}","type":"int8","nullable":true}}"#)).collect();
        assert!(evolve(&format!("[{}]", many.join(","))).unwrap_err().detail().contains("65 columns"));
    }
}
