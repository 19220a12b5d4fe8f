//! Settings as the listeners take them: counts that fit the machine, and times.

use std::time::Duration;

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
    use crate::config::Config;
    use crate::server::flight::FlightConfig;
    use crate::server::http::HttpConfig;
    use crate::server::wire::Tls;

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
