//! Output of commands: replies as text or JSON, tables, errors.

use std::io::{ErrorKind, Write};
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, ErrorCode, Result};

/// Maximum row errors printed; responses in JSON contain more.
const ROW_ERRORS_SHOWN: usize = 10;

/// Prints an error to standard error.
pub fn error(error: &Error) {
    let mut text = format!("error[{}]: {}\n", error.code(), error.detail());
    for row in error.rows().iter().take(ROW_ERRORS_SHOWN) {
        // Most messages name the column already.
        let field = if row.message.contains(&row.field) { String::new() } else { format!(", {}", row.field) };
        text.push_str(&format!("  row {}{field}: {} ({})\n", row.row, row.message, row.reason));
    }
    if let Some(more) = error.rows().len().checked_sub(ROW_ERRORS_SHOWN).filter(|more| *more > 0) {
        text.push_str(&format!("  and {more} more\n"));
    }
    if let Some(hint) = error.hint().and_then(|hint| hint_for_command_line(hint, &command())) {
        text.push_str(&format!("hint: {hint}\n"));
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The command of this process, such as `fastk admin repair`.
fn command() -> String {
    let words =
        std::env::args().skip(1).take(2).take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
    words.take_while(|word| !word.starts_with('-')).fold("fastk".to_string(), |all, word| format!("{all} {word}"))
}

/// The hint for the command line. Where a hint names a request and an equivalent command, only the command remains.
/// `None` when that is the command of this process.
fn hint_for_command_line(hint: &str, command: &str) -> Option<String> {
    if hint.contains(&format!("`{command}`")) || hint.contains(&format!("`{command} ")) {
        return None;
    }
    let Some((before, rest)) = hint.split_once(" or `fastk ") else { return Some(hint.to_owned()) };
    let request = ["GET /", "POST /", "DELETE /", "PATCH /"].iter().filter_map(|method| before.rfind(method)).max();
    Some(match request {
        Some(at) => format!("{}`fastk {rest}", before.get(..at).unwrap_or_default()),
        None => hint.to_owned(),
    })
}

/// Prints a message of the argument parser in the format of [`error`].
pub fn usage(text: &str) {
    let mut lines = String::new();
    if !text.starts_with("error: ") {
        // The help that clap renders when the command is missing.
        lines.push_str(&format!("error[{}]: a command is missing\n\n", ErrorCode::InvalidArgument));
    }
    for line in text.lines() {
        match line.strip_prefix("error: ") {
            Some(detail) => lines.push_str(&format!("error[{}]: {detail}", ErrorCode::InvalidArgument)),
            None => match line.strip_prefix("  tip: ") {
                Some(tip) => lines.push_str(&format!("hint: {tip}")),
                None => lines.push_str(line),
            },
        }
        lines.push('\n');
    }
    let _ = std::io::stderr().write_all(lines.as_bytes());
}

/// Prints a line to standard error.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints text to standard output. A closed pipe is no error.
pub fn out(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.or_else(|error| match error.kind() {
        ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Error::io("write to", Path::new("standard output"), &error)),
    })
}

/// Prints a reply: pretty JSON, or one `name: value` per line.
pub fn reply<T: Serialize>(value: &T, json: bool) -> Result<()> {
    let broken = |error: serde_json::Error| Error::internal(format!("reply as JSON: {error}"));
    if json {
        return out(&format!("{}\n", serde_json::to_string_pretty(value).map_err(broken)?));
    }
    let mut text = String::new();
    lines(&serde_json::to_value(value).map_err(broken)?, 0, &mut text);
    out(&text)
}

/// Appends nested values as indented lines.
fn lines(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        text.push_str(&format!("{indent}{name}:\n"));
                        lines(value, depth + 1, text);
                    }
                    Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                        text.push_str(&format!("{indent}{name}:\n"));
                        for item in items {
                            text.push_str(&format!("{indent}  - {}\n", inline(item)));
                        }
                    }
                    _ => text.push_str(&format!("{indent}{name}: {}\n", inline(value))),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                text.push_str(&format!("{indent}- {}\n", inline(item)));
            }
        }
        other => text.push_str(&format!("{indent}{}\n", inline(other))),
    }
}

/// A value on one line, strings without quotes.
fn inline(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(inline).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name} {}", inline(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// A table with a header; every column but the first is right-aligned.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for (position, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if position > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_replies_print_as_indented_lines() {
        let mut text = String::new();
        let value = serde_json::json!({"a": 1, "b": {"c": null}, "d": [1, 2], "e": [{"f": "x", "g": 2}]});
        lines(&value, 0, &mut text);
        assert_eq!(text, "a: 1\nb:\n  c: -\nd: 1, 2\ne:\n  - f x, g 2\n");
    }

    #[test]
    fn tables_have_one_line_per_row() {
        let text = table(&["series", "rows"], vec![vec!["kline/X/1m".into(), "12".into()]]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| line == line.trim_end()));
    }
}
