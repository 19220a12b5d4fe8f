//! Connections: accepted, bounded in number and patience, and drained at the end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{HttpConfig, health_router, router};
use crate::access::Gate;
use crate::error::{Error, Result};
use crate::server::wire::Wire;
use crate::service::Service;

/// Serves HTTP/1.1 and HTTP/2 until `shutdown` completes, then lets open requests finish for as long as the
/// configuration gives them.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    gate: Arc<Gate>,
    config: HttpConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    serve_router(listener, router(service, gate, config.clone()), config, shutdown).await
}

/// Serves health and metrics alone: for a runtime of their own, where they are answered however busy the other is.
pub async fn serve_health(
    listener: TcpListener,
    service: Arc<Service>,
    gate: Arc<Gate>,
    config: HttpConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    serve_router(listener, health_router(service, gate, config.clone()), config, shutdown).await
}

async fn serve_router(
    listener: TcpListener,
    app: Router,
    config: HttpConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let builder = Arc::new(builder(&config));
    let slots = Arc::new(Semaphore::new(config.connections_max));
    let graceful = GracefulShutdown::new();
    let draining = CancellationToken::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a connection that was gone before it was accepted.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Only fails when the semaphore is closed, which it never is.
        let Ok(slot) = slot else { break };
        let _ = stream.set_nodelay(true);
        let (app, builder, watcher) = (app.clone(), builder.clone(), graceful.watcher());
        let (header_timeout, stall, tls) = (config.header_timeout, config.stall, config.tls.clone());
        let draining = draining.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let has_asked = Arc::new(AtomicBool::new(false));
            let service = service_of(app, has_asked.clone());
            let secured = tokio::select! {
                secured = tls.accept(stream, header_timeout) => secured,
                // Nobody who has asked nothing holds up the end.
                () = draining.cancelled() => return,
            };
            let stream = match secured {
                Ok(stream) => stream,
                Err(error) => return tracing::debug!(%error, "a connection was not secured"),
            };
            let io = TokioIo::new(Patient::new(stream, stall));
            let connection = watcher.watch(builder.serve_connection(io, service).into_owned());
            tokio::pin!(connection);
            // Before the first request hyper does not yet know which protocol to lose patience in.
            let ended = tokio::select! {
                ended = &mut connection => Some(ended),
                () = tokio::time::sleep(header_timeout) => None,
                // Nobody who has asked nothing holds up the end.
                () = draining.cancelled() => None,
            };
            let ended = match ended {
                Some(ended) => ended,
                None if !has_asked.load(Ordering::Acquire) => return,
                None => connection.await,
            };
            if let Err(error) = ended {
                tracing::debug!(error, "a connection ended early");
            }
        });
    }
    drop(listener);
    draining.cancel();
    if tokio::time::timeout(config.drain, graceful.shutdown()).await.is_err() {
        return Err(Error::new(
            crate::ErrorCode::DeadlineExceeded,
            format!("requests were still open {} seconds after the shutdown was asked for", config.drain.as_secs()),
        ));
    }
    Ok(())
}

fn builder(config: &HttpConfig) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_headers(100)
        .max_buf_size(256 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_local_error_reset_streams(1_024)
        .keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(15))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buf_size(1 << 20)
        .max_header_list_size(u32::try_from(2 * config.header_bytes_max).unwrap_or(u32::MAX));
    builder
}

fn service_of(
    app: Router,
    has_asked: Arc<AtomicBool>,
) -> impl hyper::service::Service<
    hyper::Request<Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future = impl Future<Output = Result<axum::response::Response, std::convert::Infallible>> + Send,
> + Clone {
    hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        has_asked.store(true, Ordering::Release);
        app.clone().oneshot(request.map(axum::body::Body::new))
    })
}

/// A stream whose writer loses patience: when the other side takes no byte for `stall`, writing fails.
struct Patient {
    stream: Wire,
    stall: Duration,
    deadline: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl Patient {
    fn new(stream: Wire, stall: Duration) -> Self {
        Self { stream, stall, deadline: Box::pin(tokio::time::sleep(stall)), is_waiting: false }
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

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
