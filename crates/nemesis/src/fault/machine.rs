//! What happens to the machine under a node: it stops for a while, its disk is slow or full, its
//! clock jumps.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Scene;
use crate::admin;
use crate::shim::Counter;

/// For a node that answers when it goes on.
const LONG: Duration = Duration::from_secs(10);
const DAY_MS: i64 = 86_400_000;

impl Scene<'_> {
    /// The leader, mostly, stands still until the others have another. It is asked before it goes
    /// on: when it does, it still believes to lead.
    pub(super) async fn pause(&mut self) -> Result<bool> {
        let leader = self.cluster.leader().await?;
        let node = match self.rng.u8(..4) {
            0 => self.rng.usize(..self.count()),
            _ => leader,
        };
        let address = self.cluster.node(node)?.addresses.client;
        let connection = admin::connect(address, LONG).await?;
        self.cluster.node(node)?.process()?.pause()?;
        if node == leader {
            self.cluster.leader_other_than(leader).await?;
        }
        self.answers().await?;
        let process = self.cluster.node(node)?.process()?;
        self.ask_keys(connection, || process.resume()).await?;
        Ok(true)
    }

    /// One node, or all.
    async fn some(&mut self) -> Result<Vec<usize>> {
        let node = self.leader_or_any().await?;
        Ok(match self.rng.bool() {
            true => vec![node],
            false => (0..self.count()).collect(),
        })
    }

    fn counted(&self, nodes: &[usize], counter: Counter) -> Result<i64> {
        let mut sum = 0;
        for at in nodes {
            sum += self.cluster.node(*at)?.control()?.count(counter)?;
        }
        Ok(sum)
    }

    pub(super) async fn slow_disk(&mut self) -> Result<bool> {
        let nodes = self.some().await?;
        let by = Duration::from_millis(self.rng.u64(20..200));
        let before = self.counted(&nodes, Counter::SyncsDelayed)?;
        for at in &nodes {
            self.cluster.node(*at)?.control()?.delay_syncs(by)?;
        }
        self.answers().await?;
        Ok(self.counted(&nodes, Counter::SyncsDelayed)? > before)
    }

    /// The node cannot go on, and says so; when there is space again it does.
    pub(super) async fn full_disk(&mut self) -> Result<bool> {
        let at = self.leader_or_any().await?;
        self.cluster.node(at)?.control()?.fill(true)?;
        let before = self.cluster.node(at)?.log().len();
        self.cluster.ended(at).await?;
        let log = self.cluster.node(at)?.log();
        let said = log.get(before..).unwrap_or_default();
        ensure!(
            said.contains("No space left on device"),
            "node {} stopped on a full disk without saying so: {said}",
            at + 1
        );
        self.answers().await?;
        let refused = self.counted(&[at], Counter::WritesRefused)?;
        self.cluster.node(at)?.control()?.fill(false)?;
        self.cluster.restart(at)?;
        Ok(refused > 0)
    }

    /// By seconds or by days, forth or back.
    pub(super) async fn clock(&mut self) -> Result<bool> {
        let nodes = self.some().await?;
        let before = self.counted(&nodes, Counter::ClocksMoved)?;
        for at in &nodes {
            let by = match self.rng.bool() {
                true => self.rng.i64(-30_000..30_000),
                false => self.rng.i64(-30..30) * DAY_MS,
            };
            self.cluster.node(*at)?.control()?.move_clock(by | 1)?;
        }
        self.answers().await?;
        Ok(self.counted(&nodes, Counter::ClocksMoved)? > before)
    }
}
