//! One method per operation, independent of the protocol: what REST, Flight and the command line call.
//!
//! Every method blocks (it may sync a file or touch mapped memory), so async interfaces call it on a blocking thread.

mod admin;
mod admission;
pub mod backup;
mod caller;
pub mod coverage;
mod coverage_ratios;
mod cursor;
mod files;
mod health;
mod health_state;
mod inventory;
pub mod jobs;
mod kinds;
mod limits;
mod months;
pub mod operations;
mod page;
mod read;
mod registry;
pub mod replies;
mod series;
mod shared;
mod snapshots;
mod sql;
mod table_write;
mod wall_clock;
mod write;

pub use crate::store::{
    Durability, Finding, FindingKind, OpenProgress, OrphanReport, OverlapReport, RestoreOptions, StoreOptions,
    TaskControl, VerifyOptions, VerifyReport,
};
pub use admin::{CompactRequest, SCRUB_BYTES_PER_SECOND, ScrubRequest, VerifyRequest, scrub_control};
pub use admission::{Permit, PermitKind};
pub use backup::{BackupReply, BackupRequest, DamagedFile, RestoreReply, restore_backup};
pub use caller::{Caller, Scope};
pub use coverage::{CoverageReply, CoverageRequest};
pub use files::{FilesReply, FilesRequest};
pub use health::StoreGauges;
pub use jobs::{Job, JobError, JobList, JobStatus, Jobs, Progress};
pub use limits::{RESPONSE_BYTES, ServiceLimits};
pub use read::{QueryInfo, QueryResult};
pub use registry::*;
pub use replies::*;
pub use series::Precondition;
pub use shared::{Service, ServiceShared};
pub use sql::{SqlCall, SqlQueryCancelled, SqlQueryInfo, SqlQueryList, SqlStatement};
pub use table_write::{TableRule, TableWrite};
pub use write::{Acknowledged, IdempotencyKey, MergeOp, PendingWrite, WriteMethod, WriteOptions};
