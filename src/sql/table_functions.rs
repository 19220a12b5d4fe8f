//! Table functions: `latest`, `resample` and `as_of`.

use std::sync::Arc;

use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::Result as SqlResult;
use datafusion::logical_expr::Expr;
use serde::de::{DeserializeOwned, IntoDeserializer};

use super::catalog::Tables;
use super::failure::external;
use super::table::TableSource;
use super::view::ViewSource;
use crate::error::{Error, ErrorCode, Result};
use crate::query::resample::ResampleSpec;
use crate::query::resample::spec::split_list;

/// `latest(table [, rows])`: the last rows of each series.
#[derive(Debug)]
pub struct Latest {
    pub tables: Arc<Tables>,
}

impl TableFunctionImpl for Latest {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> SqlResult<Arc<dyn TableProvider>> {
        let usage = "latest('klines_1m') or latest('klines_1m', 10)";
        let (name, rows) = match args.exprs() {
            [table] => (text(table, usage).map_err(external)?, 1),
            [table, rows] => (text(table, usage).map_err(external)?, count(rows, usage).map_err(external)?),
            _ => return Err(external(Error::invalid(format!("write {usage}")))),
        };
        let source = self.tables.source(&name).ok_or_else(|| external(no_table(&name)))?;
        Ok(Arc::new(TableSource { latest: Some(rows), ..source }))
    }
}

/// `resample(table, every [, 'option=value', …])`: the rows of each series combined to buckets.
#[derive(Debug)]
pub struct Resample {
    pub tables: Arc<Tables>,
}

impl TableFunctionImpl for Resample {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> SqlResult<Arc<dyn TableProvider>> {
        let usage = "resample('klines_1m', '1h') or resample('klines_1m', '1d', 'tz=America/New_York')";
        let [table, every, options @ ..] = args.exprs() else {
            return Err(external(Error::invalid(format!("write {usage}"))));
        };
        let (name, every) = (text(table, usage).map_err(external)?, text(every, usage).map_err(external)?);
        let options = options.iter().map(|option| text(option, usage)).collect::<Result<Vec<_>>>().map_err(external)?;
        let spec = resample_spec(every, &options).map_err(external)?;
        let source = self.tables.source(&name).ok_or_else(|| external(no_table(&name)))?;
        let table = source.table.resampled(spec).map_err(external)?;
        Ok(Arc::new(TableSource { table: Arc::new(table), ..source }))
    }
}

fn resample_spec(every: String, options: &[String]) -> Result<ResampleSpec> {
    let mut spec = ResampleSpec { every, ..ResampleSpec::default() };
    for option in options {
        let unknown = || {
            Error::invalid(format!("option {option:?} of resample is not known"))
                .with_hint("align=, tz=, session=, offset=, fill= or agg=, each in quotes")
        };
        let (name, value) = option.split_once('=').ok_or_else(unknown)?;
        let value = value.trim();
        match name.trim() {
            "align" => spec.align = Some(word(name, value)?),
            "tz" => spec.tz = Some(value.to_owned()),
            "session" => spec.session = Some(value.to_owned()),
            "offset" => spec.offset = Some(value.to_owned()),
            "fill" => spec.fill = word(name, value)?,
            "agg" => spec.agg = Some(split_list(value)),
            _ => return Err(unknown()),
        }
    }
    Ok(spec)
}

/// A value that is one of several words.
fn word<T: DeserializeOwned>(name: &str, value: &str) -> Result<T> {
    T::deserialize(value.into_deserializer())
        .map_err(|error: serde::de::value::Error| Error::invalid(format!("{name}={value:?} of resample: {error}")))
}

/// `as_of(table, snapshot)`: a table at a snapshot or dataset.
#[derive(Debug)]
pub struct AsOf {
    pub tables: Arc<Tables>,
    pub views: Arc<dyn ViewSource>,
}

impl TableFunctionImpl for AsOf {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> SqlResult<Arc<dyn TableProvider>> {
        let usage = "as_of('klines_1m', 'name')";
        let [table, snapshot] = args.exprs() else {
            return Err(external(Error::invalid(format!("write {usage}"))));
        };
        let (name, snapshot) = (text(table, usage).map_err(external)?, text(snapshot, usage).map_err(external)?);
        let view = self.views.as_of(&snapshot).map_err(external)?;
        let source = self.tables.at(view).source(&name).ok_or_else(|| external(no_table(&name)))?;
        Ok(Arc::new(source))
    }
}

fn no_table(name: &str) -> Error {
    Error::new(ErrorCode::NotFound, format!("no table {name:?}")).with_hint("SHOW TABLES lists them")
}

/// A text, or a name without quotes.
fn text(expr: &Expr, usage: &str) -> Result<String> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)), _) => Ok(text.clone()),
        Expr::Column(column) => Ok(column.name.clone()),
        _ => Err(Error::invalid(format!("write {usage}"))),
    }
}

fn count(expr: &Expr, usage: &str) -> Result<u64> {
    let count = match expr {
        Expr::Literal(ScalarValue::Int64(Some(count)), _) => u64::try_from(*count).ok().filter(|count| *count > 0),
        Expr::Literal(ScalarValue::UInt64(Some(count)), _) => Some(*count).filter(|count| *count > 0),
        _ => None,
    };
    count.ok_or_else(|| Error::invalid(format!("write {usage}, with at least 1 row")))
}
