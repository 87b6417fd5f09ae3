//! Clients that put, each over a connection of its own and the next when the last is answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use redis::aio::MultiplexedConnection;
use tokio::sync::Barrier;
use tonic::transport::Channel;

use super::etcd::proto::PutRequest;
use super::etcd::proto::kv_client::KvClient;

/// Of every value; their bytes are random.
pub const VALUE_BYTES: usize = 256;

/// A connection to a node.
pub enum Client {
    /// Of ours.
    Redis(MultiplexedConnection),
    /// Of the peer.
    Etcd(KvClient<Channel>),
}

/// One turn.
#[derive(Debug)]
pub struct Burst {
    /// Of each put, in nanoseconds.
    pub latencies: Vec<u64>,
    /// From the first put until the last was answered.
    pub elapsed: Duration,
}

impl Client {
    async fn put(&mut self, key: String, value: Vec<u8>) -> Result<()> {
        match self {
            Client::Redis(connection) => {
                let mut set = redis::cmd("SET");
                set.arg(key).arg(value);
                set.query_async::<()>(connection).await?;
            }
            Client::Etcd(client) => {
                let (key, value) = (key.into(), value.into());
                client.put(PutRequest { key, value }).await?;
            }
        }
        Ok(())
    }
}

/// Has all put until `length` is over. Keys of one burst begin with its number.
pub async fn burst(clients: Vec<Client>, number: u64, length: Duration) -> Result<Burst> {
    let ready = Arc::new(Barrier::new(clients.len()));
    let begun = clients.into_iter().enumerate().map(|(n, client)| {
        let ready = Arc::clone(&ready);
        tokio::spawn(async move {
            ready.wait().await;
            let start = Instant::now();
            let latencies = put_until(client, &format!("{number}-{n}"), start + length).await;
            latencies.map(|latencies| (latencies, start.elapsed()))
        })
    });
    let begun: Vec<_> = begun.collect();
    let mut all = Burst {
        latencies: Vec::new(),
        elapsed: Duration::ZERO,
    };
    for client in begun {
        let (latencies, elapsed) = client.await.context("a client panicked")??;
        all.latencies.extend(latencies);
        all.elapsed = all.elapsed.max(elapsed);
    }
    Ok(all)
}

async fn put_until(mut client: Client, name: &str, end: Instant) -> Result<Vec<u64>> {
    let mut random = fastrand::Rng::new();
    let mut latencies = Vec::new();
    let mut start = Instant::now();
    while start < end {
        let mut value = vec![0; VALUE_BYTES];
        random.fill(&mut value);
        let key = format!("{name}-{:08}", latencies.len());
        start = Instant::now();
        client.put(key, value).await?;
        latencies.push(start.elapsed().as_nanos() as u64);
    }
    Ok(latencies)
}
