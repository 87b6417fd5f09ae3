//! Nodes of another cluster that were given an address of this one.
//!
//! The other cluster has as many nodes, with the same ids, and a much higher term; clients of its
//! own ask it for the very keys that this one's ask for. Its nodes' connections lead here. Nothing
//! of that may show: a term, a leader, a vote, a forwarded command, or an entry of it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Scene;
use crate::admin;
use crate::cluster::Cluster;
use crate::load::{Load, Plan};
use crate::node::Flags;
use crate::proxy::Rule;
use crate::until;

/// How far its term is above: this cluster does not get there by elections of its own meanwhile.
const TERMS: u64 = 20;
const TICK_MS: u64 = 30;

/// The other cluster.
pub struct Foreign {
    cluster: Cluster,
}

impl Foreign {
    async fn start(program: &Path, scratch: &Path, count: usize) -> Result<Self> {
        let flags = Flags::new(TICK_MS, (1_000, 200));
        let cluster = Cluster::start(program, scratch, count, &flags, false).await;
        let cluster = cluster.context("starting another cluster")?;
        Ok(Foreign { cluster })
    }

    async fn raise_term(&self, above: u64) -> Result<u64> {
        loop {
            let leader = self.cluster.leader().await?;
            let told = self.cluster.stats().await;
            let term = told.iter().map(|(_, stats)| stats.term).max().unwrap_or(0);
            if term > above {
                return Ok(term);
            }
            let to = (leader + 1) % self.cluster.nodes.len();
            let to = self.cluster.node(to)?.addresses.client.to_string();
            let told = self.cluster.node(leader)?.addresses.client;
            // It may be given up; then it is asked for again.
            let _ = admin::tell(told, &["RAFTTRANSFER", &to]).await;
        }
    }
}

impl Scene<'_> {
    pub(super) async fn astray(&mut self) -> Result<bool> {
        if self
            .foreign
            .as_ref()
            .is_none_or(|it| it.cluster.nodes.len() != self.count())
        {
            // The old one ends first.
            *self.foreign = None;
            let (program, scratch) = self.cluster.place();
            let foreign = Foreign::start(program, scratch, self.count()).await?;
            *self.foreign = Some(foreign);
        }
        let foreign = self.foreign.as_mut().context("it was started above")?;
        let own = self.cluster.stats().await;
        let highest = own.iter().map(|(_, stats)| stats.term).max().unwrap_or(0);
        let term = foreign.raise_term(highest + TERMS).await?;
        let clients = Load::start(
            &Plan {
                clients: 3,
                think: Duration::from_millis(20),
                seed: self.rng.u64(..),
                prefix: self.load.plan.prefix.clone(),
            },
            foreign.cluster.clients(),
        );
        // Where a node of theirs sends to its own, it reaches the one of ours with the same id,
        // if there is one.
        let told = foreign.cluster.stats().await;
        let network = &foreign.cluster.network;
        for (theirs, stats) in &told {
            let same = own.iter().find(|(_, own)| own.id == stats.id);
            let ours = same
                .or(own.first())
                .context("no node of ours says anything")?
                .0;
            let peer = self.cluster.node(ours)?.addresses.peer;
            let from = (0..foreign.cluster.nodes.len()).filter(|from| from != theirs);
            network.set(from.map(|from| (from, *theirs)), Rule::Astray(peer));
        }
        let before = network.strayed();
        let strayed = || async { (network.strayed() > before + 1).then_some(()) };
        until("another cluster's nodes connect here", strayed).await?;
        self.load.acknowledges(2 * super::ANSWERS).await?;
        let after = self.cluster.stats().await;
        foreign.cluster.heal()?;
        clients.end().await;
        foreign.cluster.whole().await.context("the other cluster")?;
        let reached = after.iter().find(|(_, stats)| stats.term >= term);
        ensure!(
            reached.is_none(),
            "term {term} of another cluster arrived: {reached:?}, from {own:?}"
        );
        Ok(true)
    }
}
