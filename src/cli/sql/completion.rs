//! What the prompt knows while a statement is typed: names to complete, and where a statement ends.

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper, Result};

/// Words and functions that are completed besides the names of tables and columns.
const WORDS: [&str; 44] = [
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXPLAIN",
    "FROM",
    "GROUP",
    "HAVING",
    "IN",
    "INTERVAL",
    "IS",
    "JOIN",
    "LEFT",
    "LIMIT",
    "NOT",
    "NULL",
    "ON",
    "OR",
    "ORDER",
    "OVER",
    "PARTITION",
    "SELECT",
    "SET fastk.as_of = ",
    "SHOW TABLES",
    "THEN",
    "UNION",
    "USING",
    "WHEN",
    "WHERE",
    "WITH",
    "as_of('",
    "first(",
    "last(",
    "latest('",
    "resample('",
    "time_bucket('",
    "vwap(",
];

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedColumn {
    /// With its schema where that is not the default one.
    pub table: String,
    pub column: String,
}

/// Names to complete, and the rule that a statement ends with a semicolon.
#[derive(Debug, Default)]
pub struct SqlHelper {
    columns: Vec<CompletedColumn>,
}

impl SqlHelper {
    /// A helper that knows these columns.
    pub fn new(columns: Vec<CompletedColumn>) -> Self {
        Self { columns }
    }

    /// Completions of `word` in `line`: columns of tables that the line names, or of all while it names none, tables,
    /// functions and words of SQL.
    fn completions(&self, line: &str, word: &str) -> Vec<String> {
        let names: Vec<&str> = line.split(|character: char| !is_name(character)).collect();
        let is_named = |column: &CompletedColumn| names.contains(&column.table.as_str());
        let any_named = self.columns.iter().any(is_named);
        let columns = self.columns.iter().filter(|column| !any_named || is_named(column));
        let columns = columns.map(|column| column.column.as_str());
        let tables = self.columns.iter().map(|column| column.table.as_str());
        let starts = |name: &&str| name.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        let mut found: Vec<String> = columns.chain(tables).chain(WORDS).filter(starts).map(str::to_owned).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Whether a character belongs to a name, with its schema or key.
fn is_name(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '.')
}

/// Whether a text is a command of the prompt or a statement that ends with a semicolon outside of quotes and comments.
pub fn is_complete(text: &str) -> bool {
    let text = text.trim();
    if text.is_empty() || text.starts_with('\\') {
        return true;
    }
    let mut quote = None;
    let mut ends = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match quote {
            Some(open) if open == character => quote = None,
            Some(_) => {}
            None if matches!(character, '\'' | '"') => {
                quote = Some(character);
                ends = false;
            }
            None if character == '-' && characters.peek() == Some(&'-') => {
                let _ = characters.by_ref().find(|character| *character == '\n');
            }
            None if character.is_whitespace() => {}
            None => ends = character == ';',
        }
    }
    ends && quote.is_none()
}

impl Completer for SqlHelper {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> Result<(usize, Vec<String>)> {
        let before = line.get(..at).unwrap_or(line);
        let word = before.rsplit(|character: char| !is_name(character)).next().unwrap_or_default();
        let completions = if word.is_empty() { Vec::new() } else { self.completions(line, word) };
        Ok((before.len() - word.len(), completions))
    }
}

impl Validator for SqlHelper {
    fn validate(&self, context: &mut ValidationContext) -> Result<ValidationResult> {
        Ok(if is_complete(context.input()) { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Hinter for SqlHelper {
    type Hint = String;
}

impl Highlighter for SqlHelper {}

impl Helper for SqlHelper {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_with_a_semicolon_outside_of_quotes_and_comments() {
        for text in [
            "",
            "  ",
            "\\d",
            "SELECT 1;",
            "SELECT 1; ",
            "SELECT ';';",
            "SELECT 1 -- ;\n;",
            "SELECT 'it''s';",
            "SELECT 1; -- end",
        ] {
            assert!(is_complete(text), "{text}");
        }
        for text in ["SELECT 1", "SELECT ';'", "SELECT ';", "SELECT 1 -- ;", "SELECT \"a;", "SELECT 1; SELECT 2"] {
            assert!(!is_complete(text), "{text}");
        }
    }

    #[test]
    fn columns_are_completed_of_the_tables_that_are_named() {
        let column = |table: &str, column: &str| CompletedColumn { table: table.into(), column: column.into() };
        let helper = SqlHelper::new(vec![
            column("klines_1m", "close"),
            column("klines_1m", "symbol"),
            column("trades", "seq"),
            column("system.series", "series"),
        ]);
        assert_eq!(
            helper.completions("SELECT s", "s"),
            ["SELECT", "SET fastk.as_of = ", "SHOW TABLES", "seq", "series", "symbol", "system.series"]
        );
        assert_eq!(helper.completions("SELECT sym FROM klines_1m", "sym"), ["symbol"]);
        assert!(helper.completions("SELECT seq FROM klines_1m", "seq").is_empty());
        assert_eq!(helper.completions("SELECT * FROM kl", "kl"), ["klines_1m"]);
        assert_eq!(helper.completions("SELECT * FROM system.", "system."), ["system.series"]);
        assert!(helper.completions("SELECT é", "é").is_empty());
    }
}
