//! Accepts connections, as many as there may be, and ends them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use raft_rocks_grpc::Seldom;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::budget::Budget;
use super::connection::Connection;
use super::cursors::Cursors;
use crate::frontend::Frontend;

/// How long connections may take to end once they are told to.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// How new what is read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadConsistency {
    /// What this node has.
    Low,
    /// What the leader has; a follower that may not redirect asks it how far it must be.
    Medium,
    /// Everything that was acknowledged before.
    High,
}

/// What becomes of a request for the leader at a node that does not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// It is refused with the leader's address: `-TRY host:port`.
    Try,
    /// It is handed on, by the driver.
    Forward,
}

/// A token that clients must show, as its hash alone.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Of the token itself.
    pub fn of_token(token: &[u8]) -> Self {
        Secret(Sha256::digest(token).into())
    }

    /// Of its SHA-256 hash.
    pub fn of_hash(hash: [u8; 32]) -> Self {
        Secret(hash)
    }

    /// Whether this is the token, in a time that does not tell how near it comes.
    pub fn is(&self, token: &[u8]) -> bool {
        let hash: [u8; 32] = Sha256::digest(token).into();
        hash.ct_eq(&self.0).into()
    }
}

/// How a server answers. Start from the default and set what differs.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// How new what is read must be. Default: high.
    pub consistency: ReadConsistency,
    /// Default: forward.
    pub redirect: Redirect,
    /// What clients must show. Default: nothing.
    pub secret: Option<Secret>,
    /// Connections at a time; those beyond are refused. Default: 10,000.
    pub connections_max: usize,
    /// A connection on which nothing comes for this long is closed. Default: 1 h.
    pub idle: Duration,
    /// As long as nobody leads, a request waits up to this long. Default: 5 s.
    pub patience: Duration,
    /// Bytes for large requests and replies of all connections together. Default: 256 MiB.
    /// Minimum: 32 MiB, so that the largest fits.
    pub buffer_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            consistency: ReadConsistency::High,
            redirect: Redirect::Forward,
            secret: None,
            connections_max: 10_000,
            idle: Duration::from_secs(3_600),
            patience: Duration::from_secs(5),
            buffer_bytes: 256 << 20,
        }
    }
}

/// What all connections share.
pub struct Context {
    pub(crate) frontend: Arc<Frontend>,
    pub(crate) options: Options,
    pub(crate) cursors: Arc<Cursors>,
    pub(crate) budget: Budget,
    pub(crate) connections: AtomicUsize,
    pub(crate) accepted: AtomicU64,
    pub(crate) commands: AtomicU64,
    /// Those that broke the framing, and those that were too many.
    pub(crate) broken: Seldom,
    refused: Seldom,
}

impl Context {
    /// Connections of clients.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Commands that were answered.
    pub fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }
}

/// Serves one node.
pub struct Server {
    context: Arc<Context>,
}

impl Server {
    /// A server for this node.
    pub fn new(frontend: Arc<Frontend>, options: Options) -> Self {
        let budget = Budget::new(options.buffer_bytes.max(32 << 20));
        let context = Arc::new(Context {
            frontend,
            options,
            cursors: Arc::default(),
            budget,
            connections: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            broken: Seldom::default(),
            refused: Seldom::default(),
        });
        Server { context }
    }

    /// What its connections share.
    pub fn context(&self) -> Arc<Context> {
        Arc::clone(&self.context)
    }

    /// Serves until `end` is ready, and what is under way is answered.
    pub async fn serve(self, listener: TcpListener, end: impl Future<Output = ()>) {
        let ends = watch::Sender::new(false);
        let room = Arc::new(Semaphore::new(self.context.options.connections_max));
        let mut connections = JoinSet::new();
        tokio::pin!(end);
        loop {
            let accepted = tokio::select! {
                () = &mut end => break,
                // Nobody else waits for those that have ended.
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!("a connection was not accepted: {e}");
                    // Out of descriptors, for instance: it would fail again at once.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match Arc::clone(&room).try_acquire_owned() {
                Ok(permit) => {
                    let peer = peer.to_string();
                    let connection = self.connection(stream, peer, ends.subscribe());
                    connections.spawn(counted(connection, Counted::new(&self.context, permit)));
                }
                Err(_) => self.refuse(&stream),
            }
        }
        drop(listener);
        ends.send_replace(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(END_PATIENCE, all).await.is_err() {
            tracing::warn!("connections that do not end are cut off");
        }
    }

    fn refuse(&self, stream: &TcpStream) {
        let max = self.context.options.connections_max;
        let refused = || format!("a connection was refused: there are {max}");
        self.context.refused.warn(refused);
        // Best effort: who does not read it sees the end.
        let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
    }

    fn connection(
        &self,
        stream: TcpStream,
        peer: String,
        ends: watch::Receiver<bool>,
    ) -> Connection<TcpStream> {
        // It is slower without.
        let _ = stream.set_nodelay(true);
        Connection::new(stream, peer, Arc::clone(&self.context), ends)
    }
}

async fn counted(connection: Connection<TcpStream>, counted: Counted) {
    if let Err(e) = connection.serve().await {
        tracing::debug!("a connection ended: {e}");
    }
    drop(counted);
}

/// A connection that counts until it has ended, however.
struct Counted {
    context: Arc<Context>,
    _permit: OwnedSemaphorePermit,
}

impl Counted {
    fn new(context: &Arc<Context>, permit: OwnedSemaphorePermit) -> Self {
        context.connections.fetch_add(1, Ordering::Relaxed);
        Counted {
            context: Arc::clone(context),
            _permit: permit,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.context.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
