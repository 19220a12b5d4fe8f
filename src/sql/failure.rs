//! Errors of the engine of SQL as errors of FastK, and back.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

use crate::error::{Error, ErrorCode};

/// Maximum length of a message about a statement.
const DETAIL_BYTES_MAX: usize = 1_000;

/// An error of FastK inside of one of DataFusion.
pub fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The error that a client receives.
pub fn failure(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => failure(inner),
        DataFusionError::Shared(inner) => failure(inner),
        DataFusionError::Collection(errors) => {
            errors.first().map_or_else(|| Error::internal("an empty list of errors"), failure)
        }
        DataFusionError::External(inner) => match (inner.downcast_ref::<Error>(), inner.downcast_ref()) {
            (Some(error), _) => error.clone(),
            (None, Some(inner)) => failure(inner),
            (None, None) => Error::internal(format!("sql: {inner}")),
        },
        DataFusionError::ArrowError(inner, _) => arrow_failure(inner),
        DataFusionError::SQL(inner, _) => {
            let text = match inner.as_ref() {
                ParserError::TokenizerError(text) | ParserError::ParserError(text) => shortened(text),
                ParserError::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
            };
            let error = Error::invalid(format!("the statement is not SQL: {text}"));
            match text.contains("MATCH_CONDITION") {
                true => error.with_hint("write ASOF JOIN b MATCH_CONDITION (a.ts >= b.ts) ON a.symbol = b.symbol"),
                false => error,
            }
        }
        DataFusionError::SchemaError(inner, _) => schema_failure(inner),
        DataFusionError::Plan(text) => plan_failure(text),
        DataFusionError::Execution(text) => Error::invalid(format!("sql: {}", shortened(text))),
        DataFusionError::NotImplemented(text) => {
            Error::new(ErrorCode::Unimplemented, format!("sql: {}", shortened(text)))
        }
        DataFusionError::ResourcesExhausted(text) => {
            let first = text.lines().next().unwrap_or_default();
            Error::new(
                ErrorCode::TooLarge,
                format!("the query needs more memory than it may use: {}", shortened(first)),
            )
            .with_hint("select fewer columns or rows, aggregate before joining, or raise sql.query_memory_bytes_max")
        }
        DataFusionError::IoError(inner) => Error::new(ErrorCode::Io, format!("sql: {}", inner.kind())),
        DataFusionError::Configuration(text) => Error::invalid(format!("sql: {}", shortened(text))),
        other => {
            tracing::error!(error = %other, "sql failed");
            Error::internal(format!("sql: {}", shortened(&other.message())))
        }
    }
}

/// The error of a kernel: what its values did not allow.
pub fn arrow_failure(error: &arrow::error::ArrowError) -> Error {
    use arrow::error::ArrowError;
    match error {
        ArrowError::ExternalError(inner) => match (inner.downcast_ref::<DataFusionError>(), inner.downcast_ref()) {
            (Some(inner), _) => failure(inner),
            (None, Some(error)) => Error::clone(error),
            (None, None) => Error::internal(format!("sql: {inner}")),
        },
        ArrowError::DivideByZero => {
            Error::invalid("sql: division by zero").with_hint("divide by nullif(x, 0), which gives NULL")
        }
        ArrowError::ArithmeticOverflow(text) => {
            Error::invalid(format!("sql: {}", shortened(text))).with_hint("compute in double: CAST(x AS DOUBLE)")
        }
        ArrowError::IoError(_, inner) => Error::new(ErrorCode::Io, format!("sql: {}", inner.kind())),
        other => Error::invalid(format!("sql: {}", shortened(&other.to_string()))),
    }
}

fn schema_failure(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let error = Error::invalid(format!("no column {:?}", field.name()));
            let mut names: Vec<&str> = valid_fields.iter().map(|field| field.name()).collect();
            names.dedup();
            names.truncate(20);
            match names.is_empty() {
                true => error,
                false => error.with_hint(format!("columns are {}", names.join(", "))),
            }
        }
        other => Error::invalid(format!("sql: {}", shortened(&other.to_string()))),
    }
}

fn plan_failure(text: &str) -> Error {
    if let Some(name) = text.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found")) {
        let name = name.strip_prefix("fastk.").unwrap_or(name);
        return Error::new(ErrorCode::NotFound, format!("no table {name:?}"))
            .with_hint("SHOW TABLES lists them; a series by its key is a quoted name, such as \"kline/BTCUSDT/1m\"");
    }
    let error = Error::invalid(format!("sql: {}", shortened(text)));
    // A number next to a timestamp.
    match text.contains("Timestamp") && text.contains("Int64") {
        true => error.with_hint("compare ts with text such as '2024-02-01', or with to_timestamp_millis(n)"),
        false => error,
    }
}

/// The first part of a long message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(DETAIL_BYTES_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
