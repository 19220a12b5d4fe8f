//! Settings as the listeners use them: counts that fit the host, and durations.

use std::time::Duration;

use crate::config::Config;
use crate::types::width::to_usize;

/// File descriptors reserved for the store: a bulk load has up to 384 files open, besides the WAL, the registry and
/// maps.
const STORE_FILES: u64 = 512;
/// Connections per body staged in its own file.
const CONNECTIONS_PER_BODY: u64 = 4;
/// Connections of the health listener.
const HEALTH_CONNECTIONS: u64 = 64;

/// Reduces the connection limits of both listeners to fit a process that may have `files_max` files open, so that
/// connections never use the file descriptors that the store needs. Both are reduced in proportion, to at least 1.
/// Returns whether they were reduced.
pub fn fit_connections(config: &mut Config, files_max: u64) -> bool {
    let store = STORE_FILES.min(files_max / 2);
    let health = if config.http.health_listen.is_empty() { 0 } else { HEALTH_CONNECTIONS.min(files_max / 16) };
    let available = files_max.saturating_sub(store).saturating_sub(health);
    let (http, flight) = (config.http.connections_max, config.flight.connections_max);
    let needed = http + http.div_ceil(CONNECTIONS_PER_BODY) + flight;
    if needed <= available {
        return false;
    }
    let scaled = |limit: u64| {
        (u128::from(limit) * u128::from(available) / u128::from(needed)).try_into().unwrap_or(limit).max(1)
    };
    (config.http.connections_max, config.flight.connections_max) = (scaled(http), scaled(flight));
    true
}

/// Maximum number of bodies staged in files at one time, on a listener with `connections_max` connections.
pub fn staged_files(connections_max: usize) -> usize {
    connections_max.div_ceil(count(CONNECTIONS_PER_BODY)).max(1)
}

/// Maximum number of connections of the health listener, given that of the REST listener.
pub fn health_connections(connections_max: usize) -> usize {
    connections_max.min(count(HEALTH_CONNECTIONS))
}

/// A duration setting.
pub fn millis(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// A limit that the protocol stores in 32 bits.
pub fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A limit as `usize`; limits are far below its range.
pub fn count(value: u64) -> usize {
    to_usize(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::flight::FlightLimits;
    use crate::server::http::HttpLimits;
    use crate::server::tls_stream::Tls;

    #[test]
    fn connections_leave_file_descriptors_for_the_store() {
        let fitted = |files_max| {
            let mut config = Config::default();
            let reduced = fit_connections(&mut config, files_max);
            (reduced, config.http.connections_max, config.flight.connections_max)
        };
        assert_eq!(fitted(u64::MAX), (false, 1_024, 1_024));
        assert_eq!(fitted(1 << 20), (false, 1_024, 1_024));
        for files_max in [8, 64, 256, 1_024, 2_048] {
            let (reduced, http, flight) = fitted(files_max);
            let used = http + staged_files(count(http)) as u64 + flight;
            assert!(reduced && http > 0 && flight > 0, "{files_max}: {http} and {flight}");
            assert!(used <= files_max - (files_max / 2).min(512) + 1, "{files_max}: {used}");
        }
    }

    #[test]
    fn every_number_of_the_settings_reaches_its_listener() {
        let listener_settings = |config: &Config| {
            [
                ("http", format!("{:?}", HttpLimits::of(config, Tls::off()))),
                ("flight", format!("{:?}", FlightLimits::of(config, Tls::off()))),
            ]
        };
        let defaults = serde_json::to_value(Config::default()).unwrap();
        let changed = |section: &str, key: &str| -> Config {
            let mut table = defaults.clone();
            table[section][key] = (table[section][key].as_u64().unwrap() + 1).into();
            serde_json::from_value(table).unwrap()
        };
        let before = listener_settings(&Config::default());
        let mut checked = 0;
        for (at, (section, _)) in before.iter().enumerate() {
            let keys = defaults[section].as_object().unwrap().iter().filter(|(_, value)| value.is_u64());
            for (key, _) in keys {
                assert_ne!(listener_settings(&changed(section, key))[at], before[at], "{section}.{key} has no effect");
                checked += 1;
            }
        }
        assert!(checked > 20, "{checked} settings");
        for (now, before) in listener_settings(&changed("limits", "drain_timeout_ms")).iter().zip(&before) {
            assert_ne!(now, before);
        }
    }
}
