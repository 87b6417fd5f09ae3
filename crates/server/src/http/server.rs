//! Accepts connections, as many as there may be, and ends them.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use raft_rocks_grpc::Seldom;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

use super::{Place, State, TURNS, routes};
use crate::resp::Secret;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 1_024;
/// The head of a request is whole within this time after the one before it was answered.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// Who does not take what is sent for this long is cut off.
const SEND_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a connection's buffers, and the most that the head of a request may have.
const BUFFER_BYTES: usize = 64 << 10;
/// How long connections may take to end once they are told to.
const END_PATIENCE: Duration = Duration::from_secs(10);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
content-length: 0\r\nconnection: close\r\n\r\n";

/// Serves one node, as soon as it is put in its place.
pub struct Server {
    router: Router,
}

impl Server {
    /// A server for the node that will be put there. With a secret whoever asks shows it; without,
    /// a browser asks under this name or an address.
    pub fn new(place: Place, secret: Option<Secret>, name: Option<String>) -> Self {
        let router = routes::router(State {
            place,
            secret,
            name,
            turns: Arc::new(Semaphore::new(TURNS)),
        });
        Server { router }
    }

    /// Serves until `end` is ready, and what is under way is answered.
    pub async fn serve(self, listener: TcpListener, end: impl Future<Output = ()>) {
        let ends = watch::Sender::new(false);
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let refused = Seldom::default();
        let mut connections = JoinSet::new();
        let mut end = pin!(end);
        loop {
            let accepted = tokio::select! {
                () = &mut end => break,
                // Nobody else waits for those that have ended.
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!("a connection for HTTP was not accepted: {e}");
                    // Out of descriptors, for instance: it would fail again at once.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                refused.warn(|| {
                    format!("a connection for HTTP was refused: there are {CONNECTIONS_MAX}")
                });
                // Best effort: who does not read it sees the end.
                let _ = stream.try_write(FULL);
                continue;
            };
            let connection = connection(stream, self.router.clone(), ends.subscribe());
            connections.spawn(async move {
                connection.await;
                drop(permit);
            });
        }
        drop(listener);
        ends.send_replace(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(END_PATIENCE, all).await.is_err() {
            tracing::warn!("connections for HTTP that do not end are cut off");
        }
    }
}

async fn connection(stream: TcpStream, router: Router, mut ends: watch::Receiver<bool>) {
    // It is slower without.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(SEND_PATIENCE));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(BUFFER_BYTES);
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(http.serve_connection(TokioIo::new(Box::pin(stream)), service));
    let told = tokio::select! {
        ended = &mut connection => Some(ended),
        // An error: the server is gone.
        _ = ends.wait_for(|ends| *ends) => None,
    };
    let ended = match told {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!("a connection for HTTP ended: {e}");
    }
}
