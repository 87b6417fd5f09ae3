//! What breaks the framing, or asks for too much, costs its own connection at the most.
//!
//! That memory is bounded follows from the construction: nothing is made room for before its
//! bytes have come (`framing.rs` declares a request broken first), and what is large takes a
//! share of one budget (`budget.rs`). Here it is seen that the server goes on.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, Raw};
use raft_rocks_server::resp::Secret;

async fn goes_on(cluster: &Cluster) {
    let mut raw = cluster.raw(1).await;
    raw.send(b"PING\r\n").await;
    raw.expect("+PONG\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_framing_closes_its_connection_alone() {
    let cluster = Cluster::of(1).await;
    let arguments = "invalid multibulk length: at most 1024 arguments";
    let bulk = "invalid bulk length: at most 1048576 bytes";
    let many = format!("*1025\r\n{}", "$1\r\na\r\n".repeat(1025));
    let long = format!("*2\r\n$4\r\nECHO\r\n$1048577\r\n{}", "a".repeat(1 << 16));
    // Each within its limit, together beyond that of a request.
    let together = format!(
        "*4\r\n$4\r\nMSET\r\n{}",
        format!("$1048000\r\n{}\r\n", "a".repeat(1_048_000)).repeat(3)
    );
    let line = "a".repeat((64 << 10) + 1);
    for (what, sent, error) in [
        ("a lying count", "*2147483647\r\n$4\r\nPING\r\n", arguments),
        (
            "a lying length",
            "*2\r\n$4\r\nECHO\r\n$9223372036854775807\r\n",
            bulk,
        ),
        ("a negative length", "*1\r\n$-5\r\n", bulk),
        ("many arguments", &many, arguments),
        ("a long argument", &long, bulk),
        (
            "a long request",
            &together,
            "too big request: at most 2097152 bytes",
        ),
        (
            "a long line",
            &line,
            "too big inline request: at most 65536 bytes",
        ),
        (
            "nested arrays",
            "*1\r\n*1\r\n*1\r\n",
            "expected '$', got '*'",
        ),
        ("another type", "*1\r\n:1\r\n", "expected '$', got ':'"),
        (
            "no end",
            "*1\r\n$4\r\nPINGPONG\r\n",
            "a length without an end",
        ),
    ] {
        let mut raw = cluster.raw(1).await;
        raw.send(b"PING\r\n").await;
        raw.expect("+PONG\r\n").await;
        raw.try_send(sent.as_bytes()).await;
        let reply = raw.rest().await;
        // The rest of what was sent may have met a closed door, and taken the reply with it.
        let is_cut = sent.len() > 1 << 16 && reply.is_empty();
        let expected = format!("-ERR Protocol error: {error}\r\n");
        assert!(is_cut || reply == expected, "{what}: {reply:?}");
        goes_on(&cluster).await;
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_a_bad_command_or_the_end() {
    let cluster = Cluster::of(1).await;
    let seed = std::env::var("RAFT_ROCKS_SEED");
    let seed = seed.map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("RAFT_ROCKS_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..100 {
        let mut raw = cluster.raw(1).await;
        // Letters of the protocol more often than others; a QUIT that is a line of its own.
        let letters = b"*$\r\n0123456789-+:_%PINGSETx \"'\\\0\xff";
        let length = rng.usize(..2_000);
        let bytes: Vec<u8> = (0..length)
            .map(|_| letters[rng.usize(..letters.len())])
            .collect();
        raw.try_send(&bytes).await;
        raw.try_send(b"\r\n").await;
        raw.end().await;
        raw.rest().await;
    }
    goes_on(&cluster).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_command_does_not_close_a_connection() {
    let cluster = Cluster::of(1).await;
    let mut raw = cluster.raw(1).await;
    raw.send(b"*1\r\n$0\r\n\r\n*0\r\n\r\nSET \"a\r\nSET a\r\nPING\r\n")
        .await;
    raw.expect(
        "-ERR unknown command '', with args beginning with: \r\n\
         -ERR Protocol error: unbalanced quotes in request\r\n\
         -ERR wrong number of arguments for 'set' command\r\n\
         +PONG\r\n",
    )
    .await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_may_send_little() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| {
        settings.clients.secret = Some(Secret::of_token(b"secret"));
    });
    cluster.start(1).await;
    for (sent, error) in [
        ("*11\r\n", "invalid multibulk length: at most 10 arguments"),
        (
            "*2\r\n$16385\r\n",
            "invalid bulk length: at most 16384 bytes",
        ),
        (
            "*2\r\n$4\r\nAUTH\r\n$16384\r\n",
            "too big request: at most 16384 bytes",
        ),
    ] {
        let mut raw = cluster.raw(1).await;
        raw.send(sent.as_bytes()).await;
        assert_eq!(
            raw.rest().await,
            format!("-ERR Protocol error: {error}\r\n")
        );
    }
    let mut raw = cluster.raw(1).await;
    raw.send(b"AUTH secret\r\n").await;
    raw.expect("+OK\r\n").await;
    large_value(&mut raw).await;
    cluster.shutdown().await;
}

/// The largest value there is, there and back.
async fn large_value(raw: &mut Raw) {
    let value = "v".repeat(1 << 20);
    let set = format!("*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$1048576\r\n{value}\r\n");
    raw.send(set.as_bytes()).await;
    raw.expect("+OK\r\n").await;
    raw.send(b"GET large\r\n").await;
    raw.expect(&format!("$1048576\r\n{value}\r\n")).await;
    raw.send(b"APPEND large x\r\n").await;
    raw.expect("-ERR string exceeds maximum allowed size (1048576 bytes)\r\n")
        .await;
}

/// Many large replies at once take turns in the budget.
#[tokio::test(flavor = "multi_thread")]
async fn large_replies_share_a_budget() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| settings.clients.buffer_bytes = 32 << 20);
    cluster.start(1).await;
    let mut raw = cluster.raw(1).await;
    large_value(&mut raw).await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let mut raw = cluster.raw(1).await;
        readers.spawn(async move {
            raw.send(b"MGET large large large large\r\nGET large\r\n")
                .await;
            let value = format!("$1048576\r\n{}\r\n", "v".repeat(1 << 20));
            raw.expect(&format!("*4\r\n{}", value.repeat(5))).await;
        });
    }
    while let Some(read) = readers.join_next().await {
        read.unwrap();
    }
    let mget = format!("MGET{}\r\nPING\r\n", " large".repeat(20));
    raw.send(mget.as_bytes()).await;
    raw.expect("-ERR the reply would be longer than 8388608 bytes; ask for less\r\n+PONG\r\n")
        .await;
    cluster.shutdown().await;
}

/// Who reads nothing is sent nothing more, and holds nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_his_replies_waits_alone() {
    let cluster = Cluster::of(1).await;
    let mut raw = cluster.raw(1).await;
    large_value(&mut raw).await;
    let mut deaf = cluster.raw(1).await;
    let gets = b"GET large\r\n".repeat(1_000);
    for _ in 0..100 {
        // It takes no more input than it has answered: a client that only sends is stopped.
        let sent = deaf.try_send(&gets);
        if tokio::time::timeout(Duration::from_millis(500), sent)
            .await
            .is_err()
        {
            break;
        }
    }
    goes_on(&cluster).await;
    drop(deaf);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_holds_nobody_up_and_ends_with_the_server() {
    let cluster = Cluster::of(1).await;
    let mut half = cluster.raw(1).await;
    half.send(b"*2\r\n$4\r\nECHO\r\n$1000\r\nabc").await;
    goes_on(&cluster).await;
    let begun = Instant::now();
    cluster.shutdown().await;
    assert_eq!(half.rest().await, "");
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(9),
        "it waits for nobody's bytes: {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_and_idle_ones_closed() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| {
        settings.clients.connections_max = 5;
        settings.clients.idle = Duration::from_millis(500);
    });
    cluster.start(1).await;
    let mut idle = Vec::new();
    for _ in 0..5 {
        let mut raw = cluster.raw(1).await;
        raw.send(b"PING\r\n").await;
        raw.expect("+PONG\r\n").await;
        idle.push(raw);
    }
    let mut beyond = cluster.raw(1).await;
    assert_eq!(
        beyond.rest().await,
        "-ERR max number of clients reached\r\n"
    );
    for mut raw in idle {
        assert_eq!(raw.rest().await, "");
    }
    goes_on(&cluster).await;
    cluster.shutdown().await;
}
