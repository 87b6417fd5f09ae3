//! Connections, as many as there may be.
//!
//! Invariants:
//! 1. A connection counts until it is closed, and there are no more than were asked for.
//! 2. Who says nothing does not keep his place: HTTP/2 has no time-out before it has begun.
//! 3. None outlives the server for long, whatever its other side does.
//! 4. The port is free when the server has ended, or was dropped: nothing else holds the listener.

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::seldom::Seldom;

/// What a client of HTTP/2 begins with, with TLS or without: this many bytes at least.
const PREFACE_BYTES: usize = 24;
/// How long that may take.
const PREFACE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a peer may take to show its certificate.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);
/// After a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

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
pub(crate) struct Accepted {
    listener: TcpListener,
    max: usize,
    room: Arc<Semaphore>,
    ended: CancellationToken,
    refused: Seldom,
    /// After a failure.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Accepted {
    pub(crate) fn new(listener: TcpListener, max: usize, ended: CancellationToken) -> Self {
        Accepted {
            listener,
            max,
            room: Arc::new(Semaphore::new(max)),
            ended,
            refused: Seldom::default(),
            pause: None,
        }
    }

    fn counted(&self, stream: TcpStream) -> Option<Counted> {
        let Ok(_permit) = Arc::clone(&self.room).try_acquire_owned() else {
            let max = self.max;
            let told = || format!("a connection was refused: there are {max}");
            self.refused.warn(told);
            return None;
        };
        // It is slower without.
        let _ = stream.set_nodelay(true);
        Some(Counted {
            stream,
            awaited: PREFACE_BYTES,
            deadline: Box::pin(tokio::time::sleep(PREFACE_PATIENCE)),
            ended: Box::pin(self.ended.clone().cancelled_owned()),
            _permit,
        })
    }
}

impl Stream for Accepted {
    type Item = io::Result<Counted>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => {
                    if let Some(counted) = self.counted(stream) {
                        return Poll::Ready(Some(Ok(counted)));
                    }
                }
                Err(e) => {
                    log::warn!("a connection was not accepted: {e}");
                    // Out of descriptors, for instance: it would fail again at once.
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
            }
        }
    }
}

/// The connections of those who show a certificate. Handshakes do not wait for each other; those
/// under way are connections that count.
pub(crate) struct Secured {
    connections: Accepted,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<TlsStream<Counted>>>,
    refused: Arc<Seldom>,
}

impl Secured {
    pub(crate) fn new(connections: Accepted, acceptor: TlsAcceptor) -> Self {
        Secured {
            connections,
            acceptor,
            handshakes: JoinSet::new(),
            refused: Arc::default(),
        }
    }

    fn shake_hands(&mut self, connection: Counted) {
        let from = connection.connect_info().remote_addr();
        let shaking = self.acceptor.accept(connection);
        let refused = Arc::clone(&self.refused);
        self.handshakes.spawn(async move {
            match timeout(HANDSHAKE_PATIENCE, shaking).await {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(e)) => refused.warn(|| refusal(from, &e)),
                Err(_) => refused.warn(|| refusal(from, &"it says nothing")),
            }
            None
        });
    }
}

impl Stream for Secured {
    type Item = io::Result<TlsStream<Counted>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while let Poll::Ready(Some(accepted)) = Pin::new(&mut self.connections).poll_next(context) {
            if let Ok(connection) = accepted {
                self.shake_hands(connection);
            }
        }
        while let Poll::Ready(Some(ended)) = self.handshakes.poll_join_next(context) {
            // An error: it panicked, and the connection is closed.
            if let Ok(Some(stream)) = ended {
                return Poll::Ready(Some(Ok(stream)));
            }
        }
        Poll::Pending
    }
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
