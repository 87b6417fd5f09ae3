//! The nodes of a cluster on this machine, and the network between them.
//!
//! Invariants:
//! 1. A node that is not running was ended by us: one that ends by itself is a finding, unless its
//!    disk was full.
//! 2. A cluster is [`whole`](Cluster::whole) before a history begins and after it ended: all nodes
//!    run, are voters of one configuration, and have applied all that is committed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::admin::{self, Stats};
use crate::dialer::Dialers;
use crate::node::{Flags, Node};
use crate::proxy::Network;
use crate::shim::Shim;
use crate::until;

/// A cluster.
pub struct Cluster {
    /// Its nodes; some may not run.
    pub nodes: Vec<Node>,
    /// Between them.
    pub network: Network,
    dialers: Dialers,
    program: PathBuf,
    shim: Option<Shim>,
    home: TempDir,
}

impl Cluster {
    /// Starts one of `count` nodes, each `program`, with everything below `scratch`; waits until
    /// it is whole.
    ///
    /// # Errors
    /// It does not come about.
    pub async fn start(
        program: &Path,
        scratch: &Path,
        count: usize,
        flags: &Flags,
        has_shim: bool,
    ) -> Result<Self> {
        std::fs::create_dir_all(scratch).context("make the directory of a cluster")?;
        // The shim compares paths with what the system calls open files.
        let scratch = &scratch
            .canonicalize()
            .context("name the directory of a cluster")?;
        let home = tempfile::Builder::new()
            .prefix("cluster-")
            .tempdir_in(scratch)?;
        let shim = match has_shim {
            true => Some(Shim::compile(home.path())?),
            false => None,
        };
        let dialers = Dialers::default();
        let mut cluster = Cluster {
            nodes: Vec::new(),
            network: Network::new(dialers.clone()),
            dialers,
            program: program.to_owned(),
            shim,
            home,
        };
        for _ in 0..count {
            cluster.add(flags).await?;
            cluster.whole().await?;
        }
        Ok(cluster)
    }

    /// Starts one more node, which joins the others.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn add(&mut self, flags: &Flags) -> Result<usize> {
        let (at, home) = (self.nodes.len(), self.home.path());
        let node = Node::new(at + 1, home, flags.clone(), self.shim.as_ref())?;
        let of = node.addresses;
        let proxied = self.network.proxy(at, of.advertised, of.peer).await;
        proxied.context("start a proxy")?;
        self.nodes.push(node);
        self.restart(at)?;
        Ok(at)
    }

    /// Starts a node that does not run; when it is no member, it joins those that run.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn restart(&mut self, at: usize) -> Result<()> {
        let others = self.nodes.iter().filter(|node| node.is_up());
        let join: Vec<SocketAddr> = others.map(|node| node.addresses.advertised).collect();
        let node = self.nodes.get_mut(at).context("there is no such node")?;
        let pid = node.start(&self.program, &join)?;
        self.dialers.set(at, pid);
        Ok(())
    }

    /// One of its nodes.
    ///
    /// # Errors
    /// There is none there.
    pub fn node(&self, at: usize) -> Result<&Node> {
        self.nodes.get(at).context("there is no such node")
    }

    fn taken(&mut self, at: usize) -> Result<crate::process::Process> {
        let node = self.nodes.get_mut(at).context("there is no such node")?;
        node.take_process()
    }

    /// Ends a node as `kill -9` does.
    ///
    /// # Errors
    /// It does not run, or has ended by itself.
    pub async fn kill(&mut self, at: usize) -> Result<()> {
        let node = self.nodes.get_mut(at).context("there is no such node")?;
        if let Some(status) = node.has_failed() {
            bail!(
                "node {}, before it was killed, had ended by itself: {status}",
                at + 1
            );
        }
        let killed = self.taken(at)?.kill().await;
        self.dialers.remove(at);
        killed
    }

    /// Tells a node to end, and waits until it has, in good order.
    ///
    /// # Errors
    /// It does not run, does not end, or says that something was wrong.
    pub async fn terminate(&mut self, at: usize) -> Result<()> {
        let status = self.taken(at)?.terminate().await?;
        self.dialers.remove(at);
        ensure!(status.success(), "node {}, told to end: {status}", at + 1);
        Ok(())
    }

    /// Waits until a node has ended by itself, and with an error.
    ///
    /// # Errors
    /// It does not run, goes on, or ends as if nothing were wrong.
    pub async fn ended(&mut self, at: usize) -> Result<()> {
        // Until then it may have to connect: a follower that cannot answer is sent nothing to write.
        let status = self.taken(at)?.end().await?;
        self.dialers.remove(at);
        ensure!(
            !status.success(),
            "node {}, which could not go on: {status}",
            at + 1
        );
        Ok(())
    }

    /// Starts all nodes that do not run.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn restart_all(&mut self) -> Result<()> {
        for at in 0..self.nodes.len() {
            if !self.node(at)?.is_up() {
                self.restart(at)?;
            }
        }
        Ok(())
    }

    /// Where clients may ask.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.nodes
            .iter()
            .map(|node| node.addresses.client)
            .collect()
    }

    /// What each node that runs says of itself.
    pub async fn stats(&self) -> Vec<(usize, Stats)> {
        let running = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.is_up());
        let mut asked = tokio::task::JoinSet::new();
        for (at, node) in running {
            let client = node.addresses.client;
            asked.spawn(async move { Some((at, admin::stats(client).await?)) });
        }
        let mut told: Vec<_> = asked.join_all().await.into_iter().flatten().collect();
        told.sort_by_key(|(at, _)| *at);
        told
    }

    /// Who leads: of those who say so the one of the highest term, when a majority knows it.
    pub async fn leader_now(&self) -> Option<usize> {
        let told = self.stats().await;
        let leads = told.iter().filter(|(_, stats)| stats.leads);
        let (at, leader) = leads.max_by_key(|(_, stats)| stats.term)?;
        let follows = |stats: &&Stats| stats.leader == leader.id && stats.term == leader.term;
        let known = told.iter().map(|(_, stats)| stats).filter(follows).count();
        (2 * known as u64 > leader.voters).then_some(*at)
    }

    /// Who leads, as soon as somebody does.
    ///
    /// # Errors
    /// Nobody does for a long time.
    pub async fn leader(&self) -> Result<usize> {
        until("a leader that a majority knows", || self.leader_now()).await
    }

    /// Who leads, as soon as it is another.
    ///
    /// # Errors
    /// It is none for a long time.
    pub async fn leader_other_than(&self, at: usize) -> Result<usize> {
        let other = || async { self.leader_now().await.filter(|leader| *leader != at) };
        until("another leader", other).await
    }

    /// Waits until all nodes that there are run, vote, and have applied what is committed.
    ///
    /// # Errors
    /// It does not come to that: it says what the nodes do instead.
    pub async fn whole(&mut self) -> Result<()> {
        let count = self.nodes.len();
        let waited = until("all nodes are members that are up to date", || async {
            let told = self.stats().await;
            is_whole(&told, count).then_some(())
        });
        if let Err(e) = waited.await {
            let told = self.stats().await;
            let failed = self.failed().unwrap_or_default();
            return Err(e.context(format!("nodes say {told:#?} {failed}")));
        }
        Ok(())
    }

    /// Which node has ended by itself.
    pub fn failed(&mut self) -> Option<String> {
        self.nodes.iter_mut().find_map(|node| {
            let status = node.has_failed()?;
            let log = node.log();
            let last = log.lines().next_back().unwrap_or_default();
            Some(format!(
                "node {} ended by itself, {status}: {last}",
                node.number
            ))
        })
    }

    /// Takes back whatever was done to nodes that run, and to the network.
    ///
    /// # Errors
    /// The system's.
    pub fn heal(&self) -> Result<()> {
        self.network.heal();
        for node in self.nodes.iter().filter(|node| node.is_up()) {
            node.process()?.resume()?;
            if self.shim.is_some() {
                node.control()?.heal()?;
            }
        }
        Ok(())
    }

    /// The program, and where another cluster may be made.
    pub fn place(&self) -> (&Path, &Path) {
        let beside = self.home.path().parent();
        (&self.program, beside.unwrap_or(self.home.path()))
    }

    /// Where everything of it is.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Ends it, and leaves its directories and logs there.
    pub fn keep(mut self) -> PathBuf {
        self.home.disable_cleanup(true);
        self.home.path().to_owned()
    }
}

fn is_whole(told: &[(usize, Stats)], count: usize) -> bool {
    let (Some(leader), true) = (
        told.iter().find(|(_, stats)| stats.leads),
        told.len() == count,
    ) else {
        return false;
    };
    let leader = &leader.1;
    told.iter().all(|(_, stats)| {
        let follows = stats.leader == leader.id && stats.term == leader.term;
        let is_voter = stats.voters == count as u64 && stats.learners == 0;
        follows
            && is_voter
            && stats.applied >= leader.commit.min(stats.commit)
            && stats.commit >= leader.commit.saturating_sub(50)
    })
}
