//! Three nodes of etcd, as it comes: it syncs its log before it acknowledges.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use tonic::transport::{Channel, Endpoint};

use self::proto::StatusRequest;
use self::proto::kv_client::KvClient;
use self::proto::maintenance_client::MaintenanceClient;
use super::nodes::{Node, free_addresses, until};

/// What is asked of it.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod proto {
    tonic::include_proto!("etcdserverpb");
}

const NODES: usize = 3;

/// A cluster that runs.
pub struct Etcd {
    clients: Vec<String>,
    _nodes: Vec<Node>,
}

impl Etcd {
    /// Starts it with empty directories.
    pub async fn start(program: &Path, dir: &Path) -> Result<Etcd> {
        let addresses = free_addresses(2 * NODES)?;
        let urls: Vec<String> = addresses.iter().map(|at| format!("http://{at}")).collect();
        let (clients, peers) = urls.split_at(NODES);
        let names: Vec<String> = (0..NODES).map(|n| format!("etcd{n}")).collect();
        let members = names.iter().zip(peers);
        let members: Vec<_> = members.map(|(name, url)| format!("{name}={url}")).collect();
        let members = members.join(",");
        let mut nodes = Vec::new();
        for (name, (client, peer)) in names.into_iter().zip(clients.iter().zip(peers)) {
            let mut command = Command::new(program);
            command
                .args(["--name", &name, "--logger", "zap", "--log-level", "error"])
                .args(["--listen-client-urls", client])
                .args(["--advertise-client-urls", client])
                .args(["--listen-peer-urls", peer])
                .args(["--initial-advertise-peer-urls", peer])
                .args(["--initial-cluster", &members])
                .args(["--initial-cluster-state", "new"])
                .arg("--data-dir")
                .arg(dir.join(&name));
            nodes.push(Node::start(command, dir, name)?);
        }
        for client in clients {
            until("a leader of etcd", &mut nodes, || async {
                Ok(status(client).await?.leader != 0)
            })
            .await?;
        }
        Ok(Etcd {
            clients: clients.to_vec(),
            _nodes: nodes,
        })
    }

    /// The URL of the leader.
    pub async fn leader(&self) -> Result<String> {
        for client in &self.clients {
            let status = status(client).await?;
            let id = status.header.map(|header| header.member_id);
            if id == Some(status.leader) {
                return Ok(client.clone());
            }
        }
        None.context("etcd has no leader")
    }
}

async fn status(url: &str) -> Result<proto::StatusResponse> {
    let mut client = MaintenanceClient::new(channel(url).await?);
    Ok(client.status(StatusRequest {}).await?.into_inner())
}

pub async fn connect(url: &str) -> Result<KvClient<Channel>> {
    Ok(KvClient::new(channel(url).await?))
}

async fn channel(url: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
    Ok(endpoint.connect().await?)
}
