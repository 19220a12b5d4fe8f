//! Results of several series from all interfaces, compared with a plain model: rows of a few series in ordered maps,
//! sorted into the requested order.
//!
//! `FASTK_MULTI_SERIES_STEPS` sets the amount, `FASTK_MULTI_SERIES_SEED` the random choices.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal64Type, Int32Type, TimestampMillisecondType};
use arrow::ipc::reader::StreamReader;
use arrow::util::display::array_value_to_string;
use arrow_flight::{FlightClient, FlightDescriptor, Ticket};
use bytes::Bytes;
use fastk::cli::remote::{Call, RestClient};
use fastk::service::{Service, StoreOptions};
use futures::TryStreamExt;
use hyper::Method;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::server::Served;

const MINUTE: i64 = 60_000;
/// Symbols and the digits of their prices; results have four.
const SERIES: [(&str, u32); 6] = [("A1", 2), ("A2", 4), ("A3", 2), ("B1", 0), ("B2", 4), ("EMPTY", 1)];
const DIGITS: u32 = 4;

/// Series, timestamp, price of four digits, volume of three.
type Row = (String, i64, i64, i64);

struct World {
    rng: StdRng,
    runtime: Runtime,
    rest: RestClient,
    flight: FlightClient,
    _stop: Vec<oneshot::Sender<()>>,
    map: BTreeMap<String, BTreeMap<i64, (i64, i64)>>,
    _root: tempfile::TempDir,
}

impl World {
    fn new(seed: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let options = StoreOptions { wal_segment_bytes: 1 << 20, tail_rows_max: 3_000, ..StoreOptions::default() };
        let service = Service::open(root.path(), true, options).unwrap();
        let Served { runtime, rest, flight, stop } = Served::start(&service);
        let world = Self {
            rng: StdRng::seed_from_u64(seed),
            flight,
            rest,
            runtime,
            _stop: stop,
            map: SERIES.iter().map(|(symbol, _)| (key(symbol), BTreeMap::new())).collect(),
            _root: root,
        };
        for (symbol, digits) in SERIES {
            // Results omit columns that not all series have.
            let extra = if symbol == "A2" { r#","extra_columns":[{"name":"trades","type":"int64"}]"# } else { "" };
            let body = format!(
                r#"{{"kind":"kline","symbol":"{symbol}","timeframe":"1m","price_digits":{digits},"volume_digits":3,
                    "partition":"day"{extra}}}"#
            );
            world.post("/v1/series", body).unwrap();
        }
        world
    }

    fn post(&self, path: &str, body: String) -> fastk::Result<Value> {
        self.rest.json(Call::new(Method::POST, path).body("application/json", body.into()))
    }

    fn ts(&mut self) -> i64 {
        self.rng.random_range(0..6_000) * MINUTE
    }

    fn write(&mut self) {
        let (symbol, digits) = SERIES[self.rng.random_range(0..5)];
        let count = [1, 30, 900, 2_500][self.rng.random_range(0..4)];
        let mut ts = self.ts();
        let mut rows = Vec::new();
        for _ in 0..count {
            let price = self.rng.random_range(1..1_000_i64) * 10_i64.pow(DIGITS);
            let price = price - price % 10_i64.pow(DIGITS - digits);
            let volume = self.rng.random_range(0..50_i64);
            let shown = price as f64 / f64::from(10_u32.pow(DIGITS));
            let mut row = json!({"ts": ts, "open": shown, "high": shown, "low": shown, "close": shown,
                "volume": volume as f64 / 1e3});
            if symbol == "A2" {
                row["trades"] = json!(volume);
            }
            rows.push(row);
            self.map.get_mut(&key(symbol)).unwrap().insert(ts, (price, volume));
            ts += MINUTE * [1, 1, 1, 7][self.rng.random_range(0..4)];
        }
        self.post(&format!("/v1/klines/{symbol}/1m"), json!(rows).to_string()).unwrap();
    }

    fn delete(&mut self) {
        let (symbol, _) = SERIES[self.rng.random_range(0..5)];
        let (a, b) = (self.ts(), self.ts());
        let (start, end) = (a.min(b), a.max(b).min(a.min(b) + 600 * MINUTE));
        let call = Call::new(Method::DELETE, format!("/v1/klines/{symbol}/1m"));
        let _: Value = self.rest.json(call.param("start", &start.to_string()).param("end", &end.to_string())).unwrap();
        self.map.get_mut(&key(symbol)).unwrap().retain(|ts, _| !(start..=end).contains(ts));
    }

    fn body(&self, format: &str, query: &Value) -> Vec<u8> {
        let call = Call::new(Method::POST, "/v1/query")
            .param("format", format)
            .body("application/json", query.to_string().into());
        let mut body = Vec::new();
        self.rest
            .stream(call, &mut |bytes| {
                body.extend_from_slice(&bytes);
                Ok(())
            })
            .unwrap();
        body
    }

    fn get(&mut self, ticket: Ticket) -> Vec<RecordBatch> {
        let flight = &mut self.flight;
        self.runtime.block_on(async { flight.do_get(ticket).await?.try_collect().await }).unwrap()
    }

    fn check(&mut self) {
        let choices: [&[&str]; 4] = [
            &["kline/*/1m"],
            &["kline/A*/1m", "kline/EMPTY/1m"],
            &["kline/B2/1m", "kline/A1/1m", "kline/B2/1m"],
            &["kline/*1/1m", "kline/A*/*"],
        ];
        let requested = *choices.choose(&mut self.rng).unwrap();
        let matches = |symbol: &str| {
            requested.iter().any(|text| {
                let part = text.split('/').nth(1).unwrap();
                match part.split_once('*') {
                    Some((head, tail)) => symbol.starts_with(head) && symbol.ends_with(tail),
                    None => part == symbol,
                }
            })
        };
        let (a, b) = (self.ts(), self.ts());
        let (start, end) = (a.min(b), a.max(b));
        let desc = self.rng.random_bool(0.4);
        let by_time = self.rng.random_bool(0.5);
        let limit = self.rng.random_bool(0.4).then(|| self.rng.random_range(1..3_000_usize));
        let latest = self.rng.random_bool(0.3).then(|| self.rng.random_range(1..1_500_usize));
        let above = self.rng.random_bool(0.4).then(|| self.rng.random_range(0..1_100_i64));
        let mut expected: Vec<Row> = Vec::new();
        for (key, map) in self.map.iter().filter(|(key, _)| matches(key.split('/').nth(1).unwrap())) {
            let rows: Vec<Row> = map
                .range(start..=end)
                .filter(|(_, (price, _))| above.is_none_or(|above| *price > above * 10_000))
                .map(|(ts, (price, volume))| (key.clone(), *ts, *price, *volume))
                .collect();
            expected.extend_from_slice(&rows[rows.len().saturating_sub(latest.unwrap_or(usize::MAX))..]);
        }
        expected.sort_by_key(|(key, ts, ..)| {
            let ts = if desc { -ts } else { *ts };
            if by_time { (ts, key.clone(), 0) } else { (0, key.clone(), ts) }
        });
        let everything = expected.len();
        expected.truncate(limit.unwrap_or(usize::MAX));
        let mut query = json!({"series": requested, "start": start, "end": end, "columns": ["close", "volume"],
            "order": if desc { "desc" } else { "asc" }, "layout": if by_time { "by_time" } else { "by_series" }});
        if let Some(latest) = latest {
            query["latest"] = json!(latest);
        }
        if let Some(above) = above {
            query["where"] = json!([{"column": "close", "op": "gt", "value": above}]);
        }
        let unlimited = query.clone();
        if let Some(limit) = limit {
            query["limit"] = json!(limit);
        }
        let same = |face: &str, found: Vec<Row>| {
            assert_eq!(found.len(), expected.len(), "{face}: rows of {query}");
            let differ = found.iter().zip(&expected).position(|(a, b)| a != b);
            assert!(
                differ.is_none(),
                "{face}: row {differ:?} of {query}: {:?}",
                differ.map(|at| (&found[at], &expected[at]))
            );
        };
        let scaled = |text: &str, digits: u32| -> i64 {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            assert_eq!(fraction.len(), digits as usize, "{text}");
            format!("{whole}{fraction}").parse().unwrap()
        };
        let csv = String::from_utf8(self.body("csv", &query)).unwrap();
        assert!(csv.starts_with("series,ts,close,volume\n"), "{}", &csv[..40]);
        let of_csv = |line: &str| -> Row {
            let cells: Vec<&str> = line.split(',').collect();
            (cells[0].into(), cells[1].parse().unwrap(), scaled(cells[2], DIGITS), scaled(cells[3], 3))
        };
        same("csv", csv.lines().skip(1).map(of_csv).collect());
        let lines = String::from_utf8(self.body("ndjson", &query)).unwrap();
        let of_line = |line: &str| -> Row {
            let row: Value = serde_json::from_str(line).unwrap();
            of_json(&row)
        };
        same("ndjson", lines.lines().map(of_line).collect());
        let arrow = self.body("arrow", &query);
        let batches = StreamReader::try_new(arrow.as_slice(), None).unwrap().map(Result::unwrap);
        same("arrow", batches.flat_map(|batch| rows_of(&batch)).collect());
        let parquet = Bytes::from(self.body("parquet", &query));
        let batches = ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap().build().unwrap().map(Result::unwrap);
        same("parquet", batches.flat_map(|batch| rows_of(&batch)).collect());
        let batches = self.get(Ticket::new(query.to_string()));
        same("flight", batches.iter().flat_map(rows_of).collect());

        // GetFlightInfo, and its endpoints one after the other.
        let mut planned = query.clone();
        planned["endpoints"] = json!(3);
        let descriptor = FlightDescriptor::new_cmd(planned.to_string());
        let flight = &mut self.flight;
        let info = self.runtime.block_on(flight.get_flight_info(descriptor)).unwrap();
        let known = if above.is_some() { -1 } else { expected.len() as i64 };
        assert_eq!(info.total_records, known, "total_records of {query}");
        let mut found: Vec<Row> = Vec::new();
        for endpoint in &info.endpoint {
            for batch in self.get(endpoint.ticket.clone().unwrap()) {
                found.extend(rows_of(&batch));
            }
        }
        if !info.ordered {
            assert!(!by_time && info.endpoint.len() > 1);
            found.sort_by_key(|(key, ts, ..)| (key.clone(), *ts));
        }
        same("endpoints", found);

        // All pages of JSON, with writes in between.
        let mut found = Vec::new();
        let mut cursor: Option<String> = None;
        let mut commit = None;
        loop {
            let mut page = unlimited.clone();
            page["limit"] = json!(self.rng.random_range(100..2_000));
            if let Some(cursor) = cursor.take() {
                page["cursor"] = json!(cursor);
            }
            let reply: Value = serde_json::from_slice(&self.body("json", &page)).unwrap();
            assert_eq!(reply["series"], json!(requested));
            assert!(reply.get("version").is_none());
            assert_eq!(*commit.get_or_insert_with(|| reply["commit"].clone()), reply["commit"]);
            found.extend(reply["rows"].as_array().unwrap().iter().map(of_json));
            if self.rng.random_bool(0.1) {
                self.write();
            }
            match reply["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        assert_eq!(found.len(), everything, "pages of {query}");
        found.truncate(limit.unwrap_or(usize::MAX));
        same("json pages", found);
    }

    /// Closes of some series side by side, as lines of CSV.
    fn check_panel(&mut self) {
        let mut chosen = SERIES.to_vec();
        chosen.shuffle(&mut self.rng);
        chosen.truncate(self.rng.random_range(1..=4));
        let maps: Vec<&BTreeMap<i64, (i64, i64)>> = chosen.iter().map(|(symbol, _)| &self.map[&key(symbol)]).collect();
        let tolerance = [None, Some(3), Some(120)][self.rng.random_range(0..3)];
        let start = self.rng.random_range(0..6_000) * MINUTE;
        let desc = self.rng.random_bool(0.4);
        let times: BTreeSet<i64> = match tolerance {
            None => maps.iter().flat_map(|map| map.keys().copied()).collect(),
            Some(_) => maps[0].keys().copied().collect(),
        };
        let mut expected: Vec<String> = Vec::new();
        for ts in times.into_iter().filter(|ts| *ts >= start) {
            let mut line = ts.to_string();
            for (at, (map, (_, digits))) in maps.iter().zip(&chosen).enumerate() {
                let oldest = ts - tolerance.filter(|_| at > 0).unwrap_or(0) * MINUTE;
                line.push(',');
                if let Some((_, (price, _))) = map.range(oldest..=ts).next_back() {
                    let text = format!("{:.1$}", *price as f64 / 1e4, *digits as usize);
                    line.push_str(&text);
                }
            }
            expected.push(line);
        }
        if desc {
            expected.reverse();
        }
        let series: Vec<String> = chosen.iter().map(|(symbol, _)| key(symbol)).collect();
        let join = tolerance.map_or(json!("exact"), |minutes| json!({"asof": format!("{minutes}m")}));
        let query = json!({"series": series, "columns": ["close"], "layout": "wide", "join": join, "start": start,
            "order": if desc { "desc" } else { "asc" }});
        let names: Vec<String> = chosen.iter().map(|(symbol, _)| format!("{symbol}.close")).collect();
        let same = |face: &str, found: Vec<String>| {
            let at = found.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(found.len().min(expected.len()));
            assert!(found == expected, "{face}, row {at}: {:?}, {:?}: {query}", found.get(at), expected.get(at));
        };
        let csv = String::from_utf8(self.body("csv", &query)).unwrap();
        let (header, lines) = csv.split_once('\n').unwrap();
        assert_eq!(header, format!("ts,{}", names.join(",")));
        same("csv", lines.lines().map(str::to_owned).collect());
        let of_object = |row: &Value| {
            let cell = |name: &String| row[name].as_str().unwrap_or_default().to_owned();
            let cells: Vec<String> = names.iter().map(cell).collect();
            format!("{},{}", row["ts"].as_str().unwrap(), cells.join(","))
        };
        let of_batch = |batch: &RecordBatch| -> Vec<String> {
            let line = |row: usize| {
                let ts = batch.column(0).as_primitive::<TimestampMillisecondType>().value(row);
                let cell = |at: usize| array_value_to_string(batch.column(at), row).unwrap();
                let cells: Vec<String> = (1..batch.num_columns()).map(cell).collect();
                format!("{ts},{}", cells.join(","))
            };
            (0..batch.num_rows()).map(line).collect()
        };
        let mut texts = query.clone();
        texts["numbers"] = json!("string");
        let lines = String::from_utf8(self.body("ndjson", &texts)).unwrap();
        same("ndjson", lines.lines().map(|line| of_object(&serde_json::from_str(line).unwrap())).collect());
        let arrow = self.body("arrow", &query);
        let batches = StreamReader::try_new(arrow.as_slice(), None).unwrap().map(Result::unwrap);
        same("arrow", batches.flat_map(|batch| of_batch(&batch)).collect());
        let parquet = Bytes::from(self.body("parquet", &query));
        let batches = ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap().build().unwrap().map(Result::unwrap);
        same("parquet", batches.flat_map(|batch| of_batch(&batch)).collect());
        same("flight", self.get(Ticket::new(query.to_string())).iter().flat_map(of_batch).collect());
        let mut planned = query.clone();
        planned["endpoints"] = json!(3);
        let flight = &mut self.flight;
        let info =
            self.runtime.block_on(flight.get_flight_info(FlightDescriptor::new_cmd(planned.to_string()))).unwrap();
        assert!(info.ordered && info.total_records == -1);
        let mut found = Vec::new();
        for endpoint in &info.endpoint {
            found.extend(self.get(endpoint.ticket.clone().unwrap()).iter().flat_map(of_batch));
        }
        same("endpoints", found);
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let mut page = texts.clone();
            page["limit"] = json!(self.rng.random_range(100..2_000));
            page["cursor"] = json!(cursor);
            let reply: Value = serde_json::from_slice(&self.body("json", &page)).unwrap();
            assert_eq!((&reply["series"], reply.get("version")), (&json!(series), None));
            found.extend(reply["rows"].as_array().unwrap().iter().map(of_object));
            cursor = reply["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        same("json pages", found);
    }
}

fn key(symbol: &str) -> String {
    format!("kline/{symbol}/1m")
}

fn of_json(row: &Value) -> Row {
    let number = |name: &str, factor: f64| (row[name].as_f64().unwrap() * factor).round() as i64;
    (row["series"].as_str().unwrap().into(), row["ts"].as_i64().unwrap(), number("close", 1e4), number("volume", 1e3))
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let words = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    assert_eq!(batch.column(0).data_type(), &words);
    assert_eq!(batch.schema().field(2).data_type(), &DataType::Decimal64(18, DIGITS as i8));
    let series = batch.column(0).as_dictionary::<Int32Type>();
    let keys = series.values().as_string::<i32>();
    let ts = batch.column(1).as_primitive::<TimestampMillisecondType>();
    let close = batch.column(2).as_primitive::<Decimal64Type>();
    let volume = batch.column(3).as_primitive::<Decimal64Type>();
    (0..batch.num_rows())
        .map(|row| {
            let key = keys.value(series.key(row).unwrap());
            (key.to_owned(), ts.value(row), close.value(row), volume.value(row))
        })
        .collect()
}

#[test]
fn results_of_several_series_equal_sorted_maps() {
    let amount = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (steps, seed) = (amount("FASTK_MULTI_SERIES_STEPS", 60), amount("FASTK_MULTI_SERIES_SEED", 1));
    println!("FASTK_MULTI_SERIES_SEED={seed} FASTK_MULTI_SERIES_STEPS={steps}");
    let mut world = World::new(seed);
    for _ in 0..steps {
        match world.rng.random_range(0..10) {
            0..7 => world.write(),
            7..9 => world.delete(),
            _ => drop(world.post("/v1/admin/compact?wait=true", "{}".into()).unwrap()),
        }
        world.check();
        world.check_panel();
    }
}
