//! The rows of one partition of a scan as record batches: those of its series, one after the other.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatchOptions, StringViewArray, make_view, new_null_array};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};

use super::failure::external;
use super::refine::Refinement;
use super::slices::{ScanCore, SeriesSlice, can_match, ticks};
use crate::error::{Error, Result};
use crate::query::{Block, Predicate, ResultScan, ResultSchema, RowOrder, ScanStats};
use crate::types::schema::OrderRule;

/// Maximum rows of a batch.
const BATCH_ROWS: usize = 8_192;

/// Where a column of the result comes from.
#[derive(Clone, Debug)]
enum Source {
    /// The same text in all rows.
    Word(Arc<str>),
    /// A column of the blocks of the series.
    Column(usize),
    /// The series does not have the column.
    Nulls,
}

/// Rows of a partition, batch by batch.
#[derive(Debug)]
pub struct PartitionRows {
    core: Arc<ScanCore>,
    slices: std::vec::IntoIter<SeriesSlice>,
    order: RowOrder,
    rows_left: u64,
    is_limited: bool,
    open: Option<OpenSeries>,
    refinement: Option<Refinement>,
    counters: ScanCounters,
    ended: bool,
}

/// The series being read.
#[derive(Debug)]
struct OpenSeries {
    shape: ResultSchema,
    schema: SchemaRef,
    scan: ResultScan,
    sources: Vec<Source>,
    /// The rest of a block.
    block: Option<Block>,
    slice: SeriesSlice,
    /// Time of the last row of the last block.
    last: Option<i64>,
    /// Whether rows of one time are one.
    is_resumable: bool,
}

/// What was read, for EXPLAIN ANALYZE.
#[derive(Debug)]
struct ScanCounters {
    output_rows: Count,
    series: Count,
    chunks_considered: Count,
    chunks_pruned: Count,
    blocks_scanned: Count,
    zones_considered: Count,
    zones_pruned: Count,
    rows_checked: Count,
    conditions_tightened: Count,
}

impl ScanCounters {
    fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let counter = |name: &'static str| MetricBuilder::new(metrics).counter(name, partition);
        Self {
            output_rows: MetricBuilder::new(metrics).output_rows(partition),
            series: counter("series_read"),
            chunks_considered: counter("chunks_considered"),
            chunks_pruned: counter("chunks_pruned"),
            blocks_scanned: counter("blocks_scanned"),
            zones_considered: counter("zones_considered"),
            zones_pruned: counter("zones_pruned"),
            rows_checked: counter("rows_checked"),
            conditions_tightened: counter("conditions_tightened"),
        }
    }

    fn add(&self, stats: &ScanStats) {
        let add = |counter: &Count, value: u64| counter.add(usize::try_from(value).unwrap_or(usize::MAX));
        add(&self.chunks_considered, stats.chunks_considered);
        add(&self.chunks_pruned, stats.chunks_pruned);
        add(&self.blocks_scanned, stats.blocks_scanned);
        add(&self.zones_considered, stats.zones_considered);
        add(&self.zones_pruned, stats.zones_pruned);
        add(&self.rows_checked, stats.rows_checked);
    }
}

impl PartitionRows {
    pub fn new(
        core: Arc<ScanCore>,
        slices: Vec<SeriesSlice>,
        order: RowOrder,
        limit: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
        partition: usize,
    ) -> Self {
        Self {
            core,
            slices: slices.into_iter(),
            order,
            rows_left: limit.map_or(u64::MAX, |rows| rows as u64),
            is_limited: limit.is_some(),
            open: None,
            refinement: None,
            counters: ScanCounters::new(metrics, partition),
            ended: false,
        }
    }

    /// Leaves out rows that do not matter to operators above.
    pub fn refined_by(mut self, refinement: Option<Refinement>) -> Self {
        self.refinement = refinement;
        self
    }

    /// Opens the rows of a slice that still matter; `None` where there are none.
    fn opened(&self, slice: SeriesSlice) -> Result<Option<OpenSeries>> {
        let limit = self.is_limited.then_some(self.rows_left);
        let Some(refinement) = &self.refinement else {
            return OpenSeries::new(&self.core, slice, self.order, limit, &[]).map(Some);
        };
        let rows = refinement.rows(&self.core.table);
        let def = &self.core.member(&slice)?.series.def;
        let (from, to) = (
            ticks(rows.range.0, self.core.table.unit, def.unit, true),
            ticks(rows.range.1, self.core.table.unit, def.unit, false),
        );
        let slice = SeriesSlice { range: (slice.range.0.max(from), slice.range.1.min(to)), ..slice };
        if slice.range.0 > slice.range.1 || !rows.predicates.iter().all(|predicate| can_match(def, predicate)) {
            return Ok(None);
        }
        OpenSeries::new(&self.core, slice, self.order, limit, &rows.predicates).map(Some)
    }

    /// Reads the rest of the open series under the conditions of now, where these have changed.
    fn refine(&mut self) -> Result<()> {
        let (Some(refinement), Some(open)) = (&mut self.refinement, &self.open) else { return Ok(()) };
        if open.block.is_some() || !open.is_resumable || !refinement.has_changed() {
            return Ok(());
        }
        let rest = open.rest(self.order);
        self.counters.conditions_tightened.add(1);
        self.counters.add(&open.scan.stats());
        self.open = match rest {
            Some(rest) => self.opened(rest)?,
            None => None,
        };
        Ok(())
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if self.is_limited && self.rows_left == 0 {
                self.close();
                return Ok(None);
            }
            self.refine()?;
            if self.open.is_none() {
                let Some(slice) = self.slices.next() else { return Ok(None) };
                if let Some(refinement) = &mut self.refinement {
                    refinement.has_changed();
                }
                self.open = self.opened(slice)?;
                self.counters.series.add(usize::from(self.open.is_some()));
            }
            let Some(open) = &mut self.open else { continue };
            if open.block.is_none() {
                open.block = open.scan.next().transpose()?;
                open.last = open.block.as_ref().and_then(|block| block.timestamps().last().copied()).or(open.last);
            }
            let Some(block) = open.block.take() else {
                self.close();
                continue;
            };
            let rows = block.rows().min(BATCH_ROWS);
            if rows < block.rows() {
                open.block = Some(block.slice(rows, block.rows() - rows));
            }
            let batch = open.batch(&block.slice(0, rows), &self.core.schema)?;
            self.rows_left = self.rows_left.saturating_sub(rows as u64);
            self.counters.output_rows.add(rows);
            return Ok(Some(batch));
        }
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.counters.add(&open.scan.stats());
        }
    }
}

impl Iterator for PartitionRows {
    type Item = Result<RecordBatch, DataFusionError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = self.next_batch();
        self.ended = !matches!(batch, Ok(Some(_)));
        batch.map_err(external).transpose()
    }
}

impl Drop for PartitionRows {
    fn drop(&mut self) {
        self.close();
    }
}

impl OpenSeries {
    fn new(
        core: &ScanCore,
        slice: SeriesSlice,
        order: RowOrder,
        limit: Option<u64>,
        more: &[Predicate],
    ) -> Result<Self> {
        let member = core.member(&slice)?;
        let plan = core.plan_with(&slice, order, limit, more)?;
        let is_resumable = matches!(&member.series.def.order, OrderRule::Unique(names) if names.is_empty());
        let (shape, scan) = plan.into_result();
        let schema = shape.arrow_schema();
        let keys = &core.table.keys;
        let source = |field: &str| match keys.iter().position(|key| key == field) {
            Some(at) => member.words.get(at).map_or(Source::Nulls, |word| Source::Word(Arc::clone(word))),
            None => schema.index_of(field).map_or(Source::Nulls, Source::Column),
        };
        let sources = core.schema.fields().iter().map(|field| source(field.name())).collect();
        Ok(Self { shape, schema, scan, sources, block: None, slice, last: None, is_resumable })
    }

    /// The rows after those that were read; `None` without any.
    fn rest(&self, order: RowOrder) -> Option<SeriesSlice> {
        let (from, to) = self.slice.range;
        let range = match (self.last, order) {
            (None, _) => (from, to),
            (Some(last), RowOrder::Asc) => (last.checked_add(1)?, to),
            (Some(last), RowOrder::Desc) => (from, last.checked_sub(1)?),
        };
        (range.0 <= range.1).then_some(SeriesSlice { range, ..self.slice })
    }

    fn batch(&self, block: &Block, schema: &SchemaRef) -> Result<RecordBatch> {
        let rows = block.rows();
        let found = self.shape.record_batch(&self.schema, block)?;
        let arrays = self.sources.iter().zip(schema.fields()).map(|(source, field)| match source {
            Source::Word(word) => repeated(word, rows),
            Source::Nulls => Ok(new_null_array(field.data_type(), rows)),
            Source::Column(at) => {
                let cells = found.column(*at);
                if cells.data_type() == field.data_type() {
                    return Ok(Arc::clone(cells));
                }
                // An overflow is an error: a null would replace a number.
                let options = CastOptions { safe: false, ..CastOptions::default() };
                cast_with_options(cells, field.data_type(), &options).map_err(|error| {
                    Error::invalid(format!("column {} of {}: {error}", field.name(), self.shape.title()))
                })
            }
        });
        let arrays: Vec<ArrayRef> = arrays.collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)
            .map_err(|error| Error::internal(format!("rows of {}: {error}", self.shape.title())))
    }
}

/// A column of the same text in all rows, stored once.
fn repeated(word: &str, rows: usize) -> Result<ArrayRef> {
    let view = make_view(word.as_bytes(), 0, 0);
    let views = ScalarBuffer::from(vec![view; rows]);
    let array = StringViewArray::try_new(views, vec![Buffer::from(word.as_bytes())], None)
        .map_err(|error| Error::internal(format!("a column of {word:?}: {error}")))?;
    Ok(Arc::new(array))
}
