//! Accepted Flight connections: limited in number, closed when the handshake times out, closed by the server on stalls,
//! and written in large pieces.
//!
//! The HTTP/2 library passes one frame at a time and requests a flush after each. A client that accepts only frames of
//! 16 KiB would cost one system call per frame, more than copying them: a flush after such a frame is therefore deferred
//! until the connection is polled next, which it requests itself; by then either more frames followed or the bytes are
//! written. Frames of at least [`LONG_BYTES`] are written without copying, after the buffered bytes.
//!
//! A gRPC stream whose client stops reading cannot be ended by the server: its body is not polled again, and what it
//! holds is not released. [`Disconnect`] closes the connection below it, which also ends the other streams of the
//! connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::server::connections::{self, ConnectionPermit, ConnectionTable, InFlight, ResponseInProgress};
use crate::server::tls_stream::{ServerStream, Tls};

/// Bytes of the HTTP/2 preface, the minimum a client sends.
const PREFACE_BYTES: usize = 24;
/// Size of the write buffer.
const WRITE_BYTES: usize = 256 * 1024;
/// Slices of at least this size are not copied.
const LONG_BYTES: usize = 64 * 1024;
/// Maximum number of slices in one vectored write, including the buffered bytes.
const PIECES_MAX: usize = 16;
/// Flushes of at most this many bytes are written at once: more frames are not expected.
const SHORT_BYTES: usize = 8 * 1024;
/// Pause after a failed accept, which usually means that no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Closes a connection. Streams find it in the extensions of their request.
#[derive(Clone, Debug)]
pub(super) struct Disconnect(Arc<connections::Connection>);

impl Disconnect {
    pub(super) fn now(&self) {
        self.0.close();
    }

    /// Starts sending a response on the connection.
    pub(super) fn start_response(&self) -> ResponseInProgress {
        self.0.start_response()
    }

    /// Starts a call on the connection.
    pub(super) fn start_request(&self) -> InFlight {
        self.0.start_request()
    }
}

/// Resolves when the handshake times out.
type Timeout = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An accepted connection.
pub(super) struct FlightConnection {
    stream: ServerStream,
    /// Buffered bytes; those from `written` on are not yet written.
    buffered: Vec<u8>,
    written: usize,
    /// Whether bytes were buffered since the last flush.
    has_new_bytes: bool,
    /// Whether the buffer is to be written at the next poll.
    is_flush_pending: bool,
    /// Missing bytes of the HTTP/2 preface, and its timeout.
    preface: Option<(usize, Timeout)>,
    /// Slot of the connection.
    slot: ConnectionPermit,
}

/// Accepts the next connection and acquires its slot.
async fn accept(acceptor: Arc<(TcpListener, ConnectionTable)>) -> (TcpStream, ConnectionPermit) {
    let (listener, connections) = acceptor.as_ref();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                return (stream, connections.acquire().await);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a Flight connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Accepts connections, `connections_max` at one time; each must send its preface within `handshake_timeout`, and
/// before `draining`, so that idle newcomers do not delay the shutdown. A connection whose client reads nothing of a
/// response for `stall_timeout` is closed.
pub(super) fn incoming(
    listener: TcpListener,
    connections_max: usize,
    (handshake_timeout, stall_timeout): (Duration, Duration),
    tls: Tls,
    draining: CancellationToken,
) -> impl Stream<Item = io::Result<FlightConnection>> {
    let acceptor = Arc::new((listener, ConnectionTable::new(connections_max)));
    let (accepting, securing) = (None, FuturesUnordered::new());
    stream::unfold((acceptor, accepting, securing, tls, draining), move |mut state| async move {
        let (acceptor, accepting, securing, tls, draining) = &mut state;
        let (stream, slot) = loop {
            // Kept across iterations: it may hold a connection that waits for its slot.
            let accepted = accepting.get_or_insert_with(|| accept(Arc::clone(acceptor)).boxed());
            let (stream, slot) = tokio::select! {
                accepted = accepted => {
                    *accepting = None;
                    accepted
                }
                Some(secured) = securing.next() => match secured {
                    Some(secured) => break secured,
                    None => continue,
                },
            };
            let tls = tls.clone();
            if !tls.is_on() {
                break (ServerStream::Plain(stream), slot);
            }
            // Other connections are accepted during the TLS handshake.
            securing.push(async move {
                let connection = Arc::clone(&slot.connection);
                let secured = tokio::select! {
                    secured = tls.accept(stream, handshake_timeout) => secured,
                    _ = connection.wait_to_close(handshake_timeout, handshake_timeout) => Err(io::ErrorKind::TimedOut.into()),
                };
                secured
                    .inspect_err(|error| tracing::debug!(%error, "TLS handshake failed"))
                    .ok()
                    .zip(Some(slot))
            });
        };
        let cancelled = draining.clone();
        let timeout: Timeout = Box::pin(async move {
            tokio::select! {
                () = tokio::time::sleep(handshake_timeout) => {}
                () = cancelled.cancelled() => {}
            }
        });
        tokio::spawn(connections::Connection::close_when_stalled(Arc::downgrade(&slot.connection), stall_timeout));
        let preface = Some((PREFACE_BYTES, timeout));
        let connection = FlightConnection {
            stream,
            buffered: Vec::new(),
            written: 0,
            has_new_bytes: false,
            is_flush_pending: false,
            preface,
            slot,
        };
        Some((Ok(connection), state))
    })
}

fn closed_by_server() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was closed by the server")
}

impl FlightConnection {
    fn check(&self) -> io::Result<()> {
        if self.slot.connection.is_closed() { Err(closed_by_server()) } else { Ok(()) }
    }

    /// Writes all buffered bytes.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.buffered.get(self.written..).filter(|rest| !rest.is_empty()) {
            let bytes = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += bytes;
        }
        self.reset_buffer();
        Poll::Ready(Ok(()))
    }

    /// Empties the buffer, all of which is written.
    fn reset_buffer(&mut self) {
        self.written = 0;
        self.is_flush_pending = false;
        if self.buffered.len() <= SHORT_BYTES {
            // An idle connection keeps no large buffer.
            self.buffered = Vec::new();
        } else {
            self.buffered.clear();
        }
    }

    /// Writes the buffer, then as much of a long frame as the socket accepts; returns how much of the frame.
    fn poll_write_through(&mut self, context: &mut Context<'_>, frame: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        loop {
            let buffered = self.buffered.get(self.written..).unwrap_or_default();
            let mut pieces = [io::IoSlice::new(&[]); PIECES_MAX];
            let all = std::iter::once(io::IoSlice::new(buffered)).chain(frame.iter().copied());
            for (piece, slice) in pieces.iter_mut().zip(all) {
                *piece = slice;
            }
            let unwritten = buffered.len();
            let bytes = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &pieces))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if bytes < unwritten {
                self.written += bytes;
                continue;
            }
            self.reset_buffer();
            if bytes > unwritten {
                return Poll::Ready(Ok(bytes - unwritten));
            }
        }
    }

    /// Free bytes of the buffer, once there are some.
    fn poll_buffer_space(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.check()?;
        if self.buffered.len() >= WRITE_BYTES {
            ready!(self.poll_drain(context))?;
        }
        self.has_new_bytes = true;
        Poll::Ready(Ok(WRITE_BYTES - self.buffered.len()))
    }
}

impl Connected for FlightConnection {
    type ConnectInfo = Disconnect;

    fn connect_info(&self) -> Disconnect {
        Disconnect(Arc::clone(&self.slot.connection))
    }
}

impl AsyncRead for FlightConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.slot.connection.poll_closed(context) {
            return Poll::Ready(Err(closed_by_server()));
        }
        if self.is_flush_pending && self.poll_drain(context)?.is_ready() {
            // Bytes buffered by TLS are flushed too.
            let _ = Pin::new(&mut self.stream).poll_flush(context)?;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        let is_complete = self.preface.as_mut().is_some_and(|(unwritten, _)| {
            *unwritten = unwritten.saturating_sub(bytes);
            *unwritten == 0
        });
        if is_complete {
            self.preface = None;
            self.slot.connection.handshake_done();
        }
        if read.is_pending()
            && let Some((_, timeout)) = &mut self.preface
            && timeout.poll_unpin(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for FlightConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.len() >= LONG_BYTES {
            return self.poll_write_through(context, &[io::IoSlice::new(bytes)]);
        }
        let space = ready!(self.poll_buffer_space(context))?;
        let taken = bytes.get(..space).unwrap_or(bytes);
        self.buffered.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().map(|slice| slice.len()).sum::<usize>() >= LONG_BYTES {
            return self.poll_write_through(context, slices);
        }
        let mut space = ready!(self.poll_buffer_space(context))?;
        let before = self.buffered.len();
        for slice in slices {
            let taken = slice.get(..space).unwrap_or(slice);
            self.buffered.extend_from_slice(taken);
            space -= taken.len();
        }
        Poll::Ready(Ok(self.buffered.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A second flush without new bytes waits for the socket.
        if self.buffered.len() > SHORT_BYTES && self.has_new_bytes {
            (self.has_new_bytes, self.is_flush_pending) = (false, true);
            context.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
