//! The section `[http]`: the REST listener.

use crate::settings::settings;

const HOUR_MS: u64 = 3_600_000;
/// Connections per body staged in its own file.
const CONNECTIONS_PER_BODY: usize = 4;

settings! {
    /// Section `[http]`: addresses, limits and timeouts of the REST listener.
    pub struct HttpSettings {
        /// Address of the REST listener; port 0 picks a free port.
        listen: String = "127.0.0.1:8080".into();
        /// host:port at which other machines and containers reach the REST listener, such as "fastk:8080"; other
        /// commands on the same data directory connect there. "" for the address of the listener.
        advertise: String = String::new();
        /// Maximum size of a request body.
        body_bytes_max: u64 = 256 << 20, 1 << 10..=1 << 40;
        /// Maximum bytes of all bodies being received or written at one time; more are rejected as overloaded.
        ingest_bytes_max: u64 = 1 << 30, |http: &Self| http.body_bytes_max..=1 << 42;
        /// Rows of a JSON response without `limit`.
        json_rows_default: u64 = 10_000, |http: &Self| 1..=http.json_rows_max;
        /// Largest `limit` of a JSON response.
        json_rows_max: u64 = 1_000_000, 1..=1 << 32;
        /// Maximum number of concurrent reads.
        reads_max: usize = 256, 1..=1 << 16;
        /// How long a read above reads_max waits before it is rejected as overloaded.
        read_queue_timeout_ms: u64 = 5_000, 0..=HOUR_MS;
        /// Maximum bytes of all bodies that clients read in parts (`Range`), which are kept in files for half a minute.
        part_bytes_max: u64 = 4 << 30, 1 << 20..=1 << 42;
        /// Maximum number of connections; a new connection above it closes the one that has been idle longest.
        connections_max: usize = 1_024, 1..=1 << 16;
        /// Maximum number of concurrent requests on one HTTP/2 connection.
        connection_streams_max: usize = 128, 1..=1 << 16;
        /// Maximum length of a request target, in bytes.
        uri_bytes_max: usize = 8 << 10, 256..=60 << 10;
        /// Maximum size of the headers of one request.
        header_bytes_max: usize = 32 << 10, 1 << 10..=128 << 10;
        /// Maximum ratio of the decompressed to the compressed size of a body; applies to bodies above 1 MiB.
        decompression_ratio_max: u64 = 250, 1..=1 << 20;
        /// Maximum time from the first byte of a connection or request to the end of its headers.
        header_timeout_ms: u64 = 10_000, 10..=HOUR_MS;
        /// How long a connection may be idle between two requests.
        idle_timeout_ms: u64 = 300_000, 10..=24 * HOUR_MS;
        /// Maximum pause between two reads of a body.
        body_idle_timeout_ms: u64 = 30_000, 10..=HOUR_MS;
        /// Maximum time to receive a body.
        body_timeout_ms: u64 = 600_000, 10..=24 * HOUR_MS;
        /// How long a client may read nothing of its response before its connection is closed.
        stall_timeout_ms: u64 = 60_000, 10..=24 * HOUR_MS;
        /// Address of a separate listener for /health, /health/live, /health/ready and /metrics, which responds even
        /// when the server is saturated; "" for none.
        health_listen: String = String::new();
        /// Whether that listener uses TLS, and requires client certificates, where `[tls]` does. false is plain HTTP,
        /// for probes without TLS; tokens for /health and /metrics then cross the network unencrypted.
        health_tls: bool = true;
        /// Origins whose pages may send requests from a browser, such as `["https://charts.example.com"]`; `[]` for
        /// none.
        cors_origins: Vec<String> = Vec::new();
    } and {
        /// Whether a server without tokens accepts only local host names.
        local_names_only: bool = false;
    }
}

impl HttpSettings {
    /// Maximum number of bodies staged in files at one time; more are rejected as `overloaded`.
    pub fn staged_files_max(&self) -> usize {
        self.connections_max.div_ceil(CONNECTIONS_PER_BODY).max(1)
    }
}
