//! The catalog as tables: catalogs, schemas, tables, keys, types, and what the server supports.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int32Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow_flight::sql::{
    Command, CommandGetCatalogs, CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes,
    CommandGetTables, CommandGetXdbcTypeInfo,
};

use super::info::{sql_info, type_info};
use crate::error::{Error, Result};
use crate::service::{Scope, Service};
use crate::sql::{CATALOG, ListedTable, PUBLIC, SYSTEM};

/// The type of the tables of series.
const TABLE: &str = "TABLE";
/// The type of the tables of the schema `system`.
const SYSTEM_TABLE: &str = "SYSTEM TABLE";

/// A question about the catalog.
#[derive(Debug)]
pub enum CatalogQuery {
    Catalogs(CommandGetCatalogs),
    Schemas(CommandGetDbSchemas),
    Tables(CommandGetTables),
    TableTypes(CommandGetTableTypes),
    SqlInfo(CommandGetSqlInfo),
    TypeInfo(CommandGetXdbcTypeInfo),
    PrimaryKeys(CommandGetPrimaryKeys),
    /// Exported keys, imported keys, cross references: there are none.
    ForeignKeys,
}

static PRIMARY_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
});

static FOREIGN_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
});

fn failed(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("a table of the catalog: {error}"))
}

impl CatalogQuery {
    /// The question of a message; the message itself when it is another one.
    ///
    /// # Errors
    /// The message.
    #[expect(clippy::result_large_err, reason = "the caller goes on with the message")]
    pub fn of(command: Command) -> std::result::Result<Self, Command> {
        Ok(match command {
            Command::CommandGetCatalogs(command) => Self::Catalogs(command),
            Command::CommandGetDbSchemas(command) => Self::Schemas(command),
            Command::CommandGetTables(command) => Self::Tables(command),
            Command::CommandGetTableTypes(command) => Self::TableTypes(command),
            Command::CommandGetSqlInfo(command) => Self::SqlInfo(command),
            Command::CommandGetXdbcTypeInfo(command) => Self::TypeInfo(command),
            Command::CommandGetPrimaryKeys(command) => Self::PrimaryKeys(command),
            Command::CommandGetExportedKeys(_)
            | Command::CommandGetImportedKeys(_)
            | Command::CommandGetCrossReference(_) => Self::ForeignKeys,
            other => return Err(other),
        })
    }

    /// Names and types of the columns of the answer.
    ///
    /// # Errors
    /// `internal`.
    pub fn schema(&self) -> Result<SchemaRef> {
        Ok(match self {
            Self::Catalogs(command) => command.into_builder().schema(),
            Self::Schemas(command) => command.clone().into_builder().schema(),
            Self::Tables(command) => command.clone().into_builder().schema(),
            Self::TableTypes(command) => command.into_builder().schema(),
            Self::SqlInfo(_) => sql_info()?.schema(),
            Self::TypeInfo(_) => type_info()?.schema(),
            Self::PrimaryKeys(_) => Arc::clone(&PRIMARY_KEYS),
            Self::ForeignKeys => Arc::clone(&FOREIGN_KEYS),
        })
    }

    /// The answer, of what the caller can see. Blocks.
    ///
    /// # Errors
    /// `permission_denied`, `not_ready`.
    pub fn rows(self, service: &Service) -> Result<RecordBatch> {
        service.caller().require_scope(Scope::Read)?;
        match self {
            Self::Catalogs(command) => {
                let mut builder = command.into_builder();
                builder.append(CATALOG);
                builder.build().map_err(failed)
            }
            Self::Schemas(command) => {
                let mut builder = command.into_builder();
                builder.append(CATALOG, PUBLIC);
                builder.append(CATALOG, SYSTEM);
                builder.build().map_err(failed)
            }
            Self::Tables(command) => tables(command, service),
            Self::TableTypes(command) => {
                let mut builder = command.into_builder();
                builder.append(TABLE);
                builder.append(SYSTEM_TABLE);
                builder.build().map_err(failed)
            }
            Self::SqlInfo(command) => command.into_builder(sql_info()?).build().map_err(failed),
            Self::TypeInfo(command) => command.into_builder(type_info()?).build().map_err(failed),
            Self::PrimaryKeys(command) => primary_keys(&command, service),
            Self::ForeignKeys => Ok(RecordBatch::new_empty(Arc::clone(&FOREIGN_KEYS))),
        }
    }
}

fn tables(command: CommandGetTables, service: &Service) -> Result<RecordBatch> {
    let listed = service.sql_tables(command.table_name_filter_pattern.as_deref())?;
    let mut builder = command.into_builder();
    for ListedTable { schema, name, columns, .. } in listed {
        let table_type = if schema == SYSTEM { SYSTEM_TABLE } else { TABLE };
        builder.append(CATALOG, schema, name, table_type, &columns).map_err(failed)?;
    }
    builder.build().map_err(failed)
}

fn primary_keys(command: &CommandGetPrimaryKeys, service: &Service) -> Result<RecordBatch> {
    let is_named = |listed: &ListedTable| {
        listed.name == command.table
            && command.catalog.as_deref().is_none_or(|catalog| catalog == CATALOG)
            && command.db_schema.as_deref().is_none_or(|schema| schema == listed.schema)
    };
    let table = service.sql_tables(Some(&command.table))?.into_iter().find(is_named);
    let (schema, name, keys) = table.map(|table| (table.schema, table.name, table.primary_key)).unwrap_or_default();
    let text = |value: &str| -> ArrayRef { Arc::new(keys.iter().map(|_| Some(value)).collect::<StringArray>()) };
    let columns: Vec<ArrayRef> = vec![
        text(CATALOG),
        text(schema),
        text(&name),
        Arc::new(keys.iter().map(Some).collect::<StringArray>()),
        Arc::new(keys.iter().map(|_| None::<&str>).collect::<StringArray>()),
        Arc::new((1..).take(keys.len()).collect::<Int32Array>()),
    ];
    RecordBatch::try_new(Arc::clone(&PRIMARY_KEYS), columns).map_err(failed)
}
