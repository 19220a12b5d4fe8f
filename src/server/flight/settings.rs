//! The section `[flight]`: the Arrow Flight listener.

use crate::settings::settings;

const HOUR_MS: u64 = 3_600_000;

settings! {
    /// Section `[flight]`: address, limits and timeouts of the Arrow Flight listener.
    pub struct FlightSettings {
        /// Address of the Arrow Flight listener; port 0 picks a free port.
        listen: String = "127.0.0.1:8815".into();
        /// Maximum size of the columns of one record batch of a DoPut.
        message_bytes_max: usize = 64 << 20, 1 << 16..=1 << 30;
        /// Maximum bytes of record batches being written, of all clients together; further batches wait.
        put_bytes_max: usize = 256 << 20, |flight: &Self| flight.message_bytes_max as u64..=1 << 42;
        /// Maximum number of concurrent DoGet responses; more are rejected as overloaded.
        gets_max: usize = 64, 1..=1 << 16;
        /// Maximum number of concurrent DoPut calls; more are rejected as overloaded. Each buffers the message being
        /// received.
        puts_max: usize = 64, 1..=1 << 16;
        /// Maximum number of connections; a new connection above it closes the one that has been idle longest.
        connections_max: usize = 1_024, 1..=1 << 16;
        /// Maximum number of concurrent calls on one connection.
        connection_streams_max: usize = 128, 1..=1 << 16;
        /// Maximum time for the TLS handshake, and then for the HTTP/2 preface, of a new connection.
        handshake_timeout_ms: u64 = 20_000, 10..=HOUR_MS;
        /// Maximum time to receive the request message of a call (a ticket, a descriptor, the body of an action).
        message_timeout_ms: u64 = 30_000, 10..=HOUR_MS;
        /// How long a DoPut may send nothing.
        put_idle_timeout_ms: u64 = 900_000, 10..=24 * HOUR_MS;
        /// How long a client may read nothing of a DoGet response before its connection is closed.
        stall_timeout_ms: u64 = 60_000, 10..=24 * HOUR_MS;
        /// Time without traffic after which a connection is pinged.
        ping_interval_ms: u64 = 15_000, 10..=HOUR_MS;
        /// How long a pinged connection may take to reply before it is closed.
        ping_timeout_ms: u64 = 15_000, 10..=HOUR_MS;
    }
}
