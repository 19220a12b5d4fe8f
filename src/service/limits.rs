//! The section `[limits]`: limits of the operations over all interfaces.

use std::time::Duration;

use crate::settings::settings;

/// Memory that one response may hold while it is sent, on either interface: the part produced ahead of the client.
pub const RESPONSE_BYTES: u64 = 4 << 20;
const HOUR_MS: u64 = 3_600_000;

settings! {
    /// Section `[limits]`: limits over both listeners together.
    #[derive(Copy)]
    pub struct ServiceLimits {
        /// Over both listeners: maximum number of concurrent requests and calls; more are rejected as overloaded.
        requests_max: u64 = 4_096, 1..=1 << 20;
        /// Maximum number of responses being sent and puts being received; more are rejected as overloaded.
        streams_max: u64 = 512, 1..=1 << 20;
        /// Maximum number of concurrent requests and calls of one token; more are rejected as rate_limited.
        token_requests_max: u64 = 1_024, 1..=1 << 20;
        /// Maximum number of responses being sent and puts being received of one token; more are rejected as
        /// rate_limited.
        token_streams_max: u64 = 128, 1..=1 << 20;
        /// Maximum memory of all responses being sent, 4 MiB each; more are rejected as overloaded.
        response_bytes_max: u64 = 2 << 30, RESPONSE_BYTES..=1 << 42;
        /// Memory for the rows of all bodies and puts being decoded and written, 48 bytes per cell. A body that needs
        /// more is rejected as too_large, one that would have to wait for others as overloaded.
        decoded_bytes_max: u64 = 2 << 30, 1 << 24..=1 << 42;
        /// Maximum time to process a request, from its last byte to the headers of its response; then it fails as
        /// deadline_exceeded.
        request_timeout_ms: u64 = 120_000, 10..=24 * HOUR_MS;
        /// Maximum nesting depth of JSON; deeper is rejected as too_large.
        json_depth_max: usize = 32, 8..=100;
        /// How long requests in flight may continue after the server begins to shut down.
        drain_timeout_ms: u64 = 10_000, 0..=HOUR_MS;
    }
}

impl ServiceLimits {
    /// Maximum time to process a request.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// How long requests in flight may continue after the server begins to shut down.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}
