//! The flags that select series, and the pages of what they select.

use super::target::{CommandTarget, PlainArgs};
use crate::error::Result;
use crate::service::operations::{InventoryOf, ListSeries};
use crate::service::{Inventory, SeriesFilter, SeriesPage};
use crate::types::key::check_kind_name;

#[derive(Debug, clap::Args)]
pub struct FilterArgs {
    /// kline, scalar, or a registered kind.
    #[arg(long)]
    kind: Option<String>,
    #[arg(long)]
    symbol: Option<String>,
    #[arg(long)]
    timeframe: Option<String>,
    #[arg(long)]
    category: Option<String>,
    #[arg(long)]
    name: Option<String>,
    /// Prefix of the key.
    #[arg(long)]
    prefix: Option<String>,
    #[command(flatten)]
    pub plain: PlainArgs,
}

impl FilterArgs {
    pub fn filter(&self) -> Result<SeriesFilter> {
        self.kind.as_deref().map_or(Ok(()), check_kind_name)?;
        Ok(SeriesFilter {
            kind: self.kind.clone(),
            symbol: self.symbol.clone(),
            timeframe: self.timeframe.clone(),
            category: self.category.clone(),
            name: self.name.clone(),
            prefix: self.prefix.clone(),
            limit: Some(10_000),
            cursor: None,
            months: false,
        })
    }

    /// Every registered series that matches the filter.
    pub fn list(&self, target: &CommandTarget) -> Result<SeriesPage> {
        let mut filter = self.filter()?;
        let mut all = target.run::<ListSeries>(filter.clone())?;
        while let Some(cursor) = all.next_cursor.take() {
            filter.cursor = Some(cursor);
            let page = target.run::<ListSeries>(filter.clone())?;
            all.series.extend(page.series);
            all.next_cursor = page.next_cursor;
        }
        Ok(all)
    }
}

/// Every page of the inventory.
pub fn full_inventory(target: &CommandTarget, mut filter: SeriesFilter) -> Result<Inventory> {
    let mut all = target.run::<InventoryOf>(filter.clone())?;
    while let Some(cursor) = all.next_cursor.take() {
        filter.cursor = Some(cursor);
        let page = target.run::<InventoryOf>(filter.clone())?;
        all.series.extend(page.series);
        all.next_cursor = page.next_cursor;
    }
    Ok(all)
}
