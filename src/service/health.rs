//! Health of the store, and its gauges for metrics.

use std::time::Duration;

use crate::clock::wall_ms;
use crate::disk::machine::Machine;
use crate::error::Result;
use crate::format::FORMAT_VERSION;
use crate::service::caller::Scope;
use crate::service::replies::{Health, HealthCheck, HealthStatus, MaintenanceStatus, StatusReply};
use crate::service::shared::Service;

/// State of the store, for metrics.
#[derive(Clone, Debug)]
pub struct StoreGauges {
    pub commit: u64,
    pub series: u64,
    pub snapshots: u64,
    pub open_maps: u64,
    pub wal_bytes: u64,
    pub writer_stopped: bool,
    pub degraded: bool,
    pub uptime: Duration,
    pub recovery: Duration,
    pub recovered_commits: u64,
    pub damaged_reads: u64,
    pub maintenance: MaintenanceStatus,
    pub machine: Machine,
}

impl Service {
    /// Health of the store: `degraded` when it needs attention while reads continue, `failing` when its directory is
    /// lost.
    pub fn health(&self) -> Result<Health> {
        self.caller.require_scope(Scope::Read)?;
        let mut checks = Vec::new();
        let shows_details = !self.caller.is_limited();
        let mut status = HealthStatus::Ok;
        let mut add = |name: &'static str, problem: Option<String>, severity: HealthStatus| {
            let found = if problem.is_some() { severity } else { HealthStatus::Ok };
            status = status.max(found);
            let since = self.health_history.since(name, problem.is_some(), wall_ms());
            // A detail can name series that the caller cannot see.
            checks.push(HealthCheck {
                name: name.into(),
                status: found,
                since,
                detail: problem.filter(|_| shows_details),
            });
        };
        let lost = self.store.root_lost();
        let is_root_present = lost.is_none();
        add("directory", lost, HealthStatus::Failing);
        let mut check = |name, problem| add(name, problem, HealthStatus::Degraded);
        check("writer", self.store.writer_stopped());
        check("maintenance", self.store.maintenance_failed());
        let recovery = self.store.recovery();
        check("recovery", (!recovery.damage.is_empty()).then(|| recovery.damage.join("; ")));
        check("redundancy", (!recovery.redundant_damage.is_empty()).then(|| recovery.redundant_damage.join("; ")));
        check("integrity", if is_root_present { self.last_verify.current() } else { self.last_verify.findings() });
        check("registry", self.catalog.problem());
        let damaged = self.store.cache().damage.unresolved();
        check(
            "reads",
            damaged.map(|(reads, last)| format!("{reads} reads encountered damaged data, the last one {last}")),
        );
        let since = checks.iter().filter_map(|check| check.since.clone()).min();
        Ok(Health {
            status,
            since,
            version: env!("CARGO_PKG_VERSION").into(),
            format: FORMAT_VERSION,
            commit: self.store.snapshot().commit,
            uptime_seconds: self.opened_at.elapsed().as_secs(),
            durability: self.store.options().durability.name().into(),
            maintenance: if shows_details { self.maintenance() } else { MaintenanceStatus::default() },
            checks,
        })
    }

    /// Health without details, which any caller may see.
    pub fn readiness(&self) -> Result<StatusReply> {
        Ok(StatusReply { status: self.health()?.status, writer_stopped: self.store.writer_stopped().is_some() })
    }

    /// State of the store, for metrics.
    ///
    /// # Errors
    /// `permission_denied`.
    pub fn gauges(&self) -> Result<StoreGauges> {
        self.caller.require_store(Scope::Read)?;
        let state = self.store.snapshot();
        let recovery = self.store.recovery();
        Ok(StoreGauges {
            commit: state.commit,
            series: state.keys.len() as u64,
            snapshots: state.snapshots.len() as u64,
            open_maps: self.store.cache().len() as u64,
            wal_bytes: self.store.log_bytes().0,
            writer_stopped: self.store.writer_stopped().is_some(),
            degraded: self.health()?.status != HealthStatus::Ok,
            uptime: self.opened_at.elapsed(),
            recovery: Duration::from_millis(recovery.duration_ms),
            recovered_commits: recovery.commits_replayed,
            damaged_reads: self.store.cache().damage.reads(),
            maintenance: self.maintenance(),
            machine: Machine::look(self.store.root()),
        })
    }

    fn maintenance(&self) -> MaintenanceStatus {
        let counts = self.store.maintenance_counts();
        let (run_bytes, run_files) = self.store.run_files();
        MaintenanceStatus {
            seals: counts.seals,
            chunks_sealed: counts.chunks_sealed,
            checkpoints: counts.checkpoints,
            compactions: counts.compactions,
            chunks_compacted: counts.chunks_compacted,
            compact_bytes_read: counts.compact_bytes_read,
            compact_bytes_written: counts.compact_bytes_written,
            retention_rows: counts.retention_rows,
            files_removed: counts.files_removed,
            files_waiting: counts.files_waiting,
            bytes_waiting: counts.bytes_waiting,
            garbage_bytes: self.store.garbage_bytes_total(),
            run_files,
            run_bytes,
        }
    }
}
