//! Processes that end as if the machine had been switched off, but for what the system still has.

use anyhow::{Context as _, Result};

use super::Scene;

impl Scene<'_> {
    pub(super) async fn kill_leader(&mut self) -> Result<bool> {
        let leader = self.cluster.leader().await?;
        self.cluster.kill(leader).await?;
        self.answers().await?;
        self.cluster.restart(leader)?;
        Ok(true)
    }

    /// A majority stays.
    pub(super) async fn kill_followers(&mut self) -> Result<bool> {
        let leader = self.cluster.leader().await?;
        let mut followers = self.others(leader);
        self.rng.shuffle(&mut followers);
        followers.truncate((self.count() - 1) / 2);
        for at in &followers {
            self.cluster.kill(*at).await?;
        }
        self.answers().await?;
        for at in followers {
            self.cluster.restart(at)?;
        }
        Ok(true)
    }

    pub(super) async fn kill_all(&mut self) -> Result<bool> {
        for at in self.shuffled() {
            self.cluster.kill(at).await?;
        }
        self.cluster.restart_all()?;
        let waited = self.answers().await;
        waited.context("after all nodes were killed and started again")?;
        Ok(true)
    }
}
