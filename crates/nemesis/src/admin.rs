//! What a node says of itself, and what it is told, over its port for clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult};

/// How long a healthy node may take to say how it is.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to do what it is told: it waits for a leader itself.
const TOLD_PATIENCE: Duration = Duration::from_secs(10);

/// Nodes that one may be sent on to.
const HOPS_MAX: usize = 4;

/// What RAFTSTATS says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Whether it believes to lead.
    pub leads: bool,
    /// Its id.
    pub id: u64,
    /// Its term.
    pub term: u64,
    /// Who leads, as far as it knows; 0: nobody.
    pub leader: u64,
    /// How far it knows to be committed.
    pub commit: u64,
    /// How far it has applied.
    pub applied: u64,
    /// The first entry of its log.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Members with a vote.
    pub voters: u64,
    /// And without.
    pub learners: u64,
}

/// A connection that gives up on an answer after a while.
///
/// # Errors
/// There was no connection.
pub async fn connect(to: SocketAddr, patience: Duration) -> RedisResult<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://{to}/"))?;
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(patience))
        .set_response_timeout(Some(patience));
    let connected = client.get_multiplexed_async_connection_with_config(&config);
    connected.await
}

/// Asks words.
///
/// # Errors
/// What the node says, or that it does not.
pub async fn ask<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    words: &[&str],
) -> RedisResult<T> {
    let mut cmd = Cmd::new();
    words.iter().for_each(|word| {
        cmd.arg(word);
    });
    cmd.query_async(connection).await
}

/// How the node is; none when it does not say.
pub async fn stats(of: SocketAddr) -> Option<Stats> {
    let asked = async {
        let mut connection = connect(of, LOOK_PATIENCE).await?;
        ask::<Vec<String>>(&mut connection, &["RAFTSTATS"]).await
    };
    let told = tokio::time::timeout(LOOK_PATIENCE, asked)
        .await
        .ok()?
        .ok()?;
    Some(parsed(&told))
}

fn parsed(told: &[String]) -> Stats {
    let pairs = told.chunks_exact(2);
    let pairs = pairs.filter_map(|pair| Some((pair.first()?.as_str(), pair.last()?.as_str())));
    let of: BTreeMap<&str, &str> = pairs.collect();
    let number = |name| of.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    Stats {
        leads: of.get("state") == Some(&"Leader"),
        id: number("id"),
        term: number("term"),
        leader: number("leader"),
        commit: number("commit_index"),
        applied: number("applied_index"),
        first: number("first_log_index"),
        last: number("last_log_index"),
        voters: number("voters"),
        learners: number("learners"),
    }
}

/// Tells the node to do something, or the one that it names instead.
///
/// # Errors
/// It refuses, or does not answer.
pub async fn tell(mut node: SocketAddr, words: &[&str]) -> Result<()> {
    let what = || words.join(" ");
    for _ in 0..HOPS_MAX {
        let connected = connect(node, TOLD_PATIENCE).await;
        let mut connection = connected.with_context(what)?;
        let told = ask::<redis::Value>(&mut connection, words).await;
        let leader = told.as_ref().err().and_then(leader_of);
        match leader {
            None => return told.map(drop).with_context(what),
            Some(leader) => node = leader,
        }
    }
    bail!("{}: sent from node to node", what())
}

/// Whom an error names: `-TRY host:port`.
fn leader_of(error: &RedisError) -> Option<SocketAddr> {
    let named = error.detail().filter(|_| error.code() == Some("TRY"));
    named?.parse().ok()
}
