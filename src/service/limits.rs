//! Limits of the operations on every interface.

use std::time::Duration;

/// Memory that one response may hold while it is sent, on either interface: the part produced ahead of the client.
pub const RESPONSE_BYTES: u64 = 4 << 20;

/// Limits of the operations on every interface. The defaults are those of `config/fastk.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Maximum number of concurrent requests and calls.
    pub requests_max: u64,
    /// Maximum number of responses being sent and puts being received.
    pub streams_max: u64,
    /// Maximum number of concurrent requests and calls of one token.
    pub token_requests_max: u64,
    /// Maximum number of responses being sent and puts being received of one token.
    pub token_streams_max: u64,
    /// Maximum memory of all responses being sent, [`RESPONSE_BYTES`] each.
    pub response_bytes_max: u64,
    /// Memory for the rows of all bodies and puts being decoded and written, [`CELL_BYTES`](crate::ingest::CELL_BYTES) per
    /// cell.
    pub decoded_bytes_max: u64,
    /// Maximum time to process a request, from its last byte to the headers of its response.
    pub request_timeout: Duration,
    /// Maximum nesting depth of JSON.
    pub json_depth_max: usize,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self {
            requests_max: 4_096,
            streams_max: 512,
            token_requests_max: 1_024,
            token_streams_max: 128,
            response_bytes_max: 2 << 30,
            decoded_bytes_max: 2 << 30,
            request_timeout: Duration::from_secs(120),
            json_depth_max: 32,
        }
    }
}
