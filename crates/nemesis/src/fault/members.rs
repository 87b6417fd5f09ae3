//! Changes that operators make: members, leaders, restarts, flags.

use anyhow::{Context as _, Result};

use super::Scene;
use crate::{admin, until};

impl Scene<'_> {
    /// A node is removed and its disk wiped; it joins again as another one, at its old address.
    pub(super) async fn replace_member(&mut self) -> Result<bool> {
        let leaves = self.leader_or_any().await?;
        let address = self.cluster.node(leaves)?.addresses.client.to_string();
        let stays = self.others(leaves);
        let voters = self.count() as u64 - 1;
        let told = self.rng.choice(stays).context("a cluster has nodes")?;
        let told = self.cluster.node(told)?.addresses.client;
        let removed = || async {
            // Whether it was done is seen below: an answer may be lost with its leader.
            let _ = admin::tell(told, &["RAFTREMOVEPEER", &address]).await;
            let stats = admin::stats(told).await?;
            (stats.voters == voters && stats.learners == 0).then_some(())
        };
        until("a member is removed", removed).await?;
        self.answers().await?;
        // It may have ended by itself: it is no member any more.
        self.cluster.kill(leaves).await?;
        self.cluster.node(leaves)?.wipe()?;
        self.cluster.restart(leaves)?;
        self.cluster.whole().await?;
        Ok(true)
    }

    pub(super) async fn transfer(&mut self) -> Result<bool> {
        for _ in 0..self.rng.usize(1..4) {
            let leader = self.cluster.leader().await?;
            let to = self.others(leader);
            let to = self.rng.choice(to).context("a cluster has nodes")?;
            let (told, address) = {
                let told = self.rng.usize(..self.count());
                let told = self.cluster.node(told)?.addresses.client;
                (told, self.cluster.node(to)?.addresses.client.to_string())
            };
            let handed_over = || async {
                // Under load it may be given up, and is asked for again.
                let _ = admin::tell(told, &["RAFTTRANSFER", &address]).await;
                let leads = self.cluster.leader_now().await == Some(to);
                leads.then_some(())
            };
            until("leadership is handed over", handed_over).await?;
        }
        self.answers().await?;
        Ok(true)
    }

    pub(super) async fn roll(&mut self, changes_flags: bool) -> Result<bool> {
        let flags = self.cluster.node(0)?.flags.clone();
        for at in self.shuffled() {
            self.cluster.terminate(at).await?;
            if changes_flags {
                self.change_flags(at)?;
            }
            self.cluster.restart(at)?;
            self.cluster.whole().await?;
        }
        self.answers().await?;
        if changes_flags {
            // What comes later counts on syncs, and reads through every node.
            for at in self.shuffled() {
                self.cluster.terminate(at).await?;
                let node = self.cluster.nodes.get_mut(at);
                node.context("there is no such node")?.flags = flags.clone();
                self.cluster.restart(at)?;
                self.cluster.whole().await?;
            }
        }
        Ok(true)
    }

    fn change_flags(&mut self, at: usize) -> Result<()> {
        let node = self.cluster.nodes.get_mut(at);
        let flags = &mut node.context("there is no such node")?.flags;
        flags.durability = *self
            .rng
            .choice(&["low", "medium", "high"])
            .unwrap_or(&"high");
        flags.redirect = *self.rng.choice(&["try", "forward"]).unwrap_or(&"forward");
        flags.tick_ms = self.rng.u64(20..40);
        Ok(())
    }
}
