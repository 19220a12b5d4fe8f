//! A server that only sends bytes from memory: the limit of HTTP on a machine, for `benches/compare`.
//!
//! `bare FILE…` reads the files, prints `ready http=ADDRESS`, serves their bytes at `GET /0`, `/1` and so on, and exits
//! when its standard input is closed.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// The allocator of `fastk serve`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PIECE_BYTES: usize = 1 << 20;

async fn send(State(files): State<Arc<Vec<Bytes>>>, Path(number): Path<usize>) -> Response {
    let Some(bytes) = files.get(number).cloned() else { return StatusCode::NOT_FOUND.into_response() };
    let length = bytes.len();
    let body = if length <= PIECE_BYTES {
        Body::from(bytes)
    } else {
        let pieces = (0..length).step_by(PIECE_BYTES);
        let piece = move |at| Ok::<_, Infallible>(bytes.slice(at..length.min(at + PIECE_BYTES)));
        Body::from_stream(futures::stream::iter(pieces.map(piece)))
    };
    let headers =
        [(header::CONTENT_LENGTH, length.to_string()), (header::CONTENT_TYPE, "application/octet-stream".into())];
    (headers, body).into_response()
}

#[tokio::main]
async fn main() {
    let files: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if files.is_empty() {
        eprintln!("bare needs files; benches/compare/run starts it");
        return;
    }
    let files = files.iter().map(|path| Bytes::from(std::fs::read(path).expect("a file"))).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("ready http={}", listener.local_addr().expect("an address"));
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a socket"));
    let app = Router::new().route("/{number}", get(send)).with_state(Arc::new(files));
    let end = async {
        let mut rest = Vec::new();
        let _ = tokio::io::stdin().read_to_end(&mut rest).await;
    };
    tokio::select! {
        served = axum::serve(listener, app).into_future() => served.expect("served"),
        () = end => {}
    }
}
