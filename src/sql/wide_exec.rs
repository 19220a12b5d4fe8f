//! The operator of scalars by time: several inputs of symbol, time and value, each in that order, merged to one row for
//! each symbol and time.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatchOptions, StringViewArray, StringViewBuilder, new_null_array,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{SortOptions, cast, interleave};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as SqlResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    AcrossPartitions, ConstExpr, EquivalenceProperties, LexOrdering, OrderingRequirements, Partitioning, PhysicalExpr,
    PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
    PlanProperties,
};
use futures::StreamExt;

use super::failure::external;
use crate::error::Error;
use crate::types::cells::column;

/// Maximum rows of a batch.
const BATCH_ROWS: usize = 8_192;
const ASCENDING: SortOptions = SortOptions { descending: false, nulls_first: false };

/// A column of the result.
#[derive(Clone, Copy, Debug)]
pub enum MergedColumn {
    Symbol,
    Time,
    /// The value of an input.
    Value(usize),
}

/// Merges inputs by symbol and time.
#[derive(Debug)]
pub struct WideExec {
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    columns: Vec<MergedColumn>,
    schema: SchemaRef,
    /// The type of the times, to which those of the inputs are converted.
    time: DataType,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl WideExec {
    /// A merge of inputs with the columns symbol, ts and, where it is one of the columns, value.
    ///
    /// # Errors
    /// When the properties of the result are contradictory.
    pub fn new(
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        columns: Vec<MergedColumn>,
        schema: SchemaRef,
        time: DataType,
    ) -> SqlResult<Self> {
        let at = |wanted: fn(&MergedColumn) -> bool, name: &str| {
            let position = columns.iter().position(wanted)?;
            Some(Arc::new(Column::new(name, position)) as Arc<dyn PhysicalExpr>)
        };
        let symbol = at(|column| matches!(column, MergedColumn::Symbol), "symbol");
        let ts = at(|column| matches!(column, MergedColumn::Time), "ts");
        let constant = only_symbol(&inputs);
        let by_symbol = symbol.iter().filter(|_| constant.is_none()).cloned();
        // Without the symbol the times of several are in no order.
        let by_time = ts.filter(|_| constant.is_some() || symbol.is_some());
        let sort = |expr| PhysicalSortExpr { expr, options: ASCENDING };
        let ordering: Vec<PhysicalSortExpr> = by_symbol.chain(by_time).map(sort).collect();
        let mut equivalence =
            EquivalenceProperties::new_with_orderings(Arc::clone(&schema), (!ordering.is_empty()).then_some(ordering));
        if let (Some(value), Some(symbol)) = (constant, symbol) {
            equivalence.add_constants([ConstExpr::new(symbol, value)])?;
        }
        let properties = PlanProperties::new(
            equivalence,
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let (properties, metrics) = (Arc::new(properties), ExecutionPlanMetricsSet::new());
        Ok(Self { inputs, columns, schema, time, properties, metrics })
    }
}

/// The symbol of all rows, where there is only one.
fn only_symbol(inputs: &[Arc<dyn ExecutionPlan>]) -> Option<AcrossPartitions> {
    let of = |input: &Arc<dyn ExecutionPlan>| {
        let constants = input.equivalence_properties().constants();
        let symbol = constants
            .into_iter()
            .find(|constant| constant.expr.downcast_ref::<Column>().is_some_and(|column| column.name() == "symbol"))?;
        match symbol.across_partitions {
            AcrossPartitions::Uniform(Some(value)) => Some(value),
            _ => None,
        }
    };
    let first = of(inputs.first()?)?;
    let is_same = |input: &Arc<dyn ExecutionPlan>| of(input).as_ref() == Some(&first);
    inputs.iter().all(is_same).then(|| AcrossPartitions::Uniform(Some(first.clone())))
}

impl DisplayAs for WideExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "WideExec: columns=[{}]", names.join(", "))
    }
}

impl ExecutionPlan for WideExec {
    fn name(&self) -> &'static str {
        "WideExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(self.inputs.iter().map(|_| Distribution::SinglePartition).collect())
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let sort = |name: &str, position| PhysicalSortExpr {
            expr: Arc::new(Column::new(name, position)) as Arc<dyn PhysicalExpr>,
            options: ASCENDING,
        };
        let ordering = LexOrdering::new([sort("symbol", 0), sort("ts", 1)]);
        self.inputs.iter().map(|_| ordering.clone().map(OrderingRequirements::from)).collect()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        self.inputs.iter().map(|_| false).collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> SqlResult<TreeNodeRecursion>,
    ) -> SqlResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> SqlResult<Arc<dyn ExecutionPlan>> {
        let merged = Self::new(children, self.columns.clone(), Arc::clone(&self.schema), self.time.clone())?;
        Ok(Arc::new(merged))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> SqlResult<SendableRecordBatchStream> {
        let heads = self.inputs.iter().map(|input| Ok(Head::new(input.execute(partition, Arc::clone(&context))?)));
        let merge = WideMerge {
            heads: heads.collect::<SqlResult<_>>()?,
            columns: self.columns.clone(),
            schema: Arc::clone(&self.schema),
            time: self.time.clone(),
            output_rows: MetricBuilder::new(&self.metrics).output_rows(partition),
        };
        let batches = futures::stream::try_unfold(merge, async |mut merge| {
            let batch = merge.next_batch().await?;
            Ok(batch.map(|batch| (batch, merge)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches.boxed())))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One input.
struct Head {
    stream: SendableRecordBatchStream,
    /// Batches with rows of the result that is made; the last is being read.
    held: Vec<RecordBatch>,
    symbols: StringViewArray,
    times: ScalarBuffer<i64>,
    row: usize,
    ended: bool,
    /// For each row of the result its position in the held batches, from 1 on; 0 is a row of nulls.
    found: Vec<(usize, usize)>,
}

impl Head {
    fn new(stream: SendableRecordBatchStream) -> Self {
        let (symbols, times) = (StringViewArray::new_null(0), ScalarBuffer::from(Vec::new()));
        Self { stream, held: Vec::new(), symbols, times, row: 0, ended: false, found: Vec::new() }
    }

    /// Reads the next batch where the last is used up.
    async fn load(&mut self, time: &DataType) -> SqlResult<()> {
        while !self.ended && self.row >= self.times.len() {
            match self.stream.next().await.transpose()? {
                None => self.ended = true,
                Some(batch) if batch.num_rows() == 0 => {}
                Some(batch) => {
                    self.symbols = column(batch.columns(), 0).as_string_view().clone();
                    let times = cast(&cast(column(batch.columns(), 1).as_ref(), time)?, &DataType::Int64)?;
                    self.times = times.as_primitive::<Int64Type>().values().clone();
                    self.row = 0;
                    self.held.push(batch);
                }
            }
        }
        Ok(())
    }

    /// Symbol and time of the next row.
    fn key(&self) -> Option<(&str, i64)> {
        let time = self.times.get(self.row)?;
        Some((self.symbols.value(self.row), *time))
    }

    /// The values of the rows of the result.
    fn values(&self, data_type: &DataType) -> SqlResult<ArrayRef> {
        let nulls = new_null_array(data_type, 1);
        let held = self.held.iter().map(|batch| column(batch.columns(), 2).as_ref());
        let sources: Vec<&dyn Array> = [nulls.as_ref()].into_iter().chain(held).collect();
        Ok(interleave(&sources, &self.found)?)
    }

    /// Lets go of what the next result does not need.
    fn release(&mut self) {
        let last = self.held.pop();
        self.held.clear();
        self.held.extend(last);
        self.found.clear();
    }
}

/// A merge that runs.
struct WideMerge {
    heads: Vec<Head>,
    columns: Vec<MergedColumn>,
    schema: SchemaRef,
    time: DataType,
    output_rows: Count,
}

impl WideMerge {
    async fn next_batch(&mut self) -> SqlResult<Option<RecordBatch>> {
        let mut symbols = StringViewBuilder::new();
        let mut times: Vec<i64> = Vec::new();
        while times.len() < BATCH_ROWS {
            for head in &mut self.heads {
                head.load(&self.time).await?;
            }
            let Some((symbol, time)) = self.heads.iter().filter_map(Head::key).min() else { break };
            let of_row: Vec<bool> = self.heads.iter().map(|head| head.key() == Some((symbol, time))).collect();
            symbols.append_value(symbol);
            times.push(time);
            for (head, is_of_row) in self.heads.iter_mut().zip(of_row) {
                head.found.push(if is_of_row { (head.held.len(), head.row) } else { (0, 0) });
                head.row += usize::from(is_of_row);
            }
        }
        if times.is_empty() {
            return Ok(None);
        }
        let rows = times.len();
        let symbols: ArrayRef = Arc::new(symbols.finish());
        let times = cast(&Int64Array::from(times), &self.time)?;
        let arrays = self.columns.iter().zip(self.schema.fields()).map(|(column, field)| match column {
            MergedColumn::Symbol => Ok(Arc::clone(&symbols)),
            MergedColumn::Time => Ok(Arc::clone(&times)),
            MergedColumn::Value(input) => match self.heads.get(*input) {
                Some(head) => head.values(field.data_type()),
                None => Err(external(Error::internal("a column of scalars without an input"))),
            },
        });
        let arrays: Vec<ArrayRef> = arrays.collect::<SqlResult<_>>()?;
        self.heads.iter_mut().for_each(Head::release);
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?;
        self.output_rows.add(rows);
        Ok(Some(batch))
    }
}
