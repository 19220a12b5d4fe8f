//! The console: pages for a browser, served from the program itself. They show no data of their own and need no token:
//! their scripts call the API with the token that the user enters.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;

use super::etag;
use super::params::{NoParams, Params};
use super::problem::ProblemResponse;
use crate::egress::accept::weighted;
use crate::error::{Error, ErrorCode};

/// Paths of its files, below which nothing else is served.
pub const FILES: &str = "/console/";

/// What a page may load and where it may be shown: files and answers of this server, in no frame of another. The chart
/// library writes style elements and draws pictures into `blob:` addresses.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file, plain and compressed.
struct Asset {
    media: &'static str,
    plain: Bytes,
    gzip: Bytes,
    tag: String,
}

impl Asset {
    fn new(media: &'static str, plain: Bytes) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        // Memory is never full.
        let gzip = encoder.write_all(&plain).and_then(|()| encoder.finish()).unwrap_or_default();
        let tag = format!("\"{:08x}-{:x}\"", crc32c::crc32c(&plain), plain.len());
        Self { media, plain, gzip: gzip.into(), tag }
    }

    fn response(&self, headers: &HeaderMap) -> Response {
        if etag::is_known(headers, &self.tag) {
            return etag::not_modified(&self.tag);
        }
        let accepted = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let has_gzip = accepted.flat_map(weighted).any(|(coding, quality)| coding == "gzip" && quality > 0);
        let is_compressed = has_gzip && !self.gzip.is_empty();
        let body = if is_compressed { self.gzip.clone() } else { self.plain.clone() };
        let mut response = Body::from(body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media));
        if let Ok(tag) = HeaderValue::from_str(&self.tag) {
            headers.insert(header::ETAG, tag);
        }
        // Another version of the program may answer next time.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if is_compressed {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

macro_rules! assets {
    ($($name:literal: $media:expr),* $(,)?) => {
        [$(($name, Asset::new($media, Bytes::from_static(include_bytes!(concat!("console/", $name)))))),*]
    };
}

static ASSETS: LazyLock<BTreeMap<&'static str, Asset>> = LazyLock::new(|| {
    assets! {
        "index.html": HTML,
        "console.css": "text/css; charset=utf-8",
        "icon.svg": "image/svg+xml",
        "main.js": SCRIPT,
        "api.js": SCRIPT,
        "chart.js": SCRIPT,
        "dom.js": SCRIPT,
        "format.js": SCRIPT,
        "health.js": SCRIPT,
        "query.js": SCRIPT,
        "registry.js": SCRIPT,
        "series.js": SCRIPT,
        "series_list.js": SCRIPT,
    }
    .into()
});

/// The chart library: the first of the scripts that its crate carries.
static CHARTS: LazyLock<Asset> = LazyLock::new(|| {
    let tags = plotly::Plot::offline_js_sources();
    let first = tags.split_once('>').and_then(|(_, rest)| rest.split_once("</script>"));
    Asset::new(SCRIPT, Bytes::from(first.map_or_else(String::new, |(script, _)| script.to_owned())))
});

/// The routes of the console.
pub fn routes() -> Router {
    Router::new().route("/", get(index)).route("/console/{file}", get(file))
}

async fn index(uri: Uri, headers: HeaderMap) -> Result<Response, ProblemResponse> {
    Params::of::<NoParams>(&uri)?;
    find("index.html", &uri, &headers)
}

async fn file(Path(name): Path<String>, uri: Uri, headers: HeaderMap) -> Result<Response, ProblemResponse> {
    if name == "plotly.js" {
        return Ok(CHARTS.response(&headers));
    }
    find(&name, &uri, &headers)
}

fn find(name: &str, uri: &Uri, headers: &HeaderMap) -> Result<Response, ProblemResponse> {
    let missing = || Error::new(ErrorCode::NotFound, format!("{} does not exist", uri.path()));
    let asset = ASSETS.get(name).ok_or_else(missing)?;
    Ok(asset.response(headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_that_a_page_names_is_served() {
        for (name, asset) in ASSETS.iter() {
            let text = std::str::from_utf8(&asset.plain).unwrap();
            for part in text.split(['"', '\'', '(', ')']) {
                let named = part.strip_prefix("console/").or_else(|| part.strip_prefix("./")).unwrap_or_default();
                let is_file = [".js", ".css", ".svg"].iter().any(|ending| named.ends_with(ending));
                assert!(!is_file || named == "plotly.js" || ASSETS.contains_key(named), "{name} names {part}");
            }
        }
    }

    #[test]
    fn the_chart_library_is_one_script_without_tags() {
        let script = std::str::from_utf8(&CHARTS.plain).unwrap();
        assert!(script.len() > 1_000_000 && script.contains("plotly.js"), "{} bytes", script.len());
        assert!(!script.contains("MathJax-script"));
    }
}
