//! What GetSqlInfo and GetXdbcTypeInfo answer: what the server supports, and its types.

use std::sync::LazyLock;

use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    Nullable, Searchable, SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity,
    SqlSupportedGroupBy, SqlSupportedResultSetType, SqlSupportedSubqueries, SqlSupportedTransaction,
    SqlSupportedUnions, SqlTransactionIsolationLevel, SupportedSqlGrammar, XdbcDataType, XdbcDatetimeSubcode,
};

use crate::error::{Error, Result};

/// Words that begin or divide a query.
const KEYWORDS: [&str; 12] = [
    "asof",
    "explain",
    "describe",
    "except",
    "intersect",
    "limit",
    "offset",
    "qualify",
    "show",
    "unnest",
    "values",
    "with",
];
const NUMERIC: [&str; 20] = [
    "abs", "ceil", "exp", "floor", "greatest", "isnan", "least", "ln", "log", "log10", "log2", "nullif", "pi", "power",
    "random", "round", "sign", "sqrt", "trunc", "vwap",
];
const TEXT: [&str; 16] = [
    "btrim",
    "concat",
    "ends_with",
    "length",
    "lower",
    "lpad",
    "ltrim",
    "position",
    "regexp_like",
    "replace",
    "rpad",
    "rtrim",
    "split_part",
    "starts_with",
    "substr",
    "upper",
];
const TIMES: [&str; 10] = [
    "current_date",
    "date_bin",
    "date_part",
    "date_trunc",
    "extract",
    "now",
    "time_bucket",
    "to_local_time",
    "to_timestamp",
    "to_timestamp_millis",
];

/// A set of values as the bits at their numbers.
fn bits(values: &[i32]) -> i32 {
    values.iter().fold(0, |all, bit| all | 1 << bit)
}

/// What the server supports.
static SQL_INFO: LazyLock<std::result::Result<SqlInfoData, FlightError>> = LazyLock::new(|| {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "FastK");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    // The version of the columnar format.
    info.append(SqlInfo::FlightSqlServerArrowVersion, "1.5");
    // Statements only read; rows are written by bulk ingestion.
    info.append(SqlInfo::FlightSqlServerReadOnly, true);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, true);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    info.append(SqlInfo::FlightSqlServerStatementTimeout, 0);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0);
    for no in [
        SqlInfo::SqlDdlCatalog,
        SqlInfo::SqlDdlSchema,
        SqlInfo::SqlDdlTable,
        SqlInfo::SqlSupportsIntegrityEnhancementFacility,
        SqlInfo::SqlSelectForUpdateSupported,
        SqlInfo::SqlStoredProceduresSupported,
        SqlInfo::SqlMaxRowSizeIncludesBlobs,
        SqlInfo::SqlTransactionsSupported,
        SqlInfo::SqlDataDefinitionCausesTransactionCommit,
        SqlInfo::SqlDataDefinitionsInTransactionsIgnored,
        SqlInfo::SqlBatchUpdatesSupported,
        SqlInfo::SqlSavepointsSupported,
        SqlInfo::SqlNamedParametersSupported,
        SqlInfo::SqlLocatorsUpdateCopy,
        SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported,
    ] {
        info.append(no, false);
    }
    for yes in [
        SqlInfo::SqlAllTablesAreSelectable,
        SqlInfo::SqlSupportsColumnAliasing,
        SqlInfo::SqlNullPlusNullIsNull,
        SqlInfo::SqlSupportsTableCorrelationNames,
        SqlInfo::SqlSupportsExpressionsInOrderBy,
        SqlInfo::SqlSupportsOrderByUnrelated,
        SqlInfo::SqlSupportsLikeEscapeClause,
        SqlInfo::SqlSupportsNonNullableColumns,
        SqlInfo::SqlCatalogAtStart,
        SqlInfo::SqlCorrelatedSubqueriesSupported,
    ] {
        info.append(yes, true);
    }
    info.append(SqlInfo::SqlSupportsDifferentTableCorrelationNames, false);
    info.append(SqlInfo::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    // Names in quotes keep their case.
    info.append(SqlInfo::SqlQuotedIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32);
    info.append(SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    info.append(SqlInfo::SqlKeywords, &KEYWORDS[..]);
    info.append(SqlInfo::SqlNumericFunctions, &NUMERIC[..]);
    info.append(SqlInfo::SqlStringFunctions, &TEXT[..]);
    info.append(SqlInfo::SqlSystemFunctions, &["coalesce", "arrow_typeof", "version"][..]);
    info.append(SqlInfo::SqlDatetimeFunctions, &TIMES[..]);
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlExtraNameCharacters, "");
    info.append(SqlInfo::SqlSupportsConvert, std::collections::BTreeMap::<i32, Vec<i32>>::new());
    let grouping =
        [SqlSupportedGroupBy::SqlGroupByUnrelated as i32, SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32];
    info.append(SqlInfo::SqlSupportedGroupBy, bits(&grouping));
    info.append(
        SqlInfo::SqlSupportedGrammar,
        bits(&[SupportedSqlGrammar::SqlMinimumGrammar as i32, SupportedSqlGrammar::SqlCoreGrammar as i32]),
    );
    info.append(SqlInfo::SqlAnsi92SupportedLevel, 0);
    info.append(SqlInfo::SqlOuterJoinsSupportLevel, bits(&[SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32]));
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlProcedureTerm, "procedure");
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlSchemasSupportedActions, 0);
    info.append(SqlInfo::SqlCatalogsSupportedActions, 0);
    info.append(SqlInfo::SqlSupportedPositionedCommands, 0);
    info.append(
        SqlInfo::SqlSupportedSubqueries,
        bits(&[
            SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
            SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
            SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
        ]),
    );
    info.append(
        SqlInfo::SqlSupportedUnions,
        bits(&[SqlSupportedUnions::SqlUnion as i32, SqlSupportedUnions::SqlUnionAll as i32]),
    );
    // Zero is no limit, or one that is not known.
    for unlimited in [
        SqlInfo::SqlMaxBinaryLiteralLength,
        SqlInfo::SqlMaxCharLiteralLength,
        SqlInfo::SqlMaxColumnNameLength,
        SqlInfo::SqlMaxColumnsInGroupBy,
        SqlInfo::SqlMaxColumnsInIndex,
        SqlInfo::SqlMaxColumnsInOrderBy,
        SqlInfo::SqlMaxColumnsInSelect,
        SqlInfo::SqlMaxColumnsInTable,
        SqlInfo::SqlMaxConnections,
        SqlInfo::SqlMaxCursorNameLength,
        SqlInfo::SqlMaxIndexLength,
        SqlInfo::SqlDbSchemaNameLength,
        SqlInfo::SqlMaxProcedureNameLength,
        SqlInfo::SqlMaxCatalogNameLength,
        SqlInfo::SqlMaxRowSize,
        SqlInfo::SqlMaxStatementLength,
        SqlInfo::SqlMaxStatements,
        SqlInfo::SqlMaxTableNameLength,
        SqlInfo::SqlMaxTablesInSelect,
        SqlInfo::SqlMaxUsernameLength,
    ] {
        info.append(unlimited, 0_i64);
    }
    info.append(
        SqlInfo::SqlDefaultTransactionIsolation,
        i64::from(SqlTransactionIsolationLevel::SqlTransactionNone as i32),
    );
    info.append(SqlInfo::SqlSupportedTransactionsIsolationLevels, 0);
    let forward = bits(&[SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32]);
    info.append(SqlInfo::SqlSupportedResultSetTypes, forward);
    for concurrency in [
        SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified,
        SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly,
        SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive,
        SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive,
    ] {
        info.append(concurrency, 0);
    }
    info.build()
});

fn number(name: &str, data_type: XdbcDataType, digits: i32, unsigned: bool) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type,
        column_size: Some(digits),
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        unsigned_attribute: Some(unsigned),
        auto_increment: Some(false),
        local_type_name: Some(name.to_owned()),
        sql_data_type: data_type,
        num_prec_radix: Some(10),
        ..XdbcTypeInfo::default()
    }
}

fn quoted(name: &str, data_type: XdbcDataType, prefix: &str, size: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type,
        column_size: Some(size),
        literal_prefix: Some(prefix.to_owned()),
        literal_suffix: Some("'".to_owned()),
        nullable: Nullable::NullabilityNullable,
        case_sensitive: data_type == XdbcDataType::XdbcVarchar,
        searchable: Searchable::Full,
        local_type_name: Some(name.to_owned()),
        sql_data_type: data_type,
        ..XdbcTypeInfo::default()
    }
}

/// The types of columns and literals.
static TYPE_INFO: LazyLock<std::result::Result<XdbcTypeInfoData, FlightError>> = LazyLock::new(|| {
    let mut types = XdbcTypeInfoDataBuilder::new();
    for (name, data_type, digits) in [
        ("TINYINT", XdbcDataType::XdbcTinyint, 3),
        ("SMALLINT", XdbcDataType::XdbcSmallint, 5),
        ("INTEGER", XdbcDataType::XdbcInteger, 10),
        ("BIGINT", XdbcDataType::XdbcBigint, 19),
    ] {
        types.append(number(name, data_type, digits, false));
        types.append(number(&format!("{name} UNSIGNED"), data_type, digits, true));
    }
    types.append(XdbcTypeInfo {
        create_params: Some(vec!["precision".to_owned(), "scale".to_owned()]),
        minimum_scale: Some(0),
        maximum_scale: Some(38),
        fixed_prec_scale: true,
        ..number("DECIMAL", XdbcDataType::XdbcDecimal, 38, false)
    });
    types.append(XdbcTypeInfo { num_prec_radix: Some(2), ..number("REAL", XdbcDataType::XdbcReal, 24, false) });
    types.append(XdbcTypeInfo { num_prec_radix: Some(2), ..number("DOUBLE", XdbcDataType::XdbcDouble, 53, false) });
    types.append(XdbcTypeInfo { num_prec_radix: None, ..number("BOOLEAN", XdbcDataType::XdbcBit, 1, false) });
    types.append(quoted("VARCHAR", XdbcDataType::XdbcVarchar, "'", i32::MAX));
    types.append(quoted("BYTEA", XdbcDataType::XdbcVarbinary, "X'", i32::MAX));
    types.append(quoted("DATE", XdbcDataType::XdbcDate, "DATE '", 10));
    types.append(XdbcTypeInfo {
        sql_data_type: XdbcDataType::XdbcDatetime,
        datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeTimestampWithTimezone),
        ..quoted("TIMESTAMP WITH TIME ZONE", XdbcDataType::XdbcTimestamp, "TIMESTAMP '", 35)
    });
    types.append(quoted("INTERVAL", XdbcDataType::XdbcInterval, "INTERVAL '", 64));
    types.build()
});

/// What the server supports.
///
/// # Errors
/// `internal`.
pub fn sql_info() -> Result<&'static SqlInfoData> {
    SQL_INFO.as_ref().map_err(|error| Error::internal(format!("what SQL supports: {error}")))
}

/// The types of columns and literals.
///
/// # Errors
/// `internal`.
pub fn type_info() -> Result<&'static XdbcTypeInfoData> {
    TYPE_INFO.as_ref().map_err(|error| Error::internal(format!("the types of SQL: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_clients_has_a_value() {
        let all = sql_info().unwrap().record_batch(std::iter::empty()).unwrap();
        // Those of Substrait have none.
        assert_eq!(all.num_rows(), 12 - 2 + 2 + 77);
        assert_eq!(sql_info().unwrap().record_batch([0, 8, 503, 100_000]).unwrap().num_rows(), 3);
        assert_eq!(type_info().unwrap().record_batch(None).unwrap().num_rows(), 17);
        assert_eq!(type_info().unwrap().record_batch(Some(XdbcDataType::XdbcDecimal as i32)).unwrap().num_rows(), 1);
    }
}
