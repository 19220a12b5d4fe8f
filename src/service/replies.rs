//! Replies of the operations; the same values are the JSON of REST, of Flight actions and of the command line.

use serde::{Deserialize, Serialize};

use crate::types::schema::{Column, PartitionRule, Retention, ValueIndexSpec};
use crate::types::{ColumnChange, KindDef, OrderRule, Partition, RowRule, SeriesDef, SeriesKey, TimeUnit};

/// How a write treats rows whose timestamp is already stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum RowMode {
    /// The new row replaces the old one.
    #[default]
    Upsert,
    /// Any stored timestamp rejects the whole write (`rows_exist`).
    Insert,
    /// Any timestamp at or before the last stored one rejects the whole write (`out_of_order`).
    Append,
}

/// Reply to a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct WriteReply {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "kline/BTCUSDT/1m"))]
    pub series: SeriesKey,
    /// Distinct rows stored.
    pub rows_written: u64,
    /// Rows written that replaced a stored row.
    pub rows_replaced: u64,
    /// Rows of the body that were superseded by a later row with the same timestamp.
    pub rows_duplicate: u64,
    /// Rows skipped because a value was missing (`missing=skip`).
    pub rows_skipped: u64,
    pub version: u64,
    pub commit: u64,
    /// Quoted entity tag with format `any`.
    pub etag: String,
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
    /// Whether the rows were synced to disk before this reply.
    pub durable: bool,
}

/// Reply to an atomic write of several series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct WriteManyReply {
    /// The commit, or the current commit of the store when there was no row to write.
    pub commit: u64,
    pub series_count: u64,
    /// Sums over all series, as in the reply of each.
    pub rows_written: u64,
    pub rows_replaced: u64,
    pub rows_duplicate: u64,
    pub rows_skipped: u64,
    /// Whether the rows were synced to disk before this reply.
    pub durable: bool,
    /// One reply per series, in the order of the body.
    pub series: Vec<WriteReply>,
}

impl WriteManyReply {
    /// The replies of all series with their sums.
    pub fn new(commit: u64, durable: bool, series: Vec<WriteReply>) -> Self {
        let sum = |count: fn(&WriteReply) -> u64| series.iter().map(count).sum();
        Self {
            commit,
            series_count: series.len() as u64,
            rows_written: sum(|reply| reply.rows_written),
            rows_replaced: sum(|reply| reply.rows_replaced),
            rows_duplicate: sum(|reply| reply.rows_duplicate),
            rows_skipped: sum(|reply| reply.rows_skipped),
            durable,
            series,
        }
    }
}

/// Reply to a delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DeleteReply {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "kline/BTCUSDT/1m"))]
    pub series: SeriesKey,
    pub rows_deleted: u64,
    pub version: u64,
    pub commit: u64,
    pub etag: String,
    pub dry_run: bool,
}

/// Reply to dropping a series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct DropReply {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "kline/BTCUSDT/1m"))]
    pub series: SeriesKey,
    pub rows_deleted: u64,
    pub commit: u64,
}

/// A named snapshot: the whole store at a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SnapshotInfo {
    pub name: String,
    /// Commit of the snapshot; it contains every write up to it.
    pub commit: u64,
    /// Wall-clock time, RFC 3339, for display only.
    pub created_at: String,
}

/// Every named snapshot, ordered by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SnapshotList {
    pub snapshots: Vec<SnapshotInfo>,
}

/// Reply to dropping a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SnapshotDropped {
    pub name: String,
    /// Commit of the drop.
    pub commit: u64,
}

/// A registered series: its definition and the extent of its rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SeriesInfo {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "kline/BTCUSDT/1m"))]
    pub series: SeriesKey,
    pub kind: String,
    /// The words of the key after the kind.
    #[serde(default)]
    pub key: Vec<String>,
    /// What they are.
    #[serde(default)]
    pub key_names: Vec<String>,
    /// The word of the key of this name, as are the next fields; absent when the kind has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeframe: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub unit: TimeUnit,
    pub partition: Partition,
    pub interval_ms: Option<i64>,
    pub origin: Option<i64>,
    pub calendar: Option<serde_json::Value>,
    pub retention: Option<Retention>,
    pub value_index: Vec<String>,
    pub description: Option<String>,
    /// How rows are ordered and which replace others: `"arrival"`, or `{"unique": ["ts", …]}`.
    #[serde(default)]
    #[cfg_attr(feature = "server", schema(value_type = serde_json::Value, example = json!({"unique": ["ts"]})))]
    pub order: OrderRule,
    /// Rules that each row must follow.
    #[serde(default)]
    pub rules: Vec<RowRule>,
    /// Columns in order, without `ts`.
    pub columns: Vec<Column>,
    pub version: u64,
    pub rows: u64,
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
    /// Quoted entity tag with format `any`.
    pub etag: String,
}

/// Reply to a registration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Registered {
    /// False when the same definition was already registered.
    pub created: bool,
    /// Commit of the registration, or of the store when nothing changed.
    pub commit: u64,
    #[serde(flatten)]
    pub info: SeriesInfo,
}

/// A kind of series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct KindInfo {
    pub kind: String,
    /// Names of the words of a key after the kind.
    pub key: Vec<String>,
    /// Unit of `ts`, unless a series has another.
    pub unit: TimeUnit,
    /// How rows are ordered and which replace others: `"arrival"`, or `{"unique": ["ts", …]}`.
    #[cfg_attr(feature = "server", schema(value_type = serde_json::Value, example = json!({"unique": ["ts"]})))]
    pub order: OrderRule,
    /// The fields of a row after `ts`. Those of klines and scalars have the digits of the registration of a series.
    pub fields: Vec<Column>,
    /// Rules that each row must follow.
    pub rules: Vec<RowRule>,
    /// `auto`, `hour`, `day`, `month`, `year` or `all`, unless a series has another.
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub partition: PartitionRule,
    /// Name of its table in SQL.
    pub sql_name: String,
    /// Whether every store has the kind.
    pub built_in: bool,
    /// Commit of the registration; absent for a built-in kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<u64>,
}

impl KindInfo {
    fn new(kind: &KindDef, commit: Option<u64>) -> Self {
        Self {
            kind: kind.name.clone(),
            key: kind.key.clone(),
            unit: kind.unit,
            order: kind.order.clone(),
            fields: kind.fields.clone(),
            rules: kind.rules.clone(),
            partition: kind.partition,
            sql_name: kind.table().to_owned(),
            built_in: commit.is_none(),
            commit,
        }
    }

    /// A kind of every store.
    pub fn built_in(kind: &KindDef) -> Self {
        Self::new(kind, None)
    }

    /// A kind that was registered at a commit.
    pub fn registered(kind: &KindDef, commit: u64) -> Self {
        Self::new(kind, Some(commit))
    }
}

/// Every kind of series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct KindList {
    pub kinds: Vec<KindInfo>,
}

/// Reply to the registration of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct KindRegistered {
    /// False when the same definition was already registered.
    pub created: bool,
    #[serde(flatten)]
    pub info: KindInfo,
}

/// Reply to dropping a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct KindDropped {
    pub kind: String,
    /// Commit of the drop.
    pub commit: u64,
}

/// Changes to a registration; absent fields are unchanged, `null` clears a field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SeriesPatch {
    #[serde(default, deserialize_with = "present_or_null", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<Retention>))]
    pub retention: Option<Option<Retention>>,
    #[serde(default, deserialize_with = "present_or_null", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<serde_json::Value>))]
    pub calendar: Option<Option<serde_json::Value>>,
    #[serde(default, deserialize_with = "present_or_null", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<ValueIndexSpec>))]
    pub value_index: Option<Option<ValueIndexSpec>>,
    #[serde(default, deserialize_with = "present_or_null", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>))]
    pub description: Option<Option<String>>,
    /// Columns to widen or to add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnChange>,
}

/// A field that is present, `null` or not.
fn present_or_null<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    reader: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(reader).map(Some)
}

/// Selects series to list; absent fields select all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct SeriesFilter {
    pub kind: Option<String>,
    pub symbol: Option<String>,
    pub timeframe: Option<String>,
    pub category: Option<String>,
    pub name: Option<String>,
    /// Prefix of the key.
    pub prefix: Option<String>,
    /// Maximum number of series in one response.
    #[param(minimum = 1, maximum = 10_000)]
    pub limit: Option<u64>,
    /// Continues an earlier response: its `next_cursor`.
    pub cursor: Option<String>,
    /// Include rows and chunks of each calendar month.
    #[param(value_type = Option<bool>)]
    pub months: bool,
}

/// A page of registered series, ordered by key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SeriesPage {
    pub commit: u64,
    pub series: Vec<SeriesInfo>,
    pub next_cursor: Option<String>,
}

/// One row of the inventory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct InventoryRow {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "kline/BTCUSDT/1m"))]
    pub series: SeriesKey,
    pub rows: u64,
    /// Bytes of the chunk files on disk.
    pub bytes: u64,
    pub chunks: u64,
    /// Bytes of chunk files that are no longer readable through any commit, as of the last maintenance run.
    #[serde(default)]
    pub garbage_bytes: u64,
    /// Rows that are durable in the WAL or a run file but not yet in a chunk.
    pub tail_rows: u64,
    /// Unit of the timestamps.
    #[serde(default)]
    pub unit: TimeUnit,
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
    /// Present over expected intervals from the first to the last row, by the calendar of the series; null without rows
    /// or an interval length.
    pub coverage_ratio: Option<f64>,
    pub version: u64,
    /// Wall-clock time of the last write, RFC 3339, for display only.
    pub last_write_at: Option<String>,
    /// The calendar months that have rows, in UTC and in order; present when requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub months: Option<Vec<InventoryMonth>>,
}

/// Rows and chunks of one calendar month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct InventoryMonth {
    #[cfg_attr(feature = "server", schema(example = "2024-02"))]
    pub month: String,
    pub rows: u64,
    /// Chunk files that can hold rows of the month. A file that spans several months counts in each.
    pub chunks: u64,
    /// Whether rows of the month may still be in the WAL or a run file.
    pub in_tail: bool,
}

/// Totals over the whole store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct InventoryTotals {
    pub series: u64,
    pub rows: u64,
    pub bytes: u64,
    pub chunks: u64,
    pub tail_rows: u64,
    /// Bytes of chunk files that are no longer readable through any commit, as of the last maintenance run.
    #[serde(default)]
    pub garbage_bytes: u64,
    /// Bytes of the WAL segments on disk.
    pub wal_bytes: u64,
    /// Bytes of rows in run files: no longer in the WAL, not yet in chunks.
    #[serde(default)]
    pub run_bytes: u64,
    /// Named snapshots.
    #[serde(default)]
    pub snapshots: u64,
}

/// The stored series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Inventory {
    pub commit: u64,
    pub totals: InventoryTotals,
    pub series: Vec<InventoryRow>,
    pub next_cursor: Option<String>,
}

/// Status of the server, ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum HealthStatus {
    Ok,
    Degraded,
    Failing,
}

/// One health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct HealthCheck {
    pub name: String,
    pub status: HealthStatus,
    /// Time since which the check is not `ok`, as observed by health requests; wall-clock time, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Status of the server without details about stored data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct StatusReply {
    pub status: HealthStatus,
    /// True when the store is read-only until it is opened again; reads continue.
    #[serde(default, skip_serializing_if = "is_false")]
    pub writer_stopped: bool,
}

impl StatusReply {
    /// Status of a running process.
    pub const OK: Self = Self { status: HealthStatus::Ok, writer_stopped: false };
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Reply of `/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Health {
    pub status: HealthStatus,
    /// The earliest `since` of the checks; only when one is not `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Version of the program.
    pub version: String,
    /// Format version of the store.
    pub format: u32,
    pub commit: u64,
    pub uptime_seconds: u64,
    /// `sync`, `interval` or `none`.
    pub durability: String,
    /// Maintenance since the store was opened.
    #[serde(default)]
    pub maintenance: MaintenanceStatus,
    pub checks: Vec<HealthCheck>,
}

/// Maintenance since the store was opened, and what remains to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct MaintenanceStatus {
    /// Series sealed, and chunks written for them.
    pub seals: u64,
    pub chunks_sealed: u64,
    /// Number of WAL checkpoints.
    pub checkpoints: u64,
    /// Partitions compacted, chunks replaced, bytes read and written.
    pub compactions: u64,
    pub chunks_compacted: u64,
    pub compact_bytes_read: u64,
    pub compact_bytes_written: u64,
    /// Rows deleted by retention.
    pub retention_rows: u64,
    /// Chunk files unlinked.
    pub files_removed: u64,
    /// Files no longer in use that a reader or snapshot still holds, and their bytes.
    pub files_waiting: u64,
    pub bytes_waiting: u64,
    /// Bytes of chunks that are no longer readable through any commit.
    pub garbage_bytes: u64,
    /// Run files, and the bytes of their rows.
    pub run_files: u64,
    pub run_bytes: u64,
}

/// Reply to a compaction: rows sealed, partitions merged and files removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct CompactReply {
    pub series_sealed: u64,
    /// Chunks written by sealing, and their rows.
    pub chunks_written: u64,
    pub rows_sealed: u64,
    /// Rows deleted because they exceed the retention of their series.
    pub retention_rows: u64,
    /// Partitions rewritten, chunks replaced, and their bytes before and after.
    pub partitions_compacted: u64,
    pub chunks_replaced: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Files unlinked, and files that a reader still holds.
    pub files_removed: u64,
    pub files_waiting: u64,
}

impl SeriesInfo {
    /// The definition with the extent of the rows.
    pub fn new(def: &SeriesDef, version: u64, rows: u64, bounds: Option<(i64, i64)>, etag: String) -> Self {
        Self {
            series: def.key.clone(),
            kind: def.kind().into(),
            key: def.key.words().map(Into::into).collect(),
            key_names: def.key_names.clone(),
            symbol: def.key_word("symbol").map(Into::into),
            timeframe: def.timeframe().map(Into::into),
            category: def.key_word("category").map(Into::into),
            name: def.key_word("name").map(Into::into),
            unit: def.unit,
            partition: def.partition,
            interval_ms: def.interval_ms,
            origin: def.origin,
            calendar: def.calendar.clone(),
            retention: def.retention.clone(),
            value_index: def.value_index.clone(),
            description: def.description.clone(),
            order: def.order.clone(),
            rules: def.rules.clone(),
            columns: def.columns.clone(),
            version,
            rows,
            first_ts: bounds.map(|(first, _)| first),
            last_ts: bounds.map(|(_, last)| last),
            etag,
        }
    }
}
