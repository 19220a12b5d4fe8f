//! The scan of a table: its partitions, and the order, counts and bounds that it declares.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arrow::compute::SortOptions;
use arrow::datatypes::{DECIMAL64_MAX_PRECISION, DataType, FieldRef, Schema};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result as SqlResult, ScalarValue, SplitPoint, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{
    AcrossPartitions, ConstExpr, EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr,
    RangePartitioning,
};
use datafusion::physical_expr_common::physical_expr::snapshot_generation;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SortOrderPushdownResult, apply_expression_roots,
};

use super::refine::Refinement;
use super::rows::PartitionRows;
use super::slices::{ScanCore, SeriesSlice};
use crate::query::{NumberFormat, Predicate, RowOrder};
use crate::types::{TimeUnit, time};

/// A series of fewer rows is read by one thread.
const SPLIT_ROWS_MIN: u64 = 65_536;
/// Maximum number of series whose rows are counted by reading the ends of a range.
const COUNTED_SERIES_MAX: usize = 256;
/// Maximum number of series that have a partition each, so that they can be merged by time.
const OWN_PARTITIONS_MAX: usize = 16;

/// How the partitions of a scan are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ScanOrder {
    direction: RowOrder,
    /// By time first; else by the key columns.
    by_time: bool,
}

/// Rows of a table in partitions.
#[derive(Clone, Debug)]
pub struct SeriesScan {
    core: Arc<ScanCore>,
    /// Each ascends by the key columns.
    partitions: Arc<Vec<Vec<SeriesSlice>>>,
    order: ScanOrder,
    limit: Option<usize>,
    /// Distinct series.
    series: usize,
    /// Conditions of operators above that change while these run.
    dynamic: Arc<Vec<Arc<dyn PhysicalExpr>>>,
    properties: Arc<PlanProperties>,
    counts: Arc<OnceLock<Vec<Precision<usize>>>>,
    metrics: ExecutionPlanMetricsSet,
}

impl SeriesScan {
    /// A scan of these rows, ascending by the key columns, on up to `threads` threads.
    ///
    /// # Errors
    /// When a column of the order is not one of the schema.
    pub fn new(core: ScanCore, slices: Vec<SeriesSlice>, limit: Option<usize>, threads: usize) -> SqlResult<Self> {
        let series = slices.len();
        let partitions = balanced(&core, slices, threads);
        let order = ScanOrder { direction: RowOrder::Asc, by_time: false };
        Self::of(Arc::new(core), partitions, order, limit, series)
    }

    fn of(
        core: Arc<ScanCore>,
        mut partitions: Vec<Vec<SeriesSlice>>,
        order: ScanOrder,
        limit: Option<usize>,
        series: usize,
    ) -> SqlResult<Self> {
        if partitions.is_empty() {
            partitions.push(Vec::new());
        }
        let schema = &core.schema;
        let options = |direction: RowOrder| SortOptions {
            descending: direction == RowOrder::Desc,
            nulls_first: direction == RowOrder::Desc,
        };
        let sort = |name: &str, direction| -> Option<PhysicalSortExpr> {
            Some(PhysicalSortExpr { expr: col(name, schema).ok()?, options: options(direction) })
        };
        let keys = core.table.keys.iter().map(|key| sort(key, RowOrder::Asc));
        let ts = sort("ts", order.direction);
        // Exactly one order: a merge of partitions follows the first, and goes on to promise all of them.
        let ordering: Vec<PhysicalSortExpr> = match (series > 1, order.by_time) {
            (false, _) => ts.into_iter().collect(),
            // Every partition has one series, in which keys are constant.
            (true, true) => match ts {
                Some(ts) => [ts].into_iter().chain(keys.map_while(|key| key)).collect(),
                None => Vec::new(),
            },
            (true, false) => keys.chain([ts]).map_while(|sort| sort).collect(),
        };
        let mut equivalence =
            EquivalenceProperties::new_with_orderings(Arc::clone(schema), (!ordering.is_empty()).then_some(ordering));
        if let (1, Some(slice)) = (series, partitions.iter().flatten().next())
            && let Some(member) = core.table.members.get(slice.member)
        {
            let constants = core.table.keys.iter().zip(&member.words).filter_map(|(key, word)| {
                let value = ScalarValue::Utf8View(Some(word.to_string()));
                Some(ConstExpr::new(col(key, schema).ok()?, AcrossPartitions::Uniform(Some(value))))
            });
            equivalence.add_constants(constants.collect::<Vec<_>>())?;
        }
        let partitioning = range_partitioning(&core, &partitions, series)
            .unwrap_or(Partitioning::UnknownPartitioning(partitions.len()));
        let properties =
            PlanProperties::new(equivalence, partitioning, EmissionType::Incremental, Boundedness::Bounded)
                .with_scheduling_type(SchedulingType::NonCooperative);
        Ok(Self {
            core,
            partitions: Arc::new(partitions),
            order,
            limit,
            series,
            dynamic: Arc::default(),
            properties: Arc::new(properties),
            counts: Arc::default(),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    pub const fn series(&self) -> usize {
        self.series
    }

    /// The same rows with decimals as they are stored, which are not copied; `None` where none is.
    ///
    /// # Errors
    /// When a column of the order is not one of the schema.
    pub fn stored(&self) -> SqlResult<Option<Self>> {
        let stored = |field: &FieldRef| match field.data_type() {
            // More digits are those of series with different ones.
            DataType::Decimal128(precision, scale) if *precision <= DECIMAL64_MAX_PRECISION => {
                let stored =
                    field.as_ref().clone().with_data_type(DataType::Decimal64(DECIMAL64_MAX_PRECISION, *scale));
                Some(Arc::new(stored))
            }
            _ => None,
        };
        let schema = &self.core.schema;
        let is_whole = self.core.table.resample.is_some() || !self.dynamic.is_empty();
        if is_whole || !schema.fields().iter().any(|field| stored(field).is_some()) {
            return Ok(None);
        }
        let fields: Vec<FieldRef> =
            schema.fields().iter().map(|field| stored(field).unwrap_or_else(|| Arc::clone(field))).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
        let core = ScanCore { schema, numbers: NumberFormat::Stored, ..self.core.as_ref().clone() };
        Self::of(Arc::new(core), self.partitions.as_ref().clone(), self.order, self.limit, self.series).map(Some)
    }

    /// Whether all rows of a partition are before those of the next one: those of one series, cut by time, or of many
    /// in the order of their keys.
    pub fn is_consecutive(&self) -> bool {
        if self.series > 1 {
            return !self.order.by_time;
        }
        let ranges = self.partitions.iter().map(|slices| match slices.as_slice() {
            [slice] if self.series == 1 => Some(slice.range),
            _ => None,
        });
        let Some(ranges) = ranges.collect::<Option<Vec<_>>>() else { return false };
        ranges.windows(2).all(|pair| match (pair, self.order.direction) {
            ([one, other], RowOrder::Asc) => one.1 < other.0,
            ([one, other], RowOrder::Desc) => one.0 > other.1,
            _ => false,
        })
    }

    fn counts(&self) -> &[Precision<usize>] {
        self.counts.get_or_init(|| {
            let may_read = self.partitions.iter().map(Vec::len).sum::<usize>() <= COUNTED_SERIES_MAX;
            let zero = Precision::Exact(0);
            let rows = |slices: &Vec<SeriesSlice>| {
                slices.iter().fold(zero, |rows, slice| rows.add(&self.core.rows(slice, may_read)))
            };
            self.partitions.iter().map(rows).collect()
        })
    }

    /// The same rows in another order; `None` where the partitions do not allow it.
    fn ordered(&self, order: ScanOrder) -> SqlResult<Option<Self>> {
        // By time only where every partition has one series: what is above the scan relies on their number.
        if order.by_time && self.series > 1 && self.partitions.len() != self.series {
            return Ok(None);
        }
        let mut partitions = self.partitions.as_ref().clone();
        if self.series == 1 && order.direction != self.order.direction {
            partitions.reverse();
        }
        Self::of(Arc::clone(&self.core), partitions, order, self.limit, self.series).map(Some)
    }
}

/// One partition per series where series are split by time: then their symbols are not the borders of partitions.
fn range_partitioning(core: &ScanCore, partitions: &[Vec<SeriesSlice>], series: usize) -> Option<Partitioning> {
    let [key] = core.table.keys.as_slice() else { return None };
    if series < 2 || partitions.len() < 2 {
        return None;
    }
    let expr: Arc<dyn PhysicalExpr> = col(key, &core.schema).ok()?;
    let options = SortOptions { descending: false, nulls_first: false };
    let ordering = LexOrdering::new([PhysicalSortExpr { expr, options }])?;
    let first_words = partitions.iter().skip(1).map(|slices| {
        let member = core.table.members.get(slices.first()?.member)?;
        let word = member.words.first()?.to_string();
        Some(SplitPoint::new(vec![ScalarValue::Utf8View(Some(word))]))
    });
    let points: Vec<SplitPoint> = first_words.collect::<Option<_>>()?;
    Some(Partitioning::Range(RangePartitioning::new(ordering, points)))
}

/// Few series in a partition each, others consecutively in partitions of similar numbers of rows.
fn balanced(core: &ScanCore, slices: Vec<SeriesSlice>, partitions: usize) -> Vec<Vec<SeriesSlice>> {
    let rows = |slice: &SeriesSlice| core.series(slice).map_or(0, |series| series.rows).saturating_add(1);
    let total: u64 = slices.iter().map(rows).sum();
    let partitions = partitions.max(1) as u64;
    if total < SPLIT_ROWS_MIN {
        return if slices.is_empty() { Vec::new() } else { vec![slices] };
    }
    if slices.len() <= OWN_PARTITIONS_MAX {
        return slices.into_iter().map(|slice| vec![slice]).collect();
    }
    let mut parts: Vec<Vec<SeriesSlice>> = Vec::new();
    let (mut passed, mut part_of_last) = (0_u64, None);
    for slice in slices {
        let part = u128::from(passed) * u128::from(partitions) / u128::from(total.max(1));
        passed = passed.saturating_add(rows(&slice));
        match parts.last_mut() {
            Some(last) if part_of_last == Some(part) => last.push(slice),
            _ => parts.push(vec![slice]),
        }
        part_of_last = Some(part);
    }
    parts
}

impl DisplayAs for SeriesScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SeriesScan: table={}, series={}, partitions={}",
            self.core.table.name,
            self.series,
            self.partitions.len()
        )?;
        let names: Vec<&str> = self.core.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, ", columns=[{}]", names.join(", "))?;
        let bounded = |range: (i64, i64)| range != (i64::MIN, i64::MAX);
        let mut ranges = self.partitions.iter().flatten().filter(|slice| bounded(slice.range));
        if let Some(slice) = ranges.next() {
            let unit = self.core.series(slice).map_or(TimeUnit::Ms, |series| series.def.unit);
            let end = |ts: i64| match ts {
                i64::MIN | i64::MAX => String::new(),
                ts => time::rfc3339(ts, unit),
            };
            write!(f, ", ts={}..={}", end(slice.range.0), end(slice.range.1))?;
        }
        if !self.core.predicates.is_empty() {
            let shown: Vec<String> = self.core.predicates.iter().take(8).map(shown).collect();
            write!(f, ", where=[{}]", shown.join(" and "))?;
        }
        if self.core.numbers == NumberFormat::Stored {
            write!(f, ", decimals=stored")?;
        }
        if let Some(rows) = self.core.latest {
            write!(f, ", latest={rows}")?;
        }
        if let Some(spec) = &self.core.table.resample {
            write!(f, ", every={}", spec.every)?;
        }
        if self.order.direction == RowOrder::Desc {
            write!(f, ", descending")?;
        }
        if self.order.by_time {
            write!(f, ", by time")?;
        }
        if !self.dynamic.is_empty() {
            let shown: Vec<String> = self.dynamic.iter().map(|filter| shortened(&filter.to_string())).collect();
            write!(f, ", dynamic=[{}]", shown.join(" and "))?;
        }
        self.limit.map_or(Ok(()), |rows| write!(f, ", limit={rows}"))
    }
}

fn shown(predicate: &Predicate) -> String {
    shortened(&predicate.to_text())
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

impl ExecutionPlan for SeriesScan {
    fn name(&self) -> &'static str {
        "SeriesScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> SqlResult<TreeNodeRecursion>,
    ) -> SqlResult<TreeNodeRecursion> {
        apply_expression_roots(self.dynamic.iter(), f)
    }

    /// Keeps conditions that change while the statement runs. Those above are evaluated there too.
    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> SqlResult<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let filters = result.parent_filters;
        let pushed = FilterPushdownPropagation::with_parent_pushdown_result(vec![PushedDown::No; filters.len()]);
        // Conditions before a limit, the last rows or buckets would change them.
        let is_whole = self.limit.is_some() || self.core.latest.is_some() || self.core.table.resample.is_some();
        let dynamic = filters.into_iter().map(|filter| filter.filter).filter(|filter| snapshot_generation(filter) != 0);
        let dynamic: Vec<Arc<dyn PhysicalExpr>> = dynamic.collect();
        if phase != FilterPushdownPhase::Post || is_whole || dynamic.is_empty() {
            return Ok(pushed);
        }
        let refined = Self { dynamic: Arc::new(dynamic), ..self.clone() };
        Ok(pushed.with_updated_node(Arc::new(refined) as Arc<dyn ExecutionPlan>))
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> SqlResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn repartitioned(&self, partitions: usize, _: &ConfigOptions) -> SqlResult<Option<Arc<dyn ExecutionPlan>>> {
        let [slices] = self.partitions.as_slice() else { return Ok(None) };
        let [slice] = slices.as_slice() else { return Ok(None) };
        let is_large = self.core.series(slice).is_some_and(|series| series.rows >= SPLIT_ROWS_MIN);
        // Buckets are combined on several threads as it is.
        let is_whole = self.core.latest.is_some() || self.core.table.resample.is_some();
        if !is_large || self.limit.is_some() || partitions < 2 || is_whole {
            return Ok(None);
        }
        let Some(ranges) =
            self.core.plan(slice, RowOrder::Asc, None).ok().and_then(|plan| plan.split(partitions as u64))
        else {
            return Ok(None);
        };
        let mut parts: Vec<Vec<SeriesSlice>> =
            ranges.into_iter().map(|range| vec![SeriesSlice { range, ..*slice }]).collect();
        if self.order.direction == RowOrder::Desc {
            parts.reverse();
        }
        let scan = Self::of(Arc::clone(&self.core), parts, self.order, self.limit, self.series)?;
        Ok(Some(Arc::new(scan)))
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> SqlResult<SendableRecordBatchStream> {
        let slices = self.partitions.get(partition).cloned().unwrap_or_default();
        let direction = self.order.direction;
        let refinement = (!self.dynamic.is_empty()).then(|| Refinement::new(Arc::clone(&self.dynamic)));
        let rows = PartitionRows::new(Arc::clone(&self.core), slices, direction, self.limit, &self.metrics, partition)
            .refined_by(refinement);
        let schema = Arc::clone(&self.core.schema);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(rows))))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> SqlResult<Arc<Statistics>> {
        let counts = self.counts();
        let (rows, slices): (Precision<usize>, Vec<&SeriesSlice>) = match args.partition() {
            None => {
                let rows = counts.iter().fold(Precision::Exact(0), |rows, count| rows.add(count));
                (rows, self.partitions.iter().flatten().collect())
            }
            Some(at) => {
                let rows = counts.get(at).copied().unwrap_or(Precision::Absent);
                (rows, self.partitions.get(at).into_iter().flatten().collect())
            }
        };
        let schema = &self.core.schema;
        let mut columns = vec![ColumnStatistics::new_unknown(); schema.fields().len()];
        for (field, column) in schema.fields().iter().zip(&mut columns) {
            if !field.is_nullable() {
                column.null_count = Precision::Exact(0);
            }
        }
        let is_complete = self.limit.is_none() && self.core.latest.is_none() && self.core.predicates.is_empty();
        if let Some(at) = schema.index_of("ts").ok().filter(|_| is_complete)
            && let Some(column) = columns.get_mut(at)
            && let Some(bounds) = slices.iter().map(|slice| self.core.bounds(slice)).collect::<Option<Vec<_>>>()
            && let Some((low, high)) = bounds.into_iter().flatten().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
        {
            column.min_value = Precision::Exact(timestamp(low, self.core.table.unit));
            column.max_value = Precision::Exact(timestamp(high, self.core.table.unit));
        }
        let num_rows = match self.limit {
            // The limit holds for each partition.
            Some(limit) => match rows.to_inexact() {
                Precision::Inexact(rows) => Precision::Inexact(rows.min(limit.saturating_mul(self.partitions.len()))),
                other => other,
            },
            None if !self.dynamic.is_empty() => rows.to_inexact(),
            None => rows,
        };
        Ok(Arc::new(Statistics { num_rows, total_byte_size: Precision::Absent, column_statistics: columns }))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(Self { limit, ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> SqlResult<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        for direction in [RowOrder::Asc, RowOrder::Desc] {
            for by_time in [false, true] {
                let Some(turned) = self.ordered(ScanOrder { direction, by_time })? else { continue };
                if turned.properties.equivalence_properties().ordering_satisfy(order.to_vec())? {
                    return Ok(SortOrderPushdownResult::Exact { inner: Arc::new(turned) });
                }
            }
        }
        Ok(SortOrderPushdownResult::Unsupported)
    }
}

/// A timestamp in UTC.
pub fn timestamp(ts: i64, unit: TimeUnit) -> ScalarValue {
    let zone = Some("UTC".into());
    match unit {
        TimeUnit::S => ScalarValue::TimestampSecond(Some(ts), zone),
        TimeUnit::Ms => ScalarValue::TimestampMillisecond(Some(ts), zone),
        TimeUnit::Us => ScalarValue::TimestampMicrosecond(Some(ts), zone),
        TimeUnit::Ns => ScalarValue::TimestampNanosecond(Some(ts), zone),
    }
}
