//! Partitions and delays.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Scene, between};
use crate::admin;
use crate::proxy::{Direction, Rule};

/// A client that asks who cannot answer.
const SHORT: Duration = Duration::from_secs(1);

impl Scene<'_> {
    /// Connections that break, or those on which nothing arrives any more.
    fn cut(&mut self, directions: Vec<Direction>) {
        let rule = self.rng.choice([Rule::Cut, Rule::Stall]);
        let rule = rule.unwrap_or(Rule::Cut);
        self.cluster.network.set(directions, rule);
    }

    /// The leader is asked when there is another; it must not answer with what it has.
    pub(super) async fn cut_leader(&mut self) -> Result<bool> {
        let leader = self.cluster.leader().await?;
        let address = self.cluster.node(leader)?.addresses.client;
        let connection = admin::connect(address, SHORT).await?;
        let others = self.others(leader);
        self.cut(between(&[leader], &others));
        self.cluster.leader_other_than(leader).await?;
        self.answers().await?;
        self.ask_keys(connection, || Ok(())).await?;
        Ok(true)
    }

    pub(super) async fn cut_halves(&mut self) -> Result<bool> {
        let nodes = self.shuffled();
        let (few, many) = nodes.split_at((nodes.len() - 1) / 2);
        self.cut(between(few, many));
        self.answers().await?;
        Ok(true)
    }

    pub(super) async fn cut_one_way(&mut self) -> Result<bool> {
        let node = self.leader_or_any().await?;
        let others = self.others(node).into_iter();
        let directions = match self.rng.bool() {
            true => others.map(|other| (node, other)).collect(),
            false => others.map(|other| (other, node)).collect(),
        };
        self.cut(directions);
        self.answers().await?;
        Ok(true)
    }

    pub(super) async fn cut_bridge(&mut self) -> Result<bool> {
        let nodes = self.shuffled();
        let (_, sides) = nodes.split_first().context("a cluster has nodes")?;
        let (these, those) = sides.split_at(sides.len() / 2);
        self.cut(between(these, those));
        self.answers().await?;
        Ok(true)
    }

    /// Of one node, or between all.
    pub(super) async fn slow_network(&mut self) -> Result<bool> {
        let by = Duration::from_millis(self.rng.u64(2..25));
        let node = self.leader_or_any().await?;
        let others = self.others(node);
        let directions = match self.rng.bool() {
            true => between(&[node], &others),
            false => {
                let all = 0..self.count();
                all.flat_map(|at| between(&[at], &self.others(at)))
                    .collect()
            }
        };
        self.cluster.network.set(directions, Rule::Delay(by));
        self.answers().await?;
        Ok(true)
    }
}
