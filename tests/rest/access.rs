//! Authorization: every route of the OpenAPI document with every kind of token.

use std::collections::BTreeSet;
use std::io::Write;

use fastk::access;
use fastk::service::Scope;
use serde_json::Value;

use crate::client::{Reply, Server};

/// The access of a token that is limited to other series.
#[derive(Clone, Copy, PartialEq)]
enum Limited {
    /// It sees its own series.
    Part,
    /// None.
    Refused,
}

const KLINE: &str = "/v1/klines/BTCUSDT/1m";
const SCALAR: &str = "/v1/scalars/feature/BTCUSDT/1m/rsi";
const KLINE_SERIES: &str = "/v1/series/kline/BTCUSDT/1m";
const SCALAR_SERIES: &str = "/v1/series/scalar/feature/BTCUSDT/1m/rsi";
const SPEC: &str = r#"{"kind":"kline","symbol":"BTCUSDT","timeframe":"1m"}"#;
const KIND: &str = r#"{"kind":"greeks","key":["contract"],"fields":[{"name":"delta","type":"float64"}]}"#;
const QUERY: &str = r#"{"series":["kline/BTCUSDT/1m"]}"#;
const BARS: &str = r#"[{"ts":60000,"open":1,"high":1,"low":1,"close":1,"volume":1}]"#;
const MANY: &str = r#"{"writes":[{"series":"kline/BTCUSDT/1m","rows":[{"ts":60000,"open":1,"high":1,"low":1,"close":1,"volume":1}]}]}"#;

const DATASET: &str = r#"{"name":"x","members":["kline/BTCUSDT/1m"]}"#;
const DEFINITION: &str = r#"{"name":"x","definition":{},"code_version":"1","inputs":["kline/BTCUSDT/1m"]}"#;

/// Method, path of the document, a request path, a body, the required scope (none for open paths).
type Route = (&'static str, &'static str, &'static str, &'static str, Option<Scope>, Limited);

#[rustfmt::skip]
const ROUTES: &[Route] = {
    use Limited::{Part, Refused};
    use Scope::{Admin, Read, Write};
    &[
        ("get", "/health/live", "/health/live", "", None, Part),
        ("get", "/health/ready", "/health/ready", "", None, Part),
        ("get", "/openapi.json", "/openapi.json", "", None, Part),
        ("get", "/health", "/health", "", Some(Read), Part),
        ("get", "/metrics", "/metrics", "", Some(Read), Refused),
        ("get", "/inventory", "/inventory", "", Some(Read), Part),
        ("get", "/v1/series", "/v1/series", "", Some(Read), Part),
        ("get", "/v1/snapshots", "/v1/snapshots", "", Some(Read), Part),
        ("get", "/v1/kinds", "/v1/kinds", "", Some(Read), Part),
        ("get", "/v1/kinds/{kind}", "/v1/kinds/kline", "", Some(Read), Part),
        ("post", "/v1/kinds", "/v1/kinds", KIND, Some(Write), Refused),
        ("delete", "/v1/kinds/{kind}", "/v1/kinds/greeks", "", Some(Admin), Refused),
        ("get", "/v1/series/{key}", "/v1/series/kline%2FBTCUSDT%2F1m", "", Some(Read), Refused),
        ("patch", "/v1/series/{key}", "/v1/series/kline%2FBTCUSDT%2F1m", "{\"description\":\"x\"}", Some(Write), Refused),
        ("get", "/v1/series/{key}/rows", "/v1/series/kline/BTCUSDT/1m/rows", "", Some(Read), Refused),
        ("post", "/v1/series/{key}/rows", "/v1/series/kline/BTCUSDT/1m/rows", BARS, Some(Write), Refused),
        ("post", "/v1/series/{key}/rows/merge", "/v1/series/kline/BTCUSDT/1m/rows/merge", BARS, Some(Write), Refused),
        ("delete", "/v1/series/{key}/rows", "/v1/series/kline/BTCUSDT/1m/rows?all=true", "", Some(Write), Refused),
        ("get", "/v1/coverage/{key}", "/v1/coverage/kline%2FBTCUSDT%2F1m", "", Some(Read), Refused),
        ("get", "/v1/series/kline/{symbol}/{timeframe}", KLINE_SERIES, "", Some(Read), Refused),
        ("get", "/v1/series/scalar/{category}/{symbol}/{timeframe}/{name}", SCALAR_SERIES, "", Some(Read), Refused),
        ("get", "/v1/klines/{symbol}/{timeframe}", KLINE, "", Some(Read), Refused),
        ("get", "/v1/scalars/{category}/{symbol}/{timeframe}/{name}", SCALAR, "", Some(Read), Refused),
        ("get", "/v1/query", "/v1/query?series=kline/BTCUSDT/1m", "", Some(Read), Refused),
        ("post", "/v1/query", "/v1/query", QUERY, Some(Read), Refused),
        ("post", "/v1/sql", "/v1/sql", r#"{"sql":"SELECT 1"}"#, Some(Read), Part),
        ("get", "/v1/sql/queries", "/v1/sql/queries", "", Some(Read), Part),
        ("delete", "/v1/sql/queries/{id}", "/v1/sql/queries/1", "", Some(Read), Part),
        ("get", "/v1/coverage/kline/{symbol}/{timeframe}", "/v1/coverage/kline/BTCUSDT/1m", "", Some(Read), Refused),
        ("get", "/v1/coverage/scalar/{category}/{symbol}/{timeframe}/{name}", "/v1/coverage/scalar/feature/BTCUSDT/1m/rsi",
            "", Some(Read), Refused),
        ("post", "/v1/series", "/v1/series", SPEC, Some(Write), Refused),
        ("patch", "/v1/series/kline/{symbol}/{timeframe}", KLINE_SERIES, "{\"description\":\"x\"}", Some(Write), Refused),
        ("patch", "/v1/series/scalar/{category}/{symbol}/{timeframe}/{name}", SCALAR_SERIES, "{\"description\":\"x\"}",
            Some(Write), Refused),
        ("post", "/v1/klines/{symbol}/{timeframe}", KLINE, BARS, Some(Write), Refused),
        ("post", "/v1/scalars/{category}/{symbol}/{timeframe}/{name}", SCALAR, "[{\"ts\":60000,\"value\":1}]", Some(Write), Refused),
        ("post", "/v1/klines/{symbol}/{timeframe}/merge", "/v1/klines/BTCUSDT/1m/merge", BARS, Some(Write), Refused),
        ("post", "/v1/scalars/{category}/{symbol}/{timeframe}/{name}/merge", "/v1/scalars/feature/BTCUSDT/1m/rsi/merge",
            "[{\"ts\":60000,\"value\":1}]", Some(Write), Refused),
        ("post", "/v1/write", "/v1/write", MANY, Some(Write), Refused),
        ("delete", "/v1/klines/{symbol}/{timeframe}", "/v1/klines/BTCUSDT/1m?all=true", "", Some(Write), Refused),
        ("delete", "/v1/scalars/{category}/{symbol}/{timeframe}/{name}", "/v1/scalars/feature/BTCUSDT/1m/rsi?all=true", "",
            Some(Write), Refused),
        ("post", "/v1/datasets", "/v1/datasets", DATASET, Some(Write), Refused),
        ("get", "/v1/datasets", "/v1/datasets", "", Some(Read), Part),
        ("get", "/v1/datasets/{name}", "/v1/datasets/x", "", Some(Read), Part),
        ("get", "/v1/datasets/{name}/versions", "/v1/datasets/x/versions", "", Some(Read), Part),
        ("get", "/v1/datasets/{name}/versions/{version}", "/v1/datasets/x/versions/1", "", Some(Read), Part),
        ("get", "/v1/datasets/{name}/versions/{version}/lineage", "/v1/datasets/x/versions/1/lineage", "", Some(Read), Part),
        ("patch", "/v1/datasets/{name}/versions/{version}", "/v1/datasets/x/versions/1", "{\"status\":\"deprecated\"}", Some(Write), Part),
        ("post", "/v1/features", "/v1/features", DEFINITION, Some(Write), Refused),
        ("get", "/v1/features", "/v1/features", "", Some(Read), Part),
        ("get", "/v1/features/{name}", "/v1/features/x", "", Some(Read), Part),
        ("get", "/v1/features/{name}/versions", "/v1/features/x/versions", "", Some(Read), Part),
        ("get", "/v1/features/{name}/versions/{version}", "/v1/features/x/versions/1", "", Some(Read), Part),
        ("get", "/v1/features/{name}/versions/{version}/lineage", "/v1/features/x/versions/1/lineage", "", Some(Read), Part),
        ("patch", "/v1/features/{name}/versions/{version}", "/v1/features/x/versions/1", "{\"status\":\"deprecated\"}", Some(Write), Part),
        ("post", "/v1/factors", "/v1/factors", DEFINITION, Some(Write), Refused),
        ("get", "/v1/factors", "/v1/factors", "", Some(Read), Part),
        ("get", "/v1/factors/{name}", "/v1/factors/x", "", Some(Read), Part),
        ("get", "/v1/factors/{name}/versions", "/v1/factors/x/versions", "", Some(Read), Part),
        ("get", "/v1/factors/{name}/versions/{version}", "/v1/factors/x/versions/1", "", Some(Read), Part),
        ("get", "/v1/factors/{name}/versions/{version}/lineage", "/v1/factors/x/versions/1/lineage", "", Some(Read), Part),
        ("patch", "/v1/factors/{name}/versions/{version}", "/v1/factors/x/versions/1", "{\"status\":\"deprecated\"}", Some(Write), Part),
        ("post", "/v1/snapshots", "/v1/snapshots", "{\"name\":\"s\"}", Some(Write), Refused),
        ("delete", "/v1/snapshots/{name}", "/v1/snapshots/s", "", Some(Admin), Refused),
        ("delete", "/v1/series/{key}", "/v1/series/kline%2FBTCUSDT%2F1m", "", Some(Admin), Refused),
        ("delete", "/v1/series/kline/{symbol}/{timeframe}", KLINE_SERIES, "", Some(Admin), Refused),
        ("delete", "/v1/series/scalar/{category}/{symbol}/{timeframe}/{name}", SCALAR_SERIES, "", Some(Admin), Refused),
        ("post", "/v1/admin/verify", "/v1/admin/verify", "", Some(Admin), Refused),
        ("post", "/v1/admin/scrub", "/v1/admin/scrub", "", Some(Admin), Refused),
        ("post", "/v1/admin/backup", "/v1/admin/backup", "{\"dir\":\"b\"}", Some(Admin), Refused),
        ("post", "/v1/admin/compact", "/v1/admin/compact", "", Some(Admin), Refused),
        ("get", "/v1/admin/jobs", "/v1/admin/jobs", "", Some(Admin), Part),
        ("get", "/v1/admin/jobs/{id}", "/v1/admin/jobs/none", "", Some(Admin), Part),
        ("delete", "/v1/admin/jobs/{id}", "/v1/admin/jobs/none", "", Some(Admin), Part),
        ("get", "/v1/admin/orphans", "/v1/admin/orphans", "", Some(Admin), Refused),
        ("get", "/v1/admin/overlaps", "/v1/admin/overlaps", "", Some(Admin), Refused),
        ("get", "/v1/admin/files", "/v1/admin/files?series=kline/BTCUSDT/1m", "", Some(Admin), Refused),
    ]
};

/// A server with a token of each scope, and an admin token limited to other series.
struct Guarded {
    server: Server,
    tokens: Vec<(Scope, String)>,
    limited: String,
}

impl Guarded {
    fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let make = |scope: Scope, prefixes: &[String]| {
            access::create(root.path(), scope.name(), scope, prefixes).unwrap().token
        };
        let tokens = Scope::ALL.into_iter().map(|scope| (scope, make(scope, &[]))).collect();
        let limited = make(Scope::Admin, &["kline/ETH".to_owned()]);
        let server = Server::over(root.into(), Default::default());
        Self { server, tokens, limited }
    }

    fn request(&self, token: Option<&str>, method: &str, path: &str, body: &str) -> Reply {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        self.server.send(&method.to_uppercase(), path, &headers, body.as_bytes())
    }
}

#[test]
fn every_route_checks_its_scope_and_its_series() {
    let guarded = Guarded::start();
    let document: Value =
        serde_json::from_slice(&guarded.request(None, "get", "/openapi.json", "").expect(200).body).unwrap();
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, verbs)| verbs.as_object().unwrap().keys().map(move |verb| (verb.clone(), path.clone())))
        .collect();
    let known: BTreeSet<(String, String)> =
        ROUTES.iter().map(|route| (route.0.to_owned(), route.1.to_owned())).collect();
    assert_eq!(known, documented, "each route is in the table, and each row of the table is a route");

    for (method, path, target, body, needed, limited) in ROUTES {
        let status = |token: Option<&str>| guarded.request(token, method, target, body).status;
        let route = format!("{method} {path}");
        for token in [None, Some("fastk_wrong"), Some("")] {
            let status = status(token);
            assert_eq!(status == 401, needed.is_some(), "{route} without a good token: {status}");
        }
        for (own, token) in &guarded.tokens {
            let status = status(Some(token));
            let refused = needed.is_some_and(|needed| *own < needed);
            assert_eq!(status == 403, refused || *path == "/v1/admin/backup", "{route} with scope {own:?}: {status}");
            assert!(status < 500 && status != 401, "{route} with scope {own:?}: {status}");
        }
        let status = status(Some(&guarded.limited));
        assert_eq!(status == 403, *limited == Limited::Refused, "{route} for other series: {status}");
        assert_ne!(status, 401, "{route}");
    }
}

#[test]
fn a_missing_permission_is_reported_before_any_error_of_parameters_or_body() {
    let guarded = Guarded::start();
    // The series of these routes are in their bodies, so a malformed body is reported first to a limited token.
    let by_body = ["/v1/query", "/v1/series", "/v1/write", "/v1/features", "/v1/factors", "/v1/admin/compact"];
    for (method, path, target, _, needed, limited) in ROUTES {
        let Some(needed) = needed else { continue };
        let bad = format!("{}?limit=-1&nonsense=%FF&nonsense=2", target.split('?').next().unwrap());
        let route = format!("{method} {path}");
        for token in [None, Some("fastk_wrong")] {
            let reply = guarded.request(token, method, &bad, "{\"");
            assert_eq!(reply.status, 401, "{route} without a good token");
        }
        for (own, token) in &guarded.tokens {
            let status = guarded.request(Some(token), method, &bad, "{\"").status;
            assert_eq!(status == 403, own < needed, "{route} with scope {own:?}: {status}");
        }
        let status = guarded.request(Some(&guarded.limited), method, &bad, "{\"").status;
        // The series of these routes are in their parameters, which are missing here.
        let by_parameters = *method == "get" && ["/v1/query", "/v1/admin/files"].contains(path);
        let by_body = by_body.contains(path) && *method == "post";
        let is_refused = *limited == Limited::Refused && !by_body && !by_parameters;
        assert_eq!(status == 403, is_refused, "{route} for other series: {status}");
        // An invalid key is reported only to tokens with the scope.
        if path.contains("{timeframe}") {
            let reader = &guarded.tokens[0].1;
            let status = guarded.request(Some(reader), method, &bad.replace("BTCUSDT", ".bad"), "").status;
            assert_eq!(status, if *needed > Scope::Read { 403 } else { 400 }, "{route} of an invalid key");
        }
    }
}

#[test]
fn a_refusal_says_what_to_send_and_leaks_nothing() {
    let guarded = Guarded::start();
    let reply = guarded.request(None, "get", KLINE, "");
    assert_eq!(reply.header("www-authenticate").unwrap(), "Bearer realm=\"fastk\"");
    reply.refused("unauthenticated");
    let basic = access::basic_header("anyone", &guarded.tokens[0].1);
    guarded.server.get_with("/inventory", &[("authorization", &basic)]).expect(200);
    // A token without access does not learn whether a series exists.
    let of = |symbol: &str| guarded.request(Some(&guarded.limited), "get", &format!("/v1/klines/{symbol}/1m"), "");
    of("BTCUSDT").refused("permission_denied");
    of("NOSUCH").refused("permission_denied");
    of("ETHUSDT").refused("series_not_found");
    // The body is not read: none is sent.
    let mut stream = guarded.server.connect();
    let bearer = access::bearer_header(&guarded.tokens[0].1);
    let head =
        format!("POST {KLINE} HTTP/1.1\r\nhost: test\r\nauthorization: {bearer}\r\ncontent-length: 100000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    Reply::read(stream, false).refused("permission_denied");
}

#[test]
fn pages_of_other_origins_are_served_only_if_listed() {
    let listed = "https://charts.example.com";
    let request = |server: &Server, method: &str, origin: &str, extra: &[(&str, &str)]| {
        let mut headers = vec![("origin", origin)];
        headers.extend_from_slice(extra);
        server.send(method, "/inventory", &headers, b"")
    };
    let preflight = [("access-control-request-method", "GET"), ("access-control-request-headers", "authorization")];
    let closed = Server::start();
    assert_eq!(request(&closed, "GET", listed, &[]).expect(200).header("access-control-allow-origin"), None);
    let config = fastk::server::http::HttpSettings { cors_origins: vec![listed.into()], ..Default::default() };
    let root = tempfile::tempdir().unwrap();
    let token = access::create(root.path(), "page", Scope::Read, &[]).unwrap().token;
    let server = Server::over(root.into(), config);
    // The preflight of a browser has no token.
    let reply = request(&server, "OPTIONS", listed, &preflight).expect(200);
    assert_eq!(reply.header("access-control-allow-origin"), Some(listed));
    assert!(reply.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert!(reply.header("access-control-allow-credentials").is_none());
    let bearer = access::bearer_header(&token);
    let reply = request(&server, "GET", listed, &[("authorization", &bearer)]).expect(200);
    assert_eq!(reply.header("access-control-allow-origin"), Some(listed));
    assert!(reply.header("access-control-expose-headers").unwrap().contains("etag"));
    assert_eq!(request(&server, "GET", listed, &[]).status, 401);
    for other in ["https://evil.example.com", "null", "https://charts.example.com.evil.com"] {
        assert_eq!(
            request(&server, "OPTIONS", other, &preflight).header("access-control-allow-origin"),
            None,
            "{other}"
        );
        let reply = request(&server, "GET", other, &[("authorization", &bearer)]);
        assert_eq!(reply.header("access-control-allow-origin"), None, "{other}");
    }
}

#[test]
fn a_limited_token_sees_its_part_of_the_store() {
    let guarded = Guarded::start();
    let admin = Some(guarded.tokens[2].1.as_str());
    for symbol in ["BTCUSDT", "ETHUSDT", "ETHBTC"] {
        let spec = format!(r#"{{"kind":"kline","symbol":"{symbol}","timeframe":"1m"}}"#);
        guarded.request(admin, "post", "/v1/series", &spec).expect(201);
        guarded.request(admin, "post", &format!("/v1/klines/{symbol}/1m"), BARS).expect(200);
    }
    let limited = Some(guarded.limited.as_str());
    let json = |token, path: &str| -> Value {
        serde_json::from_slice(&guarded.request(token, "get", path, "").expect(200).body).unwrap()
    };
    let keys = |whole: &Value| -> Vec<String> {
        whole["series"].as_array().unwrap().iter().map(|row| row["series"].as_str().unwrap().to_owned()).collect()
    };
    let part = json(limited, "/inventory");
    assert_eq!(keys(&part), ["kline/ETHBTC/1m", "kline/ETHUSDT/1m"]);
    assert_eq!((part["totals"]["series"].as_u64(), part["totals"]["rows"].as_u64()), (Some(2), Some(2)));
    assert_eq!(json(admin, "/inventory")["totals"]["series"], 3);
    assert_eq!(json(limited, "/v1/series")["series"].as_array().unwrap().len(), 2);
    // A glob matches the accessible series; a key outside is refused.
    let query = |body: &str| guarded.request(limited, "post", "/v1/query", body);
    let text = String::from_utf8(query(r#"{"series":["kline/*/1m"]}"#).expect(200).body).unwrap();
    assert!(text.contains("ETHBTC") && text.contains("ETHUSDT") && !text.contains("BTCUSDT/1m"), "{text}");
    query(r#"{"series":["kline/ETHUSDT/1m","kline/BTCUSDT/1m"]}"#).refused("permission_denied");
    let text = String::from_utf8(query(r#"{"series":["kline/*/1m"],"layout":"wide"}"#).expect(200).body).unwrap();
    assert!(text.contains("ETHBTC.close") && text.contains("ETHUSDT.close") && !text.contains("BTCUSDT."), "{text}");
    query(r#"{"series":["kline/ETHUSDT/1m","kline/BTCUSDT/1m"],"layout":"wide"}"#).refused("permission_denied");
    let one = |symbol: &str| format!(r#"{{"series":"kline/{symbol}/1m","rows":{BARS}}}"#);
    let both = format!(r#"{{"writes":[{},{}]}}"#, one("ETHUSDT"), one("BTCUSDT"));
    guarded.request(limited, "post", "/v1/write", &both).refused("permission_denied");
    guarded
        .request(limited, "post", "/v1/admin/compact", r#"{"series":["kline/BTCUSDT/1m"]}"#)
        .refused("permission_denied");
    guarded.request(limited, "post", "/v1/admin/compact?wait=true", r#"{"series":["kline/ETHUSDT/1m"]}"#).expect(200);
    assert_eq!(json(admin, "/v1/klines/BTCUSDT/1m")["rows"].as_array().unwrap().len(), 1);
    // Similar series in a hint are only accessible ones: `ETHBTC` is as similar as the others.
    let hint = |token, symbol: &str| -> String {
        let refused = guarded.request(token, "get", &format!("/v1/klines/{symbol}/1m"), "");
        assert_eq!(refused.status, 404);
        let problem: Value = serde_json::from_slice(&refused.body).unwrap();
        problem["hint"].as_str().unwrap_or_default().to_owned()
    };
    guarded.request(admin, "post", "/v1/series", r#"{"kind":"kline","symbol":"ETGUSDT","timeframe":"1m"}"#).expect(201);
    assert!(hint(admin, "ETHUSDC").contains("kline/ETGUSDT/1m"), "{}", hint(admin, "ETHUSDC"));
    let seen = hint(limited, "ETHUSDC");
    assert!(seen.contains("kline/ETHUSDT/1m") && !seen.contains("ETGUSDT"), "{seen}");
    // The entity tags of inventories differ between callers.
    let tag = |token| guarded.request(token, "get", "/inventory", "").header("etag").unwrap().to_owned();
    assert_ne!(tag(limited), tag(admin));
}

#[test]
fn a_limited_token_follows_and_cancels_the_jobs_it_started_and_no_others() {
    let guarded = Guarded::start();
    let admin = Some(guarded.tokens[2].1.as_str());
    let limited = Some(guarded.limited.as_str());
    guarded.request(admin, "post", "/v1/series", r#"{"kind":"kline","symbol":"ETHUSDT","timeframe":"1m"}"#).expect(201);
    let start = |token, path: &str, body: &str| -> String {
        let reply = guarded.request(token, "post", path, body);
        assert!(reply.status == 202, "{}", reply.text());
        reply.header("location").unwrap().to_owned()
    };
    let own = start(limited, "/v1/admin/compact", r#"{"series":["kline/ETHUSDT/1m"]}"#);
    let other = start(admin, "/v1/admin/verify", "");
    assert_eq!(guarded.request(limited, "get", &own, "").expect(200).json()["jobs"][0]["verb"], "compact");
    guarded.request(limited, "get", &other, "").refused("job_not_found");
    guarded.request(limited, "delete", &other, "").refused("job_not_found");
    guarded.request(limited, "delete", &own, "").expect(200);
    let listed = |token| guarded.request(token, "get", "/v1/admin/jobs", "").expect(200).json()["jobs"].clone();
    assert_eq!(listed(limited).as_array().unwrap().len(), 1);
    assert!(own.ends_with(listed(limited)[0]["id"].as_str().unwrap()));
    assert_eq!(listed(admin).as_array().unwrap().len(), 2);
}

#[test]
fn a_limited_token_sees_damage_without_files_ids_or_ranges() {
    let root = tempfile::tempdir().unwrap();
    let make = |prefixes: &[&str]| {
        let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        access::create(root.path(), "t", Scope::Admin, &prefixes).unwrap().token
    };
    let (admin, limited) = (make(&[]), make(&["kline/X"]));
    let server = Server::over(root.into(), Default::default());
    let request = |server: &Server, token: &str, method: &str, path: &str, kind: &str, body: &str| {
        let bearer = access::bearer_header(token);
        server.send(method, path, &[("authorization", bearer.as_str()), ("content-type", kind)], body.as_bytes())
    };
    let spec = r#"{"kind":"kline","symbol":"X","timeframe":"1m","price_digits":2,"volume_digits":2}"#;
    request(&server, &admin, "POST", "/v1/series", "application/json", spec).expect(201);
    let bars = (0..1_000).map(|minute| format!("{},1,1,1,1,1\n", minute * 60_000));
    let rows: String = std::iter::once("ts,open,high,low,close,volume\n".to_owned()).chain(bars).collect();
    request(&server, &admin, "POST", "/v1/klines/X/1m", "text/csv", &rows).expect(200);
    request(&server, &admin, "POST", "/v1/admin/compact?wait=true", "application/json", "{}").expect(200);
    let mut files = vec![server.root.path().join("chunks")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "arrow") {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let server = server.restarted();
    let detail_for = |token: &str| {
        let refused = request(&server, token, "GET", "/v1/klines/X/1m", "text/csv", "");
        assert_eq!(refused.json()["code"], "corrupt_data", "{}", refused.text());
        refused.text()
    };
    let (whole, part) = (detail_for(&admin), detail_for(&limited));
    assert!(whole.contains("chunk") && whole.contains("timestamps"), "{whole}");
    for word in ["chunk", "timestamps", "block", ".arrow", server.root.path().to_str().unwrap()] {
        assert!(!part.contains(word), "{word}: {part}");
    }
    // So does the error of its job.
    let job = request(
        &server,
        &limited,
        "POST",
        "/v1/admin/compact?wait=true",
        "application/json",
        r#"{"series":["kline/X/1m"]}"#,
    );
    assert!(!job.text().contains(server.root.path().to_str().unwrap()), "{}", job.text());
}
