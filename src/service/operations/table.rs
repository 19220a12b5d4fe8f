//! The table: one row per operation, one column per interface, and a reason where an interface lacks it.
//!
//! A test checks it in both directions: every entry exists in its interface, and every operation of an interface is
//! listed here.

use super::admin::{
    CancelJob, Compact, ExplainOverlaps, GetJob, ListFiles, ListJobs, ListOrphans, Scrub, StartBackup, Verify,
};
use super::datasets::{ChangeDataset, CreateDataset, DescribeDataset, ListDatasetVersions, ListDatasets, ReadLineage};
use super::definitions::{ChangeDefinition, Define, DescribeDefinition, ListDefinitionVersions, ListDefinitions};
use super::entry::Entry;
use super::kinds::{DescribeKind, DropKind, ListKinds, RegisterKind};
use super::rows::{Delete, MERGE, PLAN, READ, ReadCoverage, WRITE};
use super::series::{ChangeSeries, DescribeSeries, DropSeries, ListSeries, Register};
use super::snapshots::{CreateSnapshot, DropSnapshot, ListSnapshots};
use super::sql::{CancelSqlQuery, ListSqlQueries, RUN_SQL};
use super::store::{DESCRIBE_INTERFACE, HealthOf, InventoryOf, LIVENESS, METRICS, Readiness};
use super::tools::{INSPECT, LOG_IN, REBUILD_MANIFEST, REPAIR, RESTORE, SERVE, TOKENS};

/// Every operation.
pub static OPERATIONS: &[Entry] = &[
    Entry::json::<RegisterKind>(),
    Entry::json::<ListKinds>(),
    Entry::json::<DescribeKind>(),
    Entry::json::<DropKind>(),
    Entry::json::<Register>(),
    Entry::json::<ListSeries>(),
    Entry::json::<DescribeSeries>(),
    Entry::json::<ChangeSeries>(),
    Entry::json::<DropSeries>(),
    Entry::special(WRITE),
    Entry::special(MERGE),
    Entry::json::<Delete>(),
    Entry::special(READ),
    Entry::special(PLAN),
    Entry::special(RUN_SQL),
    Entry::json::<ListSqlQueries>(),
    Entry::json::<CancelSqlQuery>(),
    Entry::json::<CreateSnapshot>(),
    Entry::json::<DropSnapshot>(),
    Entry::json::<ListSnapshots>(),
    Entry::json::<ReadCoverage>(),
    Entry::json::<CreateDataset>(),
    Entry::json::<ListDatasets>(),
    Entry::json::<DescribeDataset>(),
    Entry::json::<ListDatasetVersions>(),
    Entry::json::<ChangeDataset>(),
    Entry::json::<Define>(),
    Entry::json::<ListDefinitions>(),
    Entry::json::<DescribeDefinition>(),
    Entry::json::<ListDefinitionVersions>(),
    Entry::json::<ChangeDefinition>(),
    Entry::json::<ReadLineage>(),
    Entry::json::<InventoryOf>(),
    Entry::json::<HealthOf>(),
    Entry::json::<Readiness>(),
    Entry::special(LIVENESS),
    Entry::special(METRICS),
    Entry::job::<Verify>(),
    Entry::job::<Scrub>(),
    Entry::job::<Compact>(),
    Entry::job::<StartBackup>(),
    Entry::json::<ListJobs>(),
    Entry::json::<GetJob>(),
    Entry::json::<CancelJob>(),
    Entry::json::<ListOrphans>(),
    Entry::json::<ExplainOverlaps>(),
    Entry::json::<ListFiles>(),
    Entry::special(RESTORE),
    Entry::special(REPAIR),
    Entry::special(REBUILD_MANIFEST),
    Entry::special(INSPECT),
    Entry::special(TOKENS),
    Entry::special(SERVE),
    Entry::special(LOG_IN),
    Entry::special(DESCRIBE_INTERFACE),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::operations::{Dispatch, Method};

    #[test]
    fn the_query_parameters_of_a_route_are_documented_fields_of_its_request() {
        for entry in OPERATIONS {
            let Dispatch::Json(call) = &entry.call else { continue };
            let documented: Vec<String> = (call.schemas)().parameters.into_iter().map(|one| one.name).collect();
            for route in entry.spec.rest.bindings() {
                for name in route.query {
                    assert!(documented.iter().any(|known| known == name), "{}: {name}", route.id);
                }
            }
        }
    }

    #[test]
    fn only_reads_have_the_scope_to_read() {
        for entry in OPERATIONS {
            for route in entry.spec.rest.bindings() {
                let is_read = entry.spec.scope == crate::service::Scope::Read;
                // A caller may cancel its own statements.
                let reads = ["queryRows", "runSql", "cancelSqlQuery"];
                let only_reads = route.method == Method::Get || reads.contains(&route.id);
                assert!(!is_read || only_reads, "{}", route.id);
                assert!(!route.writes || !is_read, "{}", route.id);
            }
        }
    }
}
