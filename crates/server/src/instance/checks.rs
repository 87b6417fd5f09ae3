//! What must hold before a node starts.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use raft_rocks_grpc::Party;
use tokio::net::TcpListener;

use super::Settings;

pub(super) async fn bind(address: &str, flag: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| {
        format!("{flag} {address}: cannot listen there; give HOST:PORT of this machine, not in use")
    })
}

pub(super) fn warn_of_strangers(flag: &str, address: SocketAddr) {
    if !address.ip().is_loopback() {
        tracing::warn!(
            "{flag} {address} is open to the network, and clients show no token; give \
             --auth-token-file where not everybody may change everything"
        );
    }
}

pub(super) fn check_exposure(settings: &Settings, peers: SocketAddr) -> anyhow::Result<()> {
    if settings.tls.is_none() && !settings.insecure && !peers.ip().is_loopback() {
        bail!(
            "--peer-listen {peers} is open to the network, where without certificates anybody can \
             be a node; give --tls-ca, --tls-cert and --tls-key (`raft-rocks-server certs` makes \
             them), or --insecure where nobody else is on that network"
        );
    }
    Ok(())
}

/// The id that the settings and the certificate agree on.
pub(super) fn chosen_id(settings: &Settings) -> anyhow::Result<Option<u64>> {
    let Some(tls) = &settings.tls else {
        return Ok(settings.id);
    };
    let Party::Node(certified) = *tls.party() else {
        bail!("--tls-cert is that of a client; a node needs one of its own");
    };
    ensure!(
        settings.id.is_none_or(|id| id == certified),
        "--tls-cert is that of node {certified}, not of --id {}",
        settings.id.unwrap_or_default()
    );
    Ok(Some(certified))
}

/// Where others reach what listens at `bound`.
pub(super) fn reached_at(
    given: Option<&str>,
    bound: SocketAddr,
    flag: &str,
) -> anyhow::Result<String> {
    let address = match given {
        Some(given) => given.to_owned(),
        None => bound.to_string(),
    };
    let host_and_port = address.rsplit_once(':');
    let port = host_and_port.and_then(|(_, port)| port.parse::<u16>().ok());
    let (Some((host, _)), Some(1..)) = (host_and_port, port) else {
        bail!("{flag} {address}: give HOST:PORT");
    };
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    ensure!(
        !host.is_empty() && !ip.is_ok_and(|ip| ip.is_unspecified()),
        "others cannot reach {address}; give {flag} HOST:PORT as they reach this machine"
    );
    Ok(address)
}

/// A directory that nobody else looks into.
pub(super) fn make_private(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    made.with_context(|| format!("--dir {}: cannot make it", dir.display()))
}
