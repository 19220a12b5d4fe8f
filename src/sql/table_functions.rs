//! Table functions: `latest`, `resample`, `scalars` and `as_of`.

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
use super::wide::WideScalars;
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

/// `resample(table, every [, option => value, …])`: the rows of each series combined to buckets.
#[derive(Debug)]
pub struct Resample {
    pub tables: Arc<Tables>,
}

impl TableFunctionImpl for Resample {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> SqlResult<Arc<dyn TableProvider>> {
        let usage = "resample('klines_1m', '1h') or resample('klines_1m', '1d', tz => 'America/New_York')";
        let [table, options @ ..] = args.exprs() else {
            return Err(external(Error::invalid(format!("write {usage}"))));
        };
        let name = text(table, usage).map_err(external)?;
        let options = options.iter().map(|option| text(option, usage)).collect::<Result<Vec<_>>>().map_err(external)?;
        let spec = resample_spec(&options, usage).map_err(external)?;
        let source = self.tables.source(&name).ok_or_else(|| external(no_table(&name)))?;
        let table = source.table.resampled(spec).map_err(external)?;
        Ok(Arc::new(TableSource { table: Arc::new(table), ..source }))
    }
}

/// The resampling of the length of buckets and options `name=value`.
fn resample_spec(options: &[String], usage: &str) -> Result<ResampleSpec> {
    let mut spec = ResampleSpec::default();
    for (position, option) in options.iter().enumerate() {
        let unknown = || {
            Error::invalid(format!("option {option:?} of resample is not known"))
                .with_hint("every, align, tz, session, offset, fill, partial or agg, such as tz => 'America/New_York'")
        };
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name.trim(), value.trim()),
            None if position == 0 => ("every", option.trim()),
            None => return Err(unknown()),
        };
        match name {
            "every" => value.clone_into(&mut spec.every),
            "align" => spec.align = Some(word(name, value)?),
            "tz" => spec.tz = Some(value.to_owned()),
            "session" => spec.session = Some(value.to_owned()),
            "offset" => spec.offset = Some(value.to_owned()),
            "fill" => spec.fill = word(name, value)?,
            "partial" => spec.partial = word(name, value)?,
            "agg" => spec.agg = Some(split_list(value)),
            _ => return Err(unknown()),
        }
    }
    if spec.every.is_empty() {
        return Err(Error::invalid("resample has no every, the length of buckets").with_hint(format!("write {usage}")));
    }
    Ok(spec)
}

/// A value that is one of several words.
fn word<T: DeserializeOwned>(name: &str, value: &str) -> Result<T> {
    T::deserialize(value.into_deserializer())
        .map_err(|error: serde::de::value::Error| Error::invalid(format!("{name} => {value:?} of resample: {error}")))
}

/// `scalars(category, timeframe, name, …)`: scalars by time, with a column for each name.
#[derive(Debug)]
pub struct Scalars {
    pub tables: Arc<Tables>,
}

impl TableFunctionImpl for Scalars {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> SqlResult<Arc<dyn TableProvider>> {
        let usage = "scalars('feature', '1h', 'rsi_14', 'macd')";
        let words = args.exprs().iter().map(|word| text(word, usage)).collect::<Result<Vec<_>>>().map_err(external)?;
        let [category, timeframe, names @ ..] = words.as_slice() else {
            return Err(external(Error::invalid(format!("write {usage}"))));
        };
        if names.is_empty() {
            return Err(external(Error::invalid(format!("scalars has no names; write {usage}"))));
        }
        let label = format!("{category}/{timeframe}");
        let source = self.tables.labelled("scalar", &label);
        let source = source.ok_or_else(|| external(no_scalars(&label, None)))?;
        let mut columns = Vec::with_capacity(names.len());
        for name in names {
            let table = source.table.of_last_word(name).ok_or_else(|| external(no_scalars(&label, Some(name))))?;
            columns.push((name.clone(), TableSource { table: Arc::new(table), ..source.clone() }));
        }
        Ok(Arc::new(WideScalars::new(columns).map_err(external)?))
    }
}

fn no_scalars(label: &str, name: Option<&String>) -> Error {
    let named = name.map(|name| format!(" named {name:?}")).unwrap_or_default();
    Error::new(ErrorCode::NotFound, format!("no scalars of {label}{named}")).with_hint(
        "system.series lists the series; categories, timeframes and names are written as they are registered",
    )
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
