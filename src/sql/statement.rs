//! The text of a statement: parsed, restricted to what reads, and rewritten where the engine of SQL needs another form.
//!
//! A text is one query, after any number of `SET fastk.as_of = …`. Rewritten are parameters `?` (to `$1`, `$2` in the order
//! of the text), `first(x, ts)`, `last(x, ts)`, `vwap(price, volume)`, and `ASOF JOIN`.

use std::ops::ControlFlow;

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgOperator, FunctionArgumentClause,
    FunctionArgumentList, FunctionArguments, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select,
    SelectItem, Set, Statement as SqlStatement, TableFactor, TableWithJoins, Value, VisitMut, VisitorMut,
    visit_expressions, visit_relations,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

use super::asof::{MARKER, unsupported};
use super::failure::failure;
use crate::error::{Error, ErrorCode, Result};

/// Maximum depth of nested expressions and queries.
const DEPTH_MAX: usize = 50;
/// Maximum number of statements of one text.
const STATEMENTS_MAX: usize = 16;
/// Maximum number of operators: a chain of them is nested as deeply as it is long.
const OPERATORS_MAX: usize = 1_000;
/// Maximum number of tables.
const TABLES_MAX: usize = 256;
/// Words that are operators, or combine queries and tables.
const OPERATOR_WORDS: [&str; 22] = [
    "AND",
    "OR",
    "XOR",
    "NOT",
    "IS",
    "LIKE",
    "ILIKE",
    "SIMILAR",
    "REGEXP",
    "RLIKE",
    "BETWEEN",
    "IN",
    "COLLATE",
    "AT",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "MINUS",
    "JOIN",
    "OVERLAPS",
    "DIV",
    "CASE",
];
/// Setting of the snapshot or dataset that is read.
const AS_OF: &str = "fastk.as_of";

/// A query that reads, and its settings.
#[derive(Debug)]
pub struct ParsedStatement {
    pub statement: Statement,
    /// The snapshot or dataset that is read.
    pub as_of: Option<String>,
}

/// Parses a text.
///
/// # Errors
/// `invalid_argument` for a text that is not SQL or not one query, `permission_denied` for statements that do not read,
/// `too_large` for a long text.
pub fn parse(sql: &str, bytes_max: usize) -> Result<ParsedStatement> {
    if sql.len() > bytes_max {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("the statement has {} bytes, more than {bytes_max}", sql.len()),
        ));
    }
    check_operators(sql)?;
    let parser = DFParserBuilder::new(sql).with_dialect(&GenericDialect {}).with_recursion_limit(DEPTH_MAX).build();
    let statements = parser.and_then(|mut parser| parser.parse_statements()).map_err(|error| failure(&error))?;
    if statements.len() > STATEMENTS_MAX {
        return Err(Error::invalid(format!("the text has more than {STATEMENTS_MAX} statements")));
    }
    let (mut as_of, mut query) = (None, None);
    for statement in statements {
        if query.is_some() {
            return Err(Error::invalid("the text has more than one query").with_hint("send each in its own request"));
        }
        match statement {
            Statement::Statement(inner) if matches!(inner.as_ref(), SqlStatement::Set(_)) => {
                let SqlStatement::Set(set) = *inner else { continue };
                as_of = Some(setting(&set)?);
            }
            other => query = Some(other),
        }
    }
    let mut statement = query.ok_or_else(|| Error::invalid("the text has no query"))?;
    check(&statement)?;
    rewrite(&mut statement)?;
    Ok(ParsedStatement { statement, as_of })
}

/// Refuses long chains of operators before they are parsed to deeply nested expressions.
fn check_operators(sql: &str) -> Result<()> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize();
    // The parser reports texts that cannot be split.
    let Ok(tokens) = tokens else { return Ok(()) };
    let is_operator = |token: &&Token| match token {
        Token::Word(word) => {
            word.quote_style.is_none() && OPERATOR_WORDS.iter().any(|known| word.value.eq_ignore_ascii_case(known))
        }
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::Comma
        | Token::LParen
        | Token::RParen
        | Token::Period
        | Token::SemiColon
        | Token::Whitespace(_)
        | Token::Placeholder(_)
        | Token::EOF => false,
        _ => true,
    };
    let operators = tokens.iter().filter(is_operator).count();
    if operators > OPERATORS_MAX {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("the statement has {operators} operators, more than {OPERATORS_MAX}"),
        )
        .with_hint("write a list with IN instead of a chain of OR"));
    }
    Ok(())
}

/// The value of the only setting there is.
fn setting(set: &Set) -> Result<String> {
    let refused = || {
        Error::new(ErrorCode::PermissionDenied, "this setting cannot be changed by a statement").with_hint(
            "SET fastk.as_of = 'name' reads a snapshot; limits are in the section [sql] of the configuration",
        )
    };
    let Set::SingleAssignment { variable, values, .. } = set else { return Err(refused()) };
    if !variable.to_string().eq_ignore_ascii_case(AS_OF) {
        return Err(refused());
    }
    match values.as_slice() {
        [Expr::Value(value)] => match &value.value {
            Value::SingleQuotedString(name) => Ok(name.clone()),
            _ => Err(Error::invalid(format!("{AS_OF} is the name of a snapshot in quotes"))),
        },
        _ => Err(Error::invalid(format!("{AS_OF} is the name of a snapshot in quotes"))),
    }
}

/// Refuses what does not read. The plan is checked again after this.
fn check(statement: &Statement) -> Result<()> {
    let refused = |what: &str| {
        Error::new(ErrorCode::PermissionDenied, format!("SQL only reads: {what} is refused"))
            .with_hint("rows are written and series registered by the operations for that, not by SQL")
    };
    match statement {
        Statement::Statement(inner) => {
            check_relations(inner)?;
            match inner.as_ref() {
                SqlStatement::Query(_)
                | SqlStatement::ShowTables { .. }
                | SqlStatement::ShowColumns { .. }
                | SqlStatement::ExplainTable { .. } => Ok(()),
                SqlStatement::Explain { statement, .. } => check(&Statement::Statement(statement.clone())),
                other => {
                    let text = other.to_string();
                    let words: Vec<&str> = text.split_whitespace().take(2).collect();
                    Err(refused(&words.join(" ")))
                }
            }
        }
        Statement::Explain(explain) => check(&explain.statement),
        Statement::CreateExternalTable(_) => Err(refused("CREATE EXTERNAL TABLE")),
        Statement::CopyTo(_) => Err(refused("COPY")),
        Statement::Reset(_) => Err(refused("RESET")),
    }
}

/// The settings of the engine show directories.
fn check_relations(statement: &SqlStatement) -> Result<()> {
    let mut tables = 0_usize;
    let flow = visit_relations(statement, |name| {
        tables += 1;
        let is_hidden = name.0.last().is_some_and(|part| part.to_string().to_lowercase().contains("df_settings"));
        if is_hidden { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match flow {
        ControlFlow::Break(()) => Err(Error::new(ErrorCode::NotFound, "no table \"df_settings\"")),
        ControlFlow::Continue(()) if tables > TABLES_MAX => {
            Err(Error::new(ErrorCode::TooLarge, format!("the statement names {tables} tables, more than {TABLES_MAX}")))
        }
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn rewrite(statement: &mut Statement) -> Result<()> {
    match statement {
        Statement::Statement(inner) => {
            let mut rewriter = Rewriter { placeholders: placeholders(inner)?, error: None };
            let _ = VisitMut::visit(inner.as_mut(), &mut rewriter);
            rewriter.error.map_or(Ok(()), Err)
        }
        Statement::Explain(explain) => rewrite(&mut explain.statement),
        _ => Ok(()),
    }
}

/// Where the parameters `?` are, in the order of the text.
fn placeholders(statement: &SqlStatement) -> Result<Vec<Location>> {
    let (mut found, mut has_numbers) = (Vec::new(), false);
    let _ = visit_expressions(statement, |expr| {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(name) = &value.value
        {
            match name == "?" {
                true => found.push(value.span.start),
                false => has_numbers = true,
            }
        }
        ControlFlow::<()>::Continue(())
    });
    if has_numbers && !found.is_empty() {
        return Err(Error::invalid("the statement has parameters ? and $1").with_hint("number all of them, or none"));
    }
    found.sort();
    Ok(found)
}

struct Rewriter {
    placeholders: Vec<Location>,
    error: Option<Error>,
}

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for table in &mut select.from {
            self.rewrite_joins(table)?;
        }
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && let Expr::Function(function) = &*expr
                && Own::of(function).is_some()
            {
                // The column has the name that the caller wrote.
                let alias = Ident::with_quote('"', expr.to_string());
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => self.rewrite_joins(table_with_joins),
            TableFactor::Table { name, args: Some(args), .. } if is_named(name, "resample") => {
                for arg in &mut args.args {
                    if let Err(error) = unnamed(name, arg) {
                        self.error = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Value(value) => {
                if matches!(&value.value, Value::Placeholder(name) if name == "?")
                    && let Ok(at) = self.placeholders.binary_search(&value.span.start)
                {
                    value.value = Value::Placeholder(format!("${}", at + 1));
                }
            }
            Expr::Function(function) => {
                let Some(own) = Own::of(function) else { return ControlFlow::Continue(()) };
                match own.rewritten(function) {
                    Ok(rewritten) => *expr = rewritten,
                    Err(error) => {
                        self.error = Some(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Rewriter {
    fn rewrite_joins(&mut self, tables: &mut TableWithJoins) -> ControlFlow<()> {
        for join in &mut tables.joins {
            if let JoinOperator::AsOf { match_condition, constraint } = &mut join.join_operator {
                match marked_condition(match_condition, constraint) {
                    Ok(on) => join.join_operator = JoinOperator::LeftOuter(JoinConstraint::On(on)),
                    Err(error) => {
                        self.error = Some(error);
                        return ControlFlow::Break(());
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }
}

fn is_named(name: &ObjectName, wanted: &str) -> bool {
    matches!(name.0.as_slice(), [only] if only.to_string().eq_ignore_ascii_case(wanted))
}

/// Writes an argument by name of a table function, which the planner of SQL does not take, as the text `name=value`.
fn unnamed(function: &ObjectName, arg: &mut FunctionArg) -> Result<()> {
    let (name, value) = match &*arg {
        FunctionArg::Named { name, arg, .. } => (name.value.clone(), arg),
        FunctionArg::ExprNamed { name: Expr::Identifier(name), arg, .. } => (name.value.clone(), arg),
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::BinaryOp { left, op: BinaryOperator::Eq, right })) => {
            let Expr::Identifier(name) = left.as_ref() else { return Ok(()) };
            let value = FunctionArgExpr::Expr(right.as_ref().clone());
            *arg = FunctionArg::Named { name: name.clone(), arg: value, operator: FunctionArgOperator::Equals };
            return unnamed(function, arg);
        }
        _ => return Ok(()),
    };
    let word = |expr: &Expr| match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            Value::Number(number, _) => Some(number.clone()),
            Value::Null => Some("null".to_owned()),
            _ => None,
        },
        Expr::Identifier(name) => Some(name.value.clone()),
        _ => None,
    };
    let text = match value {
        FunctionArgExpr::Expr(Expr::Array(list)) => {
            list.elem.iter().map(word).collect::<Option<Vec<_>>>().map(|words| words.join(","))
        }
        FunctionArgExpr::Expr(expr) => word(expr),
        _ => None,
    };
    let Some(text) = text else {
        return Err(Error::invalid(format!("{name} of {function} is not a text"))
            .with_hint(format!("such as {name} => 'value'; parameters have no place there")));
    };
    let text = Value::SingleQuotedString(format!("{}={text}", name.to_lowercase()));
    *arg = FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(text.with_empty_span())));
    Ok(())
}

/// The condition of a left join that stands for an as-of join.
fn marked_condition(matched: &Expr, constraint: &JoinConstraint) -> Result<Expr> {
    let mut marked = parse_expr(&format!("{MARKER}(1)"))?;
    if let Expr::Function(Function { args: FunctionArguments::List(list), .. }) = &mut marked {
        list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(matched.clone()))];
    }
    match constraint {
        JoinConstraint::None => Ok(marked),
        JoinConstraint::On(on) => {
            let on = Box::new(Expr::Nested(Box::new(on.clone())));
            Ok(Expr::BinaryOp { left: on, op: BinaryOperator::And, right: Box::new(marked) })
        }
        JoinConstraint::Using(_) => Err(unsupported("USING")),
        JoinConstraint::Natural => Err(unsupported("NATURAL")),
    }
}

/// Aggregates that are written with those of the engine of SQL.
#[derive(Clone, Copy)]
enum Own {
    First,
    Last,
    Vwap,
}

impl Own {
    fn of(function: &Function) -> Option<Self> {
        let [name] = function.name.0.as_slice() else { return None };
        match name.to_string().to_lowercase().as_str() {
            "first" => Some(Self::First),
            "last" => Some(Self::Last),
            "vwap" => Some(Self::Vwap),
            _ => None,
        }
    }

    fn rewritten(self, function: &Function) -> Result<Expr> {
        let usage = match self {
            Self::First => "first(value, ts)",
            Self::Last => "last(value, ts)",
            Self::Vwap => "vwap(price, volume)",
        };
        let FunctionArguments::List(list) = &function.args else {
            return Err(Error::invalid(format!("write {usage}")));
        };
        let [FunctionArg::Unnamed(FunctionArgExpr::Expr(one)), FunctionArg::Unnamed(FunctionArgExpr::Expr(other))] =
            list.args.as_slice()
        else {
            return Err(Error::invalid(format!("write {usage}")));
        };
        let named = |name: &str, argument: Expr, clauses: Vec<FunctionArgumentClause>| {
            let args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))];
            Function {
                name: ObjectName::from(vec![Ident::new(name)]),
                args: FunctionArguments::List(FunctionArgumentList { args, clauses, ..list.clone() }),
                ..function.clone()
            }
        };
        Ok(match self {
            // Functions of their own: here only their arguments are counted.
            Self::First | Self::Last => Expr::Function(function.clone()),
            Self::Vwap => {
                // The sums are exact, the quotient is a double.
                let product = format!("({one}) * ({other})");
                let sum = |argument: Expr| Expr::Function(named("sum", argument, Vec::new()));
                let (value, volume) = (sum(parse_expr(&product)?), sum(other.clone()));
                parse_expr(&format!("CAST({value} AS DOUBLE) / NULLIF(CAST({volume} AS DOUBLE), CAST(0 AS DOUBLE))"))?
            }
        })
    }
}

fn parse_expr(text: &str) -> Result<Expr> {
    let parser = DFParserBuilder::new(text).with_dialect(&GenericDialect {}).build();
    let expr = parser.and_then(|mut parser| parser.parse_into_expr()).map_err(|error| failure(&error))?;
    Ok(expr.expr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(sql: &str) -> String {
        parse(sql, 10_000).unwrap().statement.to_string()
    }

    #[test]
    fn parameters_are_numbered_in_the_order_of_the_text() {
        assert_eq!(
            rewritten("SELECT ?, a FROM t WHERE x > ? AND y IN (?, 'a?') ORDER BY 1 LIMIT ?"),
            "SELECT $1, a FROM t WHERE x > $2 AND y IN ($3, 'a?') ORDER BY 1 LIMIT $4"
        );
        assert_eq!(
            rewritten("WITH w AS (SELECT ? AS a) SELECT a, ? FROM w"),
            "WITH w AS (SELECT $1 AS a) SELECT a, $2 FROM w"
        );
        assert_eq!(parse("SELECT ?, $2", 100).unwrap_err().code(), ErrorCode::InvalidArgument);
    }

    #[test]
    fn own_aggregates_are_written_with_others() {
        assert_eq!(
            rewritten("SELECT first(open, ts), last(close, ts) OVER (PARTITION BY x) AS c FROM t"),
            "SELECT first(open, ts) AS \"first(open, ts)\", last(close, ts) OVER (PARTITION BY x) AS c FROM t"
        );
        assert!(rewritten("SELECT vwap(close, volume) v FROM t").contains("sum((close) * (volume))"));
        for wrong in ["SELECT first(a) FROM t", "SELECT vwap(a, b, c) FROM t"] {
            assert_eq!(parse(wrong, 10_000).unwrap_err().code(), ErrorCode::InvalidArgument, "{wrong}");
        }
    }

    #[test]
    fn statements_that_do_not_read_are_refused() {
        for sql in [
            "CREATE TABLE t AS SELECT 1",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            "CREATE VIEW v AS SELECT 1",
            "CREATE FUNCTION f() RETURNS INT RETURN 1",
            "DROP TABLE klines_1m",
            "COPY (SELECT 1) TO 'x.csv'",
            "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
            "EXPLAIN INSERT INTO klines_1m SELECT * FROM klines_1m",
            "INSERT INTO klines_1m SELECT * FROM klines_1m",
            "UPDATE klines_1m SET close = 1",
            "DELETE FROM klines_1m",
            "TRUNCATE TABLE klines_1m",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "DEALLOCATE p",
            "BEGIN",
            "COMMIT",
            "SHOW ALL",
            "SHOW datafusion.runtime.memory_limit",
            "RESET datafusion.runtime.memory_limit",
            "SET datafusion.runtime.memory_limit = '10G'; SELECT 1",
            "SET datafusion.execution.batch_size = 1; SELECT 1",
            "SET TIME ZONE 'UTC'; SELECT 1",
        ] {
            let error = parse(sql, 10_000).unwrap_err();
            assert!(
                matches!(error.code(), ErrorCode::PermissionDenied | ErrorCode::InvalidArgument),
                "{sql}: {error:?}"
            );
        }
        let hidden = parse("SELECT * FROM information_schema.df_settings", 10_000).unwrap_err();
        assert_eq!(hidden.code(), ErrorCode::NotFound);
        for sql in ["", ";", "SET fastk.as_of = 'a'", "SELECT 1; SELECT 2", "SELECT (", "SET fastk.as_of = 5; SELECT 1"]
        {
            assert_eq!(parse(sql, 10_000).unwrap_err().code(), ErrorCode::InvalidArgument, "{sql}");
        }
        assert_eq!(parse("SELECT 1", 5).unwrap_err().code(), ErrorCode::TooLarge);
        for chain in ["+ 1 ", "OR true ", "UNION ALL SELECT 1 ", "IS NULL ", ":: int ", "|| 'a' "] {
            let long = format!("SELECT 1 {}", chain.repeat(1_001));
            assert_eq!(parse(&long, 100_000).unwrap_err().code(), ErrorCode::TooLarge, "{chain}");
        }
        let tables = format!("SELECT 1 FROM t{}", ", t".repeat(300));
        assert_eq!(parse(&tables, 10_000).unwrap_err().code(), ErrorCode::TooLarge);
        let deep = format!("SELECT {}1{}", "(".repeat(500), ")".repeat(500));
        assert_eq!(parse(&deep, 10_000).unwrap_err().code(), ErrorCode::InvalidArgument);
    }

    #[test]
    fn a_snapshot_is_set_before_the_query() {
        assert_eq!(parse("SET fastk.as_of = 'before'; SELECT 1;", 100).unwrap().as_of.as_deref(), Some("before"));
        assert!(parse("EXPLAIN ANALYZE SELECT 1", 100).is_ok() && parse("SHOW TABLES", 100).is_ok());
        assert!(parse("DESCRIBE klines_1m", 100).is_ok());
    }
}
