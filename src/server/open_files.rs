//! Connection limits that fit the number of files the process may have open.

use crate::server::flight::FlightSettings;
use crate::server::http::HttpSettings;

/// File descriptors reserved for the store: a bulk load has up to 384 files open, besides the WAL, the registry and
/// maps.
const STORE_FILES: u64 = 512;
/// Connections of the health listener.
pub const HEALTH_CONNECTIONS: usize = 64;

/// Reduces the connection limits of both listeners to fit a process that may have `files_max` files open, so that
/// connections never use the file descriptors that the store needs. Both are reduced in proportion, to at least 1.
/// Returns whether they were reduced.
pub fn fit_connections(http: &mut HttpSettings, flight: &mut FlightSettings, files_max: u64) -> bool {
    let store = STORE_FILES.min(files_max / 2);
    let health = if http.health_listen.is_empty() { 0 } else { (HEALTH_CONNECTIONS as u64).min(files_max / 16) };
    let available = files_max.saturating_sub(store).saturating_sub(health);
    let needed = (http.connections_max + http.staged_files_max() + flight.connections_max) as u64;
    if needed <= available {
        return false;
    }
    let scaled =
        |limit: usize| (limit as u128 * u128::from(available) / u128::from(needed)).try_into().unwrap_or(limit).max(1);
    (http.connections_max, flight.connections_max) = (scaled(http.connections_max), scaled(flight.connections_max));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_file_descriptors_for_the_store() {
        let fitted = |files_max| {
            let (mut http, mut flight) = (HttpSettings::default(), FlightSettings::default());
            let reduced = fit_connections(&mut http, &mut flight, files_max);
            (reduced, http, flight.connections_max)
        };
        for files_max in [u64::MAX, 1 << 20] {
            let (reduced, http, flight) = fitted(files_max);
            assert_eq!((reduced, http.connections_max, flight), (false, 1_024, 1_024));
        }
        for files_max in [8, 64, 256, 1_024, 2_048] {
            let (reduced, http, flight) = fitted(files_max);
            let used = (http.connections_max + http.staged_files_max() + flight) as u64;
            assert!(reduced && http.connections_max > 0 && flight > 0, "{files_max}: {http:?} and {flight}");
            assert!(used <= files_max - (files_max / 2).min(512) + 1, "{files_max}: {used}");
        }
    }
}
