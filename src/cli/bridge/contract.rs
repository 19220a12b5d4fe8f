//! The JSON of the fastk_bridge contract 0.1.0-rc.1: the input and output of its commands.
//!
//! Field names, their order and their types are fixed by the contract; `openapi/bridge/` has the schemas generated from
//! these types. Numbers are scaled integers, timestamps milliseconds since the epoch, UTC.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ErrorCode;

/// One bar, in scaled integers: prices times the price scale, volume times the volume scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KlineRecord {
    /// Open time in milliseconds since the epoch, UTC; negative before 1970.
    pub ts: i64,
    pub open: i64,
    pub high: i64,
    pub low: i64,
    pub close: i64,
    pub volume: i64,
}

/// One value of a scalar series, a scaled integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScalarRecord {
    /// Milliseconds since the epoch, UTC; negative before 1970.
    pub ts: i64,
    pub value: i64,
}

/// Input of `write-kline-range`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteKlines {
    /// Length of a bar in milliseconds; must match the timeframe.
    #[schemars(range(min = 1))]
    pub timeframe_ms: i64,
    /// Scale of prices: a power of ten.
    #[schemars(range(min = 1))]
    pub price_scale: i64,
    /// Scale of volumes: a power of ten.
    #[schemars(range(min = 1))]
    pub volume_scale: i64,
    /// In any order, one per timestamp.
    pub records: Vec<KlineRecord>,
}

/// Input of `write-scalar-range` and `write-indicator-range`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteScalars {
    /// Length of an interval in milliseconds. If null or missing: that of the timeframe, else of the klines of the same
    /// symbol and timeframe.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub timeframe_ms: Option<i64>,
    /// In any order, one per timestamp.
    pub records: Vec<ScalarRecord>,
}

/// Output of `read-kline-range`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct KlineRange {
    pub symbol: String,
    pub timeframe: String,
    /// Null if neither the timeframe nor the registration defines it.
    pub timeframe_ms: Option<i64>,
    pub start_ts: i64,
    pub end_ts: i64,
    pub price_scale: i64,
    pub volume_scale: i64,
    /// Records with `start_ts <= ts <= end_ts`, by time.
    pub records: Vec<KlineRecord>,
}

/// Output of `write-kline-range`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct KlinesWritten {
    pub symbol: String,
    pub timeframe: String,
    pub timeframe_ms: i64,
    /// As in the input.
    pub price_scale: i64,
    pub volume_scale: i64,
    /// Whether this call registered the series.
    pub registered: bool,
    pub requested_record_count: u64,
    pub written_record_count: u64,
    /// Number of calendar months in UTC with records of the input.
    pub month_batches_written: u64,
}

/// Output of `kline-inventory`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct KlineInventory {
    pub symbol: String,
    pub timeframe: String,
    pub exists: bool,
    pub timeframe_ms: Option<i64>,
    pub price_scale: Option<i64>,
    pub volume_scale: Option<i64>,
    pub record_count: u64,
    /// First and last timestamp stored; null without rows.
    pub coverage_start_ts: Option<i64>,
    pub coverage_end_ts: Option<i64>,
    pub inventory: Vec<BridgeMonth>,
    /// Null when the series is not registered.
    pub capabilities: Option<BridgeCapabilities>,
}

/// Output of `read-indicator-range`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct IndicatorRange {
    pub symbol: String,
    pub timeframe: String,
    /// `indicator`.
    pub category: String,
    pub name: String,
    pub timeframe_ms: Option<i64>,
    pub start_ts: i64,
    pub end_ts: i64,
    pub exists: bool,
    /// Price scale of the klines of the same symbol and timeframe; null without klines in scaled integers.
    pub base_price_scale: Option<i64>,
    pub coverage_start_ts: Option<i64>,
    pub coverage_end_ts: Option<i64>,
    pub total_record_count: u64,
    pub records: Vec<ScalarRecord>,
}

/// Output of `read-scalar-range`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ScalarRange {
    pub symbol: String,
    pub timeframe: String,
    pub category: String,
    pub name: String,
    pub timeframe_ms: Option<i64>,
    pub start_ts: i64,
    pub end_ts: i64,
    /// False, with no records, when the series is not registered.
    pub exists: bool,
    /// First and last timestamp of the whole series; null without rows.
    pub coverage_start_ts: Option<i64>,
    pub coverage_end_ts: Option<i64>,
    /// Rows of the whole series.
    pub total_record_count: u64,
    /// Records with `start_ts <= ts <= end_ts`, by time.
    pub records: Vec<ScalarRecord>,
}

/// Output of `write-scalar-range` and `write-indicator-range`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ScalarsWritten {
    pub symbol: String,
    pub timeframe: String,
    pub category: String,
    pub name: String,
    /// Null if neither the input, the timeframe nor klines define it.
    pub timeframe_ms: Option<i64>,
    /// Whether this call registered the series.
    pub registered: bool,
    pub requested_record_count: u64,
    pub written_record_count: u64,
    /// Number of calendar months in UTC with records of the input.
    pub month_batches_written: u64,
}

/// Output of `scalar-inventory` and `indicator-inventory`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ScalarInventory {
    pub symbol: String,
    pub timeframe: String,
    pub category: String,
    pub name: String,
    pub exists: bool,
    pub record_count: u64,
    pub coverage_start_ts: Option<i64>,
    pub coverage_end_ts: Option<i64>,
    pub inventory: Vec<BridgeMonth>,
    /// Null when the series is not registered.
    pub capabilities: Option<BridgeCapabilities>,
}

/// Stored data of one calendar month.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BridgeMonth {
    /// `2024-02`, in UTC.
    pub month_key: String,
    /// Files that can hold rows of the month. A file that spans several months counts in each.
    pub chunk_count: u64,
    pub record_count: u64,
    pub sealed_chunk_count: u64,
    /// 1 while some rows of the month may be only in the log or a run file, else 0.
    pub active_delta_count: u64,
    /// Zone maps and value indexes of these files.
    pub sidecar_count: u64,
}

/// How predicates on a series can be evaluated.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BridgeCapabilities {
    pub raw_scan: bool,
    pub has_zmap: bool,
    pub has_vix: bool,
}

/// A predicate on the values of a scalar series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub enum BridgePredicate {
    Eq(i64),
    Ne(i64),
    Gt(i64),
    Gte(i64),
    Lt(i64),
    Lte(i64),
    /// From `min` to `max`, which are included when `inclusive` is true.
    Between {
        min: i64,
        max: i64,
        inclusive: bool,
    },
    InSet(Vec<i64>),
    NotInSet(Vec<i64>),
}

/// A row that matches.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BridgeMatch {
    pub ts: i64,
    /// Null unless values were requested.
    pub value: Option<i64>,
}

/// The structure that narrowed a search.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub enum IndexKind {
    ZoneMap,
    ValueIndex,
    ZoneMapAndValueIndex,
    FullScan,
}

/// What a search read.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BridgeStats {
    /// Chunk files within the range.
    pub chunks_considered: u64,
    pub chunks_scanned: u64,
    pub chunks_pruned: u64,
    /// Zones of 1,024 rows of these files within the range.
    pub blocks_considered: u64,
    pub blocks_scanned: u64,
    pub blocks_pruned: u64,
    pub rows_checked: u64,
    pub rows_matched: u64,
    /// Null when no file was searched.
    pub index_used: Option<IndexKind>,
    /// Whether rows were read that no index could decide.
    pub fallback_scan: bool,
}

/// Output of `query-scalar-predicate`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PredicateAnswer {
    pub symbol: String,
    pub timeframe: String,
    pub category: String,
    pub name: String,
    pub timeframe_ms: Option<i64>,
    pub start_ts: i64,
    pub end_ts: i64,
    pub exists: bool,
    pub coverage_start_ts: Option<i64>,
    pub coverage_end_ts: Option<i64>,
    pub total_record_count: u64,
    pub predicate: BridgePredicate,
    pub return_values: bool,
    /// Matching records in the range, by time.
    pub matches: Vec<BridgeMatch>,
    pub stats: BridgeStats,
}

/// Output of every command that fails, with a non-zero exit status.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BridgeFailure {
    /// Always false.
    #[schemars(extend("const" = false))]
    pub ok: bool,
    pub error: BridgeError,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct BridgeError {
    /// A code of the error table, which also defines the exit status.
    #[schemars(extend("enum" = ErrorCode::ALL.iter().map(|code| code.name()).collect::<Vec<_>>()))]
    pub code: String,
    /// A message for people.
    pub message: String,
}
