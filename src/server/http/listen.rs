//! Connections: accepted, bounded in number and patience, and drained at the end.

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
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::head_refusal::HeadRefusal;
use super::openapi::operations;
use super::{HttpConfig, health_router, router};
use crate::access::Authenticator;
use crate::error::{Error, Result};
use crate::server::connections::{Connection, ConnectionPermit, ConnectionTable, InFlight, ResponseInProgress};
use crate::server::tls_stream::ServerStream;
use crate::service::{Permit, Service};

/// Serves HTTP/1.1 and HTTP/2 until `shutdown` completes, then lets open requests finish for as long as the
/// configuration gives them.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    gate: Arc<Authenticator>,
    config: HttpConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    crate::server::metrics::declare_http(&operations());
    let app = router(service.clone(), gate, config.clone());
    serve_router(listener, app, config, shutdown, || service.drain()).await
}

/// Serves health and metrics alone: for a runtime of their own, where they are answered however busy the other is.
pub async fn serve_health(
    listener: TcpListener,
    service: Arc<Service>,
    gate: Arc<Authenticator>,
    config: HttpConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let app = health_router(service.clone(), gate, config.clone());
    serve_router(listener, app, config, shutdown, || service.drain()).await
}

/// Serves an app until `shutdown` completes; `drain` is called then, and requests go on for as long as the configuration
/// gives them.
pub(super) async fn serve_router(
    listener: TcpListener,
    app: Router,
    config: HttpConfig,
    shutdown: impl Future<Output = ()>,
    drain: impl FnOnce(),
) -> Result<()> {
    let (graceful, draining) = (GracefulShutdown::new(), CancellationToken::new());
    let door = HttpListener {
        app,
        builder: Arc::new(builder(&config)),
        lines: ConnectionTable::new(config.connections_max),
        draining: draining.clone(),
        config,
    };
    tokio::pin!(shutdown);
    loop {
        let (stream, slot) = tokio::select! {
            accepted = door.accept(&listener) => accepted,
            () = &mut shutdown => break,
        };
        tokio::spawn(door.clone().serve(stream, slot, graceful.watcher()));
    }
    // Who comes now is told so, for as long as others finish.
    drain();
    draining.cancel();
    let late = GracefulShutdown::new();
    let finishing = tokio::time::timeout(door.config.drain, graceful.shutdown());
    tokio::pin!(finishing);
    let finished = loop {
        let (stream, slot) = tokio::select! {
            finished = &mut finishing => break finished,
            accepted = door.accept(&listener) => accepted,
        };
        let door = HttpListener { draining: CancellationToken::new(), ..door.clone() };
        tokio::spawn(door.serve(stream, slot, late.watcher()));
    };
    drop(listener);
    if finished.is_err() {
        return Err(Error::new(
            crate::ErrorCode::DeadlineExceeded,
            format!("requests were still open {} ms after the shutdown was asked for", door.config.drain.as_millis()),
        ));
    }
    Ok(())
}

/// What every connection of a listener needs.
#[derive(Clone)]
struct HttpListener {
    app: Router,
    builder: Arc<Builder<TokioExecutor>>,
    lines: ConnectionTable,
    draining: CancellationToken,
    config: HttpConfig,
}

impl HttpListener {
    /// The next connection, and its place.
    async fn accept(&self, listener: &TcpListener) -> (TcpStream, ConnectionPermit) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    return (stream, self.lines.slot().await);
                }
                Err(error) => {
                    // Out of descriptors, or a connection that was gone before it was accepted.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Serves a connection to its end.
    async fn serve(self, stream: TcpStream, slot: ConnectionPermit, watcher: Watcher) {
        let HttpConfig { header_timeout, idle_timeout, stall, ref tls, .. } = self.config;
        let line = Arc::clone(&slot.line);
        let has_asked = Arc::new(AtomicBool::new(false));
        let service = service_of(self.app, has_asked.clone(), line.clone());
        let secured = tokio::select! {
            secured = tls.accept(stream, header_timeout) => secured,
            _ = line.over(header_timeout, idle_timeout) => return,
            // Nobody who has asked nothing holds up the end.
            () = self.draining.cancelled() => return,
        };
        let stream = match secured {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "a connection was not secured"),
        };
        let io = TokioIo::new(WriteTimeout::new(stream, stall, line.clone()));
        let connection = watcher.watch(self.builder.serve_connection(io, service).into_owned());
        tokio::pin!(connection);
        let over = line.over(header_timeout, idle_timeout);
        let stalled = line.stalled(stall);
        tokio::pin!(over, stalled);
        let mut is_draining = false;
        let ended = loop {
            tokio::select! {
                ended = &mut connection => break ended,
                why = &mut over => return tracing::debug!(?why, "a connection was closed"),
                () = &mut stalled => return tracing::debug!("a connection was closed whose client took nothing"),
                () = self.draining.cancelled(), if !is_draining => {
                    is_draining = true;
                    if !has_asked.load(Ordering::Acquire) {
                        return;
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection ended early");
        }
    }
}

fn builder(config: &HttpConfig) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // Patience is the line's: hyper's own for headers would count the wait for the next request too.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_headers(100).max_buf_size(256 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.connection_streams_max)
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
    has_asked: Arc<AtomicBool>,
    line: Arc<Connection>,
) -> impl hyper::service::Service<
    hyper::Request<Incoming>,
    Response = HttpResponse,
    Error = std::convert::Infallible,
    Future = impl Future<Output = Result<HttpResponse, std::convert::Infallible>> + Send,
> + Clone {
    hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        has_asked.store(true, Ordering::Release);
        let (under_way, framed) = (line.begin(), request.version() == Version::HTTP_2);
        let line = line.clone();
        let answering = app.clone().oneshot(request.map(axum::body::Body::new));
        async move {
            let mut response = answering.await?;
            let place = response.extensions_mut().remove::<Arc<Permit>>();
            let sending = framed.then(|| line.send());
            Ok(response
                .map(|body| axum::body::Body::new(TrackedBody { body, sending, _under_way: under_way, _place: place })))
        }
    })
}

/// The body of an answer, which is under way until its end.
struct TrackedBody {
    body: axum::body::Body,
    sending: Option<ResponseInProgress>,
    _under_way: InFlight,
    _place: Option<Arc<Permit>>,
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
            sending.asked(frame.is_ready());
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

/// A stream whose writer loses patience: when the other side takes no byte for `stall`, writing fails. Its line is told
/// when bytes come. The answers that hyper itself gives to heads it cannot read become problem documents here.
struct WriteTimeout {
    stream: ServerStream,
    line: Arc<Connection>,
    has_read: bool,
    unread: HeadRefusal,
    stall: Duration,
    deadline: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl WriteTimeout {
    fn new(stream: ServerStream, stall: Duration, line: Arc<Connection>) -> Self {
        let deadline = Box::pin(tokio::time::sleep(stall));
        Self { stream, line, has_read: false, unread: HeadRefusal::default(), stall, deadline, is_waiting: false }
    }

    /// Writes the problem document that stands for an answer of `bytes`.
    fn write_refusal(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<usize>> {
        while let Some(refusal) = self.unread.refusal.as_mut().filter(|refusal| !refusal.is_empty()) {
            let written = Pin::new(&mut self.stream).poll_write(cx, refusal);
            let written = match written {
                Poll::Ready(Ok(written)) => written,
                other => return self.bounded(cx, other),
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            refusal.advance(written.min(refusal.len()));
        }
        self.unread.refusal = None;
        Poll::Ready(Ok(bytes))
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.is_waiting = false;
            return result;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.deadline.as_mut().reset(Instant::now() + self.stall);
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes")))
    }
}

impl AsyncRead for WriteTimeout {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let fresh = buf.filled().get(before..).unwrap_or_default();
        if !fresh.is_empty() {
            // No method of HTTP/1 begins like the greeting of HTTP/2; hyper finds out by itself.
            if !std::mem::replace(&mut self.has_read, true) && fresh.starts_with(b"PRI") {
                self.line.is_framed();
            }
            let begins = self.line.heard();
            self.unread.hear(fresh, begins);
        }
        read
    }
}

impl AsyncWrite for WriteTimeout {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.line.is_at_rest() {
            self.unread.refuse(buf);
        }
        if self.unread.refusal.is_some() {
            return self.write_refusal(cx, buf.len());
        }
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = bufs {
            return self.poll_write(cx, only);
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bounded(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Under TLS what was written can wait here.
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bounded(cx, result)
    }
}
