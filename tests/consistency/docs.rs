//! Compares lists, tables and numbers of the documentation with the code.

use std::collections::BTreeSet;

use fastk::registry::RecordStatus;

use super::{files, numbers_of, read};

/// The page from this heading to the next one of the same depth.
fn section(page: &str, heading: &str) -> String {
    let text = read(page);
    let depth = heading.split(' ').next().unwrap().to_owned() + " ";
    let lines = text.lines().skip_while(|line| *line != heading);
    let section: Vec<&str> = lines.skip(1).take_while(|line| !line.starts_with(&depth)).collect();
    assert!(!section.is_empty(), "{page} has no {heading:?}");
    section.join("\n")
}

/// The rows of the tables in a text, without headers.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    let mut out = Vec::new();
    let mut is_body = false;
    for line in text.lines() {
        is_body = line.starts_with('|') && (is_body || line.starts_with("|---"));
        if is_body && !line.starts_with("|---") {
            out.push(cells(line));
        }
    }
    out
}

/// The texts between backquotes.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The number in the source after `before`.
fn output(file: &str, before: &str) -> u64 {
    let source = read(file);
    let (_, after) = source.split_once(before).unwrap_or_else(|| panic!("{file} does not contain {before:?}"));
    let text: String = after.split([';', ')', ',']).next().unwrap().replace('_', "");
    let number = |text: &str| -> u64 { text.trim().parse().unwrap_or_else(|_| panic!("{file}: {before} {text:?}")) };
    match text.split_once("<<") {
        Some((left, right)) => number(left) << number(right),
        None => text.split('*').map(number).product(),
    }
}

/// `1 MiB` or `10,000` as a number.
fn amount(text: &str) -> u64 {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: u64 = number.replace(',', "").parse().unwrap_or_else(|_| panic!("{text:?} is not an amount"));
    number
        * match unit {
            "" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "s" => 1_000,
            _ => panic!("{text:?} has an unknown unit"),
        }
}

#[test]
fn the_fixed_limits_are_the_constants_of_the_code() {
    let body = "src/server/http/body.rs";
    let coded: &[(&str, &[(&str, &str)])] = &[
        ("headers of one HTTP/1.1 request", &[("src/server/http/listen.rs", ".max_headers(")]),
        ("bytes of the head of one HTTP/1.1 request", &[("src/server/http/listen.rs", ".max_buf_size(")]),
        ("body of a control request over REST", &[(body, "const MEMORY_BYTES_MAX: usize =")]),
        ("body that creates a dataset, feature or factor", &[(body, "const RECORD_BYTES_MAX: u64 =")]),
        ("ticket, command or body of an action", &[("src/server/flight/describe.rs", "const JSON_BYTES_MAX: usize =")]),
        (
            "message of [Flight SQL](flight-sql.md)",
            &[("src/server/flight/flight_sql/messages.rs", "const MESSAGE_BYTES_MAX: usize =")],
        ),
        (
            "a statement with its parameters in Flight SQL",
            &[("src/server/flight/flight_sql/handles.rs", "const HANDLE_BYTES_MAX: usize =")],
        ),
        ("headers of a Flight call", &[("src/server/flight/listen.rs", "const HEADER_BYTES_MAX: u32 =")]),
        (
            "HTTP/2 streams reset by the client before they were looked at",
            &[
                ("src/server/http/listen.rs", ".max_pending_accept_reset_streams("),
                ("src/server/flight/listen.rs", "const RESET_STREAMS_MAX: usize ="),
            ],
        ),
        (
            "series of one write or response ([multi-series.md](multi-series.md))",
            &[
                ("src/ingest/body_keys.rs", "const SERIES_MAX: usize ="),
                ("src/query/select.rs", "const SERIES_MAX: usize ="),
            ],
        ),
        ("series of one panel ([panels.md](panels.md))", &[("src/query/select.rs", "const PANEL_SERIES_MAX: usize =")]),
        ("columns of one panel", &[("src/query/panel/columns.rs", "const COLUMNS_MAX: usize =")]),
        ("globs of one query", &[("src/query/select.rs", "const GLOBS_MAX: usize =")]),
        ("endpoints of one query ([flight.md](flight.md))", &[("src/service/read.rs", "const ENDPOINTS_MAX: u64 =")]),
        (
            "row ranges of one list of files (`fastk files`)",
            &[("src/store/read/files.rs", "const ROW_RANGES_MAX: usize =")],
        ),
        ("values of all predicates of a query together", &[("src/query/predicate.rs", "const VALUES_MAX: usize =")]),
        (
            "named snapshots of a store ([corrections.md](corrections.md))",
            &[("src/store/write/snapshots.rs", "const SNAPSHOTS_MAX: usize =")],
        ),
        ("tokens of a data directory ([access.md](access.md))", &[("src/access.rs", "const TOKENS_MAX: usize =")]),
        ("prefixes of a token", &[("src/access.rs", "const PREFIXES_MAX: usize =")]),
        ("bytes of a prefix", &[("src/access.rs", "const PREFIX_BYTES_MAX: usize =")]),
    ];
    let documented = rows(&section("docs/limits.md", "## Fixed limits"));
    let named: Vec<&str> = documented.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(named, coded.iter().map(|(what, _)| *what).collect::<Vec<_>>());
    for (row, (what, places)) in documented.iter().zip(coded) {
        let code = row[2].trim_matches('`');
        assert!(code == "–" || fastk::ErrorCode::from_name(code).is_some(), "{what}: {code}");
        for (file, before) in *places {
            assert_eq!(amount(&row[1]), output(file, before), "{what}");
        }
    }
    // Other pages state them too.
    let access = read("docs/access.md");
    assert!(access.contains("at most 10,000 tokens") && access.contains("up to 100 times, each of at most 256 bytes"));
}

#[test]
fn the_documented_kinds_of_market_events_are_those_of_the_code() {
    use fastk::types::schema::PartitionRule;
    use fastk::types::{OrderRule, kind};
    let events = kind::built_in().iter().filter(|kind| !kind::is_preset(&kind.name));
    let coded = events.map(|kind| {
        let shown =
            |column: &fastk::types::Column| format!("`{}`{}", column.name, if column.nullable { "?" } else { "" });
        let (levels, fields): (Vec<_>, Vec<_>) =
            kind.fields.iter().partition(|column| column.name.ends_with(|end: char| end.is_ascii_digit()));
        let mut text = fields.iter().map(|column| shown(column)).collect::<Vec<_>>().join(", ");
        if !levels.is_empty() {
            let first: Vec<String> = levels.iter().take(4).map(|column| shown(column)).collect();
            text += &format!(", and for each level from 0 to {} {}", levels.len() / 4 - 1, first.join(", "));
        }
        let order = if kind.order == OrderRule::Arrival { "arrival" } else { "one row per `ts`" };
        let PartitionRule::Fixed(partition) = kind.partition else { panic!("{} has no partition", kind.name) };
        let partition = serde_json::to_value(partition).unwrap().as_str().unwrap().to_owned();
        [format!("`{}`", kind.name), format!("`{}`", kind.table()), order.to_owned(), partition, text]
    });
    assert_eq!(rows(&section("docs/kinds.md", "## Market events")), coded.collect::<Vec<_>>());
    for kind in kind::built_in().iter().filter(|kind| !kind::is_preset(&kind.name)) {
        assert_eq!((kind.key.join("/"), kind.unit), ("symbol/channel".to_owned(), fastk::types::TimeUnit::Us));
    }
}

#[test]
fn the_documented_exchanges_are_those_of_the_code() {
    let coded = fastk::types::exchanges::EXCHANGES.iter();
    let coded = coded.map(|of| {
        [format!("`{}`", of.name), of.title.to_owned(), format!("`{}`", of.zone), format!("`{}`", of.sessions)]
    });
    assert_eq!(rows(&section("docs/resample.md", "## Exchanges")), coded.collect::<Vec<_>>());
}

#[test]
fn the_documented_ranges_of_the_store_are_those_of_the_code() {
    let documented = rows(&section("docs/configuration.md", "## Ranges"));
    let mut keys = BTreeSet::new();
    for row in documented {
        let key = row[0].trim_matches('`').to_owned();
        super::check_range(&key, &row[1]);
        keys.insert(key);
    }
    assert_eq!(keys, numbers_of(&["store"]).into_keys().collect());
}

#[test]
fn every_variable_of_the_environment_is_documented() {
    // Variables of test builds are no part of the product.
    let left_out = ["FASTK_", "FASTK_BLESS", "FASTK_PLANTED_FAULT"];
    let mut coded = BTreeSet::new();
    for (_, source) in files("src", ".rs") {
        let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (at, _) in source.match_indices("\"FASTK_") {
            let name: String = source[at + 1..].chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            if !name.starts_with("FASTK__") && !left_out.contains(&name.as_str()) {
                coded.insert(name);
            }
        }
    }
    let documented: BTreeSet<String> = rows(&section("docs/configuration.md", "## Other variables"))
        .iter()
        .flat_map(|row| spans(&row[0]).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_eq!(documented, coded);
}

/// Names of the fields of a struct in the source.
fn fields(file: &str, name: &str) -> BTreeSet<String> {
    let source = read(file);
    let (_, after) = source.split_once(&format!("struct {name} {{")).unwrap_or_else(|| panic!("{file}: no {name}"));
    let body = after.split("\n}").next().unwrap();
    let lines = body.lines().map(str::trim).filter(|line| !line.starts_with("//") && !line.starts_with('#'));
    let name = |line: &str| {
        line.split_once(':')
            .map(|(name, _)| name.trim_start_matches("pub ").trim_start_matches("pub(super) ").to_owned())
    };
    lines.filter_map(name).collect()
}

/// The names before `":` in a text with JSON in it.
fn members(text: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for (at, _) in text.match_indices("\":") {
        out.insert(text[..at].rsplit('"').next().unwrap().to_owned());
    }
    out
}

#[test]
fn the_command_of_a_put_has_the_documented_members() {
    let writing = section("docs/flight.md", "## Writing");
    let (_, shown) = writing.split_once("```json\n").unwrap();
    let shown: serde_json::Value = serde_json::from_str(shown.split("```").next().unwrap()).unwrap();
    let mut documented: BTreeSet<String> = shown.as_object().unwrap().keys().cloned().collect();
    let coded = fields("src/server/flight/put.rs", "PutCommand");
    for name in ["op", "idempotency_key"] {
        assert!(spans(&writing).any(|span| span == name), "docs/flight.md does not name {name}");
        documented.insert(name.into());
    }
    assert_eq!(documented, coded);
}

#[test]
fn the_actions_of_flight_have_the_documented_bodies() {
    let documented = rows(&section("docs/flight.md", "## Actions"));
    let names: Vec<&str> = documented.iter().map(|row| row[0].trim_matches('`')).collect();
    let coded: Vec<&str> = fastk::server::flight::ACTIONS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, coded);
    for (row, (name, about)) in documented.iter().zip(fastk::server::flight::ACTIONS.iter()) {
        let mut listed = members(about);
        if let Some((_, optional)) = about.split_once("optional: ") {
            listed.extend(optional.split(", ").map(str::to_owned));
        }
        // Text about other requests follows after a semicolon.
        let body = row[1].split("; names the store").next().unwrap();
        let mut shown = members(body);
        if let Some((_, optional)) = body.split_once("optional ") {
            shown.extend(spans(optional).map(str::to_owned));
        }
        // One example of several filters.
        shown.remove("prefix");
        assert_eq!(shown, listed, "{name}");
    }
    assert!(
        fields("src/service/operations/rows.rs", "DeleteRequest")
            .is_superset(&["series", "start", "end", "all", "if_version", "dry_run"].map(str::to_owned).into())
    );
}

#[test]
fn the_metadata_of_flight_is_the_documented_one() {
    let text = read("docs/flight.md");
    let is_key = |word: &str| {
        ["fastk.", "fastk-"].iter().any(|start| word.starts_with(start))
            && word.bytes().all(|b| b.is_ascii_lowercase() || b".-".contains(&b))
    };
    let documented: BTreeSet<&str> = spans(&text).filter(|span| is_key(span)).collect();
    let sources = ["src/query/result.rs", "src/server/flight/status.rs"].map(read);
    let coded: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| source.split("#[cfg(test)]").next().unwrap().split('"').skip(1).step_by(2))
        .filter(|word| is_key(word))
        .collect();
    assert_eq!(documented, coded);
}

#[test]
fn the_limits_on_the_page_about_flight_are_the_defaults() {
    let numbers = numbers_of(&["flight", "limits"]);
    let of = |key: &str| u64::try_from(numbers[key]).unwrap();
    let coded = [
        of("flight.gets_max"),
        of("flight.puts_max"),
        of("flight.connections_max"),
        of("flight.connection_streams_max"),
        of("flight.put_bytes_max"),
        of("flight.stall_timeout_ms"),
        of("flight.handshake_timeout_ms"),
        of("flight.message_timeout_ms"),
        of("flight.put_idle_timeout_ms"),
        of("flight.ping_interval_ms") + of("flight.ping_timeout_ms"),
        of("limits.drain_timeout_ms"),
    ];
    let documented: Vec<u64> = rows(&section("docs/flight.md", "## Limits"))
        .iter()
        .map(|row| {
            // The first amount of the cell: a number and its unit.
            let mut words = row[1].split(' ').skip_while(|word| !word.starts_with(|c: char| c.is_ascii_digit()));
            let number = words.next().unwrap().trim_end_matches(',');
            match words.next().map(|unit| unit.trim_end_matches([',', ';'])) {
                Some(unit @ ("s" | "KiB" | "MiB")) => amount(&format!("{number} {unit}")),
                _ => amount(number),
            }
        })
        .collect();
    assert_eq!(documented, coded);
}

#[test]
fn the_status_transitions_of_records_are_the_documented_ones() {
    let documented = rows(&section("docs/registry.md", "## Status"));
    let coded: Vec<Vec<String>> = RecordStatus::ALL
        .into_iter()
        .map(|from| {
            let to: Vec<String> = RecordStatus::ALL
                .into_iter()
                .filter(|to| *to != from && from.may_become(*to))
                .map(|to| format!("`{}`", to.name()))
                .collect();
            let to = if to.is_empty() { "nothing".to_owned() } else { to.join(", ") };
            vec![format!("`{}`", from.name()), to]
        })
        .collect();
    assert_eq!(documented, coded);
}

#[test]
fn the_promises_are_numbered_without_a_hole() {
    let text = read("docs/durability.md");
    let numbers: Vec<u32> =
        text.lines().filter_map(|line| line.strip_prefix("- **I")?.split_once("**")?.0.parse().ok()).collect();
    assert!(numbers.len() >= 24);
    assert_eq!(numbers, (1..=u32::try_from(numbers.len()).unwrap()).collect::<Vec<_>>());
}
