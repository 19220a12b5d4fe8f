//! Limits of the REST interface.

use std::time::Duration;

use axum::http::HeaderValue;

use super::cors;
use crate::config::Config;
use crate::server::settings::{count, millis, small, staged_files};
use crate::server::tls_stream::Tls;

/// Limits of the REST interface.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Maximum size of a decompressed body of a write.
    pub body_bytes_max: u64,
    /// Maximum bytes of all bodies being received or written at one time.
    pub ingest_bytes_max: u64,
    /// Rows of a JSON response without a limit.
    pub json_rows_default: u64,
    /// Maximum number of rows of a JSON response.
    pub json_rows_max: u64,
    /// Maximum number of concurrent reads.
    pub reads_max: usize,
    /// How long a read waits for one of these permits.
    pub read_queue_timeout: Duration,
    /// Maximum number of connections; a new connection above it closes the one that has been idle longest.
    pub connections_max: usize,
    /// Maximum number of bodies staged in files at one time; more are rejected as `overloaded`.
    pub staged_files_max: usize,
    /// Maximum number of concurrent requests on one HTTP/2 connection.
    pub connection_streams_max: u32,
    /// Maximum ratio of the decompressed to the compressed size of a body.
    pub decompression_ratio_max: u64,
    /// Maximum time to receive the head of a request.
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// Maximum pause between two reads of a body.
    pub body_idle_timeout: Duration,
    /// Maximum time to receive a body.
    pub body_timeout: Duration,
    /// How long a client may read nothing of a response.
    pub stall_timeout: Duration,
    /// How long open requests may continue after the shutdown was requested.
    pub drain_timeout: Duration,
    /// Maximum length of a request target.
    pub uri_bytes_max: usize,
    /// Maximum size of the headers of a request.
    pub header_bytes_max: usize,
    /// TLS settings.
    pub tls: Tls,
    /// Origins whose pages may send requests from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// Whether a server without tokens accepts only local host names.
    pub local_names_only: bool,
}

impl HttpLimits {
    /// The limits in the configuration, with TLS settings.
    pub fn of(config: &Config, tls: Tls) -> Self {
        let http = &config.http;
        Self {
            body_bytes_max: http.body_bytes_max,
            ingest_bytes_max: http.ingest_bytes_max,
            json_rows_default: http.json_rows_default,
            json_rows_max: http.json_rows_max,
            reads_max: count(http.reads_max),
            read_queue_timeout: millis(http.read_queue_timeout_ms),
            connections_max: count(http.connections_max),
            staged_files_max: staged_files(count(http.connections_max)),
            connection_streams_max: small(http.connection_streams_max),
            decompression_ratio_max: http.decompression_ratio_max,
            header_timeout: millis(http.header_timeout_ms),
            idle_timeout: millis(http.idle_timeout_ms),
            body_idle_timeout: millis(http.body_idle_timeout_ms),
            body_timeout: millis(http.body_timeout_ms),
            stall_timeout: millis(http.stall_timeout_ms),
            drain_timeout: millis(config.limits.drain_timeout_ms),
            uri_bytes_max: count(http.uri_bytes_max),
            header_bytes_max: count(http.header_bytes_max),
            tls,
            // Validated when the configuration was read.
            cors_origins: http.cors_origins.iter().filter_map(|text| cors::origin(text).ok()).collect(),
            local_names_only: false,
        }
    }
}

impl Default for HttpLimits {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self::of(&Config::default(), Tls::off())
    }
}
