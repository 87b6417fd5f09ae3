//! The commands, as the crate `redis` sends them, at one node.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Client, Cluster, until};
use raft_rocks_server::instance::Backend;
use raft_rocks_server::resp::Secret;
use redis::Value;

type Text = Option<String>;

#[tokio::test(flavor = "multi_thread")]
async fn strings_are_those_of_redis() {
    for backend in [Backend::RocksDb, Backend::Memory] {
        let mut cluster = Cluster::new();
        cluster.adapt = Box::new(move |settings| settings.backend = backend);
        cluster.start(1).await;
        let mut client = cluster.client(1).await;
        values(&mut client).await;
        numbers(&mut client).await;
        times(&mut client).await;
        keys(&mut client).await;
        mistakes(&mut client).await;
        drop(client);
        cluster.shutdown().await;
    }
}

async fn values(client: &mut Client) {
    assert_eq!(client.run::<Text>("GET a").await, None);
    assert_eq!(client.run::<String>("SET a 1").await, "OK");
    assert_eq!(client.run::<Text>("GET a").await.unwrap(), "1");
    assert_eq!(client.run::<Text>("SET a 2 NX").await, None);
    assert_eq!(client.run::<Text>("SET b 2 XX").await, None);
    assert_eq!(client.run::<Text>("SET a 2 GET").await.unwrap(), "1");
    assert_eq!(client.run::<String>("MSET b 3 c 4").await, "OK");
    let values: Vec<Text> = client.run("MGET a x c").await;
    assert_eq!(values, [Some("2".into()), None, Some("4".into())]);
    assert_eq!(client.run::<i64>("EXISTS a b x a").await, 3);
    assert_eq!(client.run::<i64>("DBSIZE").await, 3);
    assert_eq!(client.run::<i64>("DEL a b x").await, 2);
    assert_eq!(client.run::<i64>("APPEND c 56").await, 3);
    assert_eq!(client.run::<i64>("STRLEN c").await, 3);
    assert_eq!(client.run::<i64>("STRLEN x").await, 0);
    assert_eq!(client.run::<String>("TYPE c").await, "string");
    assert_eq!(client.run::<String>("TYPE x").await, "none");
    assert_eq!(client.run::<String>("FLUSHALL").await, "OK");
    assert_eq!(client.run::<i64>("DBSIZE").await, 0);
}

async fn numbers(client: &mut Client) {
    assert_eq!(client.run::<i64>("INCR n").await, 1);
    assert_eq!(client.run::<i64>("INCRBY n 41").await, 42);
    assert_eq!(client.run::<i64>("DECR n").await, 41);
    assert_eq!(client.run::<i64>("DECRBY n 50").await, -9);
    let overflow = client.fails("DECRBY n 9223372036854775807").await;
    assert!(overflow.contains("would overflow"), "{overflow}");
    client.run::<()>("SET t text").await;
    let no_integer = client.fails("INCR t").await;
    assert!(no_integer.contains("not an integer"), "{no_integer}");
}

async fn times(client: &mut Client) {
    client.run::<()>("SET k v").await;
    assert_eq!(client.run::<i64>("TTL k").await, -1);
    assert_eq!(client.run::<i64>("TTL x").await, -2);
    assert_eq!(client.run::<i64>("EXPIRE k 100").await, 1);
    assert_eq!(client.run::<i64>("EXPIRE x 100").await, 0);
    let left = client.run::<i64>("TTL k").await;
    assert!((95..=100).contains(&left), "{left}");
    assert_eq!(client.run::<i64>("PERSIST k").await, 1);
    assert_eq!(client.run::<i64>("PERSIST k").await, 0);
    assert_eq!(client.run::<i64>("PTTL k").await, -1);
    client.run::<()>("SET k v PX 60000").await;
    client.run::<()>("SET k w KEEPTTL").await;
    let left = client.run::<i64>("PTTL k").await;
    assert!((50_000..=60_000).contains(&left), "{left}");
    assert_eq!(client.run::<i64>("EXPIRE k -1").await, 1);
    assert_eq!(client.run::<Text>("GET k").await, None);
    // Nobody asks for it: it goes by itself.
    let before = client.run::<i64>("DBSIZE").await;
    client.run::<()>("SET gone v PX 30").await;
    until("it has expired", || {
        let mut client = client.connection().clone();
        async move {
            let left: i64 = redis::cmd("DBSIZE").query_async(&mut client).await.unwrap();
            (left == before).then_some(())
        }
    })
    .await;
}

async fn keys(client: &mut Client) {
    client.run::<()>("FLUSHALL").await;
    let expected: BTreeSet<String> = (0..500).map(|n| format!("key:{n}")).collect();
    for chunk in expected.iter().collect::<Vec<_>>().chunks(100) {
        let pairs: Vec<_> = chunk.iter().map(|key| format!("{key} v")).collect();
        client.run::<()>(&format!("MSET {}", pairs.join(" "))).await;
    }
    client.run::<()>("SET other v").await;
    let found: BTreeSet<String> = client.run("KEYS key:*").await;
    assert_eq!(found, expected);
    let found: Vec<String> = client.run("KEYS key:1?").await;
    assert_eq!(found.len(), 10);
    let mut found = BTreeSet::new();
    let (mut cursor, mut calls) = (0_u64, 0);
    loop {
        let line = format!("SCAN {cursor} MATCH key:* COUNT 50");
        let (next, some): (u64, Vec<String>) = client.run(&line).await;
        calls += 1;
        for key in some {
            assert!(found.insert(key), "each once, when nothing changes");
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(found, expected);
    assert!((11..=12).contains(&calls), "{calls}");
    let (_, none): (u64, Vec<String>) = client.run("SCAN 0 TYPE list").await;
    assert!(none.is_empty());
    let unknown = client.fails("SCAN 12345").await;
    assert!(unknown.contains("invalid cursor"), "{unknown}");
}

async fn mistakes(client: &mut Client) {
    for (line, part) in [
        ("FROB a", "unknown command 'FROB'"),
        ("GET", "wrong number of arguments for 'get'"),
        ("SET k v EX 0", "invalid expire time in 'set'"),
        ("SET k v FROB", "syntax error"),
        ("SELECT 1", "DB index is out of range"),
        ("CONFIG SET save x", "unknown subcommand"),
        ("AUTH x", "without any password configured"),
    ] {
        let error = client.fails(line).await;
        assert!(
            error.to_lowercase().contains(&part.to_lowercase()),
            "{line}: {error}"
        );
    }
    assert_eq!(client.run::<String>("PING").await, "PONG", "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_hear_what_they_ask_at_the_beginning() {
    let cluster = Cluster::of(1).await;
    for url in ["", "?protocol=resp3"] {
        let url = format!("redis://{}/{url}", cluster.address(1));
        let mut client = Client::connect(&url).await.unwrap();
        assert_eq!(client.run::<String>("PING hello").await, "hello");
        assert_eq!(client.run::<String>("ECHO hello").await, "hello");
        let commands: Vec<Value> = client.run("COMMAND").await;
        assert_eq!(client.run::<usize>("COMMAND COUNT").await, commands.len());
        let docs: BTreeMap<String, Value> = client.run("COMMAND DOCS get").await;
        assert!(docs.is_empty());
        let config: BTreeMap<String, String> = client.run("CONFIG GET save appendonly").await;
        assert_eq!(config["save"], "");
        assert_eq!(config["appendonly"], "yes");
        assert_eq!(client.run::<String>("CLIENT SETNAME me").await, "OK");
        assert_eq!(client.run::<Text>("CLIENT GETNAME").await.unwrap(), "me");
        assert!(client.run::<i64>("CLIENT ID").await > 0);
        assert_eq!(client.run::<String>("SELECT 0").await, "OK");
        // Whoever changes something leads, or waits for a leader.
        client.run::<()>("SET a 1").await;
        let info: String = client.run("INFO").await;
        assert!(info.contains("\r\nrole:master\r\n"), "{info}");
        assert!(info.contains("\r\nloading:0\r\n"), "{info}");
        let info: String = client.run("INFO replication").await;
        assert!(info.starts_with("# Replication\r\n"), "{info}");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_is_not_served() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| {
        settings.clients.secret = Some(Secret::of_token(b"open sesame"));
    });
    cluster.start(1).await;
    let mut raw = cluster.raw(1).await;
    raw.send(b"GET a\r\n").await;
    raw.expect("-NOAUTH Authentication required.\r\n").await;
    raw.send(b"AUTH \"open sesam\"\r\n").await;
    raw.expect("-WRONGPASS invalid username-password pair or user is disabled.\r\n")
        .await;
    raw.send(b"HELLO 3\r\n").await;
    raw.expect("-NOAUTH HELLO must be called").await;
    let mut raw = cluster.raw(1).await;
    raw.send(b"AUTH default \"open sesame\"\r\nGET a\r\n").await;
    raw.expect("+OK\r\n$-1\r\n").await;
    let url = format!(
        "redis://:open%20sesame@{}/?protocol=resp3",
        cluster.address(1)
    );
    let mut client = Client::connect(&url).await.unwrap();
    assert_eq!(client.run::<String>("SET a 1").await, "OK");
    drop(client);
    cluster.shutdown().await;
}

/// Changes and reads that come at once are answered in their order, each seeing those before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_answered_in_order() {
    let cluster = Cluster::of(1).await;
    let mut raw = cluster.raw(1).await;
    let mut sent = String::new();
    let mut expected = String::new();
    for n in 1..=300 {
        sent.push_str(&format!(
            "INCR n\r\n*2\r\n$3\r\nGET\r\n$1\r\nn\r\nSET x {n} GET\r\n"
        ));
        let old = match n {
            1 => "$-1\r\n".to_owned(),
            n => format!("${}\r\n{}\r\n", (n - 1).to_string().len(), n - 1),
        };
        let length = n.to_string().len();
        expected.push_str(&format!(":{n}\r\n${length}\r\n{n}\r\n{old}"));
        if n % 10 == 0 {
            sent.push_str("FROB\r\nPING\r\nINCR n\r\nDECR n\r\nDECR x y\r\n");
            let unknown = "-ERR unknown command 'FROB', with args beginning with: \r\n";
            let wrong = "-ERR wrong number of arguments for 'decr' command\r\n";
            expected.push_str(&format!("{unknown}+PONG\r\n:{}\r\n:{n}\r\n{wrong}", n + 1));
        }
    }
    raw.send(sent.as_bytes()).await;
    raw.expect(&expected).await;
    let increments = "INCR m\r\n".repeat(1_000);
    raw.send(increments.as_bytes()).await;
    let expected: String = (1..=1_000).map(|n| format!(":{n}\r\n")).collect();
    raw.expect(&expected).await;
    raw.send(b"QUIT\r\nPING\r\n").await;
    assert_eq!(raw.rest().await, "+OK\r\n");
    cluster.shutdown().await;
}
