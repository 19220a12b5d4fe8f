//! `first(value, ts)` and `last(value, ts)`: the value of the row with the earliest or latest time.
//!
//! Of rows with the same time `first` takes the one that is read first, and `last` the one that is read last. Rows without
//! a time are left out. The order of rows does not matter, so that each thread can aggregate its own.

use std::collections::VecDeque;
use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Int64Array, PrimitiveArray, downcast_primitive,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type, UInt64Type};
use datafusion::common::ScalarValue;
use datafusion::error::Result as SqlResult;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};

use super::failure::external;
use crate::error::Error;

/// The aggregates of FastK.
pub fn aggregate_functions() -> [Arc<AggregateUDF>; 2] {
    [End::First, End::Last].map(|end| Arc::new(AggregateUDF::from(ValueAt::new(end))))
}

/// Which row of a group is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    First,
    Last,
}

impl End {
    /// Whether a row that is read later is taken instead of the one before.
    pub fn prefers(self, later: i64, before: i64) -> bool {
        match self {
            Self::First => later < before,
            Self::Last => later >= before,
        }
    }

    /// The row that is taken of some; `None` where none has a time.
    pub fn row(self, times: &Int64Array, rows: Range<usize>) -> Option<usize> {
        let mut found: Option<(i64, usize)> = None;
        for row in rows.filter(|row| times.is_valid(*row)) {
            let time = times.value(row);
            if found.is_none_or(|(before, _)| self.prefers(time, before)) {
                found = Some((time, row));
            }
        }
        found.map(|(_, row)| row)
    }
}

/// `first` or `last`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ValueAt {
    pub end: End,
    signature: Signature,
}

impl ValueAt {
    fn new(end: End) -> Self {
        Self { end, signature: Signature::user_defined(Volatility::Immutable) }
    }

    fn usage(&self) -> Error {
        let name = self.name();
        Error::invalid(format!("write {name}(value, ts), where ts is a time or a number"))
            .with_hint(format!("{name}_value(value ORDER BY …) orders by other columns"))
    }
}

impl AggregateUDFImpl for ValueAt {
    fn name(&self) -> &'static str {
        match self.end {
            End::First => "first",
            End::Last => "last",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> SqlResult<Vec<DataType>> {
        let [value, time] = types else { return Err(external(self.usage())) };
        let time = match time {
            DataType::Timestamp(..) | DataType::UInt64 => time.clone(),
            time if time.is_integer() => DataType::Int64,
            DataType::Date32 | DataType::Date64 | DataType::Null => DataType::Int64,
            time if time.is_floating() => DataType::Float64,
            _ => return Err(external(self.usage())),
        };
        Ok(vec![value.clone(), time])
    }

    fn return_type(&self, types: &[DataType]) -> SqlResult<DataType> {
        types.first().cloned().ok_or_else(|| external(self.usage()))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> SqlResult<Vec<FieldRef>> {
        let value = Field::new(format_state_name(args.name, "value"), args.return_type().clone(), true);
        let time = Field::new(format_state_name(args.name, "time"), DataType::Int64, true);
        Ok(vec![Arc::new(value), Arc::new(time)])
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn supports_null_handling_clause(&self) -> bool {
        true
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> SqlResult<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type().clone();
        Ok(Box::new(OneValue { end: self.end, ignores_nulls: args.ignore_nulls, data_type, found: None }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> SqlResult<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type().clone();
        let rows = VecDeque::new();
        Ok(Box::new(MovingValue {
            end: self.end,
            ignores_nulls: args.ignore_nulls,
            data_type,
            rows,
            added: 0,
            removed: 0,
        }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        args.return_field.data_type().is_primitive()
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> SqlResult<Box<dyn GroupsAccumulator>> {
        let data_type = args.return_field.data_type();
        macro_rules! of {
            ($t:ty) => {
                Ok(Box::new(GroupValues {
                    values: ValuesAt::<$t>::new(self.end, data_type.clone()),
                    ignores_nulls: args.ignore_nulls,
                }))
            };
        }
        downcast_primitive! {
            data_type => (of),
            other => Err(external(Error::internal(format!("{} of {other}", self.name()))))
        }
    }
}

/// Times as numbers of the same order.
pub fn time_words(times: &ArrayRef) -> SqlResult<Int64Array> {
    Ok(match times.data_type() {
        DataType::UInt64 => times.as_primitive::<UInt64Type>().unary(|time| (time ^ (1 << 63)).cast_signed()),
        DataType::Float64 => times.as_primitive::<Float64Type>().unary(|time: f64| {
            let bits = time.to_bits().cast_signed();
            if bits < 0 { bits ^ i64::MAX } else { bits }
        }),
        _ => cast(times, &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
    })
}

fn values_and_times(arrays: &[ArrayRef]) -> SqlResult<(&ArrayRef, Int64Array)> {
    match arrays {
        [values, times] => Ok((values, time_words(times)?)),
        _ => Err(external(Error::internal("first and last have two arguments"))),
    }
}

/// What is known of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GroupCell {
    NoRow,
    Null,
    Value,
}

/// The values of groups, of a primitive type.
#[derive(Debug)]
pub struct ValuesAt<T: ArrowPrimitiveType> {
    pub end: End,
    data_type: DataType,
    values: Vec<T::Native>,
    times: Vec<i64>,
    known: Vec<GroupCell>,
}

impl<T: ArrowPrimitiveType> ValuesAt<T> {
    pub const fn new(end: End, data_type: DataType) -> Self {
        Self { end, data_type, values: Vec::new(), times: Vec::new(), known: Vec::new() }
    }

    /// Makes space for so many groups.
    pub fn resize(&mut self, groups: usize) {
        self.values.resize(groups, T::default_value());
        self.times.resize(groups, 0);
        self.known.resize(groups, GroupCell::NoRow);
    }

    /// Considers a row of a group.
    pub fn consider(&mut self, group: usize, time: i64, value: Option<T::Native>) {
        let (Some(held), Some(held_time), Some(known)) =
            (self.values.get_mut(group), self.times.get_mut(group), self.known.get_mut(group))
        else {
            return;
        };
        if *known == GroupCell::NoRow || self.end.prefers(time, *held_time) {
            *held_time = time;
            (*held, *known) = match value {
                Some(value) => (value, GroupCell::Value),
                None => (*held, GroupCell::Null),
            };
        }
    }

    /// Removes the first groups: their values and times.
    pub fn take(&mut self, groups: EmitTo) -> (ArrayRef, ArrayRef) {
        let values = groups.take_needed(&mut self.values);
        let times = groups.take_needed(&mut self.times);
        let known = groups.take_needed(&mut self.known);
        let nulls = |is_valid: fn(GroupCell) -> bool| {
            let valid: BooleanBuffer = known.iter().map(|known| is_valid(*known)).collect();
            Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0)
        };
        let values = PrimitiveArray::<T>::new(values.into(), nulls(|known| known == GroupCell::Value))
            .with_data_type(self.data_type.clone());
        let times = Int64Array::new(times.into(), nulls(|known| known != GroupCell::NoRow));
        (Arc::new(values), Arc::new(times))
    }

    fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<T::Native>() + self.times.capacity() * 8 + self.known.capacity()
    }
}

#[derive(Debug)]
struct GroupValues<T: ArrowPrimitiveType> {
    values: ValuesAt<T>,
    ignores_nulls: bool,
}

impl<T: ArrowPrimitiveType + Send> GroupsAccumulator for GroupValues<T> {
    fn update_batch(
        &mut self,
        arrays: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> SqlResult<()> {
        let (values, times) = values_and_times(arrays)?;
        let values = values.as_primitive::<T>();
        self.values.resize(count);
        for (row, group) in groups.iter().enumerate() {
            let is_selected = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if is_selected && times.is_valid(row) && !(self.ignores_nulls && values.is_null(row)) {
                let value = values.is_valid(row).then(|| values.value(row));
                self.values.consider(*group, times.value(row), value);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, groups: EmitTo) -> SqlResult<ArrayRef> {
        Ok(self.values.take(groups).0)
    }

    fn state(&mut self, groups: EmitTo) -> SqlResult<Vec<ArrayRef>> {
        let (values, times) = self.values.take(groups);
        Ok(vec![values, times])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> SqlResult<()> {
        self.update_batch(states, groups, None, count)
    }

    fn convert_to_state(&self, arrays: &[ArrayRef], filter: Option<&BooleanArray>) -> SqlResult<Vec<ArrayRef>> {
        let (values, times) = values_and_times(arrays)?;
        let is_selected = |row| {
            filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
                && !(self.ignores_nulls && values.is_null(row))
        };
        let selected = NullBuffer::new((0..times.len()).map(is_selected).collect());
        let nulls = NullBuffer::union(times.nulls(), Some(&selected));
        Ok(vec![Arc::clone(values), Arc::new(Int64Array::new(times.values().clone(), nulls))])
    }

    fn size(&self) -> usize {
        self.values.bytes()
    }
}

/// The value of one group, of any type.
#[derive(Debug)]
struct OneValue {
    end: End,
    ignores_nulls: bool,
    data_type: DataType,
    found: Option<(i64, ScalarValue)>,
}

impl OneValue {
    fn value(&self) -> SqlResult<ScalarValue> {
        match &self.found {
            Some((_, value)) => Ok(value.clone()),
            None => ScalarValue::try_from(&self.data_type),
        }
    }
}

impl Accumulator for OneValue {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> SqlResult<()> {
        let (values, times) = values_and_times(arrays)?;
        let nulls = values.logical_nulls();
        let is_null = |row| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
        let mut found: Option<(i64, usize)> = None;
        for row in 0..times.len() {
            if times.is_null(row) || self.ignores_nulls && is_null(row) {
                continue;
            }
            let time = times.value(row);
            if found.is_none_or(|(before, _)| self.end.prefers(time, before)) {
                found = Some((time, row));
            }
        }
        if let Some((time, row)) = found
            && self.found.as_ref().is_none_or(|(before, _)| self.end.prefers(time, *before))
        {
            let mut value = ScalarValue::try_from_array(values, row)?;
            // Of a text its batch is not kept.
            value.compact();
            self.found = Some((time, value));
        }
        Ok(())
    }

    fn evaluate(&mut self) -> SqlResult<ScalarValue> {
        self.value()
    }

    fn state(&mut self) -> SqlResult<Vec<ScalarValue>> {
        Ok(vec![self.value()?, ScalarValue::Int64(self.found.as_ref().map(|(time, _)| *time))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> SqlResult<()> {
        self.update_batch(states)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.found.as_ref().map_or(0, |(_, value)| value.size())
    }
}

/// The value of the rows of a frame that moves.
#[derive(Debug)]
struct MovingValue {
    end: End,
    ignores_nulls: bool,
    data_type: DataType,
    /// Number, time and value of the rows that can still be taken: that of the frame first, then those that are when the
    /// ones before have left it.
    rows: VecDeque<(usize, i64, ScalarValue)>,
    added: usize,
    removed: usize,
}

impl Accumulator for MovingValue {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> SqlResult<()> {
        let (values, times) = values_and_times(arrays)?;
        let nulls = values.logical_nulls();
        for row in 0..times.len() {
            let number = self.added;
            self.added += 1;
            let is_null = self.ignores_nulls && nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            if times.is_null(row) || is_null {
                continue;
            }
            let time = times.value(row);
            while self.rows.back().is_some_and(|(_, before, _)| self.end.prefers(time, *before)) {
                self.rows.pop_back();
            }
            self.rows.push_back((number, time, ScalarValue::try_from_array(values, row)?));
        }
        Ok(())
    }

    fn retract_batch(&mut self, arrays: &[ArrayRef]) -> SqlResult<()> {
        self.removed += arrays.first().map_or(0, |values| values.len());
        while self.rows.front().is_some_and(|(number, ..)| *number < self.removed) {
            self.rows.pop_front();
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> SqlResult<ScalarValue> {
        match self.rows.front() {
            Some((_, _, value)) => Ok(value.clone()),
            None => ScalarValue::try_from(&self.data_type),
        }
    }

    fn state(&mut self) -> SqlResult<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?, ScalarValue::Int64(self.rows.front().map(|(_, time, _)| *time))])
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> SqlResult<()> {
        Err(external(Error::internal("frames are not merged")))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.rows.iter().map(|(_, _, value)| value.size() + 16).sum::<usize>()
    }
}
