//! A small blocking REST client for commands whose store is owned by a running server.
//!
//! Problem documents are decoded into the [`Error`] they were encoded from, so that exit statuses do not depend on
//! whether a server is used. A truncated body is an error, never a shorter result.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, IF_MATCH};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::certificates::ServerTrust;
use crate::access::bearer_header;
use crate::error::{Error, ErrorCode, Result, RowError};
use crate::types::SeriesKey;
use crate::types::key::{KLINE, SCALAR};

/// Characters that are not percent-encoded in a path segment or a query value.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Timeout of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A request to one server.
#[derive(Debug)]
pub struct Call {
    method: Method,
    target: String,
    accept: Option<String>,
    if_match: Option<String>,
    idempotency_key: Option<String>,
    body: Option<(String, Bytes)>,
    accept_unavailable: bool,
}

impl Call {
    /// A request without query or body; `path` is already encoded.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            target: path.into(),
            accept: None,
            if_match: None,
            idempotency_key: None,
            body: None,
            accept_unavailable: false,
        }
    }

    /// Adds a query parameter and encodes its value.
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.target.push(if self.target.contains('?') { '&' } else { '?' });
        self.target.push_str(name);
        self.target.push('=');
        self.target.extend(utf8_percent_encode(value, PLAIN));
        self
    }

    /// Adds a query parameter if it has a value.
    pub fn maybe(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.param(name, value),
            None => self,
        }
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Sets the `Accept` header.
    pub fn accept(mut self, media_type: &str) -> Self {
        self.accept = Some(media_type.to_string());
        self
    }

    /// Returns the body of a 503 as the result, as for health checks.
    pub fn accept_unavailable(mut self) -> Self {
        self.accept_unavailable = true;
        self
    }

    /// Makes the request conditional on an entity tag.
    pub fn if_match(mut self, tag: Option<&str>) -> Self {
        self.if_match = tag.map(str::to_string);
        self
    }

    /// Sets the idempotency key.
    pub fn idempotency_key(mut self, key: Option<&str>) -> Self {
        self.idempotency_key = key.map(str::to_string);
        self
    }

    /// Sets the body.
    pub fn body(mut self, media_type: &str, bytes: Bytes) -> Self {
        self.body = Some((media_type.to_string(), bytes));
        self
    }
}

/// A connection pool to one server, and the runtime it lives in.
pub struct RestClient {
    /// Whether the address comes from the `LOCK` file.
    is_announced: bool,
    /// `http://host:port` or `https://host:port`.
    url: String,
    token: Option<String>,
    runtime: tokio::runtime::Runtime,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl std::fmt::Debug for RestClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestClient").field("url", &self.url).finish_non_exhaustive()
    }
}

impl RestClient {
    /// A client of `http://host:port` or, with the root certificates of the system, `https://host:port`; the default
    /// scheme is HTTP. Connects at the first call.
    pub fn new(server: &str) -> Result<Self> {
        Self::with_trust(server, &ServerTrust::default())
    }

    /// A client with the trusted certificates and the client certificate for `https://`.
    pub fn with_trust(server: &str, trust: &ServerTrust) -> Result<Self> {
        let malformed = || {
            Error::invalid(format!("server {server:?} is neither http://host:port nor https://host:port"))
                .with_hint("use a URL such as --server http://127.0.0.1:8080")
        };
        let (scheme, bare) = server.split_once("://").unwrap_or(("http", server));
        if !["http", "https"].contains(&scheme) {
            return Err(malformed());
        }
        let uri: Uri = format!("{scheme}://{}/", bare.trim_end_matches('/')).parse().map_err(|_| malformed())?;
        if uri.path() != "/" || uri.query().is_some() {
            return Err(malformed());
        }
        let authority = uri.authority().ok_or_else(malformed)?;
        let url = format!("{scheme}://{authority}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::new(ErrorCode::Io, format!("cannot start the client: {error}")))?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(if scheme == "https" { trust.config()? } else { ServerTrust::trust_none()? })
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { is_announced: false, url, token: None, runtime, client })
    }

    /// Marks the address as one from the `LOCK` file, for the hint when it cannot be reached.
    pub fn announced(self) -> Self {
        Self { is_announced: true, ..self }
    }

    /// Sends this token with every request.
    pub fn with_token(self, token: Option<&str>) -> Self {
        Self { token: token.map(str::to_owned), ..self }
    }

    /// `http://host:port` or `https://host:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends the request and decodes the JSON reply.
    pub fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        Ok(self.json_replayed(call)?.0)
    }

    /// Sends the request and decodes the JSON reply; whether it repeats that of an earlier request with the same
    /// idempotency key.
    pub fn json_replayed<T: DeserializeOwned>(&self, call: Call) -> Result<(T, bool)> {
        let mut body = Vec::new();
        let headers = self.fetch(call.accept("application/json"), &mut |bytes| {
            body.extend_from_slice(&bytes);
            Ok(())
        })?;
        let value = serde_json::from_slice(&body).map_err(|error| {
            Error::internal(format!("the reply of {} cannot be decoded: {error}", self.url()))
                .with_hint("is this a FastK server of the same version?")
        })?;
        Ok((value, headers.get(REPLAYED).is_some_and(|value| value == "true")))
    }

    /// Sends the request and passes the body to `sink` as it arrives.
    pub fn stream(&self, call: Call, sink: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<()> {
        self.fetch(call, sink).map(|_| ())
    }

    fn fetch(&self, call: Call, sink: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<HeaderMap> {
        self.runtime.block_on(async {
            let what = format!("{} {}{}", call.method, self.url(), call.target);
            let accepted = call.accept_unavailable.then_some(StatusCode::SERVICE_UNAVAILABLE);
            let mut response = self.send(call).await?;
            if !response.status().is_success() && Some(response.status()) != accepted {
                return Err(problem(&what, response).await);
            }
            while let Some(frame) = response.frame().await {
                let frame = frame.map_err(|error| {
                    Error::new(ErrorCode::Io, format!("the response to {what} is incomplete: {}", error_chain(&error)))
                })?;
                if let Ok(bytes) = frame.into_data() {
                    sink(bytes)?;
                }
            }
            Ok(std::mem::take(response.headers_mut()))
        })
    }

    async fn send(&self, call: Call) -> Result<Response<hyper::body::Incoming>> {
        let uri = format!("{}{}", self.url, call.target);
        let mut request = Request::builder().method(call.method).uri(&uri);
        for (name, value) in [(ACCEPT, call.accept), (IF_MATCH, call.if_match), (IDEMPOTENCY_KEY, call.idempotency_key)]
        {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, bearer_header(token));
        }
        let (media_type, body) = call.body.map_or((None, Bytes::new()), |(media_type, body)| (Some(media_type), body));
        if let Some(media_type) = media_type {
            request = request.header(CONTENT_TYPE, media_type);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| Error::invalid(format!("invalid request to {uri}: {error}")))?;
        self.client.request(request).await.map_err(|error| {
            let chain = error_chain(&error);
            let hint = if self.is_announced { ANNOUNCED_HINT } else { connect_hint(self.url(), &chain) };
            Error::new(ErrorCode::NotReady, format!("cannot reach {}: {chain}", self.url())).with_hint(hint)
        })
    }
}

/// The hint for a server that cannot be reached at the address in `LOCK`.
const ANNOUNCED_HINT: &str = "the server announced this address in the LOCK file of its data directory; from another \
    container or machine, pass --server http://HOST:PORT, or set http.advertise of the server to a reachable address";

/// The hint for a server that cannot be reached.
fn connect_hint(url: &str, chain: &str) -> &'static str {
    if !url.starts_with("https://") {
        return "is the server running, and is this its REST address? A server with TLS needs https://";
    }
    // A server refuses a client certificate by one of many TLS alerts.
    if chain.contains("received fatal alert") {
        return "the server requires a client certificate that it trusts: --cert FILE and --key FILE";
    }
    if chain.contains("NotValidForName") || chain.contains("not valid for name") {
        return "the host of --server must be one of the names in the certificate (subjectAltName); its common name is ignored";
    }
    if chain.contains("certificate") {
        return "set --ca FILE (or FASTK_CA) to the certificate of the issuer; the certificate must name the host";
    }
    "is the server running, is this its REST address, and does it speak TLS?"
}

/// Path of the rows of a series.
pub fn series_path(key: &SeriesKey) -> String {
    let has_own_routes = matches!(key.kind(), KLINE | SCALAR);
    let mut path = String::from(if has_own_routes { "/v1" } else { "/v1/series" });
    for (position, part) in key.as_str().split('/').enumerate() {
        path.push('/');
        path.extend(utf8_percent_encode(part, PLAIN));
        if position == 0 && has_own_routes {
            path.push('s');
        }
    }
    if !has_own_routes {
        path.push_str("/rows");
    }
    path
}

/// Adds a JSON body.
pub fn json_body<T: serde::Serialize>(call: Call, value: &T) -> Result<Call> {
    let body = serde_json::to_vec(value).map_err(|error| Error::internal(format!("request as JSON: {error}")))?;
    Ok(call.body("application/json", body.into()))
}

/// A percent-encoded segment of a path.
pub fn segment(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, PLAIN)
}

/// The members of a problem document that are used here.
#[derive(Deserialize)]
struct ProblemReply {
    code: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    hint: Option<String>,
    #[serde(default)]
    errors: Vec<RowError>,
    #[serde(default)]
    request_id: Option<String>,
}

async fn problem(what: &str, response: Response<hyper::body::Incoming>) -> Error {
    let status = response.status();
    let body = match http_body_util::Limited::new(response.into_body(), 4 << 20).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Error::new(ErrorCode::Io, format!("the response to {what} is incomplete: {error}")),
    };
    let Ok(problem) = serde_json::from_slice::<ProblemReply>(&body) else {
        return Error::internal(format!("{what} returned {status} without a problem document"))
            .with_hint("is this a FastK server?");
    };
    let code = ErrorCode::from_name(&problem.code).unwrap_or(ErrorCode::Internal);
    let mut detail = if problem.detail.is_empty() { problem.code } else { problem.detail };
    if let (ErrorCode::Internal | ErrorCode::Io, Some(id)) = (code, problem.request_id) {
        detail = format!("{detail} (request {id})");
    }
    let error = Error::new(code, detail).with_rows(problem.errors);
    match hint_for_flags(code, problem.hint) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// The hint of a server, reworded for flags where it names headers.
fn hint_for_flags(code: ErrorCode, hint: Option<String>) -> Option<String> {
    match code {
        ErrorCode::Unauthenticated => Some("--token TOKEN, or FASTK_TOKEN in the environment".to_string()),
        _ => hint,
    }
}

/// An error with its sources.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A server that sends these bytes to one request and closes; returns its address and the request.
    fn serve_once(reply: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).unwrap();
            stream.write_all(reply.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        (address, thread)
    }

    #[test]
    fn problem_documents_are_decoded_into_the_original_error() {
        let body = r#"{"code":"invalid_rows","detail":"2 rows","hint":"look","errors":[{"row":7,"field":"open","reason":"missing","message":"m"}]}"#;
        let reply = format!("HTTP/1.1 422 Unprocessable\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (address, thread) = serve_once(Box::leak(reply.into_boxed_str()));
        let key = SeriesKey::kline("^GSPC", "1d").unwrap();
        let call = Call::new(Method::GET, series_path(&key)).param("start", "2024-01-01T00:00:00+01:00");
        let error = RestClient::new(&address).unwrap().json::<serde_json::Value>(call).unwrap_err();
        assert_eq!((error.code(), error.detail(), error.hint()), (ErrorCode::InvalidRows, "2 rows", Some("look")));
        assert_eq!(error.rows()[0].row, 7);
        let request = thread.join().unwrap();
        assert!(
            request.starts_with("GET /v1/klines/%5EGSPC/1d?start=2024-01-01T00%3A00%3A00%2B01%3A00 HTTP/1.1"),
            "{request}"
        );
    }

    #[test]
    fn rows_of_a_series_have_the_path_of_their_kind() {
        for (key, path) in [
            ("kline/^GSPC/1d", "/v1/klines/%5EGSPC/1d"),
            ("scalar/risk/X/1d/var", "/v1/scalars/risk/X/1d/var"),
            ("greeks/SPX/C+1", "/v1/series/greeks/SPX/C%2B1/rows"),
        ] {
            assert_eq!(series_path(&SeriesKey::parse(key).unwrap()), path);
        }
    }

    #[test]
    fn a_truncated_response_is_an_error() {
        for reply in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            let (address, thread) = serve_once(reply);
            let mut got = Vec::new();
            let result = RestClient::new(&format!("http://{address}/")).unwrap().stream(
                Call::new(Method::GET, "/x"),
                &mut |bytes| {
                    got.extend_from_slice(&bytes);
                    Ok(())
                },
            );
            assert_eq!(result.unwrap_err().code(), ErrorCode::Io);
            assert_eq!(got, b"abc");
            thread.join().unwrap();
        }
    }

    #[test]
    fn an_unreachable_server_is_not_ready_and_bad_addresses_are_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let client = RestClient::new(&address).unwrap();
        let error = client.json::<serde_json::Value>(Call::new(Method::GET, "/health")).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotReady);
        for bad in ["ftp://x:1", "http://x/y", "https://x:1/y", "", "http://", "https://"] {
            assert_eq!(RestClient::new(bad).unwrap_err().code(), ErrorCode::InvalidArgument, "{bad}");
        }
    }
}
