//! HTTP connections: accepted, limited in number and by timeouts, and drained at shutdown.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use bytes::{Buf, Bytes};
use hyper::Version;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::head_refusal::HeadRefusal;
use super::openapi::operations;
use super::router::{health_router, router};
use super::settings::HttpSettings;
use crate::access::Authenticator;
use crate::error::{Error, Result};
use crate::server::connections::{Connection, ConnectionPermit, ConnectionTable, InFlight, ResponseInProgress};
use crate::server::open_files::HEALTH_CONNECTIONS;
use crate::server::tls_stream::{ServerStream, Tls};
use crate::service::{Permit, Service};

/// Serves HTTP/1.1 and HTTP/2 until `shutdown` completes, then lets open requests finish for `limits.drain_timeout_ms`.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    auth: Arc<Authenticator>,
    config: HttpSettings,
    tls: Tls,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    crate::server::metrics::declare_http(&operations());
    let app = router(service.clone(), auth, config.clone());
    let drain_timeout = service.limits().drain_timeout();
    serve_router(listener, app, &config, tls, drain_timeout, shutdown, || service.drain()).await
}

/// Serves health and metrics alone, on its own runtime, so that it responds even when the main one is saturated.
pub async fn serve_health(
    listener: TcpListener,
    service: Arc<Service>,
    auth: Arc<Authenticator>,
    mut config: HttpSettings,
    tls: Tls,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    config.connections_max = config.connections_max.min(HEALTH_CONNECTIONS);
    let app = health_router(service.clone(), auth, config.clone());
    let drain_timeout = service.limits().drain_timeout();
    serve_router(listener, app, &config, tls, drain_timeout, shutdown, || service.drain()).await
}

/// Serves an app until `shutdown` completes; then calls `drain`, and lets requests finish for `drain_timeout`.
pub(super) async fn serve_router(
    listener: TcpListener,
    app: Router,
    config: &HttpSettings,
    tls: Tls,
    drain_timeout: Duration,
    shutdown: impl Future<Output = ()>,
    drain: impl FnOnce(),
) -> Result<()> {
    let (graceful, draining) = (GracefulShutdown::new(), CancellationToken::new());
    let listener_state = HttpListener {
        app,
        builder: Arc::new(builder(config)),
        connections: ConnectionTable::new(config.connections_max),
        draining: draining.clone(),
        tls,
        header_timeout: Duration::from_millis(config.header_timeout_ms),
        idle_timeout: Duration::from_millis(config.idle_timeout_ms),
        stall_timeout: Duration::from_millis(config.stall_timeout_ms),
    };
    tokio::pin!(shutdown);
    loop {
        let (stream, slot) = tokio::select! {
            accepted = listener_state.accept(&listener) => accepted,
            () = &mut shutdown => break,
        };
        tokio::spawn(listener_state.clone().serve(stream, slot, graceful.watcher()));
    }
    // New requests are rejected while others finish.
    drain();
    draining.cancel();
    let late = GracefulShutdown::new();
    let finishing = tokio::time::timeout(drain_timeout, graceful.shutdown());
    tokio::pin!(finishing);
    let finished = loop {
        let (stream, slot) = tokio::select! {
            finished = &mut finishing => break finished,
            accepted = listener_state.accept(&listener) => accepted,
        };
        let listener_state = HttpListener { draining: CancellationToken::new(), ..listener_state.clone() };
        tokio::spawn(listener_state.serve(stream, slot, late.watcher()));
    };
    drop(listener);
    if finished.is_err() {
        return Err(Error::new(
            crate::ErrorCode::DeadlineExceeded,
            format!("requests were still open {} ms after the shutdown was requested", drain_timeout.as_millis()),
        ));
    }
    Ok(())
}

/// State shared by the connections of a listener.
#[derive(Clone)]
struct HttpListener {
    app: Router,
    builder: Arc<Builder<TokioExecutor>>,
    connections: ConnectionTable,
    draining: CancellationToken,
    tls: Tls,
    header_timeout: Duration,
    idle_timeout: Duration,
    stall_timeout: Duration,
}

impl HttpListener {
    /// Accepts the next connection and acquires its slot.
    async fn accept(&self, listener: &TcpListener) -> (TcpStream, ConnectionPermit) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    return (stream, self.connections.acquire().await);
                }
                Err(error) => {
                    // Out of descriptors, or the connection was closed before it was accepted.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Serves a connection until it closes.
    async fn serve(self, stream: TcpStream, slot: ConnectionPermit, watcher: Watcher) {
        let Self { header_timeout, idle_timeout, stall_timeout, .. } = self;
        let state = Arc::clone(&slot.connection);
        let has_request = Arc::new(AtomicBool::new(false));
        let service = service_of(self.app, has_request.clone(), state.clone());
        let accepted = tokio::select! {
            accepted = self.tls.accept(stream, header_timeout) => accepted,
            _ = state.wait_to_close(header_timeout, idle_timeout) => return,
            // A connection without a request does not delay the shutdown.
            () = self.draining.cancelled() => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "TLS handshake failed"),
        };
        let io = TokioIo::new(HttpStream::new(stream, stall_timeout, state.clone()));
        let connection = watcher.watch(self.builder.serve_connection(io, service).into_owned());
        tokio::pin!(connection);
        let close = state.wait_to_close(header_timeout, idle_timeout);
        let stalled = state.wait_until_stalled(stall_timeout);
        tokio::pin!(close, stalled);
        let mut is_draining = false;
        let ended = loop {
            tokio::select! {
                ended = &mut connection => break ended,
                reason = &mut close => return tracing::debug!(?reason, "connection closed"),
                () = &mut stalled => return tracing::debug!("connection closed: its client stopped reading"),
                () = self.draining.cancelled(), if !is_draining => {
                    is_draining = true;
                    if !has_request.load(Ordering::Acquire) {
                        return;
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "connection ended early");
        }
    }
}

fn builder(config: &HttpSettings) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // The timeouts are those of `Connection`: hyper's own for headers would include the wait for the next request.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_headers(100).max_buf_size(256 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(u32::try_from(config.connection_streams_max).unwrap_or(u32::MAX))
        .max_local_error_reset_streams(1_024)
        .max_pending_accept_reset_streams(64)
        .keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(15))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buf_size(1 << 20)
        .max_header_list_size(u32::try_from(2 * config.header_bytes_max).unwrap_or(u32::MAX));
    builder
}

type HttpResponse = axum::response::Response;

fn service_of(
    app: Router,
    has_request: Arc<AtomicBool>,
    connection: Arc<Connection>,
) -> impl hyper::service::Service<
    hyper::Request<Incoming>,
    Response = HttpResponse,
    Error = std::convert::Infallible,
    Future = impl Future<Output = Result<HttpResponse, std::convert::Infallible>> + Send,
> + Clone {
    hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        has_request.store(true, Ordering::Release);
        let (in_flight, is_framed) = (connection.start_request(), request.version() == Version::HTTP_2);
        let connection = connection.clone();
        let response = app.clone().oneshot(request.map(axum::body::Body::new));
        async move {
            let mut response = response.await?;
            let permit = response.extensions_mut().remove::<Arc<Permit>>();
            let sending = is_framed.then(|| connection.start_response());
            Ok(response
                .map(|body| axum::body::Body::new(TrackedBody { body, sending, _request: in_flight, _permit: permit })))
        }
    })
}

/// A response body that counts as in flight until its end.
struct TrackedBody {
    body: axum::body::Body,
    sending: Option<ResponseInProgress>,
    _request: InFlight,
    _permit: Option<Arc<Permit>>,
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<http_body::Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(sending) = &self.sending {
            sending.polled(frame.is_ready());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The stream of a connection. Its writes fail when the peer reads nothing for `stall_timeout`. It notifies its
/// connection of received bytes, and replaces the responses of hyper to unparsable heads by problem documents.
struct HttpStream {
    stream: Pin<Box<TimeoutStream<ServerStream>>>,
    connection: Arc<Connection>,
    has_read: bool,
    head_refusal: HeadRefusal,
}

impl HttpStream {
    fn new(stream: ServerStream, stall_timeout: Duration, connection: Arc<Connection>) -> Self {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(stall_timeout));
        Self { stream: Box::pin(stream), connection, has_read: false, head_refusal: HeadRefusal::default() }
    }

    /// Writes the problem document in place of a response of `bytes` bytes.
    fn write_refusal(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<usize>> {
        while let Some(refusal) = self.head_refusal.refusal.as_mut().filter(|refusal| !refusal.is_empty()) {
            let written = ready!(self.stream.as_mut().poll_write(cx, refusal))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            refusal.advance(written.min(refusal.len()));
        }
        self.head_refusal.refusal = None;
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.stream.as_mut().poll_read(cx, buf);
        let received = buf.filled().get(before..).unwrap_or_default();
        if !received.is_empty() {
            // No HTTP/1 method begins like the HTTP/2 preface; hyper detects the version itself.
            if !std::mem::replace(&mut self.has_read, true) && received.starts_with(b"PRI") {
                self.connection.set_framed();
            }
            let is_first = self.connection.bytes_received();
            self.head_refusal.record(received, is_first);
        }
        read
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.connection.is_idle_http1() {
            self.head_refusal.replace_response(buf);
        }
        if self.head_refusal.refusal.is_some() {
            return self.write_refusal(cx, buf.len());
        }
        self.stream.as_mut().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = bufs {
            return self.poll_write(cx, only);
        }
        self.stream.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Under TLS written bytes can be buffered here.
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}
