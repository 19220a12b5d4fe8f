//! Kinds of series: which words their keys have, which fields their rows have, and how rows are ordered.
//!
//! A kind is data. [`built_in`] has those of every store; others are registered. The columns of a kline and of a scalar
//! also depend on the digits of a registration, see [`SeriesSpec`](super::SeriesSpec); a series of any other kind has
//! the fields of its kind.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::key::{KEY_WORDS_MAX, KLINE, SCALAR, check_kind_name};
use super::rules::RowRule;
use super::schema::{
    COLUMNS_MAX, Column, ColumnType, MergeRule, OrderRule, PartitionRule, SeriesDef, TIMEFRAME, check_column_name,
    check_merge,
};
use super::similar;
use super::tick_kinds::tick_kinds;
use super::time::TimeUnit;
use crate::error::{Error, ErrorCode, Result};

/// Maximum number of registered kinds of a store.
pub const KINDS_MAX: usize = 1_024;
/// Maximum number of rules of a kind.
pub const RULES_MAX: usize = 64;
/// Names of kinds that are not used, and must not mean anything else.
const RESERVED_KINDS: [&str; 1] = ["bbo"];
/// Maximum number of similar kinds in an error.
const SIMILAR_MAX: usize = 3;

/// A kind of series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct KindDef {
    /// First word of the keys: `[a-z][a-z0-9_]{0,31}`.
    #[serde(rename = "kind")]
    pub name: String,
    /// Names of the 1 to 4 words after it. A word named `timeframe` states the interval between rows.
    pub key: Vec<String>,
    /// Unit of `ts`, unless a series has another.
    #[serde(default)]
    pub unit: TimeUnit,
    /// `"arrival"`, or `{"unique":["ts", …]}`.
    #[serde(default)]
    #[cfg_attr(feature = "server", schema(value_type = serde_json::Value, example = json!({"unique": ["ts"]})))]
    pub order: OrderRule,
    /// The fields of a row after `ts`.
    pub fields: Vec<Column>,
    /// Rules that each row must follow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RowRule>,
    /// `auto`, `hour`, `day`, `month`, `year` or `all`, unless a series has another.
    #[serde(default)]
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub partition: PartitionRule,
    /// Name of its table in SQL; that of the kind when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_name: Option<String>,
}

/// The kinds of every store.
static BUILT_IN: LazyLock<Vec<KindDef>> = LazyLock::new(|| {
    let names = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let field = |name: &str, merge| Column { merge, ..Column::new(name, ColumnType::Float64) };
    let kind = |name: &str, key, fields, rules, sql_name: &str| KindDef {
        name: name.to_owned(),
        key: names(key),
        unit: TimeUnit::default(),
        order: OrderRule::default(),
        fields,
        rules,
        partition: PartitionRule::Auto,
        sql_name: Some(sql_name.to_owned()),
    };
    let bar = vec![
        field("open", MergeRule::First),
        field("high", MergeRule::Max),
        field("low", MergeRule::Min),
        field("close", MergeRule::Last),
        field("volume", MergeRule::Sum),
    ];
    let value = vec![field("value", MergeRule::Last)];
    let mut kinds = vec![
        kind(KLINE, &["symbol", TIMEFRAME], bar, BAR_RULES.clone(), "klines"),
        kind(SCALAR, &["category", "symbol", TIMEFRAME, "name"], value, Vec::new(), "scalars"),
    ];
    let non_negative = |name: &str| RowRule::NonNegative { field: name.into() };
    kinds.extend(tick_kinds().into_iter().map(|events| KindDef {
        unit: TimeUnit::Us,
        order: events.order.clone(),
        partition: PartitionRule::Fixed(events.partition),
        ..kind(
            events.name,
            &["symbol", "channel"],
            events.fields.clone(),
            events.quantities().map(non_negative).collect(),
            events.table,
        )
    }));
    kinds
});

/// The rules of klines.
static BAR_RULES: LazyLock<Vec<RowRule>> = LazyLock::new(|| {
    let names = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    vec![
        RowRule::AtLeast { field: "high".into(), of: names(&["open", "close", "low"]) },
        RowRule::AtMost { field: "low".into(), of: names(&["open", "close", "high"]) },
        RowRule::NonNegative { field: "volume".into() },
    ]
});

/// The kinds of every store.
pub fn built_in() -> &'static [KindDef] {
    &BUILT_IN
}

/// The kind of every store that has this name.
pub fn built_in_named(name: &str) -> Option<&'static KindDef> {
    built_in().iter().find(|kind| kind.name == name)
}

/// Whether the registrations of a kind name the words of their keys and state the columns: klines and scalars.
pub fn is_preset(name: &str) -> bool {
    name == KLINE || name == SCALAR
}

/// Whether rules are those of klines.
pub fn are_bar_rules(rules: &[RowRule]) -> bool {
    *BAR_RULES == rules
}

impl KindDef {
    /// Name of its table in SQL.
    pub fn table(&self) -> &str {
        self.sql_name.as_deref().unwrap_or(&self.name)
    }

    /// Validates a kind that is to be registered.
    ///
    /// # Errors
    /// `invalid_argument` that names the field, `kind_exists` for the name of a kind that FastK defines.
    pub fn check(&self) -> Result<()> {
        check_kind_name(&self.name)?;
        let invalid = |what: String| Err(Error::invalid(format!("kind {}: {what}", self.name)));
        if built_in_named(&self.name).is_some() {
            return Err(Error::new(ErrorCode::KindExists, format!("kind {} is built in", self.name))
                .with_hint("register the kind under another name"));
        }
        if RESERVED_KINDS.contains(&self.name.as_str()) {
            return Err(Error::new(ErrorCode::KindExists, format!("kind {} is reserved for FastK", self.name))
                .with_hint("choose another name; kind quote has the best bid and offer"));
        }
        if self.key.is_empty() || self.key.len() > KEY_WORDS_MAX {
            return invalid(format!("key names {} words, not 1 to {KEY_WORDS_MAX}", self.key.len()));
        }
        let mut seen = BTreeSet::new();
        for word in &self.key {
            check_column_name(word).or_else(|error| invalid(format!("key: {}", error.detail())))?;
            if !seen.insert(word.as_str()) {
                return invalid(format!("key lists {word:?} twice"));
            }
        }
        if self.fields.is_empty() || self.fields.len() > COLUMNS_MAX {
            return invalid(format!("{} fields, not 1 to {COLUMNS_MAX}", self.fields.len()));
        }
        for field in &self.fields {
            check_column_name(&field.name).or_else(|error| invalid(error.detail().to_owned()))?;
            if !seen.insert(field.name.as_str()) {
                let what = if self.key.contains(&field.name) { "is a word of the key too" } else { "is listed twice" };
                return invalid(format!("field {:?} {what}", field.name));
            }
            check_merge(field).or_else(|error| invalid(error.detail().to_owned()))?;
        }
        self.check_order()?;
        check_rules(&self.rules, &self.fields).or_else(|error| invalid(error.detail().to_owned()))?;
        match &self.sql_name {
            Some(name) => check_column_name(name).or_else(|error| invalid(format!("sql_name: {}", error.detail()))),
            None => Ok(()),
        }
    }

    fn check_order(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::invalid(format!("kind {}: order: {what}", self.name)));
        let listed = self.order.key_columns();
        for (position, name) in listed.iter().enumerate() {
            let Some(field) = self.fields.iter().find(|field| field.name == *name) else {
                return invalid(format!("unique lists {name:?}, which is not a field"));
            };
            if listed.iter().take(position).any(|earlier| earlier == name) {
                return invalid(format!("unique lists {name:?} twice"));
            }
            if field.nullable {
                return invalid(format!("field {name:?} can be null, so it cannot tell rows apart"));
            }
            if matches!(field.kind, ColumnType::Float64 | ColumnType::Float32) {
                return invalid(format!("field {name:?} is {}, which cannot tell rows apart", field.kind.text()));
            }
        }
        Ok(())
    }

    /// Checks that a series is one of this kind, as it is registered first.
    ///
    /// # Errors
    /// `kind_exists`: the kind was registered again with another definition in the meantime.
    pub fn check_series(&self, def: &SeriesDef) -> Result<()> {
        let is_same = def.kind() == self.name
            && def.key_names == self.key
            && def.order == self.order
            && def.rules == self.rules
            && def.columns == self.fields;
        if is_same {
            return Ok(());
        }
        Err(Error::new(ErrorCode::KindExists, format!("series {} does not have the fields of its kind", def.key))
            .with_hint("read the kind again and repeat the request"))
    }

    /// The kind as far as series of it tell: the fields of the one that was extended least.
    pub fn of_series<'a>(series: impl IntoIterator<Item = &'a SeriesDef>) -> Option<Self> {
        let width = |def: &SeriesDef| {
            let digits = |column: &Column| match column.kind {
                ColumnType::Decimal { digits } | ColumnType::WideDecimal { digits } => usize::from(digits),
                _ => 0,
            };
            let of_column = |column: &Column| (column.kind.layout().width(), digits(column), column.values.len());
            (def.columns.len(), def.columns.iter().map(of_column).collect::<Vec<_>>())
        };
        let def = series.into_iter().min_by_key(|def| width(def))?;
        Some(Self {
            name: def.kind().to_owned(),
            key: def.key_names.clone(),
            unit: def.unit,
            order: def.order.clone(),
            fields: def.columns.clone(),
            rules: def.rules.clone(),
            partition: PartitionRule::Fixed(def.partition),
            sql_name: None,
        })
    }
}

/// Validates row rules against the columns that they name.
///
/// # Errors
/// `invalid_argument` that names the rule.
pub fn check_rules(rules: &[RowRule], columns: &[Column]) -> Result<()> {
    if rules.len() > RULES_MAX {
        return Err(Error::invalid(format!("{} rules are more than {RULES_MAX}", rules.len())));
    }
    for rule in rules {
        let invalid = |what: String| Err(Error::invalid(format!("rule {} of {:?}: {what}", rule.name(), rule.field())));
        let find = |name: &str| columns.iter().find(|column| column.name == name);
        let Some(column) = find(rule.field()) else { return invalid("there is no such field".into()) };
        let is_number =
            !matches!(column.kind, ColumnType::Bool | ColumnType::Enum | ColumnType::Text | ColumnType::Bytes { .. });
        if !is_number {
            return invalid(format!("a field of type {} has no order", column.kind.text()));
        }
        if rule.others().is_empty() && !matches!(rule, RowRule::NonNegative { .. }) {
            return invalid("of lists no field".into());
        }
        for name in rule.others() {
            let Some(other) = find(name) else { return invalid(format!("there is no field {name:?}")) };
            if other.kind != column.kind {
                return invalid(format!("{name:?} is {}, not {}", other.kind.text(), column.kind.text()));
            }
            if name == rule.field() {
                return invalid("it is compared with itself".into());
            }
        }
    }
    Ok(())
}

/// The error for a kind that is not registered, with the most similar of those that are.
pub fn kind_not_found<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Error {
    let known: Vec<&str> = built_in().iter().map(|kind| kind.name.as_str()).chain(known).collect();
    let shown: String = name.chars().take(80).collect();
    let error = Error::new(ErrorCode::NotFound, format!("kind {shown:?} is not registered"));
    let similar = similar::nearest(name, known.iter().copied(), SIMILAR_MAX);
    match similar.is_empty() {
        true => error.with_hint("GET /v1/kinds lists the kinds; register one with POST /v1/kinds"),
        false => error.with_hint(format!("did you mean {}?", similar.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(json: &str) -> Result<KindDef> {
        let kind: KindDef = serde_json::from_str(json).map_err(|error| Error::invalid(error.to_string()))?;
        kind.check().map(|()| kind)
    }

    const GREEKS: &str = r#"{"kind":"greeks","key":["underlying","contract"],"unit":"us","order":{"unique":["ts","seq"]},
        "fields":[{"name":"delta","type":"float64","nullable":true},{"name":"price","type":"decimal","digits":4},
        {"name":"notional","type":"decimal","digits":8,"wide":true},{"name":"side","type":"enum","values":["buy","sell"]},
        {"name":"venue","type":"text"},{"name":"seq","type":"uint32"},{"name":"at","type":"timestamp","unit":"ns"},
        {"name":"hash","type":"bytes","length":16},{"name":"bid","type":"int64"},{"name":"ask","type":"int64"}],
        "rules":[{"rule":"at_least","field":"ask","of":["bid"]},{"rule":"non_negative","field":"price"}],
        "partition":"hour","sql_name":"option_greeks"}"#;

    #[test]
    fn a_kind_survives_its_json_form() {
        let greeks = kind(GREEKS).unwrap();
        assert_eq!(greeks.order, OrderRule::Unique(vec!["seq".into()]));
        assert_eq!(greeks.table(), "option_greeks");
        let text = serde_json::to_string(&greeks).unwrap();
        assert_eq!(serde_json::from_str::<KindDef>(&text).unwrap(), greeks);
        let short = kind(r#"{"kind":"vix","key":["term"],"fields":[{"name":"v"}]}"#);
        assert!(short.is_err(), "a field needs a type");
        let short = kind(r#"{"kind":"vix","key":["term"],"fields":[{"name":"v","type":"float64"}]}"#).unwrap();
        assert_eq!(
            (short.unit, short.partition, short.order),
            (TimeUnit::Ms, PartitionRule::Auto, OrderRule::default())
        );
    }

    #[test]
    fn an_invalid_kind_is_refused_with_its_reason() {
        let field = |name: &str, more: &str| format!(r#"{{"name":"{name}",{more}}}"#);
        let with = |key: &str, fields: &[String], more: &str| {
            kind(&format!(r#"{{"kind":"k","key":{key},"fields":[{}]{more}}}"#, fields.join(",")))
        };
        let int = |name: &str| field(name, r#""type":"int64""#);
        let one = [int("a")];
        for (result, reason) in [
            (with("[]", &one, ""), "0 words"),
            (with(r#"["a","b","c","d","e"]"#, &one, ""), "5 words"),
            (with(r#"["x","x"]"#, &one, ""), "twice"),
            (with(r#"["X"]"#, &one, ""), "[a-z]"),
            (with(r#"["a"]"#, &one, ""), "word of the key"),
            (with(r#"["x"]"#, &[], ""), "0 fields"),
            (with(r#"["x"]"#, &[int("a"), int("a")], ""), "twice"),
            (with(r#"["x"]"#, &[int("ts")], ""), "reserved"),
            (with(r#"["x"]"#, &[int("series")], ""), "reserved"),
            (with(r#"["x"]"#, &(0..65).map(|n| int(&format!("a{n}"))).collect::<Vec<_>>(), ""), "65 fields"),
            (with(r#"["x"]"#, &[field("a", r#""type":"enum""#)], ""), "values"),
            (with(r#"["x"]"#, &[field("a", r#""type":"enum","values":["u","u"]"#)], ""), "listed twice"),
            (with(r#"["x"]"#, &[field("a", r#""type":"int128""#)], ""), "int128"),
            (with(r#"["x"]"#, &[field("a", r#""type":"text","merge":"max""#)], ""), "merged by max"),
            (with(r#"["x"]"#, &[field("a", r#""type":"bytes","length":4,"merge":"sum""#)], ""), "merged by sum"),
            (with(r#"["x"]"#, &[field("a", r#""type":"timestamp","unit":"s","merge":"sum""#)], ""), "merged by sum"),
            (with(r#"["x"]"#, &[field("a", r#""type":"decimal","digits":19"#)], ""), "19 digits"),
            (with(r#"["x"]"#, &[field("a", r#""type":"float64","wide":true"#)], ""), "only decimal takes wide"),
            (with(r#"["x"]"#, &one, r#","order":{"unique":["ts","b"]}"#), "not a field"),
            (with(r#"["x"]"#, &one, r#","order":{"unique":["ts","a","a"]}"#), "twice"),
            (with(r#"["x"]"#, &one, r#","order":{"unique":["a"]}"#), "ts first"),
            (
                with(
                    r#"["x"]"#,
                    &[field("a", r#""type":"int8","nullable":true"#)],
                    r#","order":{"unique":["ts","a"]}"#,
                ),
                "can be null",
            ),
            (with(r#"["x"]"#, &[field("a", r#""type":"float32""#)], r#","order":{"unique":["ts","a"]}"#), "float32"),
            (with(r#"["x"]"#, &one, r#","rules":[{"rule":"at_least","field":"a","of":["b"]}]"#), "no field"),
            (with(r#"["x"]"#, &one, r#","rules":[{"rule":"at_least","field":"a","of":["a"]}]"#), "itself"),
            (with(r#"["x"]"#, &one, r#","rules":[{"rule":"at_most","field":"a","of":[]}]"#), "no field"),
            (
                with(
                    r#"["x"]"#,
                    &[field("a", r#""type":"text""#)],
                    r#","rules":[{"rule":"non_negative","field":"a"}]"#,
                ),
                "order",
            ),
            (with(r#"["x"]"#, &one, r#","partition":"week""#), "week"),
            (with(r#"["x"]"#, &one, r#","colour":1"#), "colour"),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{reason}");
            assert!(error.detail().contains(reason), "{reason}: {}", error.detail());
        }
    }

    #[test]
    fn names_that_fastk_uses_are_refused() {
        for name in RESERVED_KINDS.into_iter().chain(built_in().iter().map(|kind| kind.name.as_str())) {
            let json = format!(r#"{{"kind":"{name}","key":["x"],"fields":[{{"name":"a","type":"int64"}}]}}"#);
            assert_eq!(kind(&json).unwrap_err().code(), ErrorCode::KindExists, "{name}");
        }
        for name in ["", "A", "a-b", "1a", &"k".repeat(33)] {
            let json = format!(r#"{{"kind":"{name}","key":["x"],"fields":[{{"name":"a","type":"int64"}}]}}"#);
            assert_eq!(kind(&json).unwrap_err().code(), ErrorCode::InvalidArgument, "{name}");
        }
    }

    #[test]
    fn the_built_in_kinds_follow_the_rules_of_kinds() {
        for known in built_in() {
            KindDef { name: "other".into(), ..known.clone() }.check().unwrap();
        }
        assert!(are_bar_rules(&built_in_named(KLINE).unwrap().rules));
        assert!(!are_bar_rules(&[]));
    }

    #[test]
    fn an_unknown_kind_is_answered_with_similar_ones() {
        let error = kind_not_found("greek", ["greeks", "chains"].into_iter());
        assert_eq!(error.code(), ErrorCode::NotFound);
        assert!(error.hint().unwrap().contains("greeks"));
        assert!(kind_not_found("klin", std::iter::empty()).hint().unwrap().contains("kline"));
    }
}
