//! Predicates of the bridge: their flags, and their translation for the engine.

use serde_json::Value;

use super::contract::{BridgePredicate, BridgeStats, IndexKind};
use crate::error::{Error, Result};
use crate::query::{self, IndexUsed, Operator, ScanStats};

#[derive(Debug, clap::Args)]
pub struct PredicateArgs {
    /// eq, ne, gt, gte, lt, lte (with --value), between, between-exclusive (with --min and --max), in-set or not-in-set
    /// (with --values).
    #[arg(long)]
    predicate: String,
    /// A scaled integer.
    #[arg(long, allow_negative_numbers = true)]
    value: Option<i64>,
    #[arg(long, allow_negative_numbers = true)]
    min: Option<i64>,
    #[arg(long, allow_negative_numbers = true)]
    max: Option<i64>,
    /// Scaled integers separated by commas; may be empty.
    #[arg(long, allow_hyphen_values = true)]
    values: Option<String>,
    /// Also return the values of matching rows.
    #[arg(long)]
    pub return_values: bool,
}

impl PredicateArgs {
    /// Parses the flags.
    ///
    /// # Errors
    /// `invalid_argument` for an unknown predicate, and for flags that are missing or belong to another predicate.
    pub fn predicate(&self) -> Result<BridgePredicate> {
        let word = self.predicate.as_str();
        let takes = |flags: &str| Error::invalid(format!("--predicate {word} takes {flags}"));
        let one = || match (self.value, self.min.or(self.max), &self.values) {
            (Some(value), None, None) => Ok(value),
            _ => Err(takes("--value and no other")),
        };
        let two = |inclusive| match (self.min, self.max, self.value, &self.values) {
            (Some(min), Some(max), None, None) => Ok(BridgePredicate::Between { min, max, inclusive }),
            _ => Err(takes("--min and --max and no other")),
        };
        let many = || match (&self.values, self.value.or(self.min).or(self.max)) {
            (Some(values), None) => list(values),
            _ => Err(takes("--values and no other")),
        };
        match word {
            "eq" => one().map(BridgePredicate::Eq),
            "ne" => one().map(BridgePredicate::Ne),
            "gt" => one().map(BridgePredicate::Gt),
            "gte" => one().map(BridgePredicate::Gte),
            "lt" => one().map(BridgePredicate::Lt),
            "lte" => one().map(BridgePredicate::Lte),
            "between" => two(true),
            "between-exclusive" => two(false),
            "in-set" => many().map(BridgePredicate::InSet),
            "not-in-set" => many().map(BridgePredicate::NotInSet),
            _ => Err(Error::invalid(format!("--predicate {word:?} is unknown"))
                .with_hint("eq, ne, gt, gte, lt, lte, between, between-exclusive, in-set or not-in-set")),
        }
    }
}

fn list(text: &str) -> Result<Vec<i64>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let number = |word: &str| {
        word.trim().parse().map_err(|_| Error::invalid(format!("--values: {:?} is not an integer", word.trim())))
    };
    text.split(',').map(number).collect()
}

impl BridgePredicate {
    /// Whether no value can match.
    pub fn matches_nothing(&self) -> bool {
        matches!(self, BridgePredicate::InSet(values) if values.is_empty())
    }

    /// The equivalent predicate of the engine.
    pub fn to_query(&self) -> query::Predicate {
        let list = |values: &[i64]| Value::Array(values.iter().map(|value| Value::from(*value)).collect());
        let (op, value) = match self {
            BridgePredicate::Eq(value) => (Operator::Eq, Value::from(*value)),
            BridgePredicate::Ne(value) => (Operator::Ne, Value::from(*value)),
            BridgePredicate::Gt(value) => (Operator::Gt, Value::from(*value)),
            BridgePredicate::Gte(value) => (Operator::Gte, Value::from(*value)),
            BridgePredicate::Lt(value) => (Operator::Lt, Value::from(*value)),
            BridgePredicate::Lte(value) => (Operator::Lte, Value::from(*value)),
            BridgePredicate::Between { min, max, inclusive: true } => (Operator::Between, list(&[*min, *max])),
            BridgePredicate::Between { min, max, inclusive: false } => {
                (Operator::BetweenExclusive, list(&[*min, *max]))
            }
            BridgePredicate::InSet(values) => (Operator::In, list(values)),
            // The engine refuses empty sets; this matches every value too.
            BridgePredicate::NotInSet(values) if values.is_empty() => (Operator::Gte, Value::from(i64::MIN)),
            BridgePredicate::NotInSet(values) => (Operator::NotIn, list(values)),
        };
        query::Predicate { column: Some("value".into()), op, value }
    }
}

impl From<ScanStats> for BridgeStats {
    fn from(found: ScanStats) -> Self {
        let index_used = match found.index_used {
            IndexUsed::ZoneMap => Some(IndexKind::ZoneMap),
            IndexUsed::ValueIndex => Some(IndexKind::ValueIndex),
            IndexUsed::Both => Some(IndexKind::ZoneMapAndValueIndex),
            IndexUsed::None if found.rows_checked > 0 => Some(IndexKind::FullScan),
            IndexUsed::None => None,
        };
        BridgeStats {
            chunks_considered: found.chunks_considered,
            chunks_scanned: found.chunks_scanned,
            chunks_pruned: found.chunks_pruned,
            blocks_considered: found.zones_considered,
            blocks_scanned: found.zones_scanned,
            blocks_pruned: found.zones_pruned,
            rows_checked: found.rows_checked,
            rows_matched: found.rows_matched,
            index_used,
            fallback_scan: found.fallback || matches!(index_used, Some(IndexKind::FullScan)),
        }
    }
}
