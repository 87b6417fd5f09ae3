//! What is done to a cluster while its clients ask.
//!
//! A fault ends when the cluster has been seen to answer under it, or cannot while it lasts. What
//! it leaves behind (a node that is down, a rule of the network, a slow disk) is taken back by
//! whoever drew it; so a fault that lasts can be the ground of the next.

mod foreign;
mod kills;
mod machine;
mod members;
mod network;

use anyhow::{Context as _, Result};
use fastrand::Rng;

pub use foreign::Foreign;

use crate::admin;
use crate::cluster::Cluster;
use crate::history::{Action, Outcome};
use crate::load::{Load, name};
use crate::proxy::Direction;

/// Operations that are acknowledged before a fault counts as survived.
const ANSWERS: u64 = 40;

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9` of the leader.
    KillLeader,
    /// Of as many followers as there may be.
    KillFollower,
    /// Of all nodes at once.
    KillAll,
    /// A node is stopped for longer than an election takes, and asked as soon as it goes on.
    Pause,
    /// The leader alone on its side.
    CutLeader,
    /// A majority and a minority.
    CutHalves,
    /// One node hears the others and is not heard, or the other way round.
    CutOneWay,
    /// Two sides that share one node.
    CutBridge,
    /// What nodes send arrives late.
    SlowNetwork,
    /// Syncs take long.
    SlowDisk,
    /// There is no space left: the node stops, and is started again when there is.
    FullDisk,
    /// The time of day jumps.
    Clock,
    /// A node is removed, wiped, and joins as a new one.
    Members,
    /// Leadership is handed over.
    Transfer,
    /// Each node ends in good order and starts again.
    Rolling,
    /// And with other flags.
    RollingFlags,
    /// Nodes of another cluster, with the same ids, send to this one's.
    Astray,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 17] = [
        Kind::KillLeader,
        Kind::KillFollower,
        Kind::KillAll,
        Kind::Pause,
        Kind::CutLeader,
        Kind::CutHalves,
        Kind::CutOneWay,
        Kind::CutBridge,
        Kind::SlowNetwork,
        Kind::SlowDisk,
        Kind::FullDisk,
        Kind::Clock,
        Kind::Members,
        Kind::Transfer,
        Kind::Rolling,
        Kind::RollingFlags,
        Kind::Astray,
    ];

    /// As it is asked for and reported.
    pub fn name(self) -> &'static str {
        match self {
            Kind::KillLeader => "kill-leader",
            Kind::KillFollower => "kill-follower",
            Kind::KillAll => "kill-all",
            Kind::Pause => "pause",
            Kind::CutLeader => "cut-leader",
            Kind::CutHalves => "cut-halves",
            Kind::CutOneWay => "cut-one-way",
            Kind::CutBridge => "cut-bridge",
            Kind::SlowNetwork => "slow-network",
            Kind::SlowDisk => "slow-disk",
            Kind::FullDisk => "full-disk",
            Kind::Clock => "clock",
            Kind::Members => "members",
            Kind::Transfer => "transfer",
            Kind::Rolling => "rolling",
            Kind::RollingFlags => "rolling-flags",
            Kind::Astray => "astray",
        }
    }

    /// Whether it lasts while the next fault happens.
    pub fn lasts(self) -> bool {
        matches!(self, Kind::SlowNetwork | Kind::Clock)
    }
}

/// All directions from one of these to one of those, and back.
pub fn between(these: &[usize], those: &[usize]) -> Vec<Direction> {
    let pairs = these
        .iter()
        .flat_map(|from| those.iter().map(|to| (*from, *to)));
    pairs
        .flat_map(|(from, to)| [(from, to), (to, from)])
        .collect()
}

/// A cluster, its clients, and what is drawn.
pub struct Scene<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// Its clients.
    pub load: &'a Load,
    /// Where choices come from.
    pub rng: &'a mut Rng,
    /// Another cluster, once there was need of it.
    pub foreign: &'a mut Option<Foreign>,
}

impl Scene<'_> {
    /// Does it; whether it met anything.
    ///
    /// # Errors
    /// The cluster did not bear it: it does not answer, does not recover, or a node ended that
    /// should not have.
    pub async fn inflict(&mut self, kind: Kind) -> Result<bool> {
        let done = match kind {
            Kind::KillLeader => self.kill_leader().await,
            Kind::KillFollower => self.kill_followers().await,
            Kind::KillAll => self.kill_all().await,
            Kind::Pause => self.pause().await,
            Kind::CutLeader => self.cut_leader().await,
            Kind::CutHalves => self.cut_halves().await,
            Kind::CutOneWay => self.cut_one_way().await,
            Kind::CutBridge => self.cut_bridge().await,
            Kind::SlowNetwork => self.slow_network().await,
            Kind::SlowDisk => self.slow_disk().await,
            Kind::FullDisk => self.full_disk().await,
            Kind::Clock => self.clock().await,
            Kind::Members => self.replace_member().await,
            Kind::Transfer => self.transfer().await,
            Kind::Rolling => self.roll(false).await,
            Kind::RollingFlags => self.roll(true).await,
            Kind::Astray => self.astray().await,
        };
        done.with_context(|| format!("during {}", kind.name()))
    }

    fn count(&self) -> usize {
        self.cluster.nodes.len()
    }

    fn others(&self, than: usize) -> Vec<usize> {
        (0..self.count()).filter(|at| *at != than).collect()
    }

    /// All nodes in a drawn order.
    fn shuffled(&mut self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.count()).collect();
        self.rng.shuffle(&mut all);
        all
    }

    /// The leader, every other time; else any node.
    async fn leader_or_any(&mut self) -> Result<usize> {
        let leader = self.cluster.leader().await?;
        Ok(match self.rng.bool() {
            true => leader,
            false => self.rng.usize(..self.count()),
        })
    }

    async fn answers(&self) -> Result<()> {
        self.load.acknowledges(ANSWERS).await
    }

    /// Every key that is in use is asked of this node; `meanwhile` happens when the questions are
    /// on their way. What is answered is part of the history, and must be as new as everything
    /// that was acknowledged before.
    async fn ask_keys(
        &self,
        mut connection: redis::aio::MultiplexedConnection,
        meanwhile: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut asked = tokio::task::JoinSet::new();
        for key in self.load.keys() {
            let recorder = std::sync::Arc::clone(&self.load.recorder);
            let (name, mut connection) = (name(&self.load.plan.prefix, key), connection.clone());
            let invoked = recorder.now();
            asked.spawn(async move {
                let answer = admin::ask::<Option<String>>(&mut connection, &["GET", &name]).await;
                let outcome = match answer {
                    Ok(value) => Outcome::Done(Action::Get(value.map(Into::into))),
                    // A read that was not answered says nothing.
                    Err(_) => Outcome::Nothing,
                };
                recorder.ended(key, invoked, outcome);
            });
        }
        // The questions are written by the connection's own task.
        let _ = tokio::time::timeout(
            std::time::Duration::from_millis(20),
            admin::ask::<String>(&mut connection, &["PING"]),
        )
        .await;
        meanwhile()?;
        asked.join_all().await;
        Ok(())
    }
}
