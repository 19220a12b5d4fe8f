//! Table functions: `latest` and `as_of`.
//!
//! `resample` belongs here too: it names a table as these do.

use std::sync::Arc;

use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::Result as SqlResult;
use datafusion::logical_expr::Expr;

use super::catalog::Tables;
use super::failure::external;
use super::table::TableSource;
use super::view::ViewSource;
use crate::error::{Error, ErrorCode, Result};

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
