//! The catalog of a statement: the tables of one view, and the schema `system`.
//!
//! Tables are resolved when a statement names them. Listed are those of kinds and timeframes; those of single series
//! (`"kline/BTCUSDT/1m"`) and of exact labels (`kline."1M"`) are not.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::Result as SqlResult;

use super::batches::{WireTypes, wire_schema};
use super::index::TableIndex;
use super::series_table::SeriesTable;
use super::system::SystemSchema;
use super::table::TableSource;
use super::view::SqlView;
use crate::cancel::CancelFlag;
use crate::error::Result;
use crate::types::SeriesKey;

/// Name of the only catalog.
pub const CATALOG: &str = "fastk";
/// Name of the schema of tables.
pub const PUBLIC: &str = "public";
/// Name of the schema that describes the store.
pub const SYSTEM: &str = "system";

/// The tables of a view.
#[derive(Debug)]
pub struct Tables {
    pub view: SqlView,
    pub index: Arc<TableIndex>,
    pub stop: CancelFlag,
}

impl Tables {
    /// The tables of another view in the same statement.
    pub fn at(&self, view: SqlView) -> Self {
        let index = match self.index.is_of(&view.state) {
            true => Arc::clone(&self.index),
            false => Arc::new(TableIndex::of(&view.state)),
        };
        Self { view, index, stop: self.stop.clone() }
    }

    /// The table of a listed name, or of the key of a series.
    pub fn source(&self, name: &str) -> Option<TableSource> {
        let name = name.strip_prefix("public.").unwrap_or(name);
        if name.contains('/') {
            let key = SeriesKey::parse(name).ok()?;
            return SeriesTable::of_series(&self.view, &key).map(|table| self.read(table));
        }
        self.index.named(name).and_then(|group| SeriesTable::of_group(&self.view, group)).map(|table| self.read(table))
    }

    /// The table of a kind by its exact label.
    pub fn labelled(&self, kind: &str, label: &str) -> Option<TableSource> {
        let group = self.index.labelled(kind, label)?;
        SeriesTable::of_group(&self.view, group).map(|table| self.read(table))
    }

    fn read(&self, table: SeriesTable) -> TableSource {
        TableSource { table: Arc::new(table), latest: None, stop: self.stop.clone() }
    }

    /// Listed names of tables with a visible series.
    pub fn names(&self) -> Vec<String> {
        let is_visible =
            |keys: &[(Box<[Arc<str>]>, SeriesKey)]| keys.iter().any(|(_, key)| self.view.series(key).is_some());
        let visible = self.index.listed().filter(|group| is_visible(&group.series));
        visible.map(|group| group.name.clone()).collect()
    }
}

/// A table as it is listed.
#[derive(Clone, Debug)]
pub struct ListedTable {
    /// Name of its schema.
    pub schema: &'static str,
    pub name: String,
    /// Names and types of its columns, as statements return them.
    pub columns: SchemaRef,
    /// The columns by which rows are distinct; none where rows can repeat.
    pub primary_key: Vec<String>,
}

/// The listed tables of a view, and that of the series whose key is `name`.
///
/// # Errors
/// Those of the tables of the schema `system`.
pub fn listed_tables(tables: &Tables, system: &SystemSchema, name: Option<&str>) -> Result<Vec<ListedTable>> {
    let key = name.filter(|name| name.contains('/')).map(str::to_owned);
    let names = tables.names().into_iter().chain(key);
    let of_source = |name: String| {
        let table = tables.source(&name)?.table;
        let columns = wire_schema(&table.schema, WireTypes::default());
        Some(ListedTable { schema: PUBLIC, name, columns, primary_key: table.primary_key() })
    };
    let mut listed: Vec<ListedTable> = names.filter_map(of_source).collect();
    for name in system.table_names() {
        if let Some(rows) = system.rows(&name)? {
            let columns = wire_schema(&rows.schema(), WireTypes::default());
            listed.push(ListedTable { schema: SYSTEM, name, columns, primary_key: Vec::new() });
        }
    }
    Ok(listed)
}

/// The list of the only catalog.
#[derive(Debug)]
pub struct Catalogs {
    pub tables: Arc<Tables>,
    pub system: Arc<SystemSchema>,
}

impl CatalogProviderList for Catalogs {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let catalog = SqlCatalog { tables: Arc::clone(&self.tables), system: Arc::clone(&self.system) };
        (name == CATALOG).then(|| Arc::new(catalog) as Arc<dyn CatalogProvider>)
    }
}

#[derive(Debug)]
struct SqlCatalog {
    tables: Arc<Tables>,
    system: Arc<SystemSchema>,
}

impl CatalogProvider for SqlCatalog {
    fn schema_names(&self) -> Vec<String> {
        vec![PUBLIC.to_owned(), SYSTEM.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let tables = Arc::clone(&self.tables);
        match name {
            PUBLIC => Some(Arc::new(PublicSchema { tables })),
            SYSTEM => Some(Arc::clone(&self.system) as Arc<dyn SchemaProvider>),
            kind => {
                let is_known = tables.index.of_kind(kind).next().is_some();
                is_known.then(|| Arc::new(KindSchema { kind: kind.to_owned(), tables }) as Arc<dyn SchemaProvider>)
            }
        }
    }
}

/// The tables by their listed names, and by keys.
#[derive(Debug)]
struct PublicSchema {
    tables: Arc<Tables>,
}

#[async_trait::async_trait]
impl SchemaProvider for PublicSchema {
    fn table_names(&self) -> Vec<String> {
        self.tables.names()
    }

    async fn table(&self, name: &str) -> SqlResult<Option<Arc<dyn TableProvider>>> {
        Ok(self.tables.source(name).map(|source| Arc::new(source) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.source(name).is_some()
    }
}

/// The tables of a kind by their exact labels.
#[derive(Debug)]
struct KindSchema {
    kind: String,
    tables: Arc<Tables>,
}

#[async_trait::async_trait]
impl SchemaProvider for KindSchema {
    fn table_names(&self) -> Vec<String> {
        Vec::new()
    }

    async fn table(&self, label: &str) -> SqlResult<Option<Arc<dyn TableProvider>>> {
        let source = self.tables.labelled(&self.kind, label);
        Ok(source.map(|source| Arc::new(source) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, label: &str) -> bool {
        self.tables.labelled(&self.kind, label).is_some()
    }
}
