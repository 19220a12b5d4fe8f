//! The section `[sql]`: limits of statements.

use std::time::Duration;

use crate::settings::settings;

settings! {
    /// Section `[sql]`: limits of SQL statements over all interfaces.
    #[derive(Copy)]
    pub struct SqlSettings {
        /// Number of threads on which statements run, at low priority; 0 is one per processor.
        threads: usize = 0, 0..=1_024;
        /// Maximum number of statements that run at the same time.
        queries_max: usize = 8, 1..=4_096;
        /// Maximum number of statements that wait for others; more are rejected as overloaded.
        queue_max: usize = 64, 0..=65_536;
        /// Maximum time of one statement, in which it waits, is planned and runs; then it fails as deadline_exceeded.
        /// The time that its client needs to read is not counted.
        timeout_ms: u64 = 60_000, 10..=86_400_000;
        /// Maximum memory of all statements together, without the rows that are mapped from files.
        memory_bytes_max: u64 = 2 << 30, 1 << 20..=1 << 42;
        /// Maximum memory of one statement; sorts and aggregations beyond it use the disk, joins fail as too_large.
        query_memory_bytes_max: u64 = 512 << 20, 1 << 20..=1 << 42;
        /// Maximum size of all files that statements spill, in the directory tmp of the store; 0 spills nothing.
        spill_bytes_max: u64 = 10 << 30, 0..=1 << 46;
        /// Maximum length of a statement in bytes.
        statement_bytes_max: usize = 262_144, 1_024..=16_777_216;
        /// Maximum number of rows of a response in JSON; more are left out, and the response says so.
        json_rows_max: usize = 10_000, 1..=10_000_000;
    }
}

impl SqlSettings {
    /// Maximum time of one statement.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}
