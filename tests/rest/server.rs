//! The HTTP server: paths, methods, request ids, header limits, health, documents, timeouts, shutdown.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use fastk::server::http::{HttpSettings, openapi_json};

use crate::client::{Reply, Server, csv_body};

#[test]
fn unknown_paths_and_unsupported_methods_have_different_codes() {
    let server = Server::start();
    for path in [
        "/v1",
        "/v1/klines",
        "/console/nope.js",
        "/udf/nope",
        "/v1/klines/X",
        "/nope",
        "/v1/admin/nope",
        "/docs/nope.js",
    ] {
        server.get(path).refused("not_found");
    }
    for (method, path, allowed) in [
        ("PUT", "/v1/series", &["GET", "POST"][..]),
        ("PATCH", "/v1/klines/X/1m", &["GET", "POST", "DELETE"]),
        ("DELETE", "/v1/query", &["GET", "POST"]),
        ("DELETE", "/health", &["GET"]),
        ("GET", "/v1/write", &["POST"]),
    ] {
        let reply = server.send(method, path, &[], &[]);
        let allow = reply.header("allow").unwrap().to_string();
        for method in allowed {
            assert!(allow.contains(method), "{path}: {allow}");
        }
        reply.refused("method_not_allowed");
    }
}

#[test]
fn every_response_has_a_request_id() {
    let server = Server::start();
    let own = server.get_with("/health", &[("x-request-id", "my-id.1")]).expect(200);
    assert_eq!(own.header("x-request-id"), Some("my-id.1"));
    let failed = server.get_with("/nope", &[("x-request-id", "my-id.2")]);
    assert_eq!(failed.refused("not_found")["request_id"], "my-id.2");
    let replaced = server.get_with("/health", &[("x-request-id", "not a legal id")]).expect(200);
    assert_eq!(replaced.header("x-request-id").unwrap().len(), 16);
}

#[test]
fn headers_over_their_limits_are_refused() {
    let server = Server::start();
    server.get(&format!("/v1/series?prefix={}", "x".repeat(10_000))).refused("uri_too_long");
    server.get_with("/health", &[("x-long", &"x".repeat(40_000))]).refused("headers_too_large");
}

#[test]
fn health_fails_while_the_directory_of_the_store_is_missing() {
    let server = Server::start();
    let (root, away) = (server.root.path().to_path_buf(), server.root.path().with_extension("away"));
    let failing = |why: &str| {
        let health = server.get("/health").expect(503).json();
        let check = &health["checks"][0];
        assert_eq!((&health["status"], &check["name"]), (&"failing".into(), &"directory".into()));
        assert!(check["detail"].as_str().unwrap().contains(why), "{check}");
        assert_eq!(server.get("/health/ready").expect(503).text(), "{\"status\":\"failing\"}\n");
        server.get("/health/live").expect(200);
    };
    std::fs::rename(&root, &away).unwrap();
    failing("does not exist");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("LOCK"), "{}").unwrap();
    failing("belongs to another store");
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::rename(&away, &root).unwrap();
    assert_eq!(server.get("/health").expect(200).json()["status"], "ok");
}

#[test]
fn health_inventory_and_documents_are_served() {
    let server = Server::start();
    server.kline("X");
    server.post("/v1/klines/X/1m", "text/csv", csv_body(0, 10)).expect(200);
    let health = server.get("/health").expect(200).json();
    assert_eq!((&health["status"], &health["durability"]), (&"ok".into(), &"sync".into()));
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(server.get(path).expect(200).text(), "{\"status\":\"ok\"}\n");
    }
    server.get("/health?verbose=1").refused("invalid_argument");
    let inventory = server.get("/inventory").expect(200);
    let tag = inventory.header("etag").unwrap().to_string();
    let rows = inventory.json();
    assert_eq!((&rows["totals"]["rows"], &rows["series"][0]["tail_rows"]), (&10.into(), &10.into()));
    server.get_with("/inventory", &[("if-none-match", &tag)]).expect(304);
    server.post_json("/v1/admin/compact?wait=true", r#"{"series":["kline/X/1m"]}"#).expect(200);
    let sealed = server.get_with("/inventory", &[("if-none-match", &tag)]).expect(200).json();
    assert_eq!((&sealed["series"][0]["tail_rows"], &sealed["series"][0]["chunks"]), (&0.into(), &1.into()));
    assert_eq!(server.get("/openapi.json").expect(200).text(), openapi_json());
    let docs = server.get("/docs/").expect(200).text();
    assert!(docs.contains("swagger-ui") && !docs.contains("https://"), "{docs}");
    server.get("/docs/swagger-ui.css").expect(200);
    assert_eq!(server.get("/docs").status, 303);
}

#[test]
fn an_inventory_without_filters_has_every_series_and_the_sizes_of_the_files() {
    let server = Server::start();
    let bytes = |dir: &str, ending: &str| -> u64 {
        let mut waiting = vec![server.root.path().join(dir)];
        let mut sum = 0;
        while let Some(path) = waiting.pop() {
            for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    waiting.push(path);
                } else if path.to_string_lossy().ends_with(ending) {
                    sum += entry.metadata().unwrap().len();
                }
            }
        }
        sum
    };
    let empty = server.get("/inventory").expect(200).json();
    assert_eq!((&empty["totals"]["series"], &empty["series"]), (&0.into(), &serde_json::json!([])));
    // More than one page of the registrations of one kind, and one of the other kind.
    for n in 0..30 {
        server.kline(&format!("S{n:02}"));
        server.post(&format!("/v1/klines/S{n:02}/1m"), "text/csv", csv_body(0, 1_000 + n)).expect(200);
    }
    let scalar = r#"{"kind":"scalar","category":"metric","symbol":"X","timeframe":"1d","name":"load"}"#;
    server.post_json("/v1/series", scalar).expect(201);
    for sealed in [false, true] {
        if sealed {
            server.post_json("/v1/admin/compact?wait=true", "{}").expect(200);
            // Some rows are in the tail.
            server.post("/v1/klines/S03/1m", "text/csv", csv_body(5_000, 7)).expect(200);
        }
        let inventory = server.get("/inventory").expect(200).json();
        let totals = &inventory["totals"];
        let listed = inventory["series"].as_array().unwrap();
        assert_eq!((listed.len(), &totals["series"]), (31, &31.into()));
        let sum = |field: &str| listed.iter().map(|row| row[field].as_u64().unwrap()).sum::<u64>();
        for field in ["rows", "bytes", "chunks", "tail_rows"] {
            assert_eq!(totals[field], sum(field), "{field}");
        }
        assert_eq!(sum("rows"), 30_435 + 7 * u64::from(sealed));
        assert_eq!(sum("tail_rows"), if sealed { 7 } else { 30_435 });
        assert_eq!(sum("bytes"), bytes("chunks", ".arrow"), "sealed {sealed}");
        assert_eq!(totals["wal_bytes"], bytes("wal", ".wal"), "sealed {sealed}");
        assert!(sum("bytes") > 0 || !sealed);
    }
}

#[test]
fn every_documented_operation_is_routed() {
    let server = Server::start();
    let document: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{category}", "c").replace("{symbol}", "X").replace("{timeframe}", "1m");
        let path = path.replace("{name}", "n").replace("{version}", "1");
        for method in item.as_object().unwrap().keys() {
            let reply = server.send(&method.to_uppercase(), &path, &[], &[]);
            if reply.status >= 400 {
                let problem = reply.json();
                let code = problem["code"].as_str().unwrap_or("none").to_string();
                let known = [
                    "series_not_found",
                    "snapshot_not_found",
                    "dataset_not_found",
                    "job_not_found",
                    "invalid_argument",
                ];
                // Features and factors have no separate code, but their names are reported.
                let detail = problem["detail"].as_str().unwrap_or_default();
                let named =
                    ["feature", "factor"].iter().any(|kind| detail.starts_with(&format!("there is no {kind} ")))
                        || detail.starts_with("kind \"{kind}\" is not registered");
                assert!(known.contains(&code.as_str()) || (code == "not_found" && named), "{method} {path}: {code}");
            }
        }
    }
}

#[test]
fn two_requests_share_a_connection() {
    let server = Server::start();
    let mut stream = server.connect();
    for _ in 0..2 {
        stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut bytes = vec![0; 4096];
        let read = stream.read(&mut bytes).unwrap();
        assert!(bytes[..read].starts_with(b"HTTP/1.1 200"));
    }
    // The connection remains usable after a refused body.
    stream.write_all(b"POST /v1/klines/Y/1m HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12345").unwrap();
    stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("HTTP/1.1 404") && rest.contains("HTTP/1.1 200"), "{rest}");
}

#[test]
fn incomplete_requests_are_aborted() {
    let server = Server::with(HttpSettings { header_timeout_ms: 400, ..HttpSettings::default() });
    for opening in ["", "P", "GET /health HTTP/1.1\r\nhost:", "PRI * HTTP/2.0\r\n\r\n"] {
        let mut stream = server.connect();
        stream.write_all(opening.as_bytes()).unwrap();
        let started_at = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(started_at.elapsed() < Duration::from_secs(60), "{opening:?} lived on");
    }
}

#[test]
fn a_stalled_body_times_out() {
    let server = Server::with(HttpSettings { body_idle_timeout_ms: 1_000, ..HttpSettings::default() });
    server.kline("X");
    let before = server.state("kline/X/1m");
    let mut stream = server.connect();
    let head = "POST /v1/klines/X/1m HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000\r\n\r\n[{";
    stream.write_all(head.as_bytes()).unwrap();
    Reply::read(stream, false).refused("request_timeout");
    assert_eq!(server.state("kline/X/1m"), before);
}

#[test]
fn a_truncated_body_writes_nothing() {
    let server = Server::start();
    server.kline("X");
    let before = server.state("kline/X/1m");
    let body = csv_body(0, 100);
    let mut stream = server.connect();
    let head = "POST /v1/klines/X/1m?format=csv HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(server.state("kline/X/1m"), before);
}

#[test]
fn shutdown_lets_responses_in_progress_finish() {
    let mut server = Server::start();
    server.kline("X");
    for part in 0..3 {
        server.post("/v1/klines/X/1m", "text/csv", csv_body(part * 100_000, 100_000)).expect(200);
    }
    let mut stream = server.connect();
    stream.write_all(b"GET /v1/klines/X/1m?format=csv HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut first = [0; 20];
    stream.read_exact(&mut first).unwrap();
    let address = server.address;
    let reader = std::thread::spawn(move || {
        // Read only once the server is shutting down.
        let is_ready = || {
            let mut reply = String::new();
            std::net::TcpStream::connect(address).is_ok_and(|mut probe| {
                let request = b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
                probe.write_all(request).is_ok() && probe.read_to_string(&mut reply).is_ok()
            }) && reply.starts_with("HTTP/1.1 200")
        };
        let started_at = Instant::now();
        while is_ready() {
            assert!(started_at.elapsed().as_secs() < 60, "ready during a shutdown");
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        rest
    });
    server.stop().unwrap();
    let rest = reader.join().unwrap();
    assert!(rest.ends_with(b"\r\n0\r\n\r\n"), "the response was aborted");
    assert!(rest.windows(13).any(|window| window == b"\n17999940000,"), "the last row is missing");
    assert!(std::net::TcpStream::connect(address).is_err(), "still listening");
}

#[test]
fn http2_is_supported() {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    let server = Server::start();
    server.kline("X");
    server.post("/v1/klines/X/1m", "text/csv", csv_body(0, 20_000)).expect(200);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client: Client<_, Empty<bytes::Bytes>> =
            Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let uri = format!("http://{}/v1/klines/X/1m?format=csv", server.address).parse().unwrap();
        let reply = client.get(uri).await.unwrap();
        assert_eq!(reply.version(), hyper::Version::HTTP_2);
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        assert!(body == csv_body(0, 20_000).as_bytes());
    });
}

/// Sends these bytes and returns all received bytes until the server closes.
fn raw(server: &Server, bytes: &[u8]) -> Reply {
    let mut stream = server.connect();
    stream.write_all(bytes).unwrap();
    Reply::read(stream, false)
}

#[test]
fn malformed_headers_get_a_problem_document_too() {
    let server = Server::start();
    server.kline("X");
    for (line, output) in [
        ("GET /v1/klines/X/1m?where=close>100 HTTP/1.1", "has >, which must be percent-encoded"),
        ("GET /v1/klines/X/1m?where=close<100 HTTP/1.1", "has <,"),
        ("GET /v1/klines/X/1m?start=2024-02-01 00:00 HTTP/1.1", "a space"),
        ("G\u{1}T / HTTP/1.1", "is not HTTP"),
        ("GET / HTTP/9.9", "is not HTTP"),
        ("GET / HTTP/1.1\r\na b: c", "is not HTTP"),
    ] {
        let problem = raw(&server, format!("{line}\r\nhost: x\r\n\r\n").as_bytes()).refused("invalid_argument");
        assert!(problem["detail"].as_str().unwrap().contains(output), "{line}: {problem}");
    }
    let many = "x: y\r\n".repeat(200);
    raw(&server, format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes()).refused("headers_too_large");
    // Also after a successful request.
    let mut stream = server.connect();
    stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut bytes = vec![0; 4096];
    let read = stream.read(&mut bytes).unwrap();
    assert!(bytes[..read].starts_with(b"HTTP/1.1 200"));
    stream.write_all(b"GET /x?a>b HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let problem = Reply::read(stream, false).refused("invalid_argument");
    assert!(problem["detail"].as_str().unwrap().contains("has >,"), "{problem}");
}

#[test]
fn a_request_of_http_1_1_names_its_host_once() {
    let server = Server::start();
    let end = "connection: close\r\n\r\n";
    let request = |head: &str| raw(&server, format!("GET /health/live {head}{end}").as_bytes());
    request("HTTP/1.1\r\nhost: x\r\n").expect(200);
    request("HTTP/1.0\r\n").expect(200);
    for head in ["HTTP/1.1\r\n", "HTTP/1.1\r\nhost: x\r\nhost: y\r\n"] {
        let problem = request(head).refused("invalid_argument");
        assert!(problem["detail"].as_str().unwrap().contains("Host header"), "{head:?}: {problem}");
    }
}
