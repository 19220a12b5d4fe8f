//! Requests and replies of the registry operations; the same values are the JSON of REST and of the command line.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::registry::{RecordKind, RecordRef, RecordStatus};
use crate::types::SeriesKey;

/// A dataset to create.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
#[schema(example = json!({
        "name": "btc-minutes", "members": ["kline/BTCUSDT/1m"], "source": "binance", "market": "spot",
        "description": "February, as it was downloaded", "derived_from": []
    }))]
pub struct DatasetSpec {
    /// 1 to 48 characters: lower-case letters, digits and `. _ -`, beginning with a letter or digit.
    #[schema(example = "btc-minutes")]
    pub name: String,
    /// Keys of series, and globs such as `kline/*/1m`, which are resolved to keys at creation: 1 to 10,000 series.
    #[schema(example = json!(["kline/BTCUSDT/1m"]))]
    pub members: Vec<String>,
    /// Name of an existing snapshot; without it the dataset creates its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Source of the rows; at most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "binance")]
    pub source: Option<String>,
    /// Market on which they were traded; at most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "spot")]
    pub market: Option<String>,
    /// For display; at most 4,096 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `draft` or `active`.
    #[serde(default)]
    pub status: RecordStatus,
    /// Parents: `NAME@VERSION` of datasets, `feature:NAME@VERSION`, `factor:NAME@VERSION`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, example = json!([]))]
    pub derived_from: Vec<RecordRef>,
}

/// One version of a dataset: series at one snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(example = json!({
        "dataset": "dataset:btc-minutes@1", "name": "btc-minutes", "version": 1, "status": "active",
        "description": "February, as it was downloaded", "source": "binance", "market": "spot",
        "snapshot": "dataset:btc-minutes@1", "owns_snapshot": true, "commit": 4711, "start": "2024-02-01T00:00:00Z",
        "end": "2024-02-29T23:59:00Z", "rows": 41_760, "series_count": 1,
        "checksum": "sha256:7d3ac0bb2f8f3c0d4f0f2f7a0c5c1f2b90c7f4d4e0f7c3b1a5d6e8f90a1b2c3d", "derived_from": [],
        "created_at": "2024-03-01T08:00:00Z", "members": [{
            "series": "kline/BTCUSDT/1m", "version": 12, "rows": 41_760, "first_ts": 1_706_745_600_000_i64,
            "last_ts": 1_709_251_140_000_i64,
            "checksum": "sha256:0a1b2c3d7d3ac0bb2f8f3c0d4f0f2f7a0c5c1f2b90c7f4d4e0f7c3b1a5d6e8f9"
        }]
    }))]
pub struct Dataset {
    /// `dataset:NAME@VERSION`, the form used in `as_of`.
    #[schema(value_type = String, example = "dataset:btc-minutes@1")]
    pub dataset: RecordRef,
    pub name: String,
    pub version: u32,
    pub status: RecordStatus,
    pub description: Option<String>,
    pub source: Option<String>,
    pub market: Option<String>,
    /// The snapshot that retains its rows.
    pub snapshot: String,
    /// Whether the snapshot was created for the dataset and is dropped when the dataset is archived.
    pub owns_snapshot: bool,
    /// Commit of the snapshot.
    pub commit: u64,
    /// First and last row of any member, RFC 3339; null without rows.
    pub start: Option<String>,
    pub end: Option<String>,
    pub rows: u64,
    pub series_count: u64,
    /// SHA-256 over the rows of all members, independent of commits and files.
    pub checksum: String,
    #[schema(value_type = Vec<String>)]
    pub derived_from: Vec<RecordRef>,
    /// Wall-clock time, RFC 3339, for display only.
    pub created_at: String,
    /// Ordered by key. Omitted in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<DatasetMember>>,
}

/// A series of a dataset at its snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DatasetMember {
    #[schema(value_type = String, example = "kline/BTCUSDT/1m")]
    pub series: SeriesKey,
    pub version: u64,
    pub rows: u64,
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
    /// SHA-256 over its rows.
    pub checksum: String,
}

/// A page of datasets, ordered by name and version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(example = json!({"datasets": [{
        "dataset": "dataset:btc-minutes@1", "name": "btc-minutes", "version": 1, "status": "active",
        "description": "February, as it was downloaded", "source": "binance", "market": "spot",
        "snapshot": "dataset:btc-minutes@1", "owns_snapshot": true, "commit": 4711, "start": "2024-02-01T00:00:00Z",
        "end": "2024-02-29T23:59:00Z", "rows": 41_760, "series_count": 1,
        "checksum": "sha256:7d3ac0bb2f8f3c0d4f0f2f7a0c5c1f2b90c7f4d4e0f7c3b1a5d6e8f90a1b2c3d", "derived_from": [],
        "created_at": "2024-03-01T08:00:00Z"
    }], "next_cursor": null}))]
pub struct DatasetPage {
    pub datasets: Vec<Dataset>,
    pub next_cursor: Option<String>,
}

/// A feature or factor to register.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
#[schema(example = json!({
        "name": "rsi-14", "definition": {"kind": "rsi", "period": 14}, "code_version": "4f2c1a9",
        "inputs": ["btc-minutes@1"], "outputs": ["scalar/feature/BTCUSDT/1m/rsi_14"]
    }))]
pub struct DefinitionSpec {
    /// 1 to 48 characters: lower-case letters, digits and `. _ -`, beginning with a letter or digit.
    #[schema(example = "rsi-14")]
    pub name: String,
    /// How it is computed: any JSON object, at most 256 KiB in canonical form (RFC 8785). Integers beyond 2^53 must be
    /// strings.
    #[schema(value_type = Object, example = json!({"kind": "rsi", "period": 14}))]
    pub definition: Value,
    /// Version of the code that computes it, such as a commit; at most 256 characters.
    #[schema(example = "4f2c1a9")]
    pub code_version: String,
    /// What it is computed from; every input must exist: keys of series, `NAME@VERSION` of datasets,
    /// `feature:NAME@VERSION`, `factor:NAME@VERSION`. 1 to 10,000.
    #[schema(example = json!(["btc-minutes@1"]))]
    pub inputs: Vec<String>,
    /// Keys of the series it is stored in; they need not exist. At most 10,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, example = json!(["scalar/feature/BTCUSDT/1m/rsi_14"]))]
    pub outputs: Vec<SeriesKey>,
    /// For display; at most 4,096 characters. Not part of the identity of a definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `draft` or `active`.
    #[serde(default)]
    pub status: RecordStatus,
}

/// One version of a feature or factor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(example = json!({
        "reference": "feature:rsi-14@1", "kind": "feature", "name": "rsi-14", "version": 1, "status": "active",
        "description": null, "definition": {"kind": "rsi", "period": 14},
        "config_hash": "sha256:3f0f2f7a0c5c1f2b90c7f4d4e0f7c3b1a5d6e8f90a1b2c3d7d3ac0bb2f8f3c0d", "code_version": "4f2c1a9",
        "inputs": ["dataset:btc-minutes@1"], "outputs": ["scalar/feature/BTCUSDT/1m/rsi_14"], "series_count": 1,
        "created_at": "2024-03-01T08:00:00Z"
    }))]
pub struct Definition {
    /// `feature:NAME@VERSION` or `factor:NAME@VERSION`.
    #[schema(value_type = String, example = "feature:rsi-14@1")]
    pub reference: RecordRef,
    pub kind: RecordKind,
    pub name: String,
    pub version: u32,
    pub status: RecordStatus,
    pub description: Option<String>,
    #[schema(value_type = Object)]
    pub definition: Value,
    /// SHA-256 of the canonical form (RFC 8785) of the definition.
    pub config_hash: String,
    pub code_version: String,
    /// References and keys. Keys are omitted in lists.
    pub inputs: Vec<String>,
    /// Omitted in lists.
    #[schema(value_type = Vec<String>)]
    pub outputs: Vec<SeriesKey>,
    /// Number of keys among inputs and outputs.
    pub series_count: u64,
    /// Wall-clock time, RFC 3339, for display only.
    pub created_at: String,
}

/// Reply to registering a feature or factor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(example = json!({ "created": true,
        "reference": "feature:rsi-14@1", "kind": "feature", "name": "rsi-14", "version": 1, "status": "active",
        "description": null, "definition": {"kind": "rsi", "period": 14},
        "config_hash": "sha256:3f0f2f7a0c5c1f2b90c7f4d4e0f7c3b1a5d6e8f90a1b2c3d7d3ac0bb2f8f3c0d", "code_version": "4f2c1a9",
        "inputs": ["dataset:btc-minutes@1"], "outputs": ["scalar/feature/BTCUSDT/1m/rsi_14"], "series_count": 1,
        "created_at": "2024-03-01T08:00:00Z"
    }))]
pub struct Defined {
    /// False when this version already existed.
    pub created: bool,
    #[serde(flatten)]
    pub definition: Definition,
}

/// A page of features or factors, ordered by name and version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(example = json!({"definitions": [{
        "reference": "feature:rsi-14@1", "kind": "feature", "name": "rsi-14", "version": 1, "status": "active",
        "description": null, "definition": {"kind": "rsi", "period": 14},
        "config_hash": "sha256:3f0f2f7a0c5c1f2b90c7f4d4e0f7c3b1a5d6e8f90a1b2c3d7d3ac0bb2f8f3c0d", "code_version": "4f2c1a9",
        "inputs": ["dataset:btc-minutes@1"], "outputs": ["scalar/feature/BTCUSDT/1m/rsi_14"], "series_count": 1,
        "created_at": "2024-03-01T08:00:00Z"
    }], "next_cursor": null}))]
pub struct DefinitionPage {
    pub definitions: Vec<Definition>,
    pub next_cursor: Option<String>,
}

/// Selects records to list; absent fields select all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RecordFilter {
    #[serde(default)]
    pub kind: RecordKind,
    /// Name; all its versions are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RecordStatus>,
    // Datasets only, as the next field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market: Option<String>,
    /// Key of a series: a member, input or output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub series: Option<SeriesKey>,
    /// A direct parent or input: `NAME@VERSION` of a dataset, `feature:NAME@VERSION`, `factor:NAME@VERSION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub derived_from: Option<RecordRef>,
    /// Maximum number of records in one response; 100 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1_000)]
    pub limit: Option<u64>,
    /// Continues an earlier response: its `next_cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Changes to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
#[schema(example = json!({"status": "deprecated"}))]
pub struct RecordPatch {
    /// `draft` to `active`, `active` to `deprecated` and back, any of them permanently to `archived`.
    #[schema(example = "deprecated")]
    pub status: RecordStatus,
}

/// Ancestors and descendants of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(example = json!({
        "record": "dataset:btc-minutes@2",
        "upstream": [{"record": "dataset:btc-minutes@1", "status": "deprecated", "depth": 1}],
        "downstream": [{"record": "feature:rsi-14@1", "status": "active", "depth": 1}],
        "edges": [
            {"parent": "dataset:btc-minutes@1", "child": "dataset:btc-minutes@2"},
            {"parent": "dataset:btc-minutes@2", "child": "feature:rsi-14@1"}
        ],
        "truncated": false
    }))]
pub struct LineageReply {
    #[schema(value_type = String, example = "dataset:btc-minutes@2")]
    pub record: RecordRef,
    /// Nearest first; at most 1,000.
    pub upstream: Vec<LineageNode>,
    /// Nearest first; at most 1,000.
    pub downstream: Vec<LineageNode>,
    /// Every edge between them.
    pub edges: Vec<LineageEdge>,
    /// Whether further records were omitted.
    pub truncated: bool,
}

/// A record in a lineage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineageNode {
    #[schema(value_type = String, example = "dataset:btc-minutes@1")]
    pub record: RecordRef,
    pub status: RecordStatus,
    /// Length of the shortest path.
    pub depth: u32,
}

/// `child` was made from `parent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineageEdge {
    #[schema(value_type = String, example = "dataset:btc-minutes@1")]
    pub parent: RecordRef,
    #[schema(value_type = String, example = "dataset:btc-minutes@2")]
    pub child: RecordRef,
}
