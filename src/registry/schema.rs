//! Tables of the registry, and the migrations between versions.
//!
//! `PRAGMA user_version` is the number of applied migrations. A released migration is never changed; new ones are
//! appended.

use rusqlite::{Connection, TransactionBehavior};

use crate::types::width::narrow;

/// `application_id` of a registry: `FKrg`.
pub const APPLICATION_ID: i32 = 0x464b_7267;

/// Migrations; element n migrates version n to n + 1.
const MIGRATIONS: &[&str] = &[
    // 1: datasets.
    "CREATE TABLE record (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL CHECK (version > 0),
        status TEXT NOT NULL,
        description TEXT,
        created_at TEXT NOT NULL,
        source TEXT,
        market TEXT,
        snapshot TEXT,
        snapshot_commit INTEGER,
        owns_snapshot INTEGER NOT NULL DEFAULT 0,
        span_start TEXT,
        span_end TEXT,
        row_count INTEGER,
        checksum TEXT,
        UNIQUE (kind, name, version)
    ) STRICT;
    CREATE INDEX record_snapshot ON record (snapshot) WHERE snapshot IS NOT NULL;
    -- Series a record names: members of a dataset, inputs and outputs of a definition.
    CREATE TABLE part (
        record INTEGER NOT NULL REFERENCES record (id),
        role TEXT NOT NULL,
        series TEXT NOT NULL,
        version INTEGER,
        row_count INTEGER,
        first_ts INTEGER,
        last_ts INTEGER,
        checksum TEXT,
        PRIMARY KEY (record, role, series)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX part_series ON part (series);
    -- What a record was made from. A parent is there before its child, so there are no cycles.
    CREATE TABLE edge (
        child INTEGER NOT NULL REFERENCES record (id),
        parent INTEGER NOT NULL REFERENCES record (id),
        PRIMARY KEY (child, parent),
        CHECK (parent < child)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX edge_parent ON edge (parent);
    -- Snapshots that are being made or dropped for a dataset: the next opening of the store drops them.
    CREATE TABLE pending (
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        snapshot TEXT NOT NULL,
        drops INTEGER NOT NULL,
        PRIMARY KEY (name, version)
    ) STRICT, WITHOUT ROWID;",
    // 2: features and factors. `reach` are the series that a caller must be allowed to read to see the record.
    "ALTER TABLE record ADD COLUMN definition TEXT;
    ALTER TABLE record ADD COLUMN config_hash TEXT;
    ALTER TABLE record ADD COLUMN code_version TEXT;
    ALTER TABLE record ADD COLUMN identity TEXT;
    CREATE INDEX record_identity ON record (kind, name, identity) WHERE identity IS NOT NULL;
    CREATE TABLE reach (
        record INTEGER NOT NULL REFERENCES record (id),
        series TEXT NOT NULL,
        PRIMARY KEY (record, series)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO reach (record, series) SELECT DISTINCT record, series FROM part;",
];

/// The version of this program.
pub fn version() -> i64 {
    narrow(MIGRATIONS.len())
}

/// Version of a file.
pub fn version_of(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Migrates a file to this program's version, each step in its own transaction.
pub fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    migrate_to(connection, version())
}

/// Migrates a file up to `version`.
pub fn migrate_to(connection: &mut Connection, version: i64) -> rusqlite::Result<()> {
    for (number, migration) in (1..=version).zip(MIGRATIONS) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if version_of(&transaction)? >= number {
            continue;
        }
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}
