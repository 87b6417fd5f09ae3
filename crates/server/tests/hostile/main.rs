//! What comes from outside and is not as it should be: it is refused or bounded with a line in
//! the log, three nodes go on, and none takes memory for it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod process;
mod proxy;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use process::{Cluster, DEADLINE, Process, free_address, program, until};
use proxy::Proxy;
use raft_rocks_grpc::proto::Frame;
use raft_rocks_grpc::proto::peer_client::PeerClient;
use raft_rocks_grpc::{PROTOCOL, PROTOCOL_KEY};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

/// What a node may take beyond what it has, in MiB: its own work takes some, too.
const GROWTH_MIB: u64 = 64;

#[test]
fn a_node_of_another_cluster_is_refused() {
    let mut cluster = Cluster::of_three();
    // Two nodes of another cluster, the second of which has moved away from where node 2 of ours
    // begins to listen: the first one goes on sending there.
    let mut other = Cluster::with(&[], |_| Vec::new());
    let address = other.nodes[1].peers.clone();
    other.nodes[1].kill();
    cluster.nodes[1].kill();
    let flags = ["--id", "2", "--tick-ms", "50"];
    let (dir, clients) = (cluster.nodes[1].dir.clone(), free_address());
    cluster.nodes[1] = Process::start(&dir, &clients, &address, &flags);
    cluster.nodes[1].logs("another cluster");
    cluster.goes_on();
}

#[test]
fn a_wiped_node_does_not_come_back_under_its_old_id() {
    let mut cluster = Cluster::of_three();
    let mut wiped = cluster.nodes.pop().unwrap();
    wiped.kill();
    fs::remove_dir_all(&wiped.dir).unwrap();
    let peers = cluster.first().peers.clone();
    let again = |id: &str| {
        let flags = ["--id", id, "--join", &peers];
        Process::start(&wiped.dir, &wiped.clients, &wiped.peers, &flags)
    };
    let mut refused = again("3");
    assert_eq!(refused.ended(), Some(1));
    let log = refused.log();
    assert!(log.contains("error: joining the cluster"), "{log}");
    assert!(log.contains("join with a new id"), "{log}");
    cluster.goes_on();
    until("node 3 is removed", || {
        let removed = cluster.first().ask("RAFTREMOVEPEER 3")?;
        (removed == "+OK\r\n" || removed.contains("no member")).then_some(())
    });
    cluster.nodes.push(again("4"));
    cluster.until_voter(4);
    cluster.goes_on();
}

#[test]
fn a_wrong_certificate_is_refused() {
    let dirs = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Two authorities for one name.
    for (authority, nodes) in [("true", 1..=3), ("false", 4..=4)] {
        for node in nodes {
            let dir = dirs.path().join(authority);
            let made = program()
                .args(["certs", "--cluster", "blue", "--node", &node.to_string()])
                .arg("--dir")
                .arg(dir)
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
        }
    }
    let flags = |authority: &str, node: u64| -> Vec<String> {
        let file = |name: String| dirs.path().join(authority).join(name).display().to_string();
        [
            ("--tls-ca", "ca.pem".to_owned()),
            ("--tls-cert", format!("node-{node}.pem")),
            ("--tls-key", format!("node-{node}.key")),
        ]
        .into_iter()
        .flat_map(|(flag, name)| [flag.to_owned(), file(name)])
        .collect()
    };
    let mut cluster = Cluster::with(&[], |id| flags("true", id));
    let more = flags("false", 4);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let mut stranger = cluster.node(4, &more);
    cluster
        .first()
        .logs("no certificate of this cluster was shown");
    cluster.goes_on();
    stranger.kill();
    // One without any.
    let without = cluster.node(5, &[]);
    until("who shows nothing is refused, too", || {
        let log = cluster.first().log();
        (log.matches("no certificate of this cluster").count() > 1).then_some(())
    });
    drop(without);
    cluster.goes_on();
}

#[test]
fn an_oversized_frame_is_refused() {
    let mut cluster = Cluster::of_three();
    let first = cluster.first();
    first.forget_peak();
    let before = first.peak_mib();
    let url = format!("http://{}", first.peers);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for _ in 0..20 {
        let code = runtime.block_on(async {
            let channel = Endpoint::from_shared(url.clone()).unwrap();
            let mut client = PeerClient::new(channel.connect().await.unwrap());
            let packet = vec![7; 9 << 20].into();
            let mut request = Request::new(tokio_stream::iter([Frame { packet }]));
            let version = PROTOCOL.parse().unwrap();
            request.metadata_mut().insert(PROTOCOL_KEY, version);
            client.messages(request).await.unwrap_err().code()
        });
        assert_eq!(code, Code::OutOfRange);
    }
    first.logs("decoded message length too large");
    let growth = first.peak_mib().saturating_sub(before);
    assert!(growth < GROWTH_MIB, "{growth} MiB more");
    cluster.goes_on();
}

#[test]
fn a_lying_bulk_length_costs_nothing() {
    let mut cluster = Cluster::of_three();
    let first = cluster.first();
    first.forget_peak();
    let before = first.peak_mib();
    // More than there may be.
    for lie in ["$1000000000\r\n", "$9223372036854775807\r\n", "$-5\r\n"] {
        let mut stream = TcpStream::connect(&first.clients).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n{lie}abc");
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        // What is left unread may cut the reply's connection.
        let _ = stream.read_to_string(&mut reply);
        assert!(reply.starts_with("-ERR Protocol error"), "{lie}: {reply}");
    }
    first.logs("invalid bulk length");
    // As much as there may be, a thousand times, and nothing of it comes: a gigabyte.
    let liars: Vec<TcpStream> = (0..1_000)
        .map(|_| {
            let mut stream = TcpStream::connect(&first.clients).unwrap();
            let request = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\nabc";
            stream.write_all(request).unwrap();
            stream
        })
        .collect();
    until("all are there", || {
        (connected(first)? >= liars.len()).then_some(())
    });
    let growth = first.peak_mib().saturating_sub(before);
    assert!(growth < GROWTH_MIB, "{growth} MiB more");
    cluster.goes_on();
}

/// The connections of its clients.
fn connected(node: &Process) -> Option<usize> {
    let info = node.ask("INFO clients")?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("connected_clients:"));
    line?.parse().ok()
}

#[test]
fn ten_thousand_idle_connections_are_held_and_no_more() {
    let limit = rlimit::increase_nofile_limit(20_000).unwrap();
    assert!(
        limit >= 11_000,
        "too few descriptors for this test: {limit}"
    );
    let mut cluster = Cluster::of_three();
    let first = cluster.first();
    first.forget_peak();
    let before = first.peak_mib();
    let mut idle: Vec<TcpStream> = Vec::new();
    while idle.len() < 9_990 {
        idle.push(TcpStream::connect(&first.clients).unwrap());
    }
    until("all are there", || {
        (connected(first)? >= idle.len()).then_some(())
    });
    let growth = first.peak_mib().saturating_sub(before);
    // Buffers begin when something comes.
    assert!(growth < 2 * GROWTH_MIB, "{growth} MiB more");
    cluster.goes_on();
    let first = cluster.first();
    while idle.len() < 10_020 {
        idle.push(TcpStream::connect(&first.clients).unwrap());
    }
    first.logs("a connection was refused: there are 10000");
    drop(idle);
    cluster.goes_on();
}

#[test]
fn a_half_sent_snapshot_is_nothing_and_the_next_one_goes_on() {
    let compaction = ["--snapshot-entries", "10", "--keep-entries", "5"];
    let mut cluster = Cluster::with(&compaction, |_| Vec::new());
    let value = "v".repeat(512 << 10);
    for n in 0..40 {
        until("a large value", || {
            let stored = cluster.first().ask(&format!("SET large-{n} {value}"));
            (stored? == "+OK\r\n").then_some(())
        });
    }
    cluster.nodes.iter().for_each(Process::forget_peak);
    let before: Vec<u64> = cluster.nodes.iter().map(Process::peak_mib).collect();
    // What the leader sends to node 4 goes through somebody who takes six of twenty megabytes.
    let between = free_address();
    let joins = cluster.node(4, &["--advertise", &between]);
    let proxy = Proxy::start(&between, &joins.peers, 6 << 20);
    until("half of it is on its way", || {
        proxy.is_exhausted().then_some(())
    });
    cluster.goes_on();
    until("whoever leads notices", || {
        let has_said = |node: &Process| {
            node.log()
                .contains("the stream of a snapshot to node 4 ended")
        };
        cluster.nodes.iter().any(has_said).then_some(())
    });
    for (node, before) in cluster.nodes.iter().zip(before) {
        let growth = node.peak_mib().saturating_sub(before);
        assert!(growth < GROWTH_MIB, "{growth} MiB more");
    }
    proxy.let_everything_through();
    cluster.nodes.push(joins);
    cluster.until_voter(4);
    cluster.goes_on();
    let expected = format!("${}\r\n", value.len());
    let last = cluster.nodes[3].ask("GET large-39").unwrap();
    assert!(last.starts_with(&expected));
}

/// A page in the browser of somebody who may do everything sends what it likes to ports of this
/// machine, without asking anybody.
#[test]
fn a_page_of_another_site_runs_no_commands() {
    let cluster = Cluster::of_three();
    let first = cluster.first();
    first.ask("SET kept 1");
    let mut stream = TcpStream::connect(&first.clients).unwrap();
    let sent = "POST / HTTP/1.1\r\nHost: 127.0.0.1:7481\r\n\r\nFLUSHALL\r\nSET kept 2\r\n";
    stream.write_all(sent.as_bytes()).unwrap();
    let mut reply = String::new();
    // What is left unread may cut the reply's connection.
    let _ = stream.read_to_string(&mut reply);
    assert_eq!(reply, "");
    assert_eq!(first.ask("GET kept").unwrap(), "$1\r\n1\r\n");
    first.logs("it speaks HTTP");
}
