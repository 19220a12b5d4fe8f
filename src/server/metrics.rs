//! Metrics for Prometheus.
//!
//! The engine and the interfaces count where events happen; without a recorder in the process that costs nothing. State
//! of the store is sampled when metrics are scraped. Symbols are never labels: labels are routes, methods, statuses and
//! outcomes, of which there are few.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::{Error, Result};
use crate::service::{Service, StoreGauges};

/// Media type of the text format.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Bounds of histograms of seconds: from a sync on a fast disk to a request that is too slow.
const SECONDS: [f64; 16] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];

/// Bounds of histograms of rows and of bytes.
const AMOUNTS: [f64; 10] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// How often recorded values are aggregated, whether or not metrics are scraped.
const AGGREGATE_INTERVAL: Duration = Duration::from_secs(5);

enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// Name, kind and description of every metric. `docs/metrics.md` lists the same.
const NAMES: &[(&str, MetricKind, &str)] = {
    use MetricKind::{Counter, Gauge, Histogram};
    &[
        ("fastk_http_requests_total", Counter, "REST requests, by route, method and status"),
        ("fastk_http_request_seconds", Histogram, "Time to the headers of a REST response, by route and method"),
        ("fastk_flight_calls_total", Counter, "Flight calls, by method and outcome"),
        ("fastk_flight_call_seconds", Histogram, "Time to the headers of a Flight response, by method"),
        ("fastk_rejected_total", Counter, "Requests rejected by authentication, by interface"),
        ("fastk_received_bytes_total", Counter, "Bytes received from clients"),
        ("fastk_sent_bytes_total", Counter, "Bytes sent to clients"),
        ("fastk_rows_written_total", Counter, "Rows of acknowledged writes"),
        ("fastk_rows_read_total", Counter, "Rows returned by reads"),
        ("fastk_write_rows", Histogram, "Rows of an acknowledged write"),
        ("fastk_response_rows", Histogram, "Rows of a response, including aborted ones"),
        ("fastk_response_bytes", Histogram, "Bytes of the columns of a response"),
        ("fastk_wal_syncs_total", Counter, "Syncs of the WAL"),
        ("fastk_wal_sync_seconds", Histogram, "Time of a sync of the WAL"),
        ("fastk_wal_written_bytes_total", Counter, "Bytes written to the WAL"),
        ("fastk_load_seconds", Histogram, "Time to write large sorted writes directly to chunks"),
        ("fastk_seal_seconds", Histogram, "Time to seal tails into chunks"),
        ("fastk_compaction_seconds", Histogram, "Time of a round of compaction"),
        ("fastk_checkpoint_seconds", Histogram, "Time of a checkpoint"),
        ("fastk_chunks_opened_total", Counter, "Chunk files opened and mapped: misses of the map cache"),
        ("fastk_chunk_hits_total", Counter, "Chunk files that were already mapped: hits of the map cache"),
        ("fastk_chunks_evicted_total", Counter, "Maps evicted from the map cache"),
        ("fastk_commit", Gauge, "Number of the last commit"),
        ("fastk_series", Gauge, "Registered series"),
        ("fastk_snapshots", Gauge, "Named snapshots"),
        ("fastk_open_maps", Gauge, "Mapped chunk files"),
        ("fastk_wal_bytes", Gauge, "Bytes of the WAL on disk"),
        ("fastk_run_files", Gauge, "Run files"),
        ("fastk_run_bytes", Gauge, "Bytes of rows in run files"),
        ("fastk_garbage_bytes", Gauge, "Bytes of chunks that are no longer readable through any commit"),
        ("fastk_waiting_bytes", Gauge, "Bytes of files no longer in use that a reader still holds"),
        ("fastk_writer_stopped", Gauge, "1 when the store is read-only"),
        ("fastk_degraded", Gauge, "1 when health is not ok"),
        ("fastk_uptime_seconds", Gauge, "Time since the store was opened"),
        ("fastk_recovery_seconds", Gauge, "Time the last open took"),
        ("fastk_recovered_commits", Gauge, "Commits that the last open replayed from the WAL"),
        ("fastk_seals_total", Counter, "Series sealed"),
        ("fastk_chunks_sealed_total", Counter, "Chunks written by seals"),
        ("fastk_checkpoints_total", Counter, "Checkpoints"),
        ("fastk_compactions_total", Counter, "Partitions compacted"),
        ("fastk_compaction_read_bytes_total", Counter, "Bytes read by compaction"),
        ("fastk_compaction_written_bytes_total", Counter, "Bytes written by compaction"),
        ("fastk_retention_rows_total", Counter, "Rows deleted by retention"),
        ("fastk_files_removed_total", Counter, "Chunk files unlinked"),
        ("fastk_damaged_reads_total", Counter, "Reads that encountered damaged data"),
        ("fastk_disk_bytes", Gauge, "Size of the file system of the data directory"),
        ("fastk_disk_free_bytes", Gauge, "Bytes of that file system available to the server"),
        ("fastk_memory_bytes", Gauge, "Memory of the process excluding mapped files"),
        ("fastk_memory_mapped_bytes", Gauge, "Pages of mapped files in memory, which the system can reclaim"),
        (
            "fastk_memory_limit_bytes",
            Gauge,
            "Memory available to the process: the limit of its control group, or that of the host",
        ),
        ("fastk_open_files", Gauge, "Open files and sockets of the process"),
        ("fastk_open_files_limit", Gauge, "Maximum number of open files and sockets of the process"),
        ("fastk_build_info", Gauge, "1, with the version as a label"),
    ]
};

/// The recorder of this process, installed on first use.
fn recorder() -> Result<&'static PrometheusHandle> {
    static RECORDER: OnceLock<std::result::Result<PrometheusHandle, String>> = OnceLock::new();
    let installed = RECORDER.get_or_init(|| {
        let seconds = Matcher::Suffix("_seconds".into());
        let amounts = |builder: PrometheusBuilder, what: &str| {
            builder.set_buckets_for_metric(Matcher::Suffix(what.into()), &AMOUNTS)
        };
        let builder = PrometheusBuilder::new().set_buckets_for_metric(seconds, &SECONDS);
        let builder =
            builder.and_then(|builder| amounts(builder, "_rows")).and_then(|builder| amounts(builder, "_bytes"));
        let handle =
            builder.map_err(|error| error.to_string())?.install_recorder().map_err(|error| error.to_string())?;
        // Histograms retain every value until they are aggregated.
        let recorder = handle.clone();
        let aggregate = move || {
            loop {
                std::thread::sleep(AGGREGATE_INTERVAL);
                recorder.run_upkeep();
            }
        };
        std::thread::Builder::new().name("fastk-metrics".into()).spawn(aggregate).map_err(|error| error.to_string())?;
        for (name, kind, text) in NAMES {
            match kind {
                MetricKind::Counter => describe_counter!(*name, *text),
                MetricKind::Gauge => describe_gauge!(*name, *text),
                MetricKind::Histogram => describe_histogram!(*name, *text),
            }
        }
        declare();
        Ok(handle)
    });
    installed.as_ref().map_err(|error| Error::internal(format!("metrics: {error}")))
}

/// Registers metrics without labels, and those whose labels come from a closed list, so that each is 0 from the start:
/// a rate over a metric that appears with its first event misses that event.
fn declare() {
    for (name, kind, _) in NAMES.iter().filter(|(name, ..)| !LABELLED.contains(name)) {
        match kind {
            MetricKind::Counter => drop(counter!(*name)),
            MetricKind::Histogram => drop(histogram!(*name)),
            // Gauges are set at every scrape.
            MetricKind::Gauge => {}
        }
    }
    for interface in ["rest", "flight"] {
        rejected_requests(interface).absolute(0);
    }
}

/// Registers the metrics of REST operations: route, method, and the statuses of their responses.
pub(super) fn declare_http(operations: &[(String, &'static str, Vec<u16>)]) {
    for (route, method, statuses) in operations {
        for status in statuses {
            http_requests(route, method, *status).absolute(0);
        }
        drop(http_seconds(route, method));
    }
}

/// Registers the metrics of Flight methods.
pub(super) fn declare_flight(methods: &[&'static str]) {
    for method in methods {
        for outcome in [ADMITTED, REFUSED] {
            flight_calls(method, outcome).absolute(0);
        }
        drop(flight_seconds(method));
    }
}

/// Installs the recorder, so that events from here on are counted.
pub fn start() {
    if let Err(error) = recorder() {
        tracing::warn!(%error, "metrics are disabled");
    }
}

/// All metrics in the text format of Prometheus.
///
/// # Errors
/// `permission_denied`; `internal` when another recorder is installed.
pub fn render(service: &Service) -> Result<String> {
    let now = service.gauges()?;
    let handle = recorder()?;
    sample(&now);
    handle.run_upkeep();
    Ok(handle.render())
}

/// `f64` holds every value exactly.
fn set(name: &'static str, value: u64) {
    gauge!(name).set(value as f64);
}

fn sample(now: &StoreGauges) {
    let StoreGauges { maintenance, .. } = now;
    set("fastk_commit", now.commit);
    set("fastk_series", now.series);
    set("fastk_snapshots", now.snapshots);
    set("fastk_open_maps", now.open_maps);
    set("fastk_wal_bytes", now.wal_bytes);
    set("fastk_run_files", maintenance.run_files);
    set("fastk_run_bytes", maintenance.run_bytes);
    set("fastk_garbage_bytes", maintenance.garbage_bytes);
    set("fastk_waiting_bytes", maintenance.bytes_waiting);
    set("fastk_writer_stopped", u64::from(now.writer_stopped));
    set("fastk_degraded", u64::from(now.degraded));
    set("fastk_uptime_seconds", now.uptime.as_secs());
    gauge!("fastk_recovery_seconds").set(now.recovery.as_secs_f64());
    set("fastk_recovered_commits", now.recovered_commits);
    // Values the system does not report are omitted: a 0 would look like a full disk.
    for (name, value) in [
        ("fastk_disk_bytes", now.machine.disk_bytes),
        ("fastk_disk_free_bytes", now.machine.disk_free_bytes),
        ("fastk_memory_bytes", now.machine.memory_bytes),
        ("fastk_memory_mapped_bytes", now.machine.memory_mapped_bytes),
        ("fastk_memory_limit_bytes", now.machine.memory_limit_bytes),
        ("fastk_open_files", now.machine.open_files),
        ("fastk_open_files_limit", now.machine.open_files_limit),
    ] {
        if let Some(value) = value {
            set(name, value);
        }
    }
    gauge!("fastk_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for (name, value) in [
        ("fastk_seals_total", maintenance.seals),
        ("fastk_chunks_sealed_total", maintenance.chunks_sealed),
        ("fastk_checkpoints_total", maintenance.checkpoints),
        ("fastk_compactions_total", maintenance.compactions),
        ("fastk_compaction_read_bytes_total", maintenance.compact_bytes_read),
        ("fastk_compaction_written_bytes_total", maintenance.compact_bytes_written),
        ("fastk_retention_rows_total", maintenance.retention_rows),
        ("fastk_files_removed_total", maintenance.files_removed),
        ("fastk_damaged_reads_total", now.damaged_reads),
    ] {
        counter!(name).absolute(value);
    }
}

/// Records a REST request once its response headers are sent. `route` is the pattern, never the path.
pub(super) fn http_request(route: &str, method: &'static str, status: u16, elapsed: Duration) {
    http_requests(route, method, status).increment(1);
    http_seconds(route, method).record(elapsed);
}

// Each metric with labels is created in one place: a different label order would create a second series.

fn http_requests(route: &str, method: &'static str, status: u16) -> metrics::Counter {
    let (route, status) = (route.to_owned(), status.to_string());
    counter!("fastk_http_requests_total", "route" => route, "method" => method, "status" => status)
}

fn http_seconds(route: &str, method: &'static str) -> metrics::Histogram {
    histogram!("fastk_http_request_seconds", "route" => route.to_owned(), "method" => method)
}

fn flight_calls(method: &'static str, outcome: &'static str) -> metrics::Counter {
    counter!("fastk_flight_calls_total", "method" => method, "outcome" => outcome)
}

fn flight_seconds(method: &'static str) -> metrics::Histogram {
    histogram!("fastk_flight_call_seconds", "method" => method)
}

fn rejected_requests(interface: &'static str) -> metrics::Counter {
    counter!("fastk_rejected_total", "interface" => interface)
}

/// Outcomes of a Flight call.
const ADMITTED: &str = "admitted";
const REFUSED: &str = "refused";
/// Metrics with labels.
const LABELLED: [&str; 5] = [
    "fastk_http_requests_total",
    "fastk_http_request_seconds",
    "fastk_flight_calls_total",
    "fastk_flight_call_seconds",
    "fastk_rejected_total",
];

/// Records a Flight call once its response headers are sent.
pub(super) fn flight_call(method: &'static str, admitted: bool, elapsed: Duration) {
    flight_calls(method, if admitted { ADMITTED } else { REFUSED }).increment(1);
    flight_seconds(method).record(elapsed);
}

/// Records a request rejected by authentication.
pub(super) fn rejected(interface: &'static str) {
    rejected_requests(interface).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_unit_and_is_documented() {
        let documented = include_str!("../../docs/metrics.md");
        for (name, kind, text) in NAMES {
            let ending = match kind {
                MetricKind::Counter => name.ends_with("_total"),
                MetricKind::Histogram => ["_seconds", "_rows", "_bytes"].iter().any(|unit| name.ends_with(unit)),
                MetricKind::Gauge => !name.ends_with("_total"),
            };
            assert!(ending && name.starts_with("fastk_"), "{name}");
            assert!(documented.contains(&format!("| `{name}` |")), "{name} is not documented");
            assert!(documented.contains(text), "{name}: {text}");
        }
        let named = documented.matches("| `fastk_").count();
        assert_eq!(named, NAMES.len(), "the documentation lists other metrics");
    }
}
