//! Consistency of the sources: layers point down, libraries stay in their modules, and documentation matches the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fastk::ErrorCode;
use fastk::config::{Config, FlagValue, LoadedConfig};
use fastk::service::operations::{Access, OPERATIONS, Spec};

#[path = "consistency/docs.rs"]
mod docs;

/// Height of each module. A module may use what is strictly lower.
const LAYERS: &[(&str, u8)] = &[
    ("error", 0),
    ("settings", 0),
    ("sync", 0),
    ("types", 1),
    ("cancel", 2),
    ("clock", 2),
    ("format", 2),
    ("disk", 2),
    ("store", 3),
    ("registry", 3),
    ("query", 4),
    ("ingest", 4),
    ("sql", 5),
    ("egress", 5),
    ("service", 6),
    ("access", 7),
    ("server", 8),
    ("config", 9),
    ("cli", 10),
];

/// Height of each component of the store, and of each file next to them. A component may use what is strictly lower.
const COMPONENTS: &[(&str, u8)] = &[
    ("directory", 0),
    ("open_progress", 0),
    ("registration", 0),
    ("task_control", 0),
    ("options", 1),
    ("manifest", 2),
    ("read", 3),
    ("wal", 4),
    ("publish", 5),
    ("write", 6),
    ("maintain", 7),
    ("open", 8),
    ("check", 9),
    ("backup", 10),
    ("facade", 11),
];

/// Libraries, and the modules that may use them.
const LIBRARIES: &[(&str, &str)] = &[
    ("axum", "server/http"),
    ("tower_http", "server/http"),
    ("utoipa_axum", "server/http"),
    ("utoipa_swagger_ui", "server/http"),
    ("tonic", "server/flight"),
    ("tonic_health", "server/flight"),
    ("tonic_prost", "server/flight"),
    ("arrow_flight", "server/flight"),
    ("clap", "cli"),
    ("comfy_table", "cli"),
    ("indicatif", "cli"),
    ("datafusion", "sql"),
    ("figment", "config.rs"),
    ("memmap2", "disk"),
    ("rustix", "disk"),
    ("libc", "disk"),
    ("rusqlite", "registry"),
    ("serde_json_canonicalizer", "registry"),
    ("sha2", "access.rs"),
    ("sha2", "registry"),
    ("subtle", "access.rs"),
    ("base64", "access.rs"),
    ("base64", "server/flight/flight_sql/options.rs"),
    ("rustls", "server/tls_stream.rs"),
    ("rustls", "cli/certificates.rs"),
    ("rustls_native_certs", "cli/certificates.rs"),
    ("hyper_rustls", "cli/remote.rs"),
    ("schemars", "cli/bridge"),
    ("tokio_rustls", "server/tls_stream.rs"),
    ("metrics_exporter_prometheus", "server/metrics.rs"),
];

/// The files that may use `unsafe`.
const UNSAFE: [&str; 2] = ["disk/mmap.rs", "store/read/append_buffer.rs"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below a folder with this extension: relative path and text.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    fn walk(at: &Path, top: &Path, ending: &str, out: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, top, ending, out);
            } else if path.to_string_lossy().ends_with(ending) {
                let name = path.strip_prefix(top).unwrap().to_string_lossy().into_owned();
                out.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let (top, mut out) = (root().join(folder), Vec::new());
    walk(&top, &top, ending, &mut out);
    assert!(!out.is_empty(), "nothing under {folder}");
    out.sort();
    out
}

/// Source without comments and without the text of string literals.
fn code(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if let Some(hashes) = raw_string(rest) {
            let open = rest.find('"').unwrap() + 1;
            let end = format!("\"{}", "#".repeat(hashes));
            let close = rest[open..].find(&end).map_or(rest.len(), |at| open + at + end.len());
            out.push_str("\"\"");
            rest = &rest[close..];
        } else if c == '"' {
            let mut escaped = false;
            let close = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            out.push_str("\"\"");
            rest = &rest[close.map_or(rest.len(), |at| at + 2)..];
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\'") || rest.starts_with("'/'") {
            rest = &rest[if rest.starts_with("'\\'") { 4 } else { 3 }.min(rest.len())..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// Number of hashes when a raw string starts here.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// Identifiers, and whether `::` follows them.
fn words(code: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |n| start + n);
        at = end;
        Some((&code[start..end], &code[end..]))
    })
}

/// The first one or two segments of every path that starts at `crate::`, groups taken apart.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    for (word, rest) in words(code) {
        if let ("crate", Some(rest)) = (word, rest.strip_prefix("::")) {
            tree(rest, &mut Vec::new(), &mut out);
        }
    }
    out
}

/// Parses one `a::b`, `{…}` or `*` of a use tree; returns the rest.
fn tree<'a>(text: &'a str, prefix: &mut Vec<String>, out: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut inner) = text.strip_prefix('{') {
        loop {
            inner = inner.trim_start();
            if let Some(rest) = inner.strip_prefix('}') {
                return rest;
            }
            let after = tree(inner, &mut prefix.clone(), out).trim_start();
            inner = after.strip_prefix(',').unwrap_or(after);
            if inner.len() == text.len() - 1 || inner.is_empty() {
                return inner;
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    if end == 0 {
        out.push(prefix.clone());
        return text.strip_prefix('*').unwrap_or(text);
    }
    prefix.push(text[..end].to_string());
    match text[end..].strip_prefix("::") {
        Some(rest) if rest.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '{' || c == '*') => {
            tree(rest, prefix, out)
        }
        _ => {
            out.push(prefix.clone());
            &text[end..]
        }
    }
}

fn module(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

fn height(module: &str) -> u8 {
    let found = LAYERS.iter().find(|(name, _)| *name == module);
    found.unwrap_or_else(|| panic!("module {module} is in no layer: add it to LAYERS and docs/architecture.md")).1
}

#[test]
fn the_source_parser_handles_comments_strings_and_groups() {
    let text = code("use crate::a::b; // crate::c\nlet x = \"crate::d\"; r#\"crate::\"e\"# '\"' crate::f::{g::h, i}");
    let found: Vec<String> = paths(&text).iter().map(|path| path.join(".")).collect();
    assert_eq!(found, ["a.b", "f.g.h", "f.i"]);
    assert_eq!(paths("use crate::{a::{b, c}, d::*, e};").len(), 4);
}

#[test]
fn layers_point_strictly_down() {
    let mut wrong = Vec::new();
    for (file, source) in files("src", ".rs") {
        let from = module(&file);
        if ["lib", "main"].contains(&from) {
            continue;
        }
        for path in paths(&code(&source)) {
            // Re-exports of the crate come from `error`.
            let to = match path[0].as_str() {
                "Error" | "ErrorCode" | "Result" => "error",
                module => module,
            };
            if to != from && height(to) >= height(from) {
                wrong.push(format!("src/{file} uses crate::{}", path.join("::")));
            }
            let face = |name: &str| file.starts_with(&format!("server/{name}"));
            let used = |name: &str| to == "server" && path.get(1).is_some_and(|second| second == name);
            if (face("http") && used("flight")) || (face("flight") && used("http")) {
                wrong.push(format!("src/{file} uses the other protocol: crate::{}", path.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Module path of a source file: `store::wal::frame`.
fn module_path(file: &str) -> String {
    file.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::")
}

/// The text of a file before its tests.
fn shipped(source: &str) -> &str {
    let starts = source.match_indices("\n#[cfg(test)]\n").map(|(at, _)| at);
    let mut tests = starts.filter(|at| {
        let item = source[*at..].lines().nth(2).unwrap_or_default();
        item.contains("mod ") && item.ends_with('{')
    });
    &source[..tests.next().unwrap_or(source.len())]
}

/// Every path of a file that starts at `crate`, `super` or `self`, from the crate.
fn absolute_paths(code: &str, module: &str) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    for (word, rest) in words(code) {
        let before = &code[..code.len() - rest.len() - word.len()];
        let Some(after) = rest.strip_prefix("::").filter(|_| !before.ends_with("::")) else { continue };
        let above = match word {
            "crate" => String::new(),
            "self" => module.to_string(),
            "super" => module.rsplit_once("::").map_or(String::new(), |(above, _)| above.to_string()),
            _ => continue,
        };
        let mut above: Vec<String> = above.split("::").filter(|name| !name.is_empty()).map(str::to_string).collect();
        let mut after = after;
        while let Some(rest) = after.strip_prefix("super::") {
            above.pop();
            after = rest;
        }
        tree(after, &mut above, &mut out);
    }
    out
}

/// Sources by module path, without their tests.
struct Sources {
    code: BTreeMap<String, String>,
    /// The names that the list of a folder re-exports, with their paths from the crate.
    exports: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

impl Sources {
    fn read() -> Self {
        let (mut all, mut exports) = (BTreeMap::new(), BTreeMap::new());
        for (file, source) in files("src", ".rs") {
            let (module, code) = (module_path(&file), code(shipped(&source)));
            if file.ends_with("mod.rs") {
                exports.insert(module, exports_of(&code, &module_path(&file)));
            } else if file != "lib.rs" && file != "main.rs" && !file.ends_with("tests.rs") {
                all.insert(module, code);
            }
        }
        Self { code: all, exports }
    }

    /// The file that a path leads to, through the lists of folders.
    fn file(&self, path: &[String]) -> Option<String> {
        let found = |length: &usize| {
            let name = path[..*length].join("::");
            self.code.contains_key(&name) || self.exports.contains_key(&name)
        };
        let length = (1..=path.len()).rev().find(found)?;
        let name = path[..length].join("::");
        match self.exports.get(&name) {
            None => Some(name),
            Some(exports) => self.file(exports.get(path.get(length)?)?),
        }
    }

    /// The files that a file uses.
    fn uses(&self, module: &str) -> BTreeSet<String> {
        let paths = absolute_paths(&self.code[module], module);
        paths.iter().filter_map(|path| self.file(path)).filter(|file| file != module).collect()
    }
}

/// The names that `pub use` gives in the list of a folder, with their paths from the crate.
fn exports_of(code: &str, module: &str) -> BTreeMap<String, Vec<String>> {
    let mut exports = BTreeMap::new();
    for (at, _) in code.match_indices("pub use ") {
        let (text, mut paths) = (&code[at + "pub use ".len()..], Vec::new());
        let is_absolute = text.starts_with("crate::");
        let mut above: Vec<String> = module.split("::").map(str::to_string).collect();
        if is_absolute {
            above.clear();
        }
        tree(text.strip_prefix("crate::").unwrap_or(text), &mut above, &mut paths);
        exports.extend(paths.into_iter().filter_map(|path| Some((path.last()?.clone(), path))));
    }
    exports
}

/// The files of the store, each with the files it uses.
fn store_uses() -> BTreeMap<String, BTreeSet<String>> {
    let sources = Sources::read();
    let mut uses = BTreeMap::new();
    for (module, code) in &sources.code {
        let Some(file) = module.strip_prefix("store::") else { continue };
        let uses_super = words(code).any(|(word, rest)| word == "super" && rest.starts_with("::"));
        assert!(!uses_super, "store::{file} names a file by super:: instead of its path from the crate");
        for path in absolute_paths(code, module).iter().filter(|path| path[0] == "store" && path.len() > 1) {
            let direct = (1..=path.len()).any(|length| sources.code.contains_key(&path[..length].join("::")));
            assert!(direct, "store::{file} uses crate::{} through the list of a component", path.join("::"));
        }
        let used = sources.uses(module).into_iter();
        uses.insert(file.to_string(), used.filter_map(|to| Some(to.strip_prefix("store::")?.to_string())).collect());
    }
    uses
}

#[test]
fn components_of_the_store_point_strictly_down() {
    let component = |file: &str| file.split("::").next().unwrap().to_string();
    let height = |component: &str| {
        let found = COMPONENTS.iter().find(|(name, _)| *name == component);
        found.unwrap_or_else(|| panic!("store::{component} is not in COMPONENTS and docs/architecture.md")).1
    };
    let mut wrong = Vec::new();
    for (file, used) in store_uses() {
        for to in used {
            let (from_component, to_component) = (component(&file), component(&to));
            if from_component != to_component && height(&to_component) >= height(&from_component) {
                wrong.push(format!("store::{file} uses store::{to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_use_each_other_without_a_circle() {
    let sources = Sources::read();
    let mut uses: BTreeMap<String, BTreeSet<String>> =
        sources.code.keys().map(|module| (module.clone(), sources.uses(module))).collect();
    // A file that uses none of those left, or that none of them uses, is in no circle.
    loop {
        let left: BTreeSet<String> = uses.keys().cloned().collect();
        let used: BTreeSet<String> = uses.values().flatten().cloned().collect();
        let before = uses.len();
        uses.retain(|file, to| used.contains(file) && to.iter().any(|to| left.contains(to)));
        if uses.len() == before {
            break;
        }
    }
    assert!(uses.is_empty(), "these files use each other in a circle: {:?}", uses.keys());
}

#[test]
fn lists_of_folders_hold_nothing_else() {
    for (file, source) in files("src", ".rs").iter().filter(|(file, _)| file.ends_with("mod.rs")) {
        let items = code(shipped(source));
        let is_code = |word: &str| ["fn", "struct", "enum", "impl", "const", "static", "trait", "type"].contains(&word);
        let other = words(&items).find(|(word, _)| is_code(word));
        assert!(other.is_none(), "src/{file} does more than list and re-export");
    }
}

#[test]
fn paths_are_followed_through_the_lists_of_folders() {
    let sources = Sources::read();
    let file = |path: &str| sources.file(&path.split("::").map(str::to_string).collect::<Vec<_>>());
    assert_eq!(file("types::SeriesDef").as_deref(), Some("types::schema"));
    assert_eq!(file("types::schema::SeriesDef::column").as_deref(), Some("types::schema"));
    assert!(sources.uses("types::grid").contains("types::schema"), "by super::");
    assert!(sources.uses("ingest::decode").contains("types::schema"), "by the list of another folder");
    assert_eq!(absolute_paths("use super::super::{a, b::c};", "x::y::z"), [vec!["x", "a"], vec!["x", "b", "c"]]);
}

#[test]
fn libraries_are_used_only_in_their_modules() {
    let mut wrong = Vec::new();
    for (file, source) in files("src", ".rs") {
        let code = code(&source);
        for (library, home) in LIBRARIES {
            let used = words(&code).any(|(word, rest)| word == *library && rest.starts_with("::"));
            let at_home = |(known, home): &(&str, &str)| known == library && file.starts_with(home);
            if used && !LIBRARIES.iter().any(at_home) {
                wrong.push(format!("src/{file} uses {library}, which only src/{home} may know"));
            }
        }
        // DataFusion is async: its module has threads of its own.
        let quiet = !["lib", "main", "sql"].contains(&module(&file)) && height(module(&file)) < height("service");
        if quiet && let Some((word, _)) = words(&code).find(|(word, _)| ["async", "await", "tokio"].contains(word)) {
            wrong.push(format!("src/{file} uses {word}: no code below the service is async"));
        }
        if !UNSAFE.contains(&file.as_str()) && words(&code).any(|(word, _)| word == "unsafe") {
            wrong.push(format!("src/{file} says unsafe, which only {UNSAFE:?} may"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_disk_opens_files() {
    let mut wrong = Vec::new();
    for (file, source) in files("src", ".rs") {
        let is_test = file.ends_with("/tests.rs") || file == "server/zero_copy.rs";
        if is_test || module(&file) == "disk" {
            continue;
        }
        // A file that is already open, handed to the async runtime, is none of the file system.
        let code = code(shipped(&source)).replace("tokio::fs::File", "AsyncFile");
        for (word, rest) in words(&code) {
            let opens = matches!(word, "fs" | "File" | "OpenOptions") && rest.starts_with("::");
            if opens || (word == "fs" && rest.starts_with([';', ',', '}'])) {
                wrong.push(format!("src/{file} says {word}{}, which only src/disk may", &rest[..rest.len().min(12)]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_planted_fault_changes_a_text_that_occurs_once() {
    let table: toml::Table = read("tests/faults/table.toml").parse().unwrap();
    for change in table["change"].as_array().unwrap() {
        let [file, from, to] = ["file", "from", "to"].map(|name| change[name].as_str().unwrap());
        assert_eq!(read(file).matches(from).count(), 1, "{file}, where a fault changes\n{from}\nto\n{to}");
    }
}

/// Names of the types that a file defines, without those inside functions, inner modules and implementations.
fn type_names(code: &str) -> Vec<&str> {
    let words =
        |line| str::split_whitespace(line).map(|word: &str| word.split(['<', '(', ';', ':']).next().unwrap_or(""));
    code.lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| {
            let mut words = words(line).skip_while(|word| word.starts_with("pub"));
            matches!(words.next()?, "struct" | "enum" | "trait" | "type" | "union").then(|| words.next())?
        })
        .collect()
}

#[test]
fn a_type_name_has_one_meaning() {
    assert_eq!(type_names("pub(crate) struct A1<T>(T);\n  type Item = u8;\nenum Bc {\n"), ["A1", "Bc"]);
    let mut defined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in files("src", ".rs") {
        let code = code(&text);
        for name in type_names(&code) {
            defined.entry(name.to_owned()).or_default().push(file.clone());
        }
    }
    assert!(defined.len() > 500, "{} types found", defined.len());
    let twice: Vec<_> = defined.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "these names stand for several types: {twice:#?}");
}

#[test]
fn every_file_has_a_module_comment() {
    let silent: Vec<String> = ["src", "tests", "benches"]
        .iter()
        .filter(|folder| root().join(folder).exists())
        .flat_map(|folder| files(folder, ".rs").into_iter().map(move |(file, text)| (format!("{folder}/{file}"), text)))
        .filter(|(file, text)| !file.contains(".venv") && !text.starts_with("//!"))
        .map(|(file, _)| file)
        .collect();
    assert!(silent.is_empty(), "these files do not start with //!: {silent:?}");
}

#[test]
fn the_documented_error_table_is_the_one_in_the_code() {
    let documented: Vec<String> = read("docs/errors.md")
        .lines()
        .skip_while(|line| !line.starts_with("| code |"))
        .take_while(|line| line.starts_with('|'))
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" | "))
        .collect();
    let coded: Vec<String> = ErrorCode::ALL
        .iter()
        .map(|c| format!("`{}` | {} | {:?} | {} | {}", c.name(), c.http(), c.grpc(), c.exit(), c.title()))
        .collect();
    assert_eq!(documented, coded);
}

/// Lines of at most 120 characters, each after `# `.
fn comment(text: &[&str]) -> String {
    let mut out = String::from("#");
    let mut width = 1;
    for word in text.iter().flat_map(|line| line.split_whitespace()) {
        if width + 1 + word.len() > 120 {
            out += "\n#";
            width = 1;
        }
        out += " ";
        out += word;
        width += 1 + word.len();
    }
    out
}

#[test]
fn the_configuration_reference_has_the_keys_texts_and_defaults_of_the_code() {
    let text = read("config/fastk.toml");
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    let (head, _) = text.split_once("\n[").unwrap();
    let (mut generated, mut section_before) = (head.to_owned(), "");
    for (section, keys) in Config::keys() {
        if section != section_before {
            generated += &format!("\n[{section}]\n");
        }
        section_before = section;
        for (key, about) in keys {
            generated += &format!("{}\n{key} = {}\n", comment(about), defaults[section][key]);
        }
    }
    let table: toml::Table = generated.parse().unwrap();
    assert_eq!(table, defaults, "Config::keys() does not list every key");
    if std::env::var_os("FASTK_BLESS").is_some() {
        std::fs::write(root().join("config/fastk.toml"), &generated).unwrap();
    } else {
        assert_eq!(text, generated, "config/fastk.toml is stale: run this test with FASTK_BLESS=1");
    }
}

/// The keys that are numbers in these sections, with their defaults.
fn numbers_of(sections: &[&str]) -> BTreeMap<String, i64> {
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    let mut found = BTreeMap::new();
    for section in sections {
        for (key, value) in defaults[*section].as_table().unwrap() {
            found.extend(value.as_integer().map(|value| (format!("{section}.{key}"), value)));
        }
    }
    found
}

/// Asserts that a setting accepts exactly a range such as `1 to 60000`.
fn check_range(key: &str, range: &str) {
    let (section, name) = key.split_once('.').unwrap();
    let takes = |value: i128| {
        let (section, key) = (section.to_owned().leak(), name.to_owned().leak());
        let value = serde_json::Value::from(u64::try_from(value).unwrap());
        LoadedConfig::read(None, &[FlagValue { section, key, flag: "--x", value }]).is_ok()
    };
    let (min, max) = range.split_once(" to ").unwrap_or_else(|| panic!("{key}: {range}"));
    let (min, max): (i128, i128) = (min.parse().unwrap(), max.parse().unwrap());
    assert!(takes(min) && takes(max), "{key} does not take {range}");
    assert!(!takes(max + 1), "{key} takes more than {max}");
    assert!(min == 0 || !takes(min - 1), "{key} takes less than {min}");
}

#[test]
fn the_documented_limits_are_those_of_the_code() {
    let text = read("docs/limits.md");
    let mut documented = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [key, default, range, code, what] = cells.as_slice() else { panic!("not five cells: {line}") };
        let key = key.trim_matches('`');
        assert!(what.len() > 15, "{key} does not say what happens");
        assert!(*code == "–" || ErrorCode::from_name(code.trim_matches('`')).is_some(), "{key}: {code}");
        check_range(key, range);
        documented.insert(key.to_owned(), default.parse::<i64>().unwrap());
    }
    assert_eq!(documented, numbers_of(&["http", "flight", "limits", "sql"]));
}

/// Compares the table of operations with the operations of a protocol.
fn compare(face: &str, named: BTreeSet<String>, there: BTreeSet<String>) {
    let absent: Vec<_> = named.difference(&there).collect();
    let unnamed: Vec<_> = there.difference(&named).collect();
    assert!(absent.is_empty() && unnamed.is_empty(), "{face}: not there {absent:?}, not in the table {unnamed:?}");
}

/// The ways of one column of the table by name.
fn named<T>(column: fn(&Spec) -> &Access<T>, name: fn(&T) -> String) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for spec in OPERATIONS.iter().map(|entry| &entry.spec) {
        match column(spec) {
            Access::At(ways) => out.extend(ways.iter().map(name)),
            Access::Dash(reason) => assert!(reason.len() > 10, "{} needs a reason for its dash", spec.name),
        }
    }
    out
}

/// Implemented methods of the Flight protocol; the actions instead of `DoAction`.
fn flight_ways() -> BTreeSet<String> {
    use fastk::server::flight::{ACTIONS, METHODS, UNIMPLEMENTED_METHODS};
    let methods = METHODS.into_iter().filter(|name| *name != "DoAction" && !UNIMPLEMENTED_METHODS.contains(name));
    methods.chain(ACTIONS.iter().map(|(name, _)| *name)).map(str::to_string).collect()
}

/// Operations of the OpenAPI document.
fn rest_ways() -> BTreeSet<String> {
    let document: serde_json::Value = serde_json::from_str(&fastk::server::http::openapi_json()).unwrap();
    let mut out = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        out.extend(operations.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())));
    }
    out
}

#[test]
fn every_operation_is_available_as_the_table_says() {
    let commands = fastk::cli::commands().into_iter().collect();
    compare("command line", named(|spec| &spec.cli, |command| command.to_string()), commands);
    compare("Flight", named(|spec| &spec.flight, |way| way.name().to_owned()), flight_ways());
    let rest = named(|spec| &spec.rest, |route| format!("{} {}", route.method.name(), route.path));
    compare("REST", rest, rest_ways());
}

#[test]
fn the_readme_shows_the_examples_of_the_demo() {
    use fastk::cli::demo::lines;
    let readme = read("README.md");
    for block in [lines::CURL, lines::PYARROW, lines::POLARS, lines::DUCKDB] {
        assert!(readme.contains(block), "README.md lacks\n{block}");
    }
    for port in lines::PORTS {
        assert!([lines::CURL, lines::PYARROW, lines::POLARS].iter().any(|block| block.contains(port)));
    }
}

#[test]
fn links_between_documents_are_valid() {
    let mut documents: BTreeMap<String, String> =
        files("docs", ".md").into_iter().map(|(name, text)| (format!("docs/{name}"), text)).collect();
    for name in ["README.md", "CHANGELOG.md"] {
        documents.insert(name.into(), read(name));
    }
    let mut broken = Vec::new();
    for (name, text) in &documents {
        let folder = Path::new(name).parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if !file.is_empty() && !file.contains("://") && !root().join(folder).join(file).exists() {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn protocols_reach_the_store_only_through_authorized_operations() {
    for (file, source) in files("src/server", ".rs") {
        let around = source.split("#[cfg(test)]").next().unwrap();
        assert!(
            !code(around).contains(".store()") || file == "zero_copy.rs",
            "src/server/{file} bypasses the operations"
        );
    }
}
