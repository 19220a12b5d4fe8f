//! Resampled rows against a computation row by row: random bars with gaps, deletes and unsealed tails, random rules,
//! zones and sessions around the days on which clocks change.
//!
//! `FASTK_RESAMPLE_CASES` sets the amount, `FASTK_RESAMPLE_SEED` replays one failing case.

use std::collections::BTreeMap;

use fastk::query::{PagePosition, Query, ResultScan};
use fastk::store::{Store, StoreOptions, WriteMode};
use fastk::types::{ColumnType, Dictionary, Rows, SeriesKey, SeriesSpec};
use fastk::{ErrorCode, StoreReader};
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// A rule for the naive computation.
#[derive(Clone, Debug)]
struct Naive {
    every: &'static str,
    zone: Option<&'static str>,
    sessions: Option<NaiveSessions>,
    offset: i64,
}

/// The text of sessions; their opens and closes in minutes; whether they are from Monday to Friday only.
type NaiveSessions = (&'static str, Vec<(i64, i64)>, bool);

/// Start, end, and the parts of a bucket.
type NaiveBucket = (i64, i64, Vec<(i64, i64)>);

impl Naive {
    fn count(&self) -> i64 {
        self.every[..self.every.len() - 1].parse().unwrap()
    }

    /// Milliseconds of a length below a day.
    fn step(&self) -> Option<i64> {
        Some(
            self.count()
                * match self.every.as_bytes().last().unwrap() {
                    b's' => 1_000,
                    b'm' => MINUTE,
                    b'h' => HOUR,
                    _ => return None,
                },
        )
    }

    /// First date of the block of dates, and of the next.
    fn block(&self, day: Date) -> (Date, Date) {
        let count = self.count();
        let blocks = |origin: Date, length: i64| {
            let days = i64::from(origin.until(day).unwrap().get_days());
            let first = origin + Span::new().days(days.div_euclid(length) * length);
            (first, first + Span::new().days(length))
        };
        let months = match self.every.as_bytes().last().unwrap() {
            b'd' => return blocks(date(1970, 1, 1), count),
            b'w' => return blocks(date(1970, 1, 5), 7 * count),
            b'M' => count,
            b'q' => 3 * count,
            b'y' => 12 * count,
            _ => panic!("{}", self.every),
        };
        let month = (i64::from(day.year()) - 1970) * 12 + i64::from(day.month()) - 1;
        let first = date(1970, 1, 1) + Span::new().months(month.div_euclid(months) * months);
        (first, first + Span::new().months(months))
    }

    fn zone(&self) -> TimeZone {
        self.zone.map_or(TimeZone::UTC, |zone| TimeZone::get(zone).unwrap())
    }

    /// The moment of a local time, in minutes of a date.
    fn moment(&self, day: Date, minutes: i64) -> i64 {
        let civil = day.at(0, 0, 0, 0) + Span::new().minutes(minutes);
        let zoned = civil.to_zoned(self.zone()).unwrap();
        if zoned.datetime() != civil {
            // Skipped: the change of the clock.
            let before = Timestamp::from_millisecond(zoned.timestamp().as_millisecond() - 4 * HOUR).unwrap();
            return self.zone().following(before).next().unwrap().timestamp().as_millisecond();
        }
        zoned.timestamp().as_millisecond()
    }

    fn local_date(&self, ts: i64) -> Date {
        Timestamp::from_millisecond(ts).unwrap().to_zoned(self.zone()).date()
    }

    /// The bucket of a timestamp; `None` between sessions.
    fn bucket(&self, ts: i64) -> Option<NaiveBucket> {
        if self.sessions.is_some() {
            return self.session_bucket(ts);
        }
        let whole = |start: i64, end: i64| Some((start, end, vec![(start, end)]));
        if let (None, Some(step)) = (self.zone, self.step()) {
            let start = ts - (ts - self.offset * MINUTE).rem_euclid(step);
            return whole(start, start + step);
        }
        let near = self.local_date(ts);
        let day = [1, 0, -1, -2]
            .into_iter()
            .map(|days| near + Span::new().days(days))
            .find(|day| self.moment(*day, self.offset) <= ts)
            .unwrap();
        if let Some(step) = self.step() {
            let mut next = day.tomorrow().unwrap();
            while self.moment(next, self.offset) <= ts {
                next = next.tomorrow().unwrap();
            }
            let (first, last) = (self.moment(day, self.offset), self.moment(next, self.offset));
            let start = first + (ts - first) / step * step;
            return whole(start, (start + step).min(last));
        }
        let (first, next) = self.block(day);
        whole(self.moment(first, self.offset), self.moment(next, self.offset))
    }

    /// Sessions that open from a date to another one: open, close, and their date.
    fn sessions(&self, from: Date, to: Date) -> Vec<(i64, i64, Date)> {
        let (_, times, weekdays) = self.sessions.as_ref().unwrap();
        let mut found = Vec::new();
        let mut day = from;
        while day <= to {
            if !weekdays || day.weekday().to_monday_zero_offset() < 5 {
                for (open, close) in times {
                    let close = if close <= open { close + 1_440 } else { *close };
                    let of = if close > 1_440 { day.tomorrow().unwrap() } else { day };
                    let (open, close) = (self.moment(day, *open), self.moment(day, close));
                    if open < close {
                        found.push((open, close, of));
                    }
                }
            }
            day = day.tomorrow().unwrap();
        }
        found.sort_unstable_by_key(|(open, ..)| *open);
        found
    }

    fn session_bucket(&self, ts: i64) -> Option<NaiveBucket> {
        let near = self.local_date(ts);
        let days = |count: i64| Span::new().days(count);
        let around = self.sessions(near - days(2), near + days(1));
        let (open, close, day) = around.into_iter().find(|(open, close, _)| (*open..*close).contains(&ts))?;
        if let Some(step) = self.step() {
            let start = open + (ts - open) / step * step;
            let end = (start + step).min(close);
            return Some((start, end, vec![(start, end)]));
        }
        let (first, next) = self.block(day);
        let mut parts = self.sessions(first - days(2), next + days(1));
        parts.retain(|(_, _, day)| first <= *day && *day < next);
        let parts: Vec<(i64, i64)> = parts.into_iter().map(|(open, close, _)| (open, close)).collect();
        Some((parts[0].0, parts.last().unwrap().1, parts))
    }

    /// The next bucket.
    fn after(&self, bucket: &NaiveBucket) -> NaiveBucket {
        let mut ts = bucket.1;
        loop {
            if let Some(next) = self.bucket(ts) {
                return next;
            }
            ts += MINUTE;
        }
    }
}

fn rules() -> Vec<Naive> {
    let rule = |every, zone| Naive { every, zone, sessions: None, offset: 0 };
    let session = |every, zone, text, times: &[(i64, i64)], weekdays| Naive {
        every,
        zone: Some(zone),
        sessions: Some((text, times.to_vec(), weekdays)),
        offset: 0,
    };
    let new_york = &[(570, 960)][..];
    let sydney = &[(590, 990), (1_030, 420)][..];
    let mut rules = vec![
        rule("1h", None),
        rule("75m", None),
        rule("1d", None),
        rule("1w", None),
        rule("1M", None),
        rule("1q", None),
        Naive { offset: 45, ..rule("1h", None) },
        Naive { offset: -1_440, ..rule("1w", None) },
        Naive { offset: 1_020, ..rule("1d", Some("America/New_York")) },
        Naive { offset: 1_020, ..rule("4h", Some("America/New_York")) },
        session("1h", "America/New_York", "09:30-16:00", new_york, false),
        session("75m", "America/New_York", "mon-fri 09:30-16:00", new_york, true),
        session("1d", "America/New_York", "mon-fri 09:30-16:00", new_york, true),
        session("1w", "America/New_York", "mon-fri 09:30-16:00", new_york, true),
        session("1M", "America/New_York", "09:30-16:00", new_york, false),
        session("1h", "Australia/Sydney", "09:50-16:30,17:10-07:00", sydney, false),
        session("1d", "Australia/Sydney", "09:50-16:30,17:10-07:00", sydney, false),
        session("1d", "America/New_York", "17:00-17:00", &[(1_020, 1_020)], false),
        session("4h", "America/New_York", "17:00-17:00", &[(1_020, 1_020)], false),
    ];
    for zone in ["America/New_York", "Australia/Sydney", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo"] {
        for every in ["30m", "1h", "4h", "75m", "1d", "2d", "1w", "1M"] {
            rules.push(rule(every, Some(zone)));
        }
    }
    rules
}

/// Bars by timestamp: open, high, low, close, volume.
type Bars = BTreeMap<i64, [i64; 5]>;

struct Bench {
    store: Store,
    _root: tempfile::TempDir,
    key: SeriesKey,
    interval: i64,
    weekdays: bool,
    bars: Bars,
    rng: StdRng,
}

/// A row of the result: start, the columns or none, rows, complete, closed.
type ResultRow = (i64, Option<[i64; 5]>, u64, bool, bool);

impl Bench {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let root = tempfile::tempdir().unwrap();
        let options = StoreOptions { background_maintenance: false, maps_max: 4, ..StoreOptions::default() };
        let store = Store::open(root.path(), true, options).unwrap();
        let (timeframe, interval) = [("5m", 5 * MINUTE), ("1m", MINUTE)][usize::from(rng.random_bool(0.3))];
        let key = SeriesKey::kline("S", timeframe).unwrap();
        let mut spec = SeriesSpec::of_key(&key);
        (spec.price_digits, spec.volume_digits) = (Some(2), Some(3));
        let weekdays = rng.random_bool(0.3);
        spec.calendar = weekdays.then(|| json!("weekdays"));
        spec.partition = Some(["day", "month", "all"][rng.random_range(0..3)].into());
        store.register(spec.resolve().unwrap()).unwrap();
        Self { store, _root: root, key, interval, weekdays, bars: Bars::new(), rng }
    }

    /// Writes stretches of bars around a change of clocks, seals some, deletes some.
    fn fill(&mut self) {
        let changes = [
            "2024-03-10T07:00:00Z",
            "2024-11-03T06:00:00Z",
            "2024-04-06T16:00:00Z",
            "2024-10-05T16:00:00Z",
            "2018-11-04T03:00:00Z",
            "1970-01-01T00:00:00Z",
            "2023-12-31T12:00:00Z",
        ];
        let change = changes[self.rng.random_range(0..changes.len())].parse::<Timestamp>().unwrap().as_millisecond();
        let days = if self.rng.random_bool(0.2) { 45 } else { 5 };
        let first = change - change.rem_euclid(self.interval) - days / 2 * 24 * HOUR;
        let keep = [1.0, 0.97, 0.4, 0.01][self.rng.random_range(0..4)];
        let mut all: Vec<i64> = (0..days * 24 * HOUR / self.interval).map(|n| first + n * self.interval).collect();
        all.retain(|_| self.rng.random_bool(keep));
        for part in all.chunks(all.len() / 4 + 1) {
            let mut columns = vec![Vec::new(); 5];
            for ts in part {
                let open = self.rng.random_range(-500..500);
                let high = open + self.rng.random_range(0..50);
                let low = open - self.rng.random_range(0..50);
                let bar = [open, high, low, self.rng.random_range(low..=high), self.rng.random_range(0..1_000_000)];
                columns.iter_mut().zip(bar).for_each(|(column, cell)| column.push(cell));
                self.bars.insert(*ts, bar);
            }
            self.store.write(&self.key, Rows::of_words(part.to_vec(), columns), WriteMode::Upsert, None).unwrap();
            match self.rng.random_range(0..3) {
                0 => drop(self.store.seal(&[]).unwrap()),
                1 => {
                    let from = first + self.rng.random_range(0..days * 24) * HOUR;
                    let to = from + self.rng.random_range(1..40) * HOUR;
                    self.store.delete_range(&self.key, (from, to), None).unwrap();
                    self.bars.retain(|ts, _| !(from..=to).contains(ts));
                }
                _ => {}
            }
        }
    }

    fn is_open(&self, ts: i64) -> bool {
        !self.weekdays || (ts.div_euclid(24 * HOUR) + 3).rem_euclid(7) < 5
    }

    /// All rows of the result, ascending.
    fn expected(&self, rule: &Naive, fill: &str) -> Vec<ResultRow> {
        let mut found: BTreeMap<i64, (NaiveBucket, Vec<[i64; 5]>)> = BTreeMap::new();
        for (ts, bar) in &self.bars {
            if let Some(bucket) = rule.bucket(*ts) {
                found.entry(bucket.0).or_insert((bucket, Vec::new())).1.push(*bar);
            }
        }
        let watermark = self.bars.last_key_value().map_or(i64::MIN, |(ts, _)| ts + self.interval);
        let facts = |bucket: &NaiveBucket| {
            let is_missing = |ts: i64| self.is_open(ts) && !self.bars.contains_key(&ts);
            let mut starts = bucket.2.iter().flat_map(|(from, to)| {
                let first = from + (-from).rem_euclid(self.interval);
                (0..).map(move |n| first + n * self.interval).take_while(move |ts| ts < to)
            });
            (!starts.any(is_missing), bucket.1 <= watermark)
        };
        let mut rows: Vec<ResultRow> = Vec::new();
        let mut last: Option<(NaiveBucket, [i64; 5])> = None;
        for (bucket, bars) in found.into_values() {
            let bar = [
                bars[0][0],
                bars.iter().map(|bar| bar[1]).max().unwrap(),
                bars.iter().map(|bar| bar[2]).min().unwrap(),
                bars.last().unwrap()[3],
                bars.iter().map(|bar| bar[4]).sum(),
            ];
            if let (Some((before, old)), true) = (&last, fill != "none") {
                let mut at = rule.after(before);
                while at.0 < bucket.0 {
                    if (at.0..at.1).step_by(MINUTE as usize).any(|ts| self.is_open(ts)) {
                        let values = match fill {
                            "null" => None,
                            "zero" => Some([0; 5]),
                            "prev" => Some([old[3], old[3], old[3], old[3], 0]),
                            _ => {
                                let mut values = [0; 5];
                                for column in 0..4 {
                                    let (rise, span) = (bar[column] - old[column], bucket.0 - before.0);
                                    values[column] = old[column] + half_even(rise * (at.0 - before.0), span);
                                }
                                Some(values)
                            }
                        };
                        let (complete, closed) = facts(&at);
                        rows.push((at.0, values, 0, complete, closed));
                    }
                    at = rule.after(&at);
                }
            }
            let (complete, closed) = facts(&bucket);
            rows.push((bucket.0, Some(bar), bars.len() as u64, complete, closed));
            last = Some((bucket, bar));
        }
        rows
    }

    fn check(&mut self) {
        let rules = rules();
        let rule = &rules[self.rng.random_range(0..rules.len())];
        let fill = ["none", "none", "null", "prev", "zero", "linear"][self.rng.random_range(0..6)];
        let mut query = json!({"series": [self.key.as_str()], "every": rule.every, "fill": fill});
        if let Some(zone) = rule.zone {
            query["tz"] = zone.into();
        }
        if let Some((text, ..)) = &rule.sessions {
            query["session"] = (*text).into();
        }
        if rule.offset != 0 {
            query["offset"] = format!("{}m", rule.offset).into();
        }
        let all = self.expected(rule, fill);
        let mut expected = all.clone();
        if fill == "none" && self.rng.random_bool(0.3) {
            query["partial"] = "drop".into();
            expected.retain(|(_, _, _, complete, closed)| *complete && *closed);
        }
        let moments: Vec<i64> = self.bars.keys().copied().chain(all.iter().map(|row| row.0)).collect();
        if !moments.is_empty() {
            let (a, b) = (self.rng.random_range(0..moments.len()), self.rng.random_range(0..moments.len()));
            let shift = self.rng.random_range(-2..3) * 1_000 * i64::from(self.rng.random_bool(0.3));
            let (low, high) = (moments[a].min(moments[b]) + shift, moments[a].max(moments[b]) + shift);
            if self.rng.random_bool(0.5) {
                query["start"] = low.into();
                expected.retain(|row| row.0 >= low);
            }
            if self.rng.random_bool(0.5) {
                query["end"] = high.into();
                expected.retain(|row| row.0 <= high);
            }
        }
        if self.rng.random_bool(0.3) {
            let latest = self.rng.random_range(1..30_usize);
            query["latest"] = latest.into();
            expected = expected.split_off(expected.len().saturating_sub(latest));
        }
        if self.rng.random_bool(0.4) {
            query["order"] = "desc".into();
            expected.reverse();
        }
        let reader = self.store.reader();
        if self.rng.random_bool(0.4) {
            // Pages.
            let limit = self.rng.random_range(1..40_usize);
            query["limit"] = limit.into();
            let mut found = Vec::new();
            let mut position = None;
            loop {
                let (page, next) = read(&reader, &query, position);
                assert!(page.len() <= limit);
                found.extend(page);
                match next {
                    Some(next) => position = Some(next),
                    None => break,
                }
            }
            assert_eq!(found, expected, "{query}");
        } else {
            assert_eq!(read(&reader, &query, None).0, expected, "{query}");
        }
    }
}

/// A quotient rounded half to even.
fn half_even(dividend: i64, divisor: i64) -> i64 {
    let down = dividend.div_euclid(divisor);
    let rest = dividend.rem_euclid(divisor) * 2;
    down + i64::from(rest > divisor || rest == divisor && down % 2 != 0)
}

fn read(reader: &StoreReader, query: &Value, from: Option<PagePosition>) -> (Vec<ResultRow>, Option<PagePosition>) {
    let query: Query = serde_json::from_value(query.clone()).unwrap();
    let mut plan = reader.plan(&query).unwrap();
    if let Some(from) = from {
        assert!(plan.resume(from), "{from:?}");
    }
    let (schema, mut scan) = plan.into_result();
    assert!(matches!(scan, ResultScan::Buckets(_)));
    let names: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["open", "high", "low", "close", "volume", "source_rows", "complete", "closed"]);
    let mut rows = Vec::new();
    for block in scan.by_ref() {
        let block = block.unwrap();
        for row in 0..block.rows() {
            let values = block.column(1).is_valid(row).then(|| std::array::from_fn(|at| block.words(at + 1)[row]));
            let count = block.column(6).typed::<u64>()[row];
            rows.push((block.timestamps()[row], values, count, block.column(7).flag(row), block.column(8).flag(row)));
        }
    }
    (rows, scan.next_position())
}

#[test]
fn random_bars_under_random_rules_are_what_a_plain_computation_finds() {
    let cases: u64 = std::env::var("FASTK_RESAMPLE_CASES").map_or(8, |cases| cases.parse().unwrap());
    let seeds = match std::env::var("FASTK_RESAMPLE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..cases).collect(),
    };
    for seed in seeds {
        let mut bench = Bench::new(seed);
        bench.fill();
        for _ in 0..12 {
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.check()));
            if let Err(panic) = found {
                eprintln!("FASTK_RESAMPLE_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn store() -> (Store, tempfile::TempDir) {
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions { background_maintenance: false, ..StoreOptions::default() };
    (Store::open(root.path(), true, options).unwrap(), root)
}

fn plan_error(store: &Store, query: Value) -> fastk::Error {
    let query: Query = serde_json::from_value(query).unwrap();
    match store.reader().plan(&query) {
        Err(error) => error,
        Ok(plan) => plan.scan().find_map(Result::err).expect("an error"),
    }
}

#[test]
fn several_series_come_one_after_the_other_or_by_the_start_of_their_buckets() {
    let (store, _root) = store();
    for (symbol, digits, count) in [("A", 2, 300), ("B", 4, 200), ("C", 2, 0)] {
        let key = SeriesKey::kline(symbol, "1m").unwrap();
        let mut spec = SeriesSpec::of_key(&key);
        (spec.price_digits, spec.volume_digits) = (Some(digits), Some(0));
        store.register(spec.resolve().unwrap()).unwrap();
        let ts: Vec<i64> = (0..count).map(|n| n * MINUTE).collect();
        let columns = vec![ts.iter().map(|ts| ts / MINUTE).collect::<Vec<i64>>(); 5];
        store.write(&key, Rows::of_words(ts, columns), WriteMode::Upsert, None).unwrap();
    }
    let read = |more: Value| {
        let mut query = json!({"series": ["kline/*/1m"], "every": "1h", "columns": ["close", "source_rows"]});
        query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let query: Query = serde_json::from_value(query).unwrap();
        let (schema, scan) = store.reader().plan(&query).unwrap().into_result();
        assert_eq!(schema.columns[0].kind, ColumnType::Decimal { digits: 4 });
        let mut rows = Vec::new();
        for block in scan {
            let block = block.unwrap();
            for row in 0..block.rows() {
                rows.push((block.series_of(row), block.timestamps()[row] / HOUR, block.words(1)[row]));
            }
        }
        rows
    };
    let a = |hour: i64| (0, hour, (hour * 60 + 59) * 100);
    let b = |hour: i64| (1, hour, if hour == 3 { 199 } else { hour * 60 + 59 });
    let by_series: Vec<_> = (0..5).map(a).chain((0..4).map(b)).collect();
    assert_eq!(read(json!({})), by_series);
    let by_time: Vec<_> = (0..5).flat_map(|hour| std::iter::once(a(hour)).chain((hour < 4).then(|| b(hour)))).collect();
    assert_eq!(read(json!({"layout": "by_time"})), by_time);
    assert_eq!(read(json!({"layout": "by_time", "order": "desc", "limit": 3})), [a(4), a(3), b(3)]);
    assert_eq!(read(json!({"latest": 1})), [a(4), b(3)]);
    assert_eq!(read(json!({"limit": 6})), by_series[..6]);
    // Pages of both layouts, in both directions.
    for layout in ["by_series", "by_time"] {
        for order in ["asc", "desc"] {
            let all = read(json!({"layout": layout, "order": order}));
            let (mut found, mut position) = (Vec::new(), None);
            loop {
                let query: Query = serde_json::from_value(json!({"series": ["kline/*/1m"], "every": "1h",
                    "columns": ["close"], "layout": layout, "order": order, "limit": 2}))
                .unwrap();
                let mut plan = store.reader().plan(&query).unwrap();
                if let Some(position) = position {
                    assert!(plan.resume(position));
                }
                let mut scan = plan.scan();
                for block in scan.by_ref() {
                    let block = block.unwrap();
                    let row = |row| (block.series_of(row), block.timestamps()[row] / HOUR, block.words(1)[row]);
                    found.extend((0..block.rows()).map(row));
                }
                match scan.next_position() {
                    Some(next) => position = Some(next),
                    None => break,
                }
            }
            assert_eq!(found, all, "{layout} {order}");
        }
    }
}

/// Rows between the sessions belong to no bucket; gaps end at the next row within a session.
#[test]
fn gaps_are_filled_up_to_rows_within_a_session() {
    let (store, _root) = store();
    let key = SeriesKey::kline("S", "5m").unwrap();
    store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
    // A row at 10:00 of the first day, rows at 20:00 of five days, and one at 11:00 of the last day.
    let day = 24 * HOUR;
    let mut ts = vec![10 * HOUR];
    ts.extend((0..5).map(|n| n * day + 20 * HOUR));
    ts.push(5 * day + 11 * HOUR);
    let columns = vec![vec![1_i64; ts.len()]; 5];
    store.write(&key, Rows::of_words(ts, columns), WriteMode::Upsert, None).unwrap();
    let starts = |from: i64, to: i64, order: &str| {
        let query = json!({"series": ["kline/S/5m"], "every": "1h", "session": "10:00-12:00", "tz": "UTC", "fill": "zero",
            "start": from, "end": to, "order": order});
        let mut starts: Vec<i64> = self::read(&store.reader(), &query, None).0.into_iter().map(|row| row.0).collect();
        if order == "desc" {
            starts.reverse();
        }
        starts
    };
    let of_day = |n: i64| [n * day + 10 * HOUR, n * day + 11 * HOUR];
    for order in ["asc", "desc"] {
        assert_eq!(starts(0, 6 * day, order), (0..6).flat_map(of_day).collect::<Vec<_>>());
        assert_eq!(starts(2 * day, 4 * day, order), (2..4).flat_map(of_day).collect::<Vec<_>>());
    }
}

#[test]
fn ticks_are_combined_by_rules_of_the_request() {
    let (store, _root) = store();
    let kind = json!({"kind": "print", "key": ["symbol"], "unit": "us", "order": "arrival", "fields": [
        {"name": "price", "type": "decimal", "digits": 2}, {"name": "qty", "type": "decimal", "digits": 3},
        {"name": "side", "type": "enum", "values": ["buy", "sell"]}, {"name": "id", "type": "uint32", "nullable": true},
        {"name": "note", "type": "text"}]});
    let (kind, _) = store.register_kind(serde_json::from_value(kind).unwrap()).unwrap();
    let key = SeriesKey::parse("print/X").unwrap();
    let def = SeriesSpec::of_key(&key).resolve_as(&kind.def).unwrap();
    store.register(def.clone()).unwrap();
    let second = 1_000_000;
    let mut rows = Rows::with_capacity(&def.columns, 4);
    for (ts, price, qty, side, id) in [
        (0, 100, 1_000, 0_u8, Some(7_u32)),
        (0, 103, 2_000, 1, None),
        (59 * second, 90, 1_000, 0, None),
        (61 * second, 95, 500, 1, Some(9)),
    ] {
        rows.ts.push(ts);
        rows.columns[0].push::<i64>(price);
        rows.columns[1].push::<i64>(qty);
        rows.columns[2].push(side);
        match id {
            Some(id) => rows.columns[3].push(id),
            None => rows.columns[3].push_null(),
        }
        rows.columns[4].push(0_u32);
    }
    rows.texts = vec![Dictionary::default(); 5];
    rows.texts[4] = std::iter::once(std::sync::Arc::from("a")).collect();
    store.write(&key, rows, WriteMode::Append, None).unwrap();
    let query: Query = serde_json::from_value(json!({"series": ["print/X"], "every": "1m", "agg": [
        "price:first as open", "price:max as high", "price:min as low", "price:last as close", "qty:sum", "count",
        "vwap(price,qty)", "qty:sum if side:eq:buy as buy_volume", "price:mean", "id:last", "id:count", "qty:wide_sum",
        "note:first"]}))
    .unwrap();
    let (schema, scan) = store.reader().plan(&query).unwrap().into_result();
    let kinds: Vec<String> = schema.columns.iter().map(|column| column.kind.text()).collect();
    assert_eq!(kinds[4..7], ["decimal(3)", "uint64", "decimal(2)"]);
    assert_eq!(kinds[11], "decimal(3, wide)");
    let blocks: Vec<_> = scan.map(Result::unwrap).collect();
    let [block] = blocks.as_slice() else { panic!("{} blocks", blocks.len()) };
    let words = |column: usize| block.words(column).to_vec();
    assert_eq!(block.timestamps(), [0, 60 * second]);
    assert_eq!((words(1), words(2), words(3), words(4)), (vec![100, 95], vec![103, 95], vec![90, 95], vec![90, 95]));
    assert_eq!((words(5), words(6)), (vec![4_000, 500], vec![3, 1]));
    // (100·1000 + 103·2000 + 90·1000)/4000 = 99
    assert_eq!(words(7), [99, 95]);
    assert_eq!(words(8), [2_000, 0], "the sum of no rows is 0");
    // 293/3 = 97.67
    assert_eq!(words(9), [98, 95]);
    assert_eq!((block.column(10).typed::<u32>(), block.column(11).typed::<u64>()), (&[7, 9][..], &[1, 1][..]));
    assert_eq!(block.column(12).typed::<i128>(), [4_000, 500]);
    // Without intervals it is unknown whether a bucket is complete, and it is closed once a later row is stored.
    assert!(!block.column(15).is_valid(0));
    assert_eq!((block.column(16).flag(0), block.column(16).flag(1)), (true, false));
    for (agg, part) in [
        (json!(["note:max"]), "max of column note"),
        (json!(["side:sum"]), "sum of column side"),
        (json!(["size:sum"]), "no column"),
        (json!(["price:first", "price:first"]), "two columns"),
        (json!(["price:last as closed"]), "two columns"),
        (json!([]), "0 columns"),
    ] {
        let error = plan_error(&store, json!({"series": ["print/X"], "every": "1m", "agg": agg}));
        assert!(error.detail().contains(part), "{error}");
    }
}

#[test]
fn buckets_that_cut_intervals_are_refused() {
    let (store, _root) = store();
    for timeframe in ["1h", "1d", "1w"] {
        let key = SeriesKey::kline("S", timeframe).unwrap();
        store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
        let monday = date(2024, 3, 4).to_zoned(TimeZone::UTC).unwrap().timestamp().as_millisecond();
        let rows = Rows::of_words(vec![monday, monday + 168 * HOUR], vec![vec![0; 2]; 5]);
        store.write(&key, rows, WriteMode::Upsert, None).unwrap();
    }
    for (timeframe, more) in [
        ("1h", json!({"every": "30m"})),
        ("1h", json!({"every": "90m"})),
        ("1h", json!({"every": "1h", "offset": "30m"})),
        ("1h", json!({"every": "1h", "tz": "America/New_York", "session": "09:30-16:00"})),
        ("1h", json!({"every": "1d", "tz": "Asia/Kolkata"})),
        ("1d", json!({"every": "1w", "tz": "America/New_York"})),
        ("1w", json!({"every": "1M"})),
    ] {
        let mut query = json!({"series": [format!("kline/S/{timeframe}")]});
        query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = plan_error(&store, query.clone());
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{query}");
        assert!(error.detail().contains("within the intervals") || error.detail().contains("crosses"), "{error}");
    }
    for (timeframe, every) in [("1h", "1h"), ("1h", "1d"), ("1d", "1w"), ("1d", "1M"), ("1w", "2w")] {
        let query = json!({"series": [format!("kline/S/{timeframe}")], "every": every});
        let query: Query = serde_json::from_value(query).unwrap();
        assert!(store.reader().plan(&query).unwrap().scan().all(|block| block.is_ok()), "{timeframe} {every}");
    }
}

#[test]
fn sums_that_do_not_fit_are_an_error_with_a_way_out() {
    let (store, _root) = store();
    let key = SeriesKey::kline("S", "1m").unwrap();
    let mut spec = SeriesSpec::of_key(&key);
    (spec.price_digits, spec.volume_digits) = (Some(2), Some(8));
    store.register(spec.resolve().unwrap()).unwrap();
    let large = 10_i64.pow(18) - 1;
    let ts: Vec<i64> = (0..20).map(|n| n * MINUTE).collect();
    let mut columns = vec![vec![0; 20]; 5];
    columns[4] = vec![large; 20];
    store.write(&key, Rows::of_words(ts, columns), WriteMode::Upsert, None).unwrap();
    let error = plan_error(&store, json!({"series": [key.as_str()], "every": "1h"}));
    assert_eq!(error.code(), ErrorCode::SchemaMismatch);
    assert!(error.detail().contains("volume") && error.hint().unwrap().contains("volume:wide_sum"), "{error}");
    let query: Query =
        serde_json::from_value(json!({"series": [key.as_str()], "every": "1h", "agg": ["volume:wide_sum as volume"]}))
            .unwrap();
    let block = store.reader().plan(&query).unwrap().scan().next().unwrap().unwrap();
    assert_eq!(block.column(1).typed::<i128>(), [i128::from(large) * 20]);
}

#[test]
fn what_has_no_meaning_with_buckets_is_refused() {
    let (store, _root) = store();
    let key = SeriesKey::kline("S", "1m").unwrap();
    store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
    for (more, part) in [
        (json!({"fill": "prev"}), "needs every"),
        (json!({"partial": "drop"}), "partial needs every"),
        (json!({"every": "1h", "partial": "drop", "fill": "zero"}), "partial=drop"),
        (json!({"every": "1h", "latest_complete": 1}), "latest_complete"),
        (json!({"every": "1h", "where": [{"column": "ts", "op": "gt", "value": 0}]}), "condition on ts"),
        (json!({"every": "1x"}), "1x"),
        (json!({"every": "1h", "columns": ["price"]}), "price"),
        (json!({"every": "1h", "session": "calendar"}), "no calendar"),
    ] {
        let mut query = json!({"series": [key.as_str()]});
        query.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = plan_error(&store, query);
        assert!(error.detail().contains(part), "{error}");
    }
}

#[test]
fn conditions_select_rows_before_they_are_combined() {
    let (store, _root) = store();
    let key = SeriesKey::scalar("c", "S", "1m", "n").unwrap();
    store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
    let ts: Vec<i64> = (0..180).map(|n| n * MINUTE).collect();
    let words = (0..180_i32).map(|n| f64::from(n).to_bits().cast_signed()).collect();
    store.write(&key, Rows::of_words(ts, vec![words]), WriteMode::Upsert, None).unwrap();
    let query: Query = serde_json::from_value(json!({"series": [key.as_str()], "every": "1h",
        "where": [{"op": "lt", "value": 90}], "agg": ["value:last", "value:sum", "count"]}))
    .unwrap();
    let block = store.reader().plan(&query).unwrap().scan().next().unwrap().unwrap();
    assert_eq!(block.column(1).typed::<f64>(), [59.0, 89.0]);
    assert_eq!(block.column(2).typed::<f64>(), [(0..60).sum::<i32>(), (60..90).sum()].map(f64::from));
    assert_eq!(block.words(3), [60, 30]);
    // Which intervals are stored does not depend on the condition.
    assert_eq!((block.column(5).flag(0), block.column(5).flag(1)), (true, true));
}
