//! What the commands that ask a running cluster take.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use raft_rocks_grpc::{ClientError, ClusterClient, Tls};

/// Whom to ask.
#[derive(Args)]
pub struct Target {
    /// A node of the cluster, where other nodes reach it
    #[arg(
        long,
        env = "RAFT_ROCKS_NODE",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7482"
    )]
    pub node: String,

    /// The certificate of the cluster's authority
    #[arg(long, env = "RAFT_ROCKS_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// A client's certificate (raft-rocks-server certs --client)
    #[arg(long, env = "RAFT_ROCKS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Its key
    #[arg(long, env = "RAFT_ROCKS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Seconds that it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

#[derive(Args)]
pub struct AddArgs {
    #[command(flatten)]
    pub target: Target,

    /// Where other nodes reach the new one; or a learner: its address or id
    #[arg(value_name = "HOST:PORT")]
    pub address: String,

    /// The id that it is to have [default: that of its certificate, or what the leader gives]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub id: Option<u64>,

    /// It gets everything and has no vote
    #[arg(long)]
    pub learner: bool,
}

#[derive(Args)]
pub struct MemberArgs {
    #[command(flatten)]
    pub target: Target,

    /// Its id, or its address for nodes or for clients
    #[arg(value_name = "MEMBER")]
    pub member: String,
}

#[derive(Args)]
pub struct WatchArgs {
    #[command(flatten)]
    pub target: Target,

    /// Milliseconds from one look to the next
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub interval: u64,
}

impl Target {
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    pub fn tls(&self) -> Result<Option<Tls>> {
        match (&self.tls_ca, &self.tls_cert, &self.tls_key) {
            (None, None, None) => Ok(None),
            (Some(ca), Some(cert), Some(key)) => Ok(Some(Tls::read(ca, cert, key)?)),
            _ => bail!("--tls-ca, --tls-cert and --tls-key belong together; give all three"),
        }
    }

    pub async fn connect(&self, tls: Option<&Tls>) -> Result<ClusterClient, ClientError> {
        let client = ClusterClient::connect(&self.node, tls.cloned()).await?;
        Ok(client.with_patience(self.patience()))
    }
}
