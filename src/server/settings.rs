//! Settings as the listeners take them: counts that fit the machine, and times.

use std::time::Duration;

use crate::config::Config;

/// File descriptors kept for the store: a load has up to 384 files open, beside the log, the registry and maps.
const STORE_FILES: u64 = 512;
/// Connections per body that may wait in a file of its own.
const CONNECTIONS_PER_BODY: u64 = 4;
/// Connections of the listener for health, which answers at once.
const HEALTH_CONNECTIONS: u64 = 64;

/// Reduces the connection limits of both listeners to what a process may have open that may have `files_max` files open,
/// so that connections never take the file descriptors that the store needs. Both are reduced in proportion, to one at
/// least. Gives whether anything was reduced.
pub fn fit_connections(config: &mut Config, files_max: u64) -> bool {
    let store = STORE_FILES.min(files_max / 2);
    let health = if config.http.health_listen.is_empty() { 0 } else { HEALTH_CONNECTIONS.min(files_max / 16) };
    let left = files_max.saturating_sub(store).saturating_sub(health);
    let (http, flight) = (config.http.connections_max, config.flight.connections_max);
    let wanted = http + http.div_ceil(CONNECTIONS_PER_BODY) + flight;
    if wanted <= left {
        return false;
    }
    let part = |of: u64| (u128::from(of) * u128::from(left) / u128::from(wanted)).try_into().unwrap_or(of).max(1);
    (config.http.connections_max, config.flight.connections_max) = (part(http), part(flight));
    true
}

/// Most bodies that wait in a file of their own at one time, on a listener with so many connections.
pub fn staged_files(connections_max: usize) -> usize {
    connections_max.div_ceil(count(CONNECTIONS_PER_BODY)).max(1)
}

/// Most connections of the listener for health where the other for REST may have so many.
pub fn health_connections(connections_max: usize) -> usize {
    connections_max.min(count(HEALTH_CONNECTIONS))
}

/// Milliseconds of the settings.
pub fn millis(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// A limit that the protocol keeps in 32 bits.
pub fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Limits lie far below what a machine word holds.
pub fn count(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::flight::FlightConfig;
    use crate::server::http::HttpConfig;
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
            let held = http + staged_files(count(http)) as u64 + flight;
            assert!(reduced && http > 0 && flight > 0, "{files_max}: {http} and {flight}");
            assert!(held <= files_max - (files_max / 2).min(512) + 1, "{files_max}: {held}");
        }
    }

    #[test]
    fn every_number_of_the_settings_reaches_its_listener() {
        let of = |config: &Config| {
            [
                ("http", format!("{:?}", HttpConfig::of(config, Tls::off()))),
                ("flight", format!("{:?}", FlightConfig::of(config, Tls::off()))),
            ]
        };
        let defaults = serde_json::to_value(Config::default()).unwrap();
        let changed = |section: &str, key: &str| -> Config {
            let mut table = defaults.clone();
            table[section][key] = (table[section][key].as_u64().unwrap() + 1).into();
            serde_json::from_value(table).unwrap()
        };
        let before = of(&Config::default());
        let mut looked_at = 0;
        for (at, (section, _)) in before.iter().enumerate() {
            let keys = defaults[section].as_object().unwrap().iter().filter(|(_, value)| value.is_u64());
            for (key, _) in keys {
                assert_ne!(of(&changed(section, key))[at], before[at], "{section}.{key} is set for nothing");
                looked_at += 1;
            }
        }
        assert!(looked_at > 20, "{looked_at} settings");
        for (now, before) in of(&changed("limits", "drain_timeout_ms")).iter().zip(&before) {
            assert_ne!(now, before);
        }
    }
}
