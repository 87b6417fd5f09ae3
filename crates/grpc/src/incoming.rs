//! Connections, as many as there may be.
//!
//! Invariants:
//! 1. A connection counts until it is closed, and there are no more than were asked for.
//! 2. Who says nothing does not keep his place: HTTP/2 has no time-out before it has begun.
//! 3. None outlives the server for long, whatever its other side does.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::seldom::Seldom;

/// What a client of HTTP/2 begins with, with TLS or without: this many bytes at least.
const PREFACE_BYTES: usize = 24;
/// How long that may take.
const PREFACE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a peer may take to show its certificate.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Counted {
    stream: TcpStream,
    /// What is to come before the deadline.
    awaited: usize,
    deadline: Pin<Box<Sleep>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

/// Accepts connections, `max` at a time: those beyond are closed at once, and all when `ended`
/// is cancelled.
pub(crate) fn accept(
    listener: TcpListener,
    max: usize,
    ended: CancellationToken,
) -> ReceiverStream<Result<Counted, io::Error>> {
    let (accepted, incoming) = mpsc::channel(1);
    let room = Arc::new(Semaphore::new(max));
    let refused = Seldom::default();
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = accepted.closed() => return,
                stream = listener.accept() => stream,
            };
            let stream = match stream {
                Ok((stream, _)) => stream,
                Err(e) => {
                    log::warn!("a connection was not accepted: {e}");
                    // Out of descriptors, for instance: it would fail again at once.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(_permit) = Arc::clone(&room).try_acquire_owned() else {
                refused.warn(|| format!("a connection was refused: there are {max}"));
                continue;
            };
            // It is slower without.
            let _ = stream.set_nodelay(true);
            let counted = Counted {
                stream,
                awaited: PREFACE_BYTES,
                deadline: Box::pin(tokio::time::sleep(PREFACE_PATIENCE)),
                ended: Box::pin(ended.clone().cancelled_owned()),
                _permit,
            };
            if accepted.send(Ok(counted)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(incoming)
}

/// The connections of those who show a certificate. Handshakes do not wait for each other; those
/// under way are connections that count.
pub(crate) fn secured(
    mut connections: ReceiverStream<Result<Counted, io::Error>>,
    acceptor: TlsAcceptor,
) -> ReceiverStream<Result<TlsStream<Counted>, io::Error>> {
    let (accepted, incoming) = mpsc::channel(1);
    let refused = Arc::new(Seldom::default());
    tokio::spawn(async move {
        loop {
            let connection = tokio::select! {
                () = accepted.closed() => return,
                connection = connections.next() => connection,
            };
            let Some(Ok(connection)) = connection else {
                return;
            };
            let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
            let refused = Arc::clone(&refused);
            tokio::spawn(async move {
                let from = connection.connect_info().remote_addr();
                match timeout(HANDSHAKE_PATIENCE, acceptor.accept(connection)).await {
                    // An error: the server has ended.
                    Ok(Ok(stream)) => drop(accepted.send(Ok(stream)).await),
                    Ok(Err(e)) => refused.warn(|| refusal(from, &e)),
                    Err(_) => refused.warn(|| refusal(from, &"it says nothing")),
                }
            });
        }
    });
    ReceiverStream::new(incoming)
}

fn refusal(from: Option<SocketAddr>, why: &dyn Display) -> String {
    let from = from.map_or_else(|| "somebody".to_owned(), |from| from.to_string());
    format!("a connection of {from} is refused: no certificate of this cluster was shown: {why}")
}

impl Counted {
    /// Whether it may go on; wakes the task when it may not any more.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.ended.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.awaited > 0 && self.deadline.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl Connected for Counted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buf))?;
        let read = buf.filled().len() - before;
        self.awaited = self.awaited.saturating_sub(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
