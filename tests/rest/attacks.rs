//! Attacks: each is refused with its code or its connection is closed, and other clients are served.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastk::access;
use fastk::server::http::HttpSettings;
use fastk::service::Scope;

use crate::client::{Server, csv_body};

/// Timeout on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Sends these bytes and returns all received bytes until the server closes.
fn exchange(server: &Server, bytes: &[u8]) -> String {
    let mut stream = server.connect();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    // The server may have closed before it read all bytes.
    let _ = stream.write_all(bytes);
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it stays open: {heard:?}"),
    }
    String::from_utf8_lossy(&heard).into_owned()
}

fn responses(heard: &str) -> usize {
    heard.matches("HTTP/1.1 ").count() + heard.matches("HTTP/1.0 ").count()
}

#[test]
fn requests_with_ambiguous_framing_are_refused_with_one_response_and_a_close() {
    let server = Server::start();
    server.kline("X");
    // Each is followed by bytes that another parser would treat as a second request.
    let inside = "GET /v1/series HTTP/1.1\r\nhost: x\r\n\r\n";
    let post = "POST /v1/klines/X/1m HTTP/1.1\r\nhost: x\r\n";
    let old = "POST /v1/klines/X/1m HTTP/1.0\r\nhost: x\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    for (what, request) in [
        ("two lengths", format!("{post}content-length: 2\r\ncontent-length: 3\r\n\r\n[]{inside}")),
        ("a list of lengths", format!("{post}content-length: 2, 3\r\n\r\n[]{inside}")),
        ("a signed length", format!("{post}content-length: +2\r\n\r\n[]{inside}")),
        ("a negative length", format!("{post}content-length: -2\r\n\r\n[]{inside}")),
        ("a length in hexadecimal", format!("{post}content-length: 0x2\r\n\r\n[]{inside}")),
        ("a length that overflows", format!("{post}content-length: 18446744073709551618\r\n\r\n[]{inside}")),
        (
            "another coding behind chunked",
            format!("{post}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{inside}"),
        ),
        ("an unknown coding", format!("{post}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{inside}")),
        ("a chunk size that is none", format!("{post}{chunked}\r\nzz\r\n[]\r\n0\r\n\r\n{inside}")),
        ("a chunk size with a sign", format!("{post}{chunked}\r\n-2\r\n[]\r\n0\r\n\r\n{inside}")),
        ("a chunk size in C", format!("{post}{chunked}\r\n0x2\r\n[]\r\n0\r\n\r\n{inside}")),
        ("a chunk size that overflows", format!("{post}{chunked}\r\n10000000000000002\r\n[]\r\n0\r\n\r\n{inside}")),
        ("a chunk size behind a space", format!("{post}{chunked}\r\n 2\r\n[]\r\n0\r\n\r\n{inside}")),
        ("a chunk size in two parts", format!("{post}{chunked}\r\n0 2\r\n[]\r\n0\r\n\r\n{inside}")),
        ("a chunk size that ends in LF", format!("{post}{chunked}\r\n2\n[]\r\n0\r\n\r\n{inside}")),
        ("a chunk size that ends in CR", format!("{post}{chunked}\r\n2\r[]\r\n0\r\n\r\n{inside}")),
        ("a chunk that ends in LF", format!("{post}{chunked}\r\n2\r\n[]\n0\r\n\r\n{inside}")),
        ("an LF in the extension of a chunk", format!("{post}{chunked}\r\n2;a\nx\r\n[]\r\n0\r\n\r\n{inside}")),
        ("an endless extension", format!("{post}{chunked}\r\n2;{}\r\n[]\r\n0\r\n\r\n{inside}", "a".repeat(100_000))),
        ("chunks before HTTP/1.1", format!("{old}{chunked}\r\n2\r\n[]\r\n0\r\n\r\n{inside}")),
        (
            "a coding behind a tab that is none",
            format!("{post}transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n{inside}"),
        ),
        (
            "a coding with a space before its colon",
            format!("{post}transfer-encoding : chunked\r\n\r\n0\r\n\r\n{inside}"),
        ),
        ("a length in two parts", format!("{post}content-length: 2 2\r\n\r\n[]{inside}")),
        ("no length in its header", format!("{post}content-length: \r\n\r\n[]{inside}")),
        ("a fraction of a length", format!("{post}content-length: 2.0\r\n\r\n[]{inside}")),
        (
            "a header before the first",
            format!("POST /v1/klines/X/1m HTTP/1.1\r\n host: x\r\ncontent-length: 2\r\n\r\n[]{inside}"),
        ),
        ("a chunk longer than its size", format!("{post}{chunked}\r\n1\r\n[]\r\n0\r\n\r\n{inside}")),
        ("a space before the colon", format!("{post}content-length : 2\r\n\r\n[]{inside}")),
        ("a folded header", format!("{post}x: a\r\n content-length: 2\r\n\r\n[]{inside}")),
        ("a header without a name", format!("{post}: x\r\ncontent-length: 2\r\n\r\n[]{inside}")),
        ("a header without a colon", format!("{post}content-length 2\r\n\r\n[]{inside}")),
        ("a NUL in a header", format!("{post}x: a\0b\r\ncontent-length: 2\r\n\r\n[]{inside}")),
        ("a bare CR in a header", format!("{post}x: a\rcontent-length: 2\r\n\r\n[]{inside}")),
        ("no version", format!("GET /v1/series\r\n\r\n{inside}")),
        ("another version", format!("GET /v1/series HTTP/1.2\r\nhost: x\r\n\r\n{inside}")),
        ("a space in the target", format!("GET /v1/ series HTTP/1.1\r\nhost: x\r\n\r\n{inside}")),
        ("a method that is none", format!("G(T /v1/series HTTP/1.1\r\nhost: x\r\n\r\n{inside}")),
    ] {
        let heard = exchange(&server, request.as_bytes());
        assert!(responses(&heard) <= 1, "{what}: {heard}");
        assert!(responses(&heard) == 0 || heard[..12].ends_with(" 400"), "{what}: {heard}");
    }
    assert_eq!(server.state("kline/X/1m").1, 0, "no row of it was written");
}

#[test]
fn a_request_with_a_length_and_chunks_is_never_framed_by_its_length() {
    let server = Server::start();
    server.kline("X");
    let inside = "GET /v1/series HTTP/1.1\r\nhost: x\r\n\r\n";
    for (first, second) in
        [("content-length: 5", "transfer-encoding: chunked"), ("transfer-encoding: chunked", "content-length: 5")]
    {
        let head = format!("POST /v1/klines/X/1m HTTP/1.1\r\nhost: x\r\n{first}\r\n{second}\r\n\r\n");
        // Its chunks end at once, its length ends in the middle of the following bytes.
        let heard = exchange(&server, format!("{head}0\r\n\r\n{inside}").as_bytes());
        assert!(responses(&heard) <= 1, "{first}: {heard}");
        assert!(!heard.contains("\"series\":["), "{first}: the following bytes were treated as a request: {heard}");
    }
}

#[test]
fn equal_repeated_lengths_are_accepted_and_lf_ends_a_header_line_like_crlf() {
    let server = Server::start();
    server.kline("X");
    // Each is one request with a body of two bytes, followed by another: the framing is unambiguous.
    let inside = "GET /v1/series HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let post = "POST /v1/klines/X/1m HTTP/1.1\r\nhost: x\r\n";
    for (what, request) in [
        ("two lengths alike", format!("{post}content-length: 2\r\ncontent-length: 2\r\n\r\n[]{inside}")),
        ("spaces around a length", format!("{post}content-length:  \t2 \t\r\n\r\n[]{inside}")),
        ("an LF behind a header", format!("{post}x: a\ncontent-length: 2\r\n\r\n[]{inside}")),
        ("LF alone", format!("POST /v1/klines/X/1m HTTP/1.1\nhost: x\ncontent-length: 2\n\n[]{inside}")),
        (
            "extensions of chunks",
            format!("{post}transfer-encoding: chunked\r\n\r\n2;a=b;c=\"d\"\r\n[]\r\n0;e\r\n\r\n{inside}"),
        ),
        (
            "headers behind the chunks",
            format!("{post}transfer-encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\ncontent-length: 9\r\n\r\n{inside}"),
        ),
    ] {
        let heard = exchange(&server, request.as_bytes());
        assert_eq!(responses(&heard), 2, "{what}: {heard}");
        assert_eq!(heard.matches("\"series\":[").count(), 1, "{what}: {heard}");
    }
    assert_eq!(server.state("kline/X/1m").1, 0, "no row was written");
}

#[test]
fn path_traversal_in_names_is_refused() {
    let server = Server::start();
    server.kline("X");
    std::fs::write(server.root.path().join("secret"), "secret").unwrap();
    let climbing = [
        "..",
        "%2e%2e",
        "%252e%252e",
        "..%2f..%2fsecret",
        "..%252fsecret",
        "%2e%2e%5c%2e%2e",
        "..\\..\\secret",
        "a%00b",
        "%c0%ae%c0%ae",
        "%c0%af",
        "%e0%80%af",
        "%ff",
        "..%c1%9csecret",
        "%2fetc%2fpasswd",
        "X%2f..%2fsecret",
        ".",
        "%2e",
        "con%0d%0aset-cookie:%20x",
        "~root",
        "X;.json",
        "X%20",
        "file:%2f%2f%2fetc%2fpasswd",
    ];
    let before = files(&server);
    for name in climbing {
        for (method, path, body) in [
            ("GET", format!("/v1/klines/{name}/1m"), ""),
            ("GET", format!("/v1/klines/X/{name}"), ""),
            ("POST", format!("/v1/klines/{name}/1m"), "[]"),
            ("DELETE", format!("/v1/klines/{name}/1m?all=true"), ""),
            ("GET", format!("/v1/scalars/{name}/X/1m/n"), ""),
            ("GET", format!("/v1/scalars/c/X/1m/{name}"), ""),
            ("GET", format!("/v1/series/kline/{name}/1m"), ""),
            ("DELETE", format!("/v1/series/kline/{name}/1m"), ""),
            ("GET", format!("/v1/coverage/kline/{name}/1m"), ""),
            ("GET", format!("/v1/klines/X/1m?as_of={name}"), ""),
            ("DELETE", format!("/v1/snapshots/{name}"), ""),
            ("GET", format!("/v1/admin/jobs/{name}"), ""),
            ("DELETE", format!("/v1/admin/jobs/{name}"), ""),
            ("GET", format!("/docs/{name}"), ""),
            ("GET", format!("/{name}/{name}/{name}/etc/passwd"), ""),
        ] {
            let reply = server.send(method, &path, &[], body.as_bytes());
            assert!((400..500).contains(&reply.status), "{method} {path}: {}", reply.status);
            assert_eq!(reply.header("set-cookie"), None);
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            assert!(!text.contains("root:") && text != "secret", "{method} {path}: {text}");
        }
    }
    // The same names in bodies, without percent-decoding.
    let raw =
        ["..", "../../secret", "..\\secret", "a\\u0000b", "/etc/passwd", "./x", "X/../secret", "", " ", "\\ud800"];
    for name in raw {
        for (path, body) in [
            ("/v1/series", format!(r#"{{"kind":"kline","symbol":"{name}","timeframe":"1m"}}"#)),
            ("/v1/series", format!(r#"{{"kind":"kline","symbol":"Y","timeframe":"{name}"}}"#)),
            (
                "/v1/series",
                format!(r#"{{"kind":"scalar","category":"{name}","symbol":"Y","timeframe":"1m","name":"n"}}"#),
            ),
            ("/v1/snapshots", format!(r#"{{"name":"{name}"}}"#)),
            ("/v1/query", format!(r#"{{"series":["kline/{name}/1m"]}}"#)),
            ("/v1/query", format!(r#"{{"series":["kline/X/1m"],"as_of":"{name}"}}"#)),
            ("/v1/write", format!(r#"{{"writes":[{{"series":"kline/{name}/1m","rows":[]}}]}}"#)),
            ("/v1/admin/compact", format!(r#"{{"series":["kline/{name}/1m"]}}"#)),
            ("/v1/admin/backup", format!(r#"{{"dir":"{name}"}}"#)),
        ] {
            let status = server.post_json(path, &body.replace("\\\\", "\\")).status;
            assert!((400..500).contains(&status), "{path} {body}: {status}");
        }
    }
    assert_eq!(files(&server), before, "a file was created or removed");
}

/// Names of all files of the store except its log.
fn files(server: &Server) -> Vec<String> {
    let mut waiting = vec![server.root.path().to_path_buf()];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                waiting.push(entry.path());
            } else {
                found.push(entry.path().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn endless_bodies_are_refused_at_the_limit() {
    let server = Server::with(HttpSettings { body_bytes_max: 4 << 20, ..HttpSettings::default() });
    server.kline("X");
    for target in ["/v1/klines/X/1m?format=csv", "/v1/series", "/v1/query"] {
        let mut stream = server.connect();
        let head =
            format!("POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let chunk = [format!("{:x}\r\n", 1 << 16).into_bytes(), vec![b' '; 1 << 16], b"\r\n".to_vec()].concat();
        let mut reader = stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || while stream.write_all(&chunk).is_ok() {});
        let mut heard = [0; 12];
        let read = reader.read_exact(&mut heard);
        assert!(read.is_err() || &heard == b"HTTP/1.1 413", "{target}: {}", String::from_utf8_lossy(&heard));
        let _ = reader.shutdown(std::net::Shutdown::Both);
        sending.join().unwrap();
    }
    // A declared length is checked before the body is sent.
    let heard = exchange(
        &server,
        b"POST /v1/klines/X/1m HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 99999999999\r\n\r\n",
    );
    assert!(heard.starts_with("HTTP/1.1 413") && heard.contains("too_large"), "{heard}");
    assert_eq!(server.state("kline/X/1m").1, 0);
}

#[test]
fn arrow_bombs_in_compressed_buffers_are_refused() {
    use arrow::array::{Float64Array, Int64Array, RecordBatch};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
    let server = Server::with(HttpSettings { body_bytes_max: 8 << 20, ..HttpSettings::default() });
    server.kline("X");
    let rows = 8 << 20;
    let zeros = || Arc::new(Float64Array::from(vec![0.0; rows]));
    let batch = RecordBatch::try_from_iter([
        ("ts", Arc::new(Int64Array::from(vec![0; rows])) as arrow::array::ArrayRef),
        ("open", zeros()),
    ])
    .unwrap();
    for kind in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let options = IpcWriteOptions::default().try_with_compression(Some(kind)).unwrap();
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        let body = writer.into_inner().unwrap();
        assert!(body.len() < 8 << 20, "{} bytes are no bomb", body.len());
        let reply = server.post("/v1/klines/X/1m", "application/vnd.apache.arrow.stream", &body);
        assert!((400..500).contains(&reply.status), "{kind:?}: {} {}", reply.status, reply.text());
    }
    server.get("/health").expect(200);
    assert_eq!(server.state("kline/X/1m").1, 0);
}

#[test]
fn all_invalid_tokens_get_the_same_response() {
    let root = Arc::new(tempfile::tempdir().unwrap());
    let good = access::create(root.path(), "t", Scope::Read, &[]).unwrap().token;
    let server = Server::over(root, HttpSettings::default());
    let mut nearly = good.clone().into_bytes();
    *nearly.last_mut().unwrap() ^= 1;
    let nearly = String::from_utf8(nearly).unwrap();
    let constant = |reply: &crate::client::Reply| {
        let mut problem = reply.json();
        problem["request_id"] = "".into();
        let mut names: Vec<String> = reply.headers.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        (reply.status, names, problem)
    };
    let send = |token: &str| server.get_with("/v1/series", &[("authorization", &access::bearer_header(token))]);
    let usual = constant(&send("fastk_no"));
    assert_eq!(usual.0, 401);
    for guess in 0..300 {
        assert_eq!(constant(&send(&format!("fastk_{guess:0>43}"))), usual);
    }
    for guess in [nearly.as_str(), &good[..good.len() - 1], &good.to_uppercase(), &format!("{good}x"), "x"] {
        assert_eq!(constant(&send(guess)), usual, "{guess}");
    }
    send(&good).expect(200);
}

#[test]
fn headers_and_bodies_sent_byte_by_byte_are_aborted() {
    let config = HttpSettings { header_timeout_ms: 2_000, body_timeout_ms: 3_000, ..HttpSettings::default() };
    let server = Server::with(config);
    server.kline("X");
    let drip = |head: &[u8], drops: &[u8]| {
        let mut stream = server.connect();
        stream.write_all(head).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let started_at = Instant::now();
        let mut heard = Vec::new();
        for drop in drops.iter().cycle() {
            let _ = stream.write_all(&[*drop]);
            let mut some = [0; 1_024];
            match stream.read(&mut some) {
                Ok(0) => break,
                Ok(read) => heard.extend_from_slice(&some[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(_) => {}
            }
            assert!(started_at.elapsed() < TIMEOUT, "the connection is still open: {}", String::from_utf8_lossy(head));
        }
        String::from_utf8_lossy(&heard).into_owned()
    };
    assert_eq!(drip(b"GET /health HTTP/1.1\r\n", b"x: y\r\n"), "");
    assert_eq!(drip(b"", b"G"), "");
    let post = "POST /v1/klines/X/1m HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let heard = drip(format!("{post}content-length: 1000000\r\n\r\n").as_bytes(), b" ");
    assert!(heard.is_empty() || heard.contains("request_timeout"), "{heard}");
    let heard = drip(format!("{post}transfer-encoding: chunked\r\n\r\n").as_bytes(), b"1\r\n \r\n");
    assert!(heard.is_empty() || heard.contains("request_timeout"), "{heard}");
    server.get("/health").expect(200);
}

#[test]
fn pages_of_other_origins_cannot_write() {
    let own = "http://charts.example.com";
    let config = HttpSettings { cors_origins: vec![own.into()], ..HttpSettings::default() };
    let server = Server::with(config);
    server.kline("X");
    let rows = csv_body(0, 1);
    let write = |headers: &[(&str, &str)]| {
        let body = rows.as_bytes();
        let headers: Vec<_> = [("content-type", "text/csv")].into_iter().chain(headers.iter().copied()).collect();
        server.send("POST", "/v1/klines/X/1m", &headers, body)
    };
    for origin in
        ["http://evil.example.com", "null", "http://test.evil.example.com", "https://charts.example.com", "test"]
    {
        write(&[("origin", origin)]).refused("permission_denied");
        // A browser sends such a body without a preflight.
        server.send("POST", "/v1/snapshots", &[("origin", origin)], b"{\"name\":\"s\"}").refused("permission_denied");
        server.send("DELETE", "/v1/series/kline/X/1m", &[("origin", origin)], b"").refused("permission_denied");
        // The browser withholds responses from them.
        assert_eq!(
            server.get_with("/inventory", &[("origin", origin)]).expect(200).header("access-control-allow-origin"),
            None
        );
    }
    write(&[]).expect(200);
    write(&[("origin", own)]).expect(200);
    // Pages of the server itself, such as its documentation.
    write(&[("origin", "http://test")]).expect(200);
}

#[test]
fn a_server_without_tokens_accepts_only_local_host_names() {
    let local = || HttpSettings {
        local_names_only: true,
        cors_origins: vec!["https://charts.example.com".into()],
        ..HttpSettings::default()
    };
    let server = Server::with(local());
    let send = |server: &Server, host: &str| {
        exchange(server, format!("GET /inventory HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())
    };
    for host in ["127.0.0.1:8080", "localhost:8080", "[::1]:1", "localhost", "charts.example.com"] {
        assert!(send(&server, host).starts_with("HTTP/1.1 200 "), "{host}");
    }
    for host in
        ["evil.example.com", "evil.example.com:8080", "localhost.evil.example.com", "127.0.0.1.evil.example.com"]
    {
        let heard = send(&server, host);
        assert!(heard.starts_with("HTTP/1.1 403 ") && heard.contains("permission_denied"), "{host}: {heard}");
    }
    // A client with a token is not a foreign page.
    let root = Arc::clone(&server.root);
    access::create(root.path(), "t", Scope::Read, &[]).unwrap();
    drop(server);
    let server = Server::over(root, local());
    assert!(send(&server, "evil.example.com").starts_with("HTTP/1.1 401 "));
}
