//! Accepted connections: bounded in number, closed when they never speak, hung up on from inside, and written to in
//! large pieces.
//!
//! HTTP/2 hands over a frame at a time and asks for each to be flushed. A client that takes only frames of 16 KiB would
//! cost a system call for each, more than the copy that saves it: so what is flushed after such a frame waits until the
//! connection is looked at next, which it asks for itself; by then either more frames came behind it or it goes out.
//! Frames of [`LONG_BYTES`] go out from where they stand, behind what waits.
//!
//! A gRPC stream whose client takes nothing cannot be ended from the server's side: nothing asks its body again, and
//! everything it holds stays. [`Disconnect`] ends the connection under it, whose other streams end with it.

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

/// Bytes of the HTTP/2 preface, the least a client says.
const GREETING_BYTES: usize = 24;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 256 * 1024;
/// What is handed over with as many bytes is not copied.
const LONG_BYTES: usize = 64 * 1024;
/// Most pieces of a frame that are written at once, and what waits before them.
const PIECES_MAX: usize = 16;
/// What is flushed with fewer bytes goes out at once: nothing says that more will follow.
const SHORT_BYTES: usize = 8 * 1024;
/// Pause after a failed accept, which mostly means that no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ends a connection. Streams find it among the extensions of their request.
#[derive(Clone, Debug)]
pub(super) struct Disconnect(Arc<connections::Connection>);

impl Disconnect {
    pub(super) fn now(&self) {
        self.0.end();
    }

    /// An answer begins to be sent on the connection.
    pub(super) fn send(&self) -> ResponseInProgress {
        self.0.send()
    }

    /// A call begins on the connection.
    pub(super) fn begin(&self) -> InFlight {
        self.0.begin()
    }
}

/// Ends when the wait for a greeting is over.
type Patience = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An accepted connection.
pub(super) struct FlightConnection {
    stream: ServerStream,
    /// What is not written yet, from `written` on.
    waiting: Vec<u8>,
    written: usize,
    /// Something was added to `waiting` since the last flush.
    is_fresh: bool,
    /// `waiting` goes out when the connection is looked at next.
    is_due: bool,
    /// How much of the greeting is missing, and until when it may.
    greeting: Option<(usize, Patience)>,
    /// One of the connections allowed at a time.
    slot: ConnectionPermit,
}

/// The next connection, and its place.
async fn accept(door: Arc<(TcpListener, ConnectionTable)>) -> (TcpStream, ConnectionPermit) {
    let (listener, lines) = door.as_ref();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                return (stream, lines.slot().await);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a Flight connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Accepts connections, `connections_max` at one time; each has to speak within `greeting`, and before `draining`: nobody
/// who has asked nothing holds up the end. One whose client takes nothing of an answer for `stall` is ended.
pub(super) fn incoming(
    listener: TcpListener,
    connections_max: usize,
    (greeting, stall): (Duration, Duration),
    tls: Tls,
    draining: CancellationToken,
) -> impl Stream<Item = io::Result<FlightConnection>> {
    let door = Arc::new((listener, ConnectionTable::new(connections_max)));
    let (accepting, securing) = (None, FuturesUnordered::new());
    stream::unfold((door, accepting, securing, tls, draining), move |mut state| async move {
        let (door, accepting, securing, tls, draining) = &mut state;
        let (stream, slot) = loop {
            // Kept from one turn to the next: it may hold a connection that waits for its place.
            let accepted = accepting.get_or_insert_with(|| accept(Arc::clone(door)).boxed());
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
            // Others are accepted while this one agrees how it is secured.
            securing.push(async move {
                let line = Arc::clone(&slot.line);
                let secured = tokio::select! {
                    secured = tls.accept(stream, greeting) => secured,
                    _ = line.over(greeting, greeting) => Err(io::ErrorKind::TimedOut.into()),
                };
                secured
                    .inspect_err(|error| tracing::debug!(%error, "a connection was not secured"))
                    .ok()
                    .zip(Some(slot))
            });
        };
        let over = draining.clone();
        let patience: Patience = Box::pin(async move {
            tokio::select! {
                () = tokio::time::sleep(greeting) => {}
                () = over.cancelled() => {}
            }
        });
        tokio::spawn(connections::Connection::watch(Arc::downgrade(&slot.line), stall));
        let greeting = Some((GREETING_BYTES, patience));
        let line = FlightConnection {
            stream,
            waiting: Vec::new(),
            written: 0,
            is_fresh: false,
            is_due: false,
            greeting,
            slot,
        };
        Some((Ok(line), state))
    })
}

fn hung_up() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was ended by this side")
}

impl FlightConnection {
    fn check(&self) -> io::Result<()> {
        if self.slot.line.has_ended() { Err(hung_up()) } else { Ok(()) }
    }

    /// Writes everything that waits.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.waiting.get(self.written..).filter(|rest| !rest.is_empty()) {
            let bytes = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += bytes;
        }
        self.forget_written();
        Poll::Ready(Ok(()))
    }

    /// Everything that waited is written.
    fn forget_written(&mut self) {
        self.written = 0;
        self.is_due = false;
        if self.waiting.len() <= SHORT_BYTES {
            // A connection that says little keeps little.
            self.waiting = Vec::new();
        } else {
            self.waiting.clear();
        }
    }

    /// Writes what waits and as much of a long frame behind it as the socket takes; how much of the frame.
    fn poll_write_through(&mut self, context: &mut Context<'_>, frame: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        loop {
            let waiting = self.waiting.get(self.written..).unwrap_or_default();
            let mut pieces = [io::IoSlice::new(&[]); PIECES_MAX];
            let all = std::iter::once(io::IoSlice::new(waiting)).chain(frame.iter().copied());
            for (piece, slice) in pieces.iter_mut().zip(all) {
                *piece = slice;
            }
            let missing = waiting.len();
            let bytes = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &pieces))?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if bytes < missing {
                self.written += bytes;
                continue;
            }
            self.forget_written();
            if bytes > missing {
                return Poll::Ready(Ok(bytes - missing));
            }
        }
    }

    /// How many more bytes can wait, once some can.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.check()?;
        if self.waiting.len() >= WRITE_BYTES {
            ready!(self.poll_drain(context))?;
        }
        self.is_fresh = true;
        Poll::Ready(Ok(WRITE_BYTES - self.waiting.len()))
    }
}

impl Connected for FlightConnection {
    type ConnectInfo = Disconnect;

    fn connect_info(&self) -> Disconnect {
        Disconnect(Arc::clone(&self.slot.line))
    }
}

impl AsyncRead for FlightConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.slot.line.poll_ended(context) {
            return Poll::Ready(Err(hung_up()));
        }
        if self.is_due && self.poll_drain(context)?.is_ready() {
            // What TLS holds back goes out too.
            let _ = Pin::new(&mut self.stream).poll_flush(context)?;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        let heard = self.greeting.as_mut().is_some_and(|(missing, _)| {
            *missing = missing.saturating_sub(bytes);
            *missing == 0
        });
        if heard {
            self.greeting = None;
            self.slot.line.greeted();
        }
        if read.is_pending()
            && let Some((_, patience)) = &mut self.greeting
            && patience.poll_unpin(context).is_ready()
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
        let room = ready!(self.poll_room(context))?;
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.waiting.extend_from_slice(taken);
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
        let mut room = ready!(self.poll_room(context))?;
        let before = self.waiting.len();
        for slice in slices {
            let taken = slice.get(..room).unwrap_or(slice);
            self.waiting.extend_from_slice(taken);
            room -= taken.len();
        }
        Poll::Ready(Ok(self.waiting.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked for a second time, it waits for the socket like any other.
        if self.waiting.len() > SHORT_BYTES && self.is_fresh {
            (self.is_fresh, self.is_due) = (false, true);
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
