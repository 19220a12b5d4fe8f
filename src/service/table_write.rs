//! Rows of tables, as clients of SQL load them: each row says in its columns to which series it belongs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};

use crate::error::{Error, ErrorCode, Result};
use crate::ingest::{ArrowRows, DecodeOptions, from_arrow_many};
use crate::service::caller::Scope;
use crate::service::replies::RowMode;
use crate::service::shared::Service;
use crate::sql::TableKeys;
use crate::types::key::{KLINE, SCALAR};
use crate::types::schema::ColumnSpec;
use crate::types::{SeriesDef, SeriesKey, SeriesSpec};

/// What happens to a table that exists, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRule {
    /// Rows can be added to a table with series.
    pub may_exist: bool,
    /// The first series of a table can be registered.
    pub may_create: bool,
}

/// A table that rows are written into.
#[derive(Clone, Debug)]
pub struct TableWrite {
    name: String,
    keys: TableKeys,
}

impl Service {
    /// Begins to write rows into a table: one of the names of SQL, or the key of a series.
    ///
    /// # Errors
    /// `permission_denied`; `not_found` for a table that cannot exist, or does not and is not to be created;
    /// `series_exists` for one that is to be created.
    pub fn table_write(&self, name: &str, rule: TableRule) -> Result<TableWrite> {
        self.caller.require_scope(Scope::Write)?;
        let keys = self.sql_table_keys(name)?.ok_or_else(|| {
            Error::new(ErrorCode::NotFound, format!("no kind of series has a table {name:?}"))
                .with_hint("tables are named as klines_1m, scalars_feature_1h, or by the key of a series")
        })?;
        match keys.exists {
            true if !rule.may_exist => Err(Error::new(ErrorCode::SeriesExists, format!("table {name:?} exists"))
                .with_hint("append to it: rows with the same timestamp are replaced")),
            false if !rule.may_create => Err(Error::new(ErrorCode::NotFound, format!("no table {name:?}"))
                .with_hint("create it, or register its series first")),
            _ => Ok(TableWrite { name: name.to_owned(), keys }),
        }
    }

    /// Writes the rows of a batch as one commit, each into its series; those that are not registered are, with the
    /// digits of the decimals of the batch. Returns the number of rows.
    ///
    /// # Errors
    /// `schema_mismatch`, `invalid_rows`; those of [`write_many`](Self::write_many).
    pub fn write_table(&self, table: &TableWrite, schema: &Schema, rows: ArrowRows) -> Result<u64> {
        let count = rows.rows() as u64;
        let created: RefCell<HashMap<SeriesKey, Arc<SeriesDef>>> = RefCell::default();
        let lookup = |key: &SeriesKey| match self.known(key) {
            Err(error) if error.code() == ErrorCode::SeriesNotFound => {
                let (def, stored) = self.resolve_or_new(&self.new_series(table, key, schema)?)?;
                created.borrow_mut().insert(key.clone(), Arc::clone(&def));
                Ok((def, stored))
            }
            found => found,
        };
        let key_of = |cells: &[&str]| table.keys.key(cells);
        let parsed = from_arrow_many(rows, &table.keys.columns(), &key_of, &DecodeOptions::default(), &lookup)?;
        self.write_parts(parsed, &created.into_inner(), RowMode::Upsert, None)?;
        Ok(count)
    }

    /// The registration of a series of a table with the columns of a batch.
    fn new_series(&self, table: &TableWrite, key: &SeriesKey, schema: &Schema) -> Result<SeriesSpec> {
        let keys = table.keys.columns();
        let fields =
            || schema.fields().iter().filter(|field| field.name() != "ts" && !keys.contains(&field.name().as_str()));
        for field in fields() {
            if field.data_type().is_floating() && table.keys.decimals.contains(field.name()) {
                let detail = format!(
                    "series {key} is not registered, and {} is {} next to decimals in table {:?}",
                    field.name(),
                    field.data_type(),
                    table.name
                );
                return Err(Error::new(ErrorCode::SchemaMismatch, detail)
                    .with_hint("send decimals, or register the series with its digits first"));
            }
        }
        let digits = |data_type: &DataType| match data_type {
            DataType::Decimal32(_, scale)
            | DataType::Decimal64(_, scale)
            | DataType::Decimal128(_, scale)
            | DataType::Decimal256(_, scale) => u8::try_from(*scale).ok(),
            _ => None,
        };
        let column = |name: &str, data_type: &DataType| ColumnSpec {
            name: Some(name.to_owned()),
            kind: data_type.is_integer().then(|| "int64".to_owned()),
            digits: digits(data_type),
            merge: None,
        };
        // All prices have the digits of the finest one.
        let finest = |names: &[&str]| {
            let of = fields().filter(|field| names.contains(&field.name().as_str()));
            let digits: Option<Vec<u8>> = of.map(|field| digits(field.data_type())).collect();
            digits.and_then(|digits| digits.into_iter().max())
        };
        let spec = SeriesSpec::of_key(key);
        const PRICES: [&str; 4] = ["open", "high", "low", "close"];
        Ok(match key.kind() {
            KLINE => {
                let is_extra = |name: &str| name != "volume" && !PRICES.contains(&name);
                let extra = fields().filter(|field| is_extra(field.name()));
                SeriesSpec {
                    price_digits: finest(&PRICES),
                    volume_digits: finest(&["volume"]),
                    extra_columns: extra.map(|field| column(field.name(), field.data_type())).collect(),
                    ..spec
                }
            }
            SCALAR => {
                let value = fields().find(|field| field.name() == "value");
                let extra = fields().filter(|field| field.name() != "value");
                SeriesSpec {
                    value: value.map(|field| column("value", field.data_type())),
                    extra_columns: extra.map(|field| column(field.name(), field.data_type())).collect(),
                    ..spec
                }
            }
            _ => spec,
        })
    }
}
