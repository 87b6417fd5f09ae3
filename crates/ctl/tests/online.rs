//! The commands that ask a running cluster: what they print, and their exit codes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod cluster;
mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use raft_rocks_grpc::certs::Authority;
use raft_rocks_grpc::{Party, Tls};
use serde_json::Value;
use tempfile::TempDir;

use cluster::{Cluster, DEADLINE, until};
use common::{Said, ctl_once};

const REFUSED: i32 = 7;
const UNREACHABLE: i32 = 6;

/// Asks a node; the nodes go on meanwhile.
async fn ask(cluster: &Cluster, id: u64, args: &[&str]) -> Said {
    let node = cluster.peer_address(id);
    ask_at(&node, args).await
}

async fn ask_at(node: &str, args: &[&str]) -> Said {
    let args = args.iter().map(ToString::to_string);
    let args: Vec<String> = args.chain(["--node".to_owned(), node.to_owned()]).collect();
    tokio::task::spawn_blocking(move || ctl_once(args))
        .await
        .unwrap()
}

fn done(said: &Said) -> &Said {
    assert_eq!(said.code, 0, "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_says_where_the_cluster_stands() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    for id in 1..=3 {
        let said = ask(&cluster, id, &["status", "--json"]).await;
        let json = done(&said).json();
        assert_eq!(json["node"]["id"], id);
        assert_eq!(json["node"]["leader"], leader);
        let role = if id == leader { "leader" } else { "follower" };
        assert_eq!(json["node"]["role"], role);
        assert_eq!(json["from_leader"], true, "{said}");
        assert_eq!(json["cluster_id"].as_str().unwrap().len(), 32);
        let members = json["members"].as_array().unwrap();
        assert_eq!(members.len(), 3);
        for member in members {
            let id = member["id"].as_u64().unwrap();
            assert_eq!(member["address"], cluster.peer_address(id));
            assert_eq!(member["client_address"], cluster.client_address(id));
            assert_eq!(member["voter"], true);
            assert!(member["lag"].is_u64(), "{said}");
        }
    }
    let said = ask(&cluster, 1, &["members"]).await;
    let lines: Vec<_> = done(&said).stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert!(lines[0].starts_with("id  nodes"), "{said}");
    let line = lines[leader as usize];
    assert!(
        line.contains(&cluster.peer_address(leader)) && line.contains("leader"),
        "{said}"
    );
    let said = ask(&cluster, 1, &["status"]).await;
    assert!(done(&said).stdout.contains("snapshot_index: "), "{said}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_leader_a_node_says_what_it_knows() {
    let mut cluster = Cluster::of(2).await;
    let leader = cluster.leader().await;
    let follower = 3 - leader;
    cluster.kill(leader).await;
    let said = ask(&cluster, follower, &["members", "--json"]).await;
    let json = done(&said).json();
    assert_eq!(json["from_leader"], false);
    assert_eq!(json["members"][0]["lag"], Value::Null);
    let said = ask(&cluster, follower, &["transfer", "9"]).await;
    assert_eq!(said.code, REFUSED, "{said}");
    // Nobody can decide anything.
    let remove = ["remove", &leader.to_string(), "--timeout", "1"];
    let said = ask(&cluster, follower, &remove).await;
    assert!([REFUSED, 8].contains(&said.code), "{said}");
    cluster.kill(follower).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_handed_leadership_and_removed() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let client = cluster.client_address(follower);
    let said = ask(&cluster, leader, &["transfer", &client, "--json"]).await;
    assert_eq!(done(&said).json()["leader"], follower);
    assert_eq!(cluster.leader().await, follower);
    let said = ask(&cluster, leader, &["transfer", &client]).await;
    assert!(done(&said).stdout.contains("leads in term"), "{said}");

    let unknown = ask(&cluster, leader, &["remove", "9"]).await;
    assert_eq!(unknown.code, REFUSED, "{unknown}");
    for id in 1..=3 {
        let there = format!("{id} ({})", cluster.peer_address(id));
        assert!(unknown.stderr.contains(&there), "{unknown}");
    }
    // The one that leads, asked of another.
    let said = ask(&cluster, leader, &["remove", &follower.to_string()]).await;
    assert_eq!(done(&said).stdout.lines().count(), 1, "{said}");
    cluster.kill(follower).await;
    // And the one that is asked.
    let said = ask(&cluster, leader, &["remove", &leader.to_string(), "--json"]).await;
    assert_eq!(done(&said).json()["removed"], true);
    cluster.kill(leader).await;
    let last = 6 - leader - follower;
    let said = ask(&cluster, last, &["members", "--json"]).await;
    let json = done(&said).json();
    assert_eq!(json["members"].as_array().unwrap().len(), 1, "{said}");
    let said = ask(&cluster, last, &["remove", &last.to_string()]).await;
    assert_eq!(said.code, REFUSED, "the only voter: {said}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_waited_for() {
    let cluster = Cluster::of(1).await;
    for n in 0..20 {
        cluster.set(1, &format!("k{n}")).await;
    }
    let applied = cluster.applied(1).await;
    let said = ask(&cluster, 1, &["snapshot", "--json"]).await;
    let json = done(&said).json();
    assert!(
        json["snapshot_index"].as_u64().unwrap() >= applied,
        "{said}"
    );
    assert!(json["was"].as_u64().unwrap() < applied, "{said}");
    assert!(said.stderr.contains("the last snapshot is at"), "{said}");
    // There is nothing newer.
    let said = ask(&cluster, 1, &["snapshot"]).await;
    assert!(done(&said).stdout.contains("has a snapshot at"), "{said}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_asked_is_told_why() {
    let cluster = Cluster::of(1).await;
    // Nobody listens there any more.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap().to_string();
    drop(free);
    let said = ask_at(&nobody, &["status"]).await;
    assert_eq!(said.code, UNREACHABLE, "{said}");
    assert!(said.stderr.contains("is the node running"), "{said}");
    assert_eq!(said.stdout, "");

    let clients = cluster.client_address(1);
    let said = ask_at(&clients, &["status"]).await;
    assert_eq!(said.code, UNREACHABLE, "{said}");
    assert!(said.stderr.contains("no node answers"), "{said}");

    for args in [
        &["status", "--timeout", "0"][..],
        &["status", "--tls-ca", "x"],
        &["add"],
    ] {
        let said = ask(&cluster, 1, args).await;
        assert_eq!(said.code, 1, "{said}");
    }
    let said = ask_at("nonsense", &["status"]).await;
    assert_eq!(said.code, 1, "{said}");
    let said = ask(&cluster, 1, &["add", &nobody]).await;
    assert_eq!(said.code, REFUSED, "{said}");
    assert!(said.stderr.contains("--await-invitation"), "{said}");
    cluster.shutdown().await;
}

/// The files that `raft-rocks-server certs` would make.
struct Files(TempDir);

impl Files {
    fn of(authority: &Authority, ca: &Authority, party: &Party) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let pem = authority.issue(party).unwrap();
        let ca = &ca.pem().certificate;
        for (name, text) in [("ca", ca), ("cert", &pem.certificate), ("key", &pem.key)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Files(dir)
    }

    fn flags(&self) -> Vec<String> {
        let names = ["ca", "cert", "key"].into_iter();
        let flags = names.flat_map(|name| {
            let path = self.0.path().join(name);
            [format!("--tls-{name}"), path.to_str().unwrap().to_owned()]
        });
        flags.collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_decide_who_may_ask() {
    let authority = Authority::new("blue").unwrap();
    let impostor = Authority::new("blue").unwrap();
    let client = Files::of(&authority, &authority, &Party::Client);
    let strangers = [
        Files::of(&impostor, &authority, &Party::Client),
        Files::of(&impostor, &impostor, &Party::Client),
    ];
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(move |settings| {
        let party = Party::Node(settings.id.take().unwrap());
        let pem = authority.issue(&party).unwrap();
        let ca = &authority.pem().certificate;
        settings.tls = Some(Tls::from_pem(ca, &pem.certificate, &pem.key).unwrap());
    });
    cluster.start_all(2).await;
    let ask_as = async |files: &Files, args: &[&str]| {
        let flags = files.flags();
        let args: Vec<&str> = args
            .iter()
            .copied()
            .chain(flags.iter().map(String::as_str))
            .collect();
        ask(&cluster, 2, &args).await
    };
    let said = ask_as(&client, &["members", "--json"]).await;
    assert_eq!(done(&said).json()["from_leader"], true);
    let said = ask_as(&client, &["transfer", "2"]).await;
    done(&said);
    for stranger in &strangers {
        let said = ask_as(stranger, &["status"]).await;
        assert_eq!(said.code, UNREACHABLE, "{said}");
        assert!(said.stderr.contains("certificates do not fit"), "{said}");
    }
    let said = ask(&cluster, 2, &["status"]).await;
    assert_eq!(said.code, UNREACHABLE, "{said}");
    cluster.shutdown().await;
}

/// A `watch` that is stopped at the latest when it is dropped.
struct Watching {
    child: Child,
    lines: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Watching {
    fn start(node: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_raft-rocks-ctl"))
            .args(["watch", "--json", "--interval", "20", "--node", node])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (told, lines) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in out.lines() {
                let _ = told.send(line.unwrap());
            }
        });
        Watching { child, lines }
    }

    async fn sees(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let seen = tokio::time::timeout(DEADLINE, async {
            loop {
                let line = self.lines.recv().await.expect(what);
                let value: Value = serde_json::from_str(&line).unwrap();
                assert!(value["at_ms"].is_u64(), "{value}");
                if is_it(&value) {
                    return value;
                }
            }
        });
        seen.await.expect(what)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_is_watched_until_it_is_interrupted() {
    let mut cluster = Cluster::of(2).await;
    let leader = cluster.leader().await;
    let follower = 3 - leader;
    let mut watching = Watching::start(&cluster.peer_address(leader));
    let is_led_by =
        |id: u64| move |value: &Value| value["event"] == "leader" && value["leader"] == id;
    watching.sees("the leader", is_led_by(leader)).await;
    let said = ask(&cluster, leader, &["transfer", &follower.to_string()]).await;
    done(&said);
    watching.sees("the next leader", is_led_by(follower)).await;
    cluster.start(3).await;
    let joined = |value: &Value| value["event"] == "member" && value["id"] == 3;
    watching.sees("a newcomer", joined).await;
    until("it is a voter", || async {
        cluster.is_voter(3).await.then_some(())
    })
    .await;
    // The node that it was told to ask goes; the others know.
    let said = ask(&cluster, follower, &["remove", &leader.to_string()]).await;
    done(&said);
    cluster.kill(leader).await;
    let left = |value: &Value| value["event"] == "left" && value["id"] == leader;
    watching.sees("that one has left", left).await;
    let lag = |value: &Value| value["event"] == "lag" && value["lag"].as_u64() > Some(0);
    cluster.kill(3).await;
    for n in 0..3 {
        let _ = cluster.try_set(follower, &format!("k{n}")).await;
    }
    watching.sees("one lags", lag).await;
    let pid = watching.child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let ended = tokio::task::spawn_blocking(move || watching.child.wait().unwrap().code());
    assert_eq!(ended.await.unwrap(), Some(0));
    cluster.kill(follower).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_is_added() {
    let authority = Authority::new("blue").unwrap();
    let client = Files::of(&authority, &authority, &Party::Client);
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(move |settings| {
        let party = Party::Node(settings.id.take().unwrap());
        let pem = authority.issue(&party).unwrap();
        let ca = &authority.pem().certificate;
        settings.tls = Some(Tls::from_pem(ca, &pem.certificate, &pem.key).unwrap());
    });
    cluster.start_all(1).await;
    let (address, waiting) = cluster.wait_for_invitation(2).await;
    let flags = client.flags();
    let ask_as = async |node: &str, args: &[&str]| {
        let flags = flags.iter().map(String::as_str);
        let args: Vec<&str> = args.iter().copied().chain(flags).collect();
        ask_at(node, &args).await
    };
    let said = until("it listens", || async {
        let said = ask_as(&address, &["status"]).await;
        (said.code != UNREACHABLE).then_some(said)
    })
    .await;
    assert_eq!(said.code, REFUSED, "{said}");
    assert!(said.stderr.contains("waits to be invited"), "{said}");
    let first = cluster.peer_address(1);
    let said = ask_as(&first, &["add", &address, "--id", "3"]).await;
    assert_eq!(said.code, REFUSED, "{said}");
    assert!(said.stderr.contains("it is to be node 2"), "{said}");
    let said = ask_as(&first, &["add", &address, "--learner", "--json"]).await;
    let json = done(&said).json();
    assert_eq!(
        (json["id"].as_u64(), json["voter"].as_bool()),
        (Some(2), Some(false))
    );
    cluster.nodes.insert(2, waiting.await.unwrap().unwrap());
    assert!(!cluster.is_voter(2).await);
    let said = ask_as(&first, &["add", "2"]).await;
    done(&said);
    until("it knows", || async {
        cluster.is_voter(2).await.then_some(())
    })
    .await;
    cluster.shutdown().await;
}
