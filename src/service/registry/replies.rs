//! What the verbs of the registry take and answer; the same values are the JSON of REST and of the command line.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::registry::{RecordKind, RecordRef, RecordStatus};
use crate::types::SeriesKey;

/// A dataset to create.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DatasetSpec {
    /// 1 to 48 of lower-case letters, digits and `. _ -`, a letter or digit first.
    #[cfg_attr(feature = "server", schema(example = "btc-minutes"))]
    pub name: String,
    /// Keys of series, and globs such as `kline/*/1m`, which are resolved to keys once and for all: 1 to 10,000 series.
    #[cfg_attr(feature = "server", schema(example = json!(["kline/BTCUSDT/1m"])))]
    pub members: Vec<String>,
    /// Name of a snapshot that is there already; one of its own is made when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Where the rows come from; at most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(example = "binance"))]
    pub source: Option<String>,
    /// Where they were traded; at most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(example = "spot"))]
    pub market: Option<String>,
    /// For people; at most 4,096 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `draft` or `active`.
    #[serde(default)]
    pub status: RecordStatus,
    /// What it was made from: `NAME@VERSION` of datasets, `feature:NAME@VERSION`, `factor:NAME@VERSION`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "server", schema(value_type = Vec<String>, example = json!([])))]
    pub derived_from: Vec<RecordRef>,
}

/// One version of a dataset: series as one snapshot shows them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Dataset {
    /// `dataset:NAME@VERSION`, as `as_of` takes it.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "dataset:btc-minutes@1"))]
    pub dataset: RecordRef,
    pub name: String,
    pub version: u32,
    pub status: RecordStatus,
    pub description: Option<String>,
    pub source: Option<String>,
    pub market: Option<String>,
    /// The snapshot that keeps its rows.
    pub snapshot: String,
    /// Whether that was made for the dataset, and is dropped when the dataset is archived.
    pub owns_snapshot: bool,
    /// Commit of the snapshot.
    pub commit: u64,
    /// First and last row of any member, RFC 3339; null without rows.
    pub start: Option<String>,
    pub end: Option<String>,
    pub rows: u64,
    pub series_count: u64,
    /// SHA-256 over the rows of all members, whatever commits wrote them and files hold them.
    pub checksum: String,
    #[cfg_attr(feature = "server", schema(value_type = Vec<String>))]
    pub derived_from: Vec<RecordRef>,
    /// Wall-clock time, RFC 3339, for people only.
    pub created_at: String,
    /// By key. Lists leave them out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<DatasetMember>>,
}

/// A series of a dataset, as its snapshot shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DatasetMember {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "kline/BTCUSDT/1m"))]
    pub series: SeriesKey,
    pub version: u64,
    pub rows: u64,
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
    /// SHA-256 over its rows.
    pub checksum: String,
}

/// A page of datasets, by name and version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DatasetPage {
    pub datasets: Vec<Dataset>,
    pub next_cursor: Option<String>,
}

/// A feature or factor to register.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DefinitionSpec {
    /// 1 to 48 of lower-case letters, digits and `. _ -`, a letter or digit first.
    #[cfg_attr(feature = "server", schema(example = "rsi-14"))]
    pub name: String,
    /// How it is computed: any JSON object, at most 256 KiB in its canonical form (RFC 8785). Integers beyond 2^53 stand
    /// as text.
    #[cfg_attr(feature = "server", schema(value_type = Object, example = json!({"kind": "rsi", "period": 14})))]
    pub definition: Value,
    /// Version of the code that computes it, such as a commit; at most 256 characters.
    #[cfg_attr(feature = "server", schema(example = "4f2c1a9"))]
    pub code_version: String,
    /// What it is computed from, all of it there already: keys of series, `NAME@VERSION` of datasets,
    /// `feature:NAME@VERSION`, `factor:NAME@VERSION`. 1 to 10,000.
    #[cfg_attr(feature = "server", schema(example = json!(["btc-minutes@1"])))]
    pub inputs: Vec<String>,
    /// Keys of the series it is stored in; they need not be there yet. At most 10,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "server", schema(value_type = Vec<String>, example = json!(["scalar/feature/BTCUSDT/1m/rsi_14"])))]
    pub outputs: Vec<SeriesKey>,
    /// For people; at most 4,096 characters. It is no part of what makes a definition another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `draft` or `active`.
    #[serde(default)]
    pub status: RecordStatus,
}

/// One version of a feature or factor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Definition {
    /// `feature:NAME@VERSION` or `factor:NAME@VERSION`.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "feature:rsi-14@1"))]
    pub reference: RecordRef,
    pub kind: RecordKind,
    pub name: String,
    pub version: u32,
    pub status: RecordStatus,
    pub description: Option<String>,
    #[cfg_attr(feature = "server", schema(value_type = Object))]
    pub definition: Value,
    /// SHA-256 of the canonical form (RFC 8785) of the definition.
    pub config_hash: String,
    pub code_version: String,
    /// References and keys. Lists leave the keys out.
    pub inputs: Vec<String>,
    /// Lists leave them out.
    #[cfg_attr(feature = "server", schema(value_type = Vec<String>))]
    pub outputs: Vec<SeriesKey>,
    /// Keys among inputs and outputs.
    pub series_count: u64,
    /// Wall-clock time, RFC 3339, for people only.
    pub created_at: String,
}

/// Reply to registering a feature or factor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Defined {
    /// False when this version was there already.
    pub created: bool,
    #[serde(flatten)]
    pub definition: Definition,
}

/// A page of features or factors, by name and version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DefinitionPage {
    pub definitions: Vec<Definition>,
    pub next_cursor: Option<String>,
}

/// Which records to list. Empty means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RecordStatus>,
    /// Of datasets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market: Option<String>,
    /// A member, input or output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<SeriesKey>,
    /// Made from this one, in one step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived_from: Option<RecordRef>,
    /// Most records in one answer: 1 to 1,000, 100 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What can be changed of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RecordPatch {
    /// `draft` to `active`, `active` to `deprecated` and back, any of them to `archived`, for good.
    #[cfg_attr(feature = "server", schema(example = "deprecated"))]
    pub status: RecordStatus,
}

/// What a record was made from, and what was made from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LineageReply {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "dataset:btc-minutes@2"))]
    pub record: RecordRef,
    /// The nearest first; 1,000 at most.
    pub upstream: Vec<LineageNode>,
    /// The nearest first; 1,000 at most.
    pub downstream: Vec<LineageNode>,
    /// Every step between them.
    pub edges: Vec<LineageEdge>,
    /// Whether there is more than is told.
    pub truncated: bool,
}

/// A record in a lineage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LineageNode {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "dataset:btc-minutes@1"))]
    pub record: RecordRef,
    pub status: RecordStatus,
    /// Steps away, by the shortest way.
    pub depth: u32,
}

/// `child` was made from `parent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct LineageEdge {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "dataset:btc-minutes@1"))]
    pub parent: RecordRef,
    #[cfg_attr(feature = "server", schema(value_type = String, example = "dataset:btc-minutes@2"))]
    pub child: RecordRef,
}
