//! Records in the tables, and queries on them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params, params_from_iter};

use super::database::{Registry, RollbackReason};
use super::name::{RecordKind, RecordRef, RecordStatus, VERSION_MAX};
use crate::error::{Error, Result};
use crate::types::width::narrow;

/// Maximum number of records of a lineage in each direction.
pub const LINEAGE_MAX: usize = 1_000;

/// Role of a series in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SeriesRole {
    Member,
    Input,
    Output,
}

impl SeriesRole {
    fn name(self) -> &'static str {
        match self {
            SeriesRole::Member => "member",
            SeriesRole::Input => "input",
            SeriesRole::Output => "output",
        }
    }
}

/// A series of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSeries {
    pub series: String,
    pub role: SeriesRole,
    /// State of a member in the dataset's snapshot.
    pub member: Option<DatasetMemberRow>,
}

/// A member of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetMemberRow {
    /// Version of the series.
    pub version: u64,
    pub rows: u64,
    pub first_ts: Option<i64>,
    pub last_ts: Option<i64>,
    pub checksum: String,
}

/// Fields of datasets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetFields {
    pub source: Option<String>,
    pub market: Option<String>,
    pub snapshot: String,
    pub snapshot_commit: u64,
    /// Whether the snapshot was created for this dataset and is dropped with it.
    pub owns_snapshot: bool,
    /// RFC 3339.
    pub start: Option<String>,
    pub end: Option<String>,
    pub rows: u64,
    pub checksum: String,
}

/// Fields of features and factors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionFields {
    /// Canonical JSON.
    pub definition: String,
    pub config_hash: String,
    pub code_version: String,
}

/// One version of a dataset, feature or factor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub reference: RecordRef,
    pub status: RecordStatus,
    pub description: Option<String>,
    pub created_at: String,
    pub dataset: Option<DatasetFields>,
    pub definition: Option<DefinitionFields>,
    /// Records this one was derived from, in order; those the caller may not see are left out.
    pub parents: Vec<RecordRef>,
    /// Series of the record, by role and key; empty unless requested.
    pub parts: Vec<RecordSeries>,
    /// Number of members, or of inputs and outputs.
    pub parts_total: u64,
}

/// A snapshot that is being created or dropped for a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingSnapshot {
    pub name: String,
    pub version: u32,
    pub snapshot: String,
    /// Whether cleaning this up drops the snapshot.
    pub drops: bool,
}

/// Filter and page of a list of records.
#[derive(Clone, Debug)]
pub struct RecordSelection<'a> {
    pub kind: RecordKind,
    pub name: Option<&'a str>,
    pub status: Option<RecordStatus>,
    pub source: Option<&'a str>,
    pub market: Option<&'a str>,
    /// Key of a series that is a member, input or output.
    pub series: Option<&'a str>,
    /// Direct parent.
    pub parent: Option<&'a RecordRef>,
    /// Starts after this name and version.
    pub after: Option<(String, u32)>,
    pub limit: usize,
    /// Prefixes of the keys the caller may see; all when empty.
    pub visible_prefixes: &'a [String],
}

/// A page of records, by name and version.
#[derive(Clone, Debug)]
pub struct RecordPage {
    pub records: Vec<Record>,
    pub is_last: bool,
}

/// A record in a lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineageMember {
    pub reference: RecordRef,
    pub status: RecordStatus,
    /// Number of steps on the shortest path.
    pub depth: u32,
}

/// One step of a lineage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineageLink {
    pub parent: RecordRef,
    pub child: RecordRef,
}

/// Ancestors and descendants of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    pub upstream: Vec<LineageMember>,
    pub downstream: Vec<LineageMember>,
    pub edges: Vec<LineageLink>,
    /// Whether records were left out at [`LINEAGE_MAX`].
    pub truncated: bool,
}

const COLUMNS: &str = "record.id, record.kind, record.name, record.version, record.status, record.description, \
    record.created_at, record.source, record.market, record.snapshot, record.snapshot_commit, record.owns_snapshot, \
    record.span_start, record.span_end, record.row_count, record.checksum, record.definition, record.config_hash, \
    record.code_version";

fn number<T: TryFrom<i64>>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let value: i64 = row.get(column)?;
    T::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, value))
}

fn maybe_number<T: TryFrom<i64>>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>> {
    let value: Option<i64> = row.get(column)?;
    let read = |value| T::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, value));
    value.map(read).transpose()
}

fn stored(value: u64) -> i64 {
    narrow(value)
}

/// The error for an enum text this program does not know.
fn unknown_text(text: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, format!("unknown value {text:?}").into())
}

fn reference(row: &Row<'_>) -> rusqlite::Result<RecordRef> {
    let kind: String = row.get("kind")?;
    let kind = RecordKind::from_name(&kind).ok_or_else(|| unknown_text(kind))?;
    Ok(RecordRef { kind, name: row.get("name")?, version: number(row, "version")? })
}

fn status(row: &Row<'_>) -> rusqlite::Result<RecordStatus> {
    let word: String = row.get("status")?;
    word.parse().map_err(|_| unknown_text(word))
}

/// Row id and record of a row, without parents and parts.
fn record(row: &Row<'_>) -> rusqlite::Result<(i64, Record)> {
    let reference = reference(row)?;
    let (mut dataset, mut definition) = (None, None);
    match reference.kind {
        RecordKind::Dataset => {
            dataset = Some(DatasetFields {
                source: row.get("source")?,
                market: row.get("market")?,
                snapshot: row.get("snapshot")?,
                snapshot_commit: number(row, "snapshot_commit")?,
                owns_snapshot: row.get("owns_snapshot")?,
                start: row.get("span_start")?,
                end: row.get("span_end")?,
                rows: number(row, "row_count")?,
                checksum: row.get("checksum")?,
            });
        }
        RecordKind::Feature | RecordKind::Factor => {
            definition = Some(DefinitionFields {
                definition: row.get("definition")?,
                config_hash: row.get("config_hash")?,
                code_version: row.get("code_version")?,
            });
        }
    }
    let record = Record {
        reference,
        status: status(row)?,
        description: row.get("description")?,
        created_at: row.get("created_at")?,
        dataset,
        definition,
        parents: Vec::new(),
        parts: Vec::new(),
        parts_total: 0,
    };
    Ok((row.get("id")?, record))
}

/// An SQL condition with its parameters.
#[derive(Default)]
struct SqlConditions {
    text: String,
    values: Vec<Value>,
}

impl SqlConditions {
    fn and(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        self.text.push_str(if self.text.is_empty() { "" } else { " AND " });
        self.text.push_str(condition);
        self.values.extend(values);
    }

    fn text(&mut self, column: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.and(&format!("{column} = ?"), [Value::Text(value.to_owned())]);
        }
    }

    /// Only records all of whose series start with one of these prefixes.
    fn visible_to(&mut self, table: &str, visible_prefixes: &[String]) {
        if visible_prefixes.is_empty() {
            return;
        }
        let one = vec!["substr(series, 1, ?) = ?"; visible_prefixes.len()].join(" OR ");
        let values = visible_prefixes
            .iter()
            .flat_map(|prefix| [Value::Integer(stored(prefix.chars().count() as u64)), Value::Text(prefix.clone())]);
        self.and(
            &format!(
                "EXISTS (SELECT 1 FROM reach WHERE reach.record = {table}.id) \
                 AND NOT EXISTS (SELECT 1 FROM reach WHERE reach.record = {table}.id AND NOT ({one}))"
            ),
            values,
        );
    }

    fn is(reference: &RecordRef, visible_prefixes: &[String]) -> Self {
        let mut conditions = Self::default();
        conditions.text("record.kind", Some(reference.kind.name()));
        conditions.text("record.name", Some(&reference.name));
        conditions.and("record.version = ?", [Value::Integer(reference.version.into())]);
        conditions.visible_to("record", visible_prefixes);
        conditions
    }
}

fn parents(connection: &Connection, id: i64, visible_prefixes: &[String]) -> rusqlite::Result<Vec<RecordRef>> {
    let mut conditions = SqlConditions::default();
    conditions.and("edge.child = ?", [Value::Integer(id)]);
    conditions.visible_to("record", visible_prefixes);
    let mut statement = connection.prepare(&format!(
        "SELECT record.kind, record.name, record.version FROM edge JOIN record ON record.id = edge.parent \
         WHERE {} ORDER BY record.kind, record.name, record.version",
        conditions.text
    ))?;
    statement.query_map(params_from_iter(conditions.values), reference)?.collect()
}

fn parts(connection: &Connection, id: i64) -> rusqlite::Result<Vec<RecordSeries>> {
    let mut statement = connection.prepare(
        "SELECT role, series, version, row_count, first_ts, last_ts, checksum FROM part WHERE record = ? \
         ORDER BY role, series",
    )?;
    let read = |row: &Row<'_>| {
        let word: String = row.get("role")?;
        let role =
            [SeriesRole::Member, SeriesRole::Input, SeriesRole::Output].into_iter().find(|role| role.name() == word);
        let role = role.ok_or_else(|| unknown_text(word))?;
        let member = match role {
            SeriesRole::Member => Some(DatasetMemberRow {
                version: number(row, "version")?,
                rows: number(row, "row_count")?,
                first_ts: maybe_number(row, "first_ts")?,
                last_ts: maybe_number(row, "last_ts")?,
                checksum: row.get("checksum")?,
            }),
            SeriesRole::Input | SeriesRole::Output => None,
        };
        Ok(RecordSeries { series: row.get("series")?, role, member })
    };
    statement.query_map([id], read)?.collect()
}

/// Keys of the members of a dataset.
fn members(connection: &Connection, dataset: &RecordRef) -> rusqlite::Result<BTreeSet<String>> {
    let mut statement = connection.prepare(
        "SELECT part.series FROM part JOIN record ON record.id = part.record \
         WHERE record.kind = ? AND record.name = ? AND record.version = ? AND part.role = 'member'",
    )?;
    statement.query_map(params![dataset.kind.name(), dataset.name, dataset.version], |row| row.get(0))?.collect()
}

fn id_of(connection: &Connection, reference: &RecordRef) -> rusqlite::Result<Option<i64>> {
    let found = connection.query_row(
        "SELECT id FROM record WHERE kind = ? AND name = ? AND version = ?",
        params![reference.kind.name(), reference.name, reference.version],
        |row| row.get(0),
    );
    found.optional()
}

fn with_parts(
    connection: &Connection,
    id: i64,
    mut record: Record,
    visible_prefixes: &[String],
) -> rusqlite::Result<Record> {
    record.parents = parents(connection, id, visible_prefixes)?;
    record.parts = parts(connection, id)?;
    record.parts_total = record.parts.len() as u64;
    Ok(record)
}

/// Inserts a record into its tables. Its parents must exist.
fn insert(transaction: &Transaction<'_>, record: &Record, identity: Option<&str>) -> Result<(), RollbackReason> {
    let reference = &record.reference;
    let dataset = record.dataset.as_ref();
    let definition = record.definition.as_ref();
    transaction.execute(
        "INSERT INTO record (kind, name, version, status, description, created_at, source, market, snapshot, \
         snapshot_commit, owns_snapshot, span_start, span_end, row_count, checksum, definition, config_hash, code_version, \
         identity) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
        params![
            reference.kind.name(),
            reference.name,
            reference.version,
            record.status.name(),
            record.description,
            record.created_at,
            dataset.and_then(|dataset| dataset.source.as_deref()),
            dataset.and_then(|dataset| dataset.market.as_deref()),
            dataset.map(|dataset| dataset.snapshot.as_str()),
            dataset.map(|dataset| stored(dataset.snapshot_commit)),
            dataset.is_some_and(|dataset| dataset.owns_snapshot),
            dataset.and_then(|dataset| dataset.start.as_deref()),
            dataset.and_then(|dataset| dataset.end.as_deref()),
            dataset.map(|dataset| stored(dataset.rows)),
            dataset.map(|dataset| dataset.checksum.as_str()),
            definition.map(|definition| definition.definition.as_str()),
            definition.map(|definition| definition.config_hash.as_str()),
            definition.map(|definition| definition.code_version.as_str()),
            identity,
        ],
    )?;
    let id = transaction.last_insert_rowid();
    let mut part = transaction.prepare(
        "INSERT INTO part (record, role, series, version, row_count, first_ts, last_ts, checksum) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let mut reach = transaction.prepare("INSERT OR IGNORE INTO reach (record, series) VALUES (?1, ?2)")?;
    for RecordSeries { series, role, member } in &record.parts {
        let member = member.as_ref();
        part.execute(params![
            id,
            role.name(),
            series,
            member.map(|member| stored(member.version)),
            member.map(|member| stored(member.rows)),
            member.and_then(|member| member.first_ts),
            member.and_then(|member| member.last_ts),
            member.map(|member| member.checksum.as_str()),
        ])?;
        reach.execute(params![id, series])?;
    }
    for parent in &record.parents {
        let from = id_of(transaction, parent)?.ok_or_else(|| parent.kind.not_found(&parent.short()))?;
        transaction.execute("INSERT INTO edge (child, parent) VALUES (?1, ?2)", [id, from])?;
        // A definition exposes its ancestors, so it needs access to their series; the ancestors of a dataset are hidden
        // from callers without access.
        if reference.kind != RecordKind::Dataset {
            transaction.execute(
                "INSERT OR IGNORE INTO reach (record, series) SELECT ?1, series FROM reach WHERE record = ?2",
                [id, from],
            )?;
        }
    }
    Ok(())
}

/// The version after the last one of a name.
fn next_version(
    transaction: &Transaction<'_>,
    kind: RecordKind,
    name: &str,
    taken: u32,
) -> Result<u32, RollbackReason> {
    let last: i64 = transaction.query_row(
        "SELECT max(coalesce((SELECT max(version) FROM record WHERE kind = ?1 AND name = ?2), 0), \
         coalesce((SELECT max(version) FROM pending WHERE ?1 = 'dataset' AND name = ?2), 0))",
        params![kind.name(), name],
        |row| row.get(0),
    )?;
    let next = last.max(taken.into()) + 1;
    u32::try_from(next).ok().filter(|next| *next <= VERSION_MAX).ok_or_else(|| {
        Error::new(
            crate::error::ErrorCode::TooLarge,
            format!("{} {name} has {VERSION_MAX} versions already", kind.name()),
        )
        .into()
    })
}

/// Rejects a name with a version that is not visible with these prefixes: only callers that see all versions may add
/// the next one.
fn check_all_visible(
    transaction: &Transaction<'_>,
    kind: RecordKind,
    name: &str,
    visible_prefixes: &[String],
) -> std::result::Result<(), RollbackReason> {
    if visible_prefixes.is_empty() {
        return Ok(());
    }
    let count = |visible_prefixes: &[String]| -> rusqlite::Result<i64> {
        let mut conditions = SqlConditions::default();
        conditions.text("record.kind", Some(kind.name()));
        conditions.text("record.name", Some(name));
        conditions.visible_to("record", visible_prefixes);
        let query = format!("SELECT count(*) FROM record WHERE {}", conditions.text);
        transaction.query_row(&query, params_from_iter(conditions.values), |row| row.get(0))
    };
    if count(visible_prefixes)? == count(&[])? {
        return Ok(());
    }
    let detail = format!("{} {name} has versions outside the scope of the token", kind.name());
    Err(Error::new(crate::error::ErrorCode::PermissionDenied, detail).with_hint("use another name").into())
}

impl Registry {
    /// Keys of the members of a dataset.
    pub fn members(&self, dataset: &RecordRef) -> Result<Arc<BTreeSet<String>>> {
        self.members_or(dataset, || self.read("read members in", |connection| members(connection, dataset)))
    }

    /// Assigns the next version of a dataset, above `taken`, and records the snapshot that is about to be created for
    /// it, or the `existing` one. The caller later calls [`insert_dataset`](Self::insert_dataset) or
    /// [`remove_pending`](Self::remove_pending).
    pub fn begin_dataset(&self, name: &str, existing: Option<&str>, taken: u32) -> Result<PendingSnapshot> {
        self.write("write into", |transaction| {
            let version = next_version(transaction, RecordKind::Dataset, name, taken)?;
            let reference = RecordRef::new(RecordKind::Dataset, name, version);
            let pending = PendingSnapshot {
                name: name.to_owned(),
                version,
                snapshot: existing.map_or_else(|| reference.to_string(), str::to_owned),
                drops: existing.is_none(),
            };
            transaction.execute(
                "INSERT INTO pending (name, version, snapshot, drops) VALUES (?1, ?2, ?3, ?4)",
                params![pending.name, pending.version, pending.snapshot, pending.drops],
            )?;
            Ok(pending)
        })
    }

    /// Inserts a dataset and removes its pending entry.
    pub fn insert_dataset(&self, record: &Record) -> Result<()> {
        self.write("write into", |transaction| {
            insert(transaction, record, None)?;
            let RecordRef { name, version, .. } = &record.reference;
            transaction.execute("DELETE FROM pending WHERE name = ?1 AND version = ?2", params![name, version])?;
            Ok(())
        })
    }

    /// Snapshot operations that are neither finished nor undone.
    pub fn pending(&self) -> Result<Vec<PendingSnapshot>> {
        if self.is_absent() {
            return Ok(Vec::new());
        }
        self.read("read", |connection| {
            let mut statement =
                connection.prepare("SELECT name, version, snapshot, drops FROM pending ORDER BY name, version")?;
            let read = |row: &Row<'_>| {
                Ok(PendingSnapshot {
                    name: row.get("name")?,
                    version: number(row, "version")?,
                    snapshot: row.get("snapshot")?,
                    drops: row.get("drops")?,
                })
            };
            statement.query_map([], read)?.collect()
        })
    }

    /// Removes a pending entry once its operation is undone.
    pub fn remove_pending(&self, pending: &PendingSnapshot) -> Result<()> {
        self.write("write into", |transaction| {
            let key = params![pending.name, pending.version];
            transaction.execute("DELETE FROM pending WHERE name = ?1 AND version = ?2", key)?;
            Ok(())
        })
    }

    /// Registers a feature or factor: its next version, or the existing one with the same `identity` that is not
    /// archived. Returns the reference and whether it is new. The version in `record` is ignored.
    ///
    /// # Errors
    /// `permission_denied` for a name with a version that is not visible with these prefixes.
    pub fn define(&self, mut record: Record, identity: &str, visible_prefixes: &[String]) -> Result<(RecordRef, bool)> {
        self.write("write into", |transaction| {
            let RecordRef { kind, name, .. } = &record.reference;
            check_all_visible(transaction, *kind, name, visible_prefixes)?;
            let known: Option<i64> = transaction
                .query_row(
                    "SELECT version FROM record WHERE kind = ?1 AND name = ?2 AND identity = ?3 \
                     AND status <> 'archived' ORDER BY version DESC LIMIT 1",
                    params![kind.name(), name, identity],
                    |row| row.get(0),
                )
                .optional()?;
            if let Some(version) = known.and_then(|version| u32::try_from(version).ok()) {
                return Ok((RecordRef::new(*kind, name, version), false));
            }
            record.reference.version = next_version(transaction, *kind, name, 0)?;
            insert(transaction, &record, Some(identity))?;
            Ok((record.reference.clone(), true))
        })
    }

    /// One version of a record, or the latest: the highest that is not archived, or the highest where all are.
    pub fn get(
        &self,
        kind: RecordKind,
        name: &str,
        version: Option<u32>,
        visible_prefixes: &[String],
    ) -> Result<Option<Record>> {
        self.read("read", |connection| {
            let mut conditions = SqlConditions::default();
            conditions.text("record.kind", Some(kind.name()));
            conditions.text("record.name", Some(name));
            if let Some(version) = version {
                conditions.and("record.version = ?", [Value::Integer(version.into())]);
            }
            conditions.visible_to("record", visible_prefixes);
            let found = connection.query_row(
                &format!(
                    "SELECT {COLUMNS} FROM record WHERE {} ORDER BY status = 'archived', version DESC LIMIT 1",
                    conditions.text
                ),
                params_from_iter(conditions.values),
                record,
            );
            found.optional()?.map(|(id, found)| with_parts(connection, id, found, visible_prefixes)).transpose()
        })
    }

    /// Whether a record exists and is visible.
    pub fn is_visible(&self, reference: &RecordRef, visible_prefixes: &[String]) -> Result<bool> {
        let SqlConditions { text, values } = SqlConditions::is(reference, visible_prefixes);
        self.read("read", |connection| {
            connection.query_row(
                &format!("SELECT EXISTS (SELECT 1 FROM record WHERE {text})"),
                params_from_iter(values),
                |row| row.get(0),
            )
        })
    }

    /// Records by name and version, without their parts.
    pub fn page(&self, filter: &RecordSelection<'_>) -> Result<RecordPage> {
        let mut conditions = SqlConditions::default();
        conditions.text("record.kind", Some(filter.kind.name()));
        conditions.text("record.name", filter.name);
        conditions.text("record.status", filter.status.map(RecordStatus::name));
        conditions.text("record.source", filter.source);
        conditions.text("record.market", filter.market);
        if let Some(series) = filter.series {
            conditions.and(
                "EXISTS (SELECT 1 FROM part WHERE part.record = record.id AND part.series = ?)",
                [Value::Text(series.to_owned())],
            );
        }
        if let Some(RecordRef { kind, name, version }) = filter.parent {
            // A parent that is not visible is treated as missing.
            let mut parent = SqlConditions::default();
            parent.and("edge.child = record.id", []);
            parent.text("parent.kind", Some(kind.name()));
            parent.text("parent.name", Some(name));
            parent.and("parent.version = ?", [Value::Integer(i64::from(*version))]);
            parent.visible_to("parent", filter.visible_prefixes);
            conditions.and(
                &format!(
                    "EXISTS (SELECT 1 FROM edge JOIN record parent ON parent.id = edge.parent WHERE {})",
                    parent.text
                ),
                parent.values,
            );
        }
        if let Some((name, version)) = &filter.after {
            conditions.and(
                "(record.name, record.version) > (?, ?)",
                [Value::Text(name.clone()), Value::Integer(i64::from(*version))],
            );
        }
        conditions.visible_to("record", filter.visible_prefixes);
        conditions.values.push(Value::Integer(stored(filter.limit as u64 + 1)));
        self.read("read", |connection| {
            let mut statement = connection.prepare(&format!(
                "SELECT {COLUMNS} FROM record WHERE {} ORDER BY name, version LIMIT ?",
                conditions.text
            ))?;
            let mut found: Vec<(i64, Record)> =
                statement.query_map(params_from_iter(conditions.values), record)?.collect::<rusqlite::Result<_>>()?;
            let is_last = found.len() <= filter.limit;
            found.truncate(filter.limit);
            let mut records = Vec::with_capacity(found.len());
            for (id, mut record) in found {
                record.parents = parents(connection, id, filter.visible_prefixes)?;
                record.parts_total =
                    connection
                        .query_row("SELECT count(*) FROM part WHERE record = ?", [id], |row| number(row, "count(*)"))?;
                records.push(record);
            }
            Ok(RecordPage { records, is_last })
        })
    }

    /// Changes the status of an existing record. Archiving a dataset records its own snapshot as pending to be dropped
    /// and returns it for the caller to drop. Archiving again returns the entry while it is still pending.
    pub fn set_status(&self, reference: &RecordRef, next: RecordStatus) -> Result<Option<PendingSnapshot>> {
        self.write("write into", |transaction| {
            let RecordRef { kind, name, version } = reference;
            let key = params![kind.name(), name, version];
            let found = transaction.query_row(
                "SELECT status, snapshot, owns_snapshot FROM record WHERE kind = ?1 AND name = ?2 AND version = ?3",
                key,
                |row| Ok((status(row)?, row.get::<_, Option<String>>(1)?, row.get::<_, bool>(2)?)),
            );
            let (status, snapshot, owns_snapshot) = found.optional()?.ok_or_else(|| kind.not_found(&reference.short()))?;
            if !status.may_become(next) {
                return Err(Error::invalid(format!(
                    "{} {} is {}: it cannot become {}",
                    kind.name(),
                    reference.short(),
                    status.name(),
                    next.name()
                ))
                .with_hint("draft can become active, active and deprecated each other, and each of them archived, which is final")
                .into());
            }
            transaction.execute(
                "UPDATE record SET status = ?4 WHERE kind = ?1 AND name = ?2 AND version = ?3",
                params![kind.name(), name, version, next.name()],
            )?;
            let Some(snapshot) = snapshot.filter(|_| next == RecordStatus::Archived && owns_snapshot) else { return Ok(None) };
            let is_pending = if status == next {
                transaction.query_row(
                    "SELECT EXISTS (SELECT 1 FROM pending WHERE name = ?1 AND version = ?2)",
                    params![name, version],
                    |row| row.get(0),
                )?
            } else {
                transaction.execute(
                    "INSERT OR REPLACE INTO pending (name, version, snapshot, drops) VALUES (?1, ?2, ?3, 1)",
                    params![name, version, snapshot],
                )?;
                true
            };
            Ok(is_pending.then(|| PendingSnapshot { name: name.clone(), version: *version, snapshot, drops: true }))
        })
    }

    /// Datasets that need a snapshot, at most 5.
    pub fn needed_by(&self, snapshot: &str) -> Result<Vec<RecordRef>> {
        self.read("read", |connection| {
            let mut statement = connection.prepare(
                "SELECT kind, name, version FROM record WHERE snapshot = ?1 AND status <> 'archived' \
                 UNION SELECT 'dataset', name, version FROM pending WHERE snapshot = ?1 ORDER BY name, version LIMIT 5",
            )?;
            statement.query_map([snapshot], reference)?.collect()
        })
    }

    /// Ancestors and descendants of a record, over any number of steps; `None` when it does not exist.
    pub fn lineage(&self, of: &RecordRef, visible_prefixes: &[String]) -> Result<Option<Lineage>> {
        self.read("read", |connection| {
            let conditions = SqlConditions::is(of, visible_prefixes);
            let id: Option<i64> = connection
                .query_row(
                    &format!("SELECT id FROM record WHERE {}", conditions.text),
                    params_from_iter(conditions.values),
                    |row| row.get(0),
                )
                .optional()?;
            let Some(id) = id else { return Ok(None) };
            let mut lineage = Lineage::default();
            let mut edges = BTreeSet::new();
            for upwards in [true, false] {
                let (nodes, truncated) = walk(connection, (id, of), upwards, visible_prefixes, &mut edges)?;
                lineage.truncated |= truncated;
                if upwards { lineage.upstream = nodes } else { lineage.downstream = nodes }
            }
            lineage.edges = edges.into_iter().collect();
            Ok(Some(lineage))
        })
    }
}

/// Ancestors (`upwards`) or descendants of a record, the nearest first, and whether some are left out.
fn walk(
    connection: &Connection,
    start: (i64, &RecordRef),
    upwards: bool,
    visible_prefixes: &[String],
    edges: &mut BTreeSet<LineageLink>,
) -> rusqlite::Result<(Vec<LineageMember>, bool)> {
    let (from, to) = if upwards { ("child", "parent") } else { ("parent", "child") };
    let mut conditions = SqlConditions::default();
    conditions.and(&format!("edge.{from} = ?"), []);
    conditions.visible_to("record", visible_prefixes);
    let mut statement = connection.prepare(&format!(
        "SELECT record.id, record.kind, record.name, record.version, record.status FROM edge \
         JOIN record ON record.id = edge.{to} WHERE {} ORDER BY record.kind, record.name, record.version",
        conditions.text
    ))?;
    let mut known: BTreeMap<i64, RecordRef> = BTreeMap::from([(start.0, start.1.clone())]);
    let mut nodes = Vec::new();
    let mut level = vec![(start.0, start.1.clone())];
    let mut depth = 0;
    while !level.is_empty() {
        depth += 1;
        let mut next = Vec::new();
        for (id, at) in level {
            let values = std::iter::once(Value::Integer(id)).chain(conditions.values.iter().cloned());
            let found = statement.query_map(params_from_iter(values), |row| {
                Ok((row.get::<_, i64>("id")?, reference(row)?, status(row)?))
            })?;
            for found in found {
                let (id, reference, status) = found?;
                let is_new = !known.contains_key(&id);
                if is_new && nodes.len() >= LINEAGE_MAX {
                    return Ok((nodes, true));
                }
                let (parent, child) = if upwards { (&reference, &at) } else { (&at, &reference) };
                edges.insert(LineageLink { parent: parent.clone(), child: child.clone() });
                if is_new {
                    known.insert(id, reference.clone());
                    nodes.push(LineageMember { reference: reference.clone(), status, depth });
                    next.push((id, reference));
                }
            }
        }
        level = next;
    }
    Ok((nodes, false))
}
