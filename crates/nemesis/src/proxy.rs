//! The network between nodes: a proxy in front of each node's port for nodes.
//!
//! Invariants:
//! 1. Whatever a node sends another passes the proxy of the other: nodes advertise their proxies.
//! 2. A rule holds for one direction: what `from` sends over connections that it opened to `to`.
//!    Nodes answer over connections of their own, so a direction can be cut alone.
//! 3. A rule holds from the moment it is set, for connections that are open too.
//! 4. A connection of which nobody knows whose it is, is closed.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::dialer::Dialers;

/// Bytes that are taken at once.
const CHUNK: usize = 16 << 10;

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Connections are closed.
    Cut,
    /// Nothing arrives, and nobody is told.
    Stall,
    /// Everything arrives later.
    Delay(Duration),
    /// New connections lead somewhere else.
    Astray(SocketAddr),
}

/// Who sends, and to whom.
pub type Direction = (usize, usize);
type Rules = BTreeMap<Direction, Rule>;

/// All proxies of a cluster.
pub struct Network {
    rules: Arc<watch::Sender<Rules>>,
    dialers: Dialers,
    strayed: Arc<AtomicU64>,
    proxies: Vec<AbortHandle>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.proxies.iter().for_each(AbortHandle::abort);
    }
}

impl Network {
    /// One without proxies.
    pub fn new(dialers: Dialers) -> Self {
        let rules = Arc::new(watch::Sender::new(Rules::new()));
        let proxies = Vec::new();
        Network {
            rules,
            dialers,
            strayed: Arc::default(),
            proxies,
        }
    }

    /// Listens at `at` for what is sent to node `to`, which listens at `upstream`.
    ///
    /// # Errors
    /// It cannot listen there.
    pub async fn proxy(
        &mut self,
        to: usize,
        at: SocketAddr,
        upstream: SocketAddr,
    ) -> io::Result<()> {
        let proxy = Proxy {
            listener: TcpListener::bind(at).await?,
            rules: Arc::clone(&self.rules),
            dialers: self.dialers.clone(),
            strayed: Arc::clone(&self.strayed),
            to,
            upstream,
        };
        self.proxies.push(tokio::spawn(proxy.run()).abort_handle());
        Ok(())
    }

    /// This holds for these from now on.
    pub fn set(&self, directions: impl IntoIterator<Item = Direction>, rule: Rule) {
        let directions: Vec<_> = directions.into_iter().collect();
        self.rules.send_modify(|rules| {
            rules.extend(directions.into_iter().map(|direction| (direction, rule)));
        });
    }

    /// How many connections have led astray.
    pub fn strayed(&self) -> u64 {
        self.strayed.load(Ordering::Relaxed)
    }

    /// Everything arrives again.
    pub fn heal(&self) {
        self.rules.send_modify(Rules::clear);
    }
}

struct Proxy {
    listener: TcpListener,
    rules: Arc<watch::Sender<Rules>>,
    dialers: Dialers,
    strayed: Arc<AtomicU64>,
    to: usize,
    upstream: SocketAddr,
}

impl Proxy {
    async fn run(self) {
        loop {
            let Ok((stream, from)) = self.listener.accept().await else {
                // Out of descriptors, for instance: it would fail again at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Some(from) = self.dialers.find(from.port()) else {
                continue;
            };
            let link = Link {
                direction: (from, self.to),
                rules: self.rules.subscribe(),
                strayed: Arc::clone(&self.strayed),
                is_astray: None,
            };
            // Either end may fail at any time; that is what it is for.
            tokio::spawn(link.join(stream, self.upstream));
        }
    }
}

/// A connection that is passed on.
#[derive(Clone)]
struct Link {
    direction: Direction,
    rules: watch::Receiver<Rules>,
    strayed: Arc<AtomicU64>,
    is_astray: Option<SocketAddr>,
}

impl Link {
    fn rule(&mut self) -> Option<Rule> {
        self.rules.borrow_and_update().get(&self.direction).copied()
    }

    fn astray(rule: Option<Rule>) -> Option<SocketAddr> {
        match rule {
            Some(Rule::Astray(to)) => Some(to),
            _ => None,
        }
    }

    async fn join(mut self, stream: TcpStream, upstream: SocketAddr) -> io::Result<()> {
        let rule = self.rule();
        if rule == Some(Rule::Cut) {
            return Ok(());
        }
        self.is_astray = Self::astray(rule);
        let other = TcpStream::connect(self.is_astray.unwrap_or(upstream)).await?;
        if self.is_astray.is_some() {
            self.strayed.fetch_add(1, Ordering::Relaxed);
        }
        stream.set_nodelay(true)?;
        other.set_nodelay(true)?;
        let (near, near_out) = stream.into_split();
        let (far, far_out) = other.into_split();
        let back = self.clone();
        // When one way ends, the connection does.
        tokio::select! {
            ended = self.pass(near, far_out) => ended,
            ended = back.pass(far, near_out) => ended,
        }
    }

    async fn pass(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = tokio::select! {
                read = from.read(&mut chunk) => Some(read?),
                changed = self.rules.changed() => changed.map(|()| None).map_err(io::Error::other)?,
            };
            if !self.may_pass(read.is_some()).await? {
                return Ok(());
            }
            match read.map(|read| chunk.get(..read).unwrap_or_default()) {
                Some([]) => return Ok(()),
                Some(bytes) => to.write_all(bytes).await?,
                None => {}
            }
        }
    }

    /// Whether the connection stays; returns when what was read, if there is something, may arrive.
    async fn may_pass(&mut self, has_read: bool) -> io::Result<bool> {
        loop {
            let rule = self.rule();
            if rule == Some(Rule::Cut) || Self::astray(rule) != self.is_astray {
                return Ok(false);
            }
            match rule {
                Some(Rule::Stall) if has_read => {
                    self.rules.changed().await.map_err(io::Error::other)?;
                }
                Some(Rule::Delay(by)) if has_read => {
                    tokio::time::sleep(by).await;
                    return Ok(true);
                }
                _ => return Ok(true),
            }
        }
    }
}
