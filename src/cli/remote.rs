//! A small blocking REST client: what a verb uses when a running server owns the store.
//!
//! Problem documents come back as the [`Error`] they were made from, so that exit statuses are the same on both
//! ways. A body that ends early is an error, never a short answer.

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
use crate::access::header_of;
use crate::error::{Error, ErrorCode, Result, RowError};
use crate::types::SeriesKey;

/// What stays as it is in a path segment or a query value.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest wait for a connection.
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
    unavailable_is_answer: bool,
}

impl Call {
    /// A request without query or body; `path` is encoded already.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            target: path.into(),
            accept: None,
            if_match: None,
            idempotency_key: None,
            body: None,
            unavailable_is_answer: false,
        }
    }

    /// Adds a query parameter; the value is encoded here.
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.target.push(if self.target.contains('?') { '&' } else { '?' });
        self.target.push_str(name);
        self.target.push('=');
        self.target.extend(utf8_percent_encode(value, PLAIN));
        self
    }

    /// Adds a query parameter where there is a value.
    pub fn maybe(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.param(name, value),
            None => self,
        }
    }

    /// Length of path and query.
    pub fn target_bytes(&self) -> usize {
        self.target.len()
    }

    /// Asks for a media type.
    pub fn accept(mut self, media_type: &str) -> Self {
        self.accept = Some(media_type.to_string());
        self
    }

    /// Takes the body of a 503 for the answer, as health checks mean it.
    pub fn unavailable_is_answer(mut self) -> Self {
        self.unavailable_is_answer = true;
        self
    }

    /// Makes the request conditional on an entity tag.
    pub fn if_match(mut self, tag: Option<&str>) -> Self {
        self.if_match = tag.map(str::to_string);
        self
    }

    /// Makes the request one that is carried out once.
    pub fn idempotency_key(mut self, key: Option<&str>) -> Self {
        self.idempotency_key = key.map(str::to_string);
        self
    }

    /// Sends a body.
    pub fn body(mut self, media_type: &str, bytes: Bytes) -> Self {
        self.body = Some((media_type.to_string(), bytes));
        self
    }
}

/// A connection pool to one server, and the runtime it lives in.
pub struct RestClient {
    /// Whether the server itself said that it answers there.
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
    /// A client of `http://host:port` or, trusting what the system trusts, `https://host:port`; without a scheme it is
    /// HTTP. Connects at the first call.
    pub fn new(server: &str) -> Result<Self> {
        Self::trusting(server, &ServerTrust::default())
    }

    /// The same with who is trusted under `https://`, and the certificate shown there.
    pub fn trusting(server: &str, trust: &ServerTrust) -> Result<Self> {
        let malformed = || {
            Error::invalid(format!("server {server:?} is neither http://host:port nor https://host:port"))
                .with_hint("such as --server http://127.0.0.1:8080")
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
            .with_tls_config(if scheme == "https" { trust.config()? } else { ServerTrust::nobody()? })
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { is_announced: false, url, token: None, runtime, client })
    }

    /// Marks the address as one that the server announced, for the hint where it cannot be reached.
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

    /// The reply as a value.
    pub fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        Ok(self.json_replayed(call)?.0)
    }

    /// The reply as a value, and whether it is that of an earlier request with the same idempotency key.
    pub fn json_replayed<T: DeserializeOwned>(&self, call: Call) -> Result<(T, bool)> {
        let mut body = Vec::new();
        let headers = self.fetch(call.accept("application/json"), &mut |bytes| {
            body.extend_from_slice(&bytes);
            Ok(())
        })?;
        let value = serde_json::from_slice(&body).map_err(|error| {
            Error::internal(format!("the reply of {} is not understood: {error}", self.url()))
                .with_hint("is this a FastK server of the same version?")
        })?;
        Ok((value, headers.get(REPLAYED).is_some_and(|value| value == "true")))
    }

    /// The reply piece by piece, as it comes.
    pub fn stream(&self, call: Call, sink: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<()> {
        self.fetch(call, sink).map(|_| ())
    }

    fn fetch(&self, call: Call, sink: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<HeaderMap> {
        self.runtime.block_on(async {
            let what = format!("{} {}{}", call.method, self.url(), call.target);
            let accepted = call.unavailable_is_answer.then_some(StatusCode::SERVICE_UNAVAILABLE);
            let mut response = self.send(call).await?;
            if !response.status().is_success() && Some(response.status()) != accepted {
                return Err(problem(&what, response).await);
            }
            while let Some(frame) = response.frame().await {
                let frame = frame.map_err(|error| {
                    Error::new(ErrorCode::Io, format!("the answer of {what} broke off: {}", causes(&error)))
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
            request = request.header(AUTHORIZATION, header_of(token));
        }
        let (media_type, body) = call.body.map_or((None, Bytes::new()), |(media_type, body)| (Some(media_type), body));
        if let Some(media_type) = media_type {
            request = request.header(CONTENT_TYPE, media_type);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| Error::invalid(format!("request to {uri} cannot be made: {error}")))?;
        self.client.request(request).await.map_err(|error| {
            let causes = causes(&error);
            let hint = if self.is_announced { ANNOUNCED_HINT } else { hint_of(self.url(), &causes) };
            Error::new(ErrorCode::NotReady, format!("cannot reach {}: {causes}", self.url())).with_hint(hint)
        })
    }
}

/// What to do where a server cannot be reached at the address that it announced.
const ANNOUNCED_HINT: &str = "the server announced this address in the LOCK of its data directory; from another \
    container or machine, name it by --server http://HOST:PORT, or set http.advertise of the server to an address that \
    reaches it";

/// What to look at when a server cannot be reached.
fn hint_of(url: &str, causes: &str) -> &'static str {
    if !url.starts_with("https://") {
        return "is the server running, and is this its REST address? One under TLS is reached by https://";
    }
    // What the other side says of our certificate comes as an alert, under one of many names.
    if causes.contains("received fatal alert") {
        return "a server that asks for a certificate wants one that it knows: --cert FILE and --key FILE";
    }
    if causes.contains("NotValidForName") || causes.contains("not valid for name") {
        return "the host of --server has to be one of the names in the certificate (subjectAltName); its common name does not count";
    }
    if causes.contains("certificate") {
        return "--ca FILE (or FASTK_CA) names the certificates of who signed that of the server; its host names are fixed there";
    }
    "is the server running, is this its REST address, and does it speak TLS?"
}

/// Path of a series under `/v1/series`, or of its rows under `/v1/klines` or `/v1/scalars`.
pub fn series_path(key: &SeriesKey, rows: bool) -> String {
    let mut path = String::from(if rows { "/v1" } else { "/v1/series" });
    for (position, part) in key.as_str().split('/').enumerate() {
        path.push('/');
        path.extend(utf8_percent_encode(part, PLAIN));
        if position == 0 && rows {
            path.push('s');
        }
    }
    path
}

/// A segment of a path, encoded.
pub fn segment(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, PLAIN)
}

/// A problem document; members this program does not use are left out.
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
        Err(error) => return Error::new(ErrorCode::Io, format!("the answer of {what} broke off: {error}")),
    };
    let Ok(problem) = serde_json::from_slice::<ProblemReply>(&body) else {
        return Error::internal(format!("{what} answered {status} without a problem document"))
            .with_hint("is this a FastK server?");
    };
    let code = ErrorCode::from_name(&problem.code).unwrap_or(ErrorCode::Internal);
    let mut detail = if problem.detail.is_empty() { problem.code } else { problem.detail };
    if let (ErrorCode::Internal | ErrorCode::Io, Some(id)) = (code, problem.request_id) {
        detail = format!("{detail} (request {id})");
    }
    let error = Error::new(code, detail).with_rows(problem.errors);
    match hint_here(code, problem.hint) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// The hint of a server in the words of the command line, which has flags and no headers.
fn hint_here(code: ErrorCode, hint: Option<String>) -> Option<String> {
    match code {
        ErrorCode::Unauthenticated => Some("--token TOKEN, or FASTK_TOKEN in the environment".to_string()),
        _ => hint,
    }
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
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

    /// Answers one request with these bytes and closes; gives back what was asked.
    fn answer(reply: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let n = stream.read(&mut asked).unwrap();
            stream.write_all(reply.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..n]).into_owned()
        });
        (address, thread)
    }

    #[test]
    fn problem_documents_come_back_as_the_error_they_were() {
        let body = r#"{"code":"invalid_rows","detail":"2 rows","hint":"look","errors":[{"row":7,"field":"open","reason":"missing","message":"m"}]}"#;
        let reply = format!("HTTP/1.1 422 Unprocessable\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (address, thread) = answer(Box::leak(reply.into_boxed_str()));
        let key = SeriesKey::kline("^GSPC", "1d").unwrap();
        let call = Call::new(Method::GET, series_path(&key, true)).param("start", "2024-01-01T00:00:00+01:00");
        let error = RestClient::new(&address).unwrap().json::<serde_json::Value>(call).unwrap_err();
        assert_eq!((error.code(), error.detail(), error.hint()), (ErrorCode::InvalidRows, "2 rows", Some("look")));
        assert_eq!(error.rows()[0].row, 7);
        let asked = thread.join().unwrap();
        assert!(
            asked.starts_with("GET /v1/klines/%5EGSPC/1d?start=2024-01-01T00%3A00%3A00%2B01%3A00 HTTP/1.1"),
            "{asked}"
        );
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        for reply in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            let (address, thread) = answer(reply);
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
    fn nobody_there_is_not_ready_and_bad_addresses_are_named() {
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
