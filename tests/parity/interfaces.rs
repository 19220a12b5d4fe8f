//! Random writes and deletes through REST and Flight: REST, Flight and the engine return the contents of a plain
//! ordered map.
//!
//! `FASTK_INTERFACES_STEPS` sets the amount, `FASTK_INTERFACES_SEED` the random choices.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::{Action, FlightClient, FlightDescriptor, Ticket};
use bytes::Bytes;
use fastk::cli::remote::{Call, RestClient};
use fastk::query::{NumberFormat, Predicate, Query, RowOrder, TimeValue};
use fastk::service::{Service, StoreOptions};
use fastk::types::SeriesKey;
use futures::TryStreamExt;
use hyper::Method;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::server::Served;

const MINUTE: i64 = 60_000;
/// 2024-02-01T00:00:00Z.
const T0: i64 = 1_706_745_600_000;
const COLUMNS: [&str; 5] = ["open", "high", "low", "close", "volume"];

type Map = BTreeMap<i64, [i64; 5]>;

struct World {
    rng: StdRng,
    runtime: Runtime,
    service: Arc<Service>,
    rest: RestClient,
    flight: FlightClient,
    stop: Vec<oneshot::Sender<()>>,
    key: SeriesKey,
    map: Map,
    _root: tempfile::TempDir,
}

impl World {
    fn new(seed: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let options = StoreOptions { wal_segment_bytes: 1 << 20, tail_rows_max: 5_000, ..StoreOptions::default() };
        let service = Service::open(root.path(), true, options).unwrap();
        let Served { runtime, rest, flight, stop } = Served::start(&service);
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            flight,
            rest,
            runtime,
            service,
            stop,
            key: SeriesKey::kline("BTCUSDT", "1m").unwrap(),
            map: Map::new(),
            _root: root,
        };
        let body = r#"{"kind":"kline","symbol":"BTCUSDT","timeframe":"1m","price_digits":2,"volume_digits":8,"partition":"day"}"#;
        world.post("/v1/series", &[], "application/json", body.into());
        world
    }

    fn post(&mut self, path: &str, params: &[(&str, &str)], media_type: &str, body: Vec<u8>) -> Value {
        let mut call = Call::new(Method::POST, path).body(media_type, Bytes::from(body));
        for (name, value) in params {
            call = call.param(name, value);
        }
        self.rest.json(call).unwrap()
    }

    fn ts(&mut self) -> i64 {
        let minutes = if self.rng.random_bool(0.6) { 1_440 } else { 20_000 };
        T0 + self.rng.random_range(0..minutes) * MINUTE
    }

    fn rows(&mut self) -> Vec<(i64, [i64; 5])> {
        let count = [1, 20, 700, 4_000][self.rng.random_range(0..4)];
        let ordered = self.rng.random_bool(0.7);
        let mut ts = self.ts();
        let mut rows = Vec::new();
        for _ in 0..count {
            let low = self.rng.random_range(1..1_000_000);
            let spread = self.rng.random_range(0..1_000);
            rows.push((ts, [low + spread / 2, low + spread, low, low + spread / 3, self.rng.random_range(0..1 << 50)]));
            ts = if ordered { ts + MINUTE } else { self.ts() };
        }
        rows
    }

    fn write(&mut self) {
        let rows = self.rows();
        let media = self.rng.random_range(0..6);
        let replies = match media {
            0 => self.write_rest("application/json", json_rows(&rows)),
            1 => self.write_rest("application/x-ndjson", ndjson(&rows)),
            2 => self.write_rest("text/csv", csv(&rows)),
            3 => self.write_rest("application/vnd.apache.arrow.stream", arrow_stream(&rows)),
            4 => self.write_rest("application/vnd.apache.parquet", parquet_file(&rows)),
            _ => self.write_flight(&rows),
        };
        let before = self.map.len();
        let mut distinct = BTreeMap::new();
        for (ts, cells) in &rows {
            distinct.insert(*ts, *cells);
        }
        let count = |field: &str| replies.iter().map(|reply| reply[field].as_u64().unwrap()).sum::<u64>();
        self.map.extend(distinct.iter().map(|(ts, cells)| (*ts, *cells)));
        let fresh = (self.map.len() - before) as u64;
        assert_eq!(count("rows_written") - count("rows_replaced"), fresh, "format {media}");
        if replies.len() == 1 {
            assert_eq!(count("rows_written"), distinct.len() as u64, "format {media}");
            assert_eq!(count("rows_duplicate"), (rows.len() - distinct.len()) as u64, "format {media}");
        }
    }

    fn write_rest(&mut self, media_type: &str, body: Vec<u8>) -> Vec<Value> {
        vec![self.post("/v1/klines/BTCUSDT/1m", &[("numbers", "raw")], media_type, body)]
    }

    fn write_flight(&mut self, rows: &[(i64, [i64; 5])]) -> Vec<Value> {
        let batches: Vec<RecordBatch> = rows.chunks(1_500).map(batch).collect();
        let command = json!({"series": self.key.as_str(), "numbers": "raw"}).to_string();
        let data = FlightDataEncoderBuilder::new()
            .with_flight_descriptor(Some(FlightDescriptor::new_cmd(command)))
            .build(futures::stream::iter(batches.into_iter().map(Ok)));
        let flight = &mut self.flight;
        let results =
            self.runtime.block_on(async { flight.do_put(data).await?.try_collect::<Vec<_>>().await }).unwrap();
        results.iter().map(|result| serde_json::from_slice(&result.app_metadata).unwrap()).collect()
    }

    fn delete(&mut self) {
        let (a, b) = (self.ts(), self.ts());
        let (start, end) = (a.min(b), a.max(b));
        let removed: Vec<i64> = self.map.range(start..=end).map(|(ts, _)| *ts).collect();
        let reply: Value = if self.rng.random_bool(0.5) {
            let call = Call::new(Method::DELETE, "/v1/klines/BTCUSDT/1m");
            self.rest.json(call.param("start", &start.to_string()).param("end", &end.to_string())).unwrap()
        } else {
            let body = json!({"series": self.key.as_str(), "start": start, "end": end}).to_string();
            let flight = &mut self.flight;
            let action = Action::new("delete_range", body);
            let bodies = self
                .runtime
                .block_on(async { flight.do_action(action).await?.try_collect::<Vec<Bytes>>().await })
                .unwrap();
            serde_json::from_slice(&bodies[0]).unwrap()
        };
        assert_eq!(reply["rows_deleted"].as_u64().unwrap(), removed.len() as u64);
        for ts in removed {
            self.map.remove(&ts);
        }
    }

    fn get(&mut self, format: &str, params: &[(&str, String)]) -> Vec<u8> {
        let mut call = Call::new(Method::GET, "/v1/klines/BTCUSDT/1m").param("format", format).param("numbers", "raw");
        for (name, value) in params {
            call = call.param(name, value);
        }
        let mut body = Vec::new();
        self.rest
            .stream(call, &mut |bytes| {
                body.extend_from_slice(&bytes);
                Ok(())
            })
            .unwrap();
        body
    }

    fn check(&mut self) {
        let (a, b) = (self.ts(), self.ts());
        let (start, end) = (a.min(b), a.max(b));
        let desc = self.rng.random_bool(0.4);
        let limit = self.rng.random_bool(0.4).then(|| self.rng.random_range(1..3_000_u64));
        let latest = self.rng.random_bool(0.3).then(|| self.rng.random_range(1..3_000_u64));
        // With raw numbers, values of predicates are scaled integers.
        let above = self.rng.random_bool(0.4).then(|| self.rng.random_range(0..1_100_000_i64));
        let mut expected: Vec<(i64, [i64; 5])> = self
            .map
            .range(start..=end)
            .filter(|(_, cells)| above.is_none_or(|above| cells[3] > above))
            .map(|(ts, cells)| (*ts, *cells))
            .collect();
        if let Some(latest) = latest {
            expected = expected.split_off(expected.len().saturating_sub(latest as usize));
        }
        if desc {
            expected.reverse();
        }
        expected.truncate(limit.map_or(usize::MAX, |limit| limit as usize));
        let mut params = vec![("start", start.to_string()), ("end", end.to_string())];
        if desc {
            params.push(("order", "desc".into()));
        }
        params.extend(latest.map(|latest| ("latest", latest.to_string())));
        params.extend(above.map(|above| ("where", format!("close:gt:{above}"))));
        let query = Query {
            start: Some(TimeValue::Epoch(start)),
            end: Some(TimeValue::Epoch(end)),
            latest,
            limit,
            order: if desc { RowOrder::Desc } else { RowOrder::Asc },
            numbers: NumberFormat::Raw,
            predicates: above.map(|above| vec![Predicate::parse(&format!("close:gt:{above}")).unwrap()]),
            ..Query::of(&self.key)
        };
        let limited = {
            let mut params = params.clone();
            params.extend(limit.map(|limit| ("limit", limit.to_string())));
            params
        };
        let same = |face: &str, found: Vec<(i64, [i64; 5])>| {
            assert_eq!(found.len(), expected.len(), "{face}: rows of {query:?}");
            assert!(found == expected, "{face}: cells of {query:?}");
        };
        same(
            "engine",
            self.service
                .read(&query)
                .unwrap()
                .map(Result::unwrap)
                .flat_map(|block| {
                    (0..block.rows())
                        .map(move |row| {
                            (block.words(0)[row], std::array::from_fn(|column| block.words(column + 1)[row]))
                        })
                        .collect::<Vec<_>>()
                })
                .collect(),
        );
        let csv = String::from_utf8(self.get("csv", &limited)).unwrap();
        same(
            "csv",
            csv.lines()
                .skip(1)
                .map(|line| {
                    let cells: Vec<i64> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
                    (cells[0], std::array::from_fn(|column| cells[column + 1]))
                })
                .collect(),
        );
        let arrow = self.get("arrow", &limited);
        let batches = StreamReader::try_new(arrow.as_slice(), None).unwrap().map(Result::unwrap);
        same("arrow", batches.flat_map(|batch| rows_of(&batch)).collect());
        let parquet = Bytes::from(self.get("parquet", &limited));
        let batches = ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap().build().unwrap().map(Result::unwrap);
        same("parquet", batches.flat_map(|batch| rows_of(&batch)).collect());
        let ticket = Ticket::new(serde_json::to_string(&query).unwrap());
        let flight = &mut self.flight;
        let batches: Vec<RecordBatch> =
            self.runtime.block_on(async { flight.do_get(ticket).await?.try_collect().await }).unwrap();
        same("flight", batches.iter().flat_map(rows_of).collect());
        let info = GetInfo::of(&self.runtime, flight, &query);
        let known = if above.is_some() { -1 } else { expected.len() as i64 };
        assert_eq!(info, known, "total_records of {query:?}");
        // All pages of JSON, without concurrent changes.
        let mut found = Vec::new();
        let mut cursor: Option<String> = None;
        let page = limit.unwrap_or(1_000).max(200);
        loop {
            let mut params = params.clone();
            params.push(("limit", page.to_string()));
            params.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let reply: Value = serde_json::from_slice(&self.get("json", &params)).unwrap();
            for row in reply["rows"].as_array().unwrap() {
                let cells = COLUMNS.map(|column| row[column].as_i64().unwrap());
                found.push((row["ts"].as_i64().unwrap(), cells));
            }
            match reply["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        found.truncate(limit.map_or(usize::MAX, |limit| limit as usize));
        same("json pages", found);
    }
}

struct GetInfo;

impl GetInfo {
    fn of(runtime: &Runtime, flight: &mut FlightClient, query: &Query) -> i64 {
        let descriptor = FlightDescriptor::new_cmd(serde_json::to_string(query).unwrap());
        runtime.block_on(flight.get_flight_info(descriptor)).unwrap().total_records
    }
}

fn json_rows(rows: &[(i64, [i64; 5])]) -> Vec<u8> {
    let rows: Vec<Value> = rows.iter().map(json_row).collect();
    json!({ "rows": rows }).to_string().into_bytes()
}

fn json_row((ts, cells): &(i64, [i64; 5])) -> Value {
    let mut row = serde_json::Map::from_iter([("ts".to_owned(), json!(ts))]);
    row.extend(COLUMNS.iter().zip(cells).map(|(name, cell)| ((*name).to_owned(), json!(cell))));
    Value::Object(row)
}

fn ndjson(rows: &[(i64, [i64; 5])]) -> Vec<u8> {
    rows.iter().map(|row| format!("{}\n", json_row(row))).collect::<String>().into_bytes()
}

fn csv(rows: &[(i64, [i64; 5])]) -> Vec<u8> {
    let mut text = String::from("volume,close,ts,open,low,high\n");
    for (ts, [open, high, low, close, volume]) in rows {
        text.push_str(&format!("{volume},{close},{ts},{open},{low},{high}\n"));
    }
    text.into_bytes()
}

fn batch(rows: &[(i64, [i64; 5])]) -> RecordBatch {
    let mut fields = vec![Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false)];
    fields.extend(COLUMNS.map(|name| Field::new(name, DataType::Int64, false)));
    let ts: TimestampMillisecondArray = rows.iter().map(|(ts, _)| *ts).collect::<Vec<_>>().into();
    let mut columns: Vec<Arc<dyn Array>> = vec![Arc::new(ts.with_timezone("UTC"))];
    for column in 0..COLUMNS.len() {
        columns.push(Arc::new(rows.iter().map(|(_, cells)| cells[column]).collect::<Int64Array>()));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn arrow_stream(rows: &[(i64, [i64; 5])]) -> Vec<u8> {
    let batch = batch(rows);
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    out
}

fn parquet_file(rows: &[(i64, [i64; 5])]) -> Vec<u8> {
    let batch = batch(rows);
    let mut out = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut out, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

fn rows_of(batch: &RecordBatch) -> Vec<(i64, [i64; 5])> {
    let ts = batch.column(0).as_any().downcast_ref::<TimestampMillisecondArray>().unwrap();
    let columns: Vec<&Int64Array> =
        (1..6).map(|column| batch.column(column).as_any().downcast_ref().unwrap()).collect();
    (0..batch.num_rows()).map(|row| (ts.value(row), std::array::from_fn(|column| columns[column].value(row)))).collect()
}

#[test]
fn every_interface_returns_the_contents_of_a_plain_ordered_map() {
    let amount = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (steps, seed) = (amount("FASTK_INTERFACES_STEPS", 60), amount("FASTK_INTERFACES_SEED", 1));
    println!("FASTK_INTERFACES_SEED={seed} FASTK_FACES_STEPS={steps}");
    let mut world = World::new(seed);
    for _ in 0..steps {
        match world.rng.random_range(0..10) {
            0..6 => world.write(),
            6..8 => world.delete(),
            8 => drop(world.post("/v1/admin/compact?wait=true", &[], "application/json", b"{}".to_vec())),
            _ => world.service.store().checkpoint().unwrap(),
        }
        world.check();
    }
    for stop in world.stop.drain(..) {
        let _ = stop.send(());
    }
    let _ = world.flight;
}
