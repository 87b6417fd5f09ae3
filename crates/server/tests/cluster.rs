//! Three nodes: what is written at any is read at all, through the loss of the leader.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop"
)]

mod common;

use common::{Client, Cluster, until};
use raft_rocks_grpc::certs::Authority;
use raft_rocks_grpc::{Party, Tls};
use raft_rocks_server::instance::{Backend, Instance};
use raft_rocks_server::resp::{ReadConsistency, Redirect};

type Text = Option<String>;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_on_without_its_leader() {
    for backend in [Backend::RocksDb, Backend::Memory] {
        let mut cluster = Cluster::new();
        cluster.adapt = Box::new(move |settings| settings.backend = backend);
        cluster.start_all(3).await;
        let (leader, follower) = (cluster.leader().await, cluster.follower().await);
        let mut client = cluster.client(follower).await;
        for n in 1..=50 {
            assert_eq!(client.run::<i64>("INCR n").await, n);
            // Linearizable, wherever it is asked.
            assert_eq!(client.run::<i64>("GET n").await, n);
        }
        client.run::<()>("SET k v EX 1000").await;
        // As much as a request may hold, and a reply that is handed back.
        let large = "x".repeat(1 << 20);
        let half = "y".repeat(1_000_000);
        client.run::<()>(&format!("MSET l {half} m {half}")).await;
        client.run::<()>(&format!("SET l {large}")).await;
        assert_eq!(client.run::<Text>("SET l small GET").await, Some(large));
        cluster.kill(leader).await;
        let mut other = cluster.client(follower).await;
        until("what was written is read", || {
            let mut connection = other.connection().clone();
            async move {
                let mut get = redis::cmd("GET");
                let found = get.arg("n").query_async::<Text>(&mut connection).await;
                found.ok().flatten().filter(|n| n == "50")
            }
        })
        .await;
        assert_eq!(other.run::<i64>("INCR n").await, 51);
        cluster.start(leader).await;
        let mut back = cluster.client(leader).await;
        assert_eq!(back.run::<i64>("GET n").await, 51);
        let left = back.run::<i64>("TTL k").await;
        assert!((900..=1_000).contains(&left), "{left}");
        drop((client, other, back));
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_comes_back_with_what_it_had() {
    let mut cluster = Cluster::of(3).await;
    let mut client = cluster.client(2).await;
    client.run::<()>("MSET a 1 b 2").await;
    client.run::<()>("SET c 3 EX 1000").await;
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    for id in 1..=3 {
        cluster.start(id).await;
    }
    for id in 1..=3 {
        let mut client = cluster.client(id).await;
        let values: Vec<Text> = client.run("MGET a b c").await;
        let values: Vec<String> = values.into_iter().flatten().collect();
        assert_eq!(values, ["1", "2", "3"]);
        assert_eq!(client.run::<i64>("DBSIZE").await, 3);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_agree_on_what_has_expired() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| settings.clients.consistency = ReadConsistency::Low);
    cluster.start_all(3).await;
    let mut client = cluster.client(2).await;
    client.run::<()>("SET stays v").await;
    for n in 0..20 {
        client.run::<()>(&format!("SET gone{n} v PX 50")).await;
    }
    for id in 1..=3 {
        let client = cluster.client(id).await;
        let client = tokio::sync::Mutex::new(client);
        until("everything has expired, and was removed", || async {
            let size: i64 = client.lock().await.run("DBSIZE").await;
            (size == 1).then_some(())
        })
        .await;
        let mut client = client.into_inner();
        assert_eq!(client.run::<Vec<String>>("KEYS *").await, ["stays"]);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_redirects_names_the_leader() {
    for consistency in [ReadConsistency::Medium, ReadConsistency::High] {
        let mut cluster = Cluster::new();
        cluster.adapt = Box::new(move |settings| {
            settings.clients.redirect = Redirect::Try;
            settings.clients.consistency = consistency;
        });
        cluster.start(1).await;
        let mut first = cluster.raw(1).await;
        cluster.start(2).await;
        until("it is a voter", || async {
            let status = cluster.nodes[&2].node().status().await.unwrap().raft;
            status.conf_state.get_voters().contains(&2).then_some(())
        })
        .await;
        first.send(b"SET a 1\r\nGET a\r\n").await;
        first.expect("+OK\r\n$1\r\n1\r\n").await;
        let leader = cluster.address(1);
        let mut second = cluster.raw(2).await;
        until("it knows the leader", || async {
            (cluster.nodes[&2].node().leader().leader == 1).then_some(())
        })
        .await;
        second
            .send(b"SET a 2\r\nGET a\r\nRAFTLEADER\r\nPING\r\n")
            .await;
        let length = leader.len();
        second
            .expect(&format!(
                "-TRY {leader}\r\n-TRY {leader}\r\n${length}\r\n{leader}\r\n+PONG\r\n"
            ))
            .await;
        cluster.kill(1).await;
        until("it has lost the leader", || async {
            (cluster.nodes[&2].node().leader().leader == 0).then_some(())
        })
        .await;
        second.send(b"SET a 2\r\nRAFTLEADER\r\n").await;
        second.expect("-ERR leader not known\r\n$-1\r\n").await;
        cluster.kill(2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_listed_added_moved_and_removed() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let mut client = cluster.client(leader).await;
    assert_eq!(client.run::<String>("RAFTSTATE").await, "Leader");
    let peers: Vec<(String, String)> = client.run("RAFTPEERS").await;
    let expected: Vec<_> = (1..=3)
        .map(|id| {
            let state = if id == leader { "Leader" } else { "Follower" };
            (cluster.address(id), state.to_owned())
        })
        .collect();
    assert_eq!(peers, expected);
    let stats: Vec<(String, String)> = client.run("RAFTSTATS").await;
    assert!(
        stats.contains(&("state".to_owned(), "Leader".to_owned())),
        "{stats:?}"
    );
    assert!(
        stats.contains(&("num_peers".to_owned(), "2".to_owned())),
        "{stats:?}"
    );
    assert_eq!(client.run::<String>("RAFTSNAPSHOT").await, "OK");
    cluster_views(&cluster, &mut client).await;

    let follower = cluster.follower().await;
    let transfer = format!("RAFTTRANSFER {follower}");
    assert_eq!(client.run::<String>(&transfer).await, "OK");
    assert_eq!(cluster.leader().await, follower);
    let unknown = client.fails("RAFTTRANSFER 10.0.0.1:1").await;
    assert!(unknown.contains("no member"), "{unknown}");

    let known = format!("RAFTADDPEER {}", cluster.address(leader));
    assert_eq!(client.run::<String>(&known).await, "OK");
    let stranger = client.fails("RAFTADDPEER 127.0.0.1:1").await;
    assert!(stranger.contains("--join"), "{stranger}");

    // The leader of now, by one that is not.
    let remove = format!("RAFTREMOVEPEER {}", cluster.address(follower));
    assert_eq!(client.run::<String>(&remove).await, "OK");
    until("it is gone", || {
        let mut connection = client.connection().clone();
        async move {
            let peers = redis::cmd("RAFTPEERS");
            let peers: Vec<String> = peers.query_async(&mut connection).await.unwrap();
            (peers.len() == 4).then_some(())
        }
    })
    .await;
    assert_eq!(client.run::<String>("SET a 1").await, "OK");
    drop(client);
    cluster.kill(follower).await;
    cluster.shutdown().await;
}

async fn cluster_views(cluster: &Cluster, client: &mut Client) {
    let info: String = client.run("CLUSTER INFO").await;
    assert!(info.contains("cluster_state:ok\r\n"), "{info}");
    assert!(info.contains("cluster_known_nodes:3\r\n"), "{info}");
    let nodes: String = client.run("CLUSTER NODES").await;
    assert_eq!(nodes.lines().count(), 3);
    assert!(
        nodes.lines().next().unwrap().contains("myself,master"),
        "{nodes}"
    );
    for id in 1..=3 {
        assert!(nodes.contains(&cluster.address(id)), "{nodes}");
    }
    let slots: Vec<redis::Value> = client.run("CLUSTER SLOTS").await;
    assert_eq!(slots.len(), 1);
    let shards: Vec<redis::Value> = client.run("CLUSTER SHARDS").await;
    assert_eq!(shards.len(), 1);
}

/// A newcomer whose log would begin behind that of the others gets a snapshot; so does a member
/// that was away for too long, whose state is replaced by it.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_behind_gets_a_snapshot() {
    for backend in [Backend::RocksDb, Backend::Memory] {
        let mut cluster = Cluster::new();
        cluster.adapt = Box::new(move |settings| {
            settings.backend = backend;
            settings.compaction.every_entries = 20;
            settings.compaction.keep_entries = 5;
            settings.compaction.keep_entries_max = 10;
        });
        cluster.start(1).await;
        let mut client = cluster.client(1).await;
        client.run::<()>("SET k v EX 1000").await;
        fill(&mut client, "x").await;
        first_index_beyond(&cluster, 1, 10).await;
        cluster.start_all_but_first(3).await;
        let leader = cluster.leader().await;
        let follower = cluster.follower().await;
        let mut behind = cluster.client(follower).await;
        assert_eq!(behind.run::<i64>("DBSIZE").await, 101);
        assert_eq!(
            behind.run::<Text>("GET key7").await,
            Some("x".repeat(1_000))
        );
        assert!(behind.run::<i64>("TTL k").await > 900);

        let away = status(&cluster, follower).await.applied;
        cluster.kill(follower).await;
        let mut client = cluster.client(leader).await;
        client.run::<()>("FLUSHALL").await;
        fill(&mut client, "y").await;
        first_index_beyond(&cluster, leader, away + 1).await;
        cluster.start(follower).await;
        let mut behind = cluster.client(follower).await;
        assert_eq!(behind.run::<i64>("DBSIZE").await, 100);
        assert_eq!(
            behind.run::<Text>("GET key7").await,
            Some("y".repeat(1_000))
        );
        assert_eq!(behind.run::<Text>("GET k").await, None);
        drop((client, behind));
        cluster.shutdown().await;
    }
}

async fn fill(client: &mut Client, letter: &str) {
    let value = letter.repeat(1_000);
    for n in 0..100 {
        client.run::<()>(&format!("SET key{n} {value}")).await;
    }
}

async fn status(cluster: &Cluster, id: u64) -> raft_rocks::driver::Status {
    cluster.nodes[&id].node().status().await.unwrap().raft
}

async fn first_index_beyond(cluster: &Cluster, id: u64, index: u64) {
    until("the log is compacted", || async {
        (status(cluster, id).await.first_index > index).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_certificates_form_a_cluster() {
    let mut cluster = Cluster::new();
    let authority = Authority::new("blue").unwrap();
    cluster.adapt = Box::new(move |settings| {
        let party = Party::Node(settings.id.take().unwrap());
        let pem = authority.issue(&party).unwrap();
        let ca = &authority.pem().certificate;
        settings.tls = Some(Tls::from_pem(ca, &pem.certificate, &pem.key).unwrap());
    });
    // Their ids are those of their certificates.
    cluster.start_all(3).await;
    let mut client = cluster.client(cluster.follower().await).await;
    assert_eq!(client.run::<String>("SET a 1").await, "OK");
    assert_eq!(client.run::<Text>("GET a").await.unwrap(), "1");
    drop(client);
    cluster.shutdown().await;
}

/// It has forgotten its votes, and would vote twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_does_not_come_back_as_itself() {
    let mut cluster = Cluster::of(3).await;
    let follower = match cluster.leader().await {
        2 => 3,
        _ => 2,
    };
    cluster.kill(follower).await;
    cluster.wipe(follower);
    let refused = Instance::start(cluster.settings(follower)).await;
    let refused = format!("{:#}", refused.err().unwrap());
    assert!(refused.contains("remove the old one"), "{refused}");
    let mut client = cluster.client(1).await;
    assert_eq!(client.run::<String>("SET a 1").await, "OK");
    let remove = format!("RAFTREMOVEPEER {follower}");
    assert_eq!(client.run::<String>(&remove).await, "OK");
    cluster.wipe(follower);
    let mut settings = cluster.settings(follower);
    settings.id = None;
    let newcomer = Instance::start(settings).await.unwrap();
    assert_eq!(newcomer.node().id(), 4);
    drop(client);
    newcomer.shutdown().await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_goes_on_alone() {
    let mut cluster = Cluster::new();
    cluster.adapt = Box::new(|settings| settings.alone_when_removed = true);
    cluster.start_all(3).await;
    cluster
        .client(1)
        .await
        .run::<String>("SET shared before")
        .await;
    until("node 3 is removed", || async {
        let removed = cluster.nodes[&1].node().remove(3).await;
        (removed.is_ok()
            || !cluster.nodes[&1]
                .node()
                .book()
                .nodes
                .iter()
                .any(|node| node.id == 3))
        .then_some(())
    })
    .await;
    until("node 3 hears of it", || async {
        let node = cluster.nodes[&3].node();
        let status = node.status().await;
        status.map_or(Some(()), |status| status.removed.then_some(()))
    })
    .await;
    cluster.kill(3).await;
    cluster.start(3).await;
    let mut alone = cluster.client(3).await;
    assert_eq!(alone.run::<String>("GET shared").await, "before");
    alone.run::<String>("SET shared apart").await;
    let peers: Vec<String> = alone.run("RAFTPEERS").await;
    assert_eq!(peers, [cluster.address(3), "Leader".to_owned()]);
    let shared: String = cluster.client(1).await.run("GET shared").await;
    assert_eq!(shared, "before", "they are two clusters now");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_several_have_is_nobodys() {
    let mut cluster = Cluster::new();
    // As on three machines whose clients are to use loopback.
    cluster.adapt = Box::new(|settings| {
        settings.client_advertise = Some("127.0.0.1:7481".to_owned());
    });
    cluster.start_all(2).await;
    let mut client = cluster.client(1).await;
    let problem = client.fails("RAFTREMOVEPEER 127.0.0.1:7481").await;
    assert!(problem.contains("several members, [1, 2]"), "{problem}");
    client.run::<String>("RAFTREMOVEPEER 2").await;
    cluster.shutdown().await;
}
