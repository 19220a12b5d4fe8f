//! A server under test and a minimal client: one request per connection, without decoding.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use fastk::Result;
use fastk::access::Authenticator;
use fastk::disk::os::OsDisk;
use fastk::disk::{Disk, DiskPath};
use fastk::server::http::{HttpSettings, serve};
use fastk::server::tls_stream::Tls;
use fastk::service::{Service, ServiceLimits, StoreOptions};
use serde_json::Value;

/// A running server over its own store; stopped and removed when dropped.
pub struct Server {
    pub address: SocketAddr,
    pub service: Arc<Service>,
    pub root: Arc<tempfile::TempDir>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(HttpSettings::default())
    }

    pub fn with(config: HttpSettings) -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), config)
    }

    /// Stops the server and starts one over the same store.
    pub fn restarted(mut self) -> Self {
        self.stop().unwrap();
        let root = Arc::clone(&self.root);
        drop(self);
        Self::over(root, HttpSettings::default())
    }

    pub fn over(root: Arc<tempfile::TempDir>, config: HttpSettings) -> Self {
        Self::within(root, config, ServiceLimits::default())
    }

    /// A server over an existing store, with these limits of operations.
    pub fn within(root: Arc<tempfile::TempDir>, config: HttpSettings, limits: ServiceLimits) -> Self {
        Self::on(Arc::new(OsDisk), root, config, limits)
    }

    /// A server over a store on this disk.
    pub fn on(disk: Arc<dyn Disk>, root: Arc<tempfile::TempDir>, config: HttpSettings, limits: ServiceLimits) -> Self {
        let options = StoreOptions {
            background_maintenance: false,
            commit_retention_bytes_max: 64 << 20,
            ..StoreOptions::default()
        };
        let service = Service::open_on(&DiskPath::new(disk, root.path()), true, options).unwrap();
        Self::of(service, root, config, limits)
    }

    /// A server that retains no earlier commits except those of cursors.
    pub fn without_history(root: Arc<tempfile::TempDir>) -> Self {
        let options =
            StoreOptions { background_maintenance: false, commit_retention_bytes_max: 0, ..StoreOptions::default() };
        let service = Service::open(root.path(), true, options).unwrap();
        Self::of(service, root, HttpSettings::default(), ServiceLimits::default())
    }

    fn of(service: Arc<Service>, root: Arc<tempfile::TempDir>, config: HttpSettings, limits: ServiceLimits) -> Self {
        service.set_limits(limits);
        let authenticator = Arc::new(Authenticator::open(root.path()).unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let served = service.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                serve(listener, served, authenticator, config, Tls::off(), async { drop(stopped.await) }).await
            })
        });
        Self { address, service, root, stop: Some(stop), thread: Some(thread) }
    }

    /// Stops the server and returns its outcome.
    pub fn stop(&mut self) -> Result<()> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap())
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    pub fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut stream = self.connect();
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || method == "POST" {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        // A server may respond before it has read the body.
        let _ = stream.write_all(body);
        Reply::read(stream, method == "HEAD")
    }

    pub fn get(&self, target: &str) -> Reply {
        self.send("GET", target, &[], &[])
    }

    pub fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.send("GET", target, headers, &[])
    }

    pub fn delete(&self, target: &str) -> Reply {
        self.send("DELETE", target, &[], &[])
    }

    pub fn post(&self, target: &str, kind: &str, body: impl AsRef<[u8]>) -> Reply {
        self.send("POST", target, &[("content-type", kind)], body.as_ref())
    }

    pub fn post_json(&self, target: &str, body: &str) -> Reply {
        self.post(target, "application/json", body)
    }

    /// Posts JSON under an idempotency key.
    pub fn post_once(&self, target: &str, key: &str, body: &str) -> Reply {
        self.send("POST", target, &[("content-type", "application/json"), ("idempotency-key", key)], body.as_bytes())
    }

    /// Registers a kline with 2 price and 3 volume digits.
    pub fn kline(&self, symbol: &str) {
        let body = format!(
            r#"{{"kind":"kline","symbol":"{symbol}","timeframe":"1m","price_digits":2,"volume_digits":3,
                "extra_columns":[{{"name":"trades","type":"int64"}},{{"name":"vwap"}}]}}"#
        );
        self.post_json("/v1/series", &body).expect(201);
    }

    /// Version and rows of a series, to check that no row was written.
    pub fn state(&self, key: &str) -> (u64, u64) {
        let info = self.service.series(&fastk::types::SeriesKey::parse(key).unwrap()).unwrap();
        (info.version, info.rows)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Rows for [`Server::kline`] as CSV without header: `first` to `first + rows`, one per minute.
pub fn csv_rows(first: i64, rows: i64) -> String {
    let mut text = String::new();
    for row in first..first + rows {
        let price = 42_000 + row;
        text += &format!(
            "{},{price}.10,{}.00,{}.55,{price}.25,{}.125,{},{}.5\n",
            row * 60_000,
            price + 1,
            price - 1,
            row,
            row - 5,
            row
        );
    }
    text
}

/// These rows as a body with header.
pub fn csv_body(first: i64, rows: i64) -> String {
    format!("ts,open,high,low,close,volume,trades,vwap\n{}", csv_rows(first, rows))
}

/// A response as received.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body is complete by its framing.
    pub is_whole: bool,
}

impl Reply {
    pub fn read(mut stream: TcpStream, is_head: bool) -> Self {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let split = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no head in {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(500)]));
        });
        let head = String::from_utf8(bytes[..split].to_vec()).unwrap();
        let raw = &bytes[split + 4..];
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string()))
            .collect();
        let mut reply = Self { status, headers, body: Vec::new(), is_whole: true };
        if is_head || status == 304 {
            assert!(raw.is_empty());
        } else if reply.header("transfer-encoding") == Some("chunked") {
            (reply.body, reply.is_whole) = unchunk(raw, &mut reply.headers);
        } else {
            let length: usize = reply.header("content-length").unwrap().parse().unwrap();
            reply.is_whole = raw.len() == length;
            reply.body = raw.to_vec();
        }
        reply
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Asserts that the response is complete and has this status.
    pub fn expect(self, status: u16) -> Self {
        let shown = String::from_utf8_lossy(&self.body[..self.body.len().min(600)]);
        assert_eq!(self.status, status, "{shown}");
        assert!(self.is_whole, "{shown}");
        self
    }

    /// Asserts that the response is a problem document with this code; returns it.
    pub fn refused(self, code: &str) -> Value {
        let shown = String::from_utf8_lossy(&self.body[..self.body.len().min(600)]).into_owned();
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{} {shown}", self.status);
        let problem = self.json();
        assert_eq!(problem["code"], code, "{shown}");
        assert_eq!(problem["status"], self.status, "{shown}");
        let expected = fastk::ErrorCode::from_name(code).unwrap();
        assert_eq!(self.status, expected.http());
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"));
        assert_eq!(problem["title"], expected.title());
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        problem
    }
}

/// The body, and whether it is complete; trailers are added to the headers.
fn unchunk(mut raw: &[u8], headers: &mut Vec<(String, String)>) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line) = raw.windows(2).position(|window| window == b"\r\n") else { return (body, false) };
        let Ok(length) = usize::from_str_radix(std::str::from_utf8(&raw[..line]).unwrap(), 16) else {
            return (body, false);
        };
        raw = &raw[line + 2..];
        if length == 0 {
            let trailers = String::from_utf8_lossy(raw);
            let trailers = trailers.lines().filter_map(|line| line.split_once(':'));
            headers.extend(trailers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string())));
            return (body, true);
        }
        if raw.len() < length + 2 {
            body.extend_from_slice(&raw[..raw.len().min(length)]);
            return (body, false);
        }
        body.extend_from_slice(&raw[..length]);
        raw = &raw[length + 2..];
    }
}
