//! Neither the disk nor the state machine delays a tick.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft::eraftpb::MessageType;
use raft_rocks::RaftMachineStorage;
use raft_rocks::driver::{Body, NodeInfo, Packet, SendError, Transport};

use crate::cluster::{CLUSTER_ID, Cluster, TestNode, address, until};
use crate::slow_store::SlowStore;

/// Long enough that a loaded machine keeps to twice as much, short enough that a sync that
/// delayed a tick would be seen.
const TICK: Duration = Duration::from_millis(200);

/// Notes when a leader sends a heartbeat to node 2: once per tick.
struct Listening {
    inner: Arc<dyn Transport>,
    heartbeats: Arc<Mutex<Vec<Instant>>>,
}

impl Transport for Listening {
    fn send(&self, to: &NodeInfo, packet: Packet) -> Result<(), SendError> {
        if let Body::Raft(messages) = &packet.body {
            let is_heartbeat = |kind| kind == MessageType::MsgHeartbeat;
            let heartbeats = messages.iter().filter(|of| is_heartbeat(of.get_msg_type()));
            if to.id == 2 && heartbeats.count() > 0 {
                self.heartbeats.lock().push(Instant::now());
            }
        }
        self.inner.send(to, packet)
    }
}

struct Watched {
    cluster: Cluster,
    leader: TestNode,
    store: SlowStore,
    heartbeats: Arc<Mutex<Vec<Instant>>>,
}

/// Node 1 leads, with a disk that can be slowed.
async fn watched() -> Watched {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| {
        options.tick = TICK;
        options.peer.heartbeat_ticks = 1;
    });
    let store = SlowStore::new(cluster.store(1));
    let heartbeats = Arc::default();
    let transport = Arc::new(Listening {
        inner: cluster.network.endpoint(address(1)),
        heartbeats: Arc::clone(&heartbeats),
    });
    let first = cluster.builder_on(1, store.clone(), transport);
    let others = [2, 3].map(|id| (id, cluster.builder(id)));
    let mut members = vec![first.node_info(1).unwrap()];
    members.extend(others.iter().map(|(id, of)| of.node_info(*id).unwrap()));
    let leader = first
        .bootstrap_with(1, CLUSTER_ID, members.clone())
        .unwrap();
    for (id, other) in others {
        let node = other.bootstrap_with(id, CLUSTER_ID, members.clone());
        cluster.nodes.insert(id, node.unwrap());
    }
    until("node 1 leads", || async {
        if leader.leader().leader == 0 {
            leader.campaign();
        } else if leader.leader().leader != 1 {
            let _ = leader.transfer_leader(1).await;
        }
        (leader.leader().leader == 1).then_some(())
    })
    .await;
    leader.propose("warm").await.unwrap();
    heartbeats.lock().clear();
    Watched {
        cluster,
        leader,
        store,
        heartbeats,
    }
}

impl Watched {
    /// The longest time between two ticks while `load` goes on.
    async fn longest_gap(&self, load: impl Future<Output = ()>) -> Duration {
        let begin = self.heartbeats.lock().len();
        load.await;
        let heartbeats = self.heartbeats.lock();
        let seen = &heartbeats[begin..];
        assert!(seen.len() > 5, "{} ticks", seen.len());
        let gaps = seen.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap()
    }
}

/// Between two proposals, so that each has a write of its own.
const PAUSE: Duration = Duration::from_millis(1);

async fn propose_some(node: &TestNode, count: usize) {
    let mut proposals = tokio::task::JoinSet::new();
    for number in 0..count {
        let node = node.clone();
        proposals.spawn(async move { node.propose(number.to_string()).await.unwrap() });
        tokio::time::sleep(PAUSE).await;
    }
    proposals.join_all().await;
}

/// For longer than several syncs.
async fn propose_for_a_while(node: &TestNode) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        propose_some(node, 10).await;
    }
}

#[tokio::test]
async fn a_tick_comes_in_time_while_a_sync_takes_500_ms() {
    let watched = watched().await;
    watched.store.delay_ms.store(500, Ordering::SeqCst);
    let gap = watched
        .longest_gap(propose_for_a_while(&watched.leader))
        .await;
    assert!(gap <= 2 * TICK, "{gap:?}");
    // It led all the time.
    assert_eq!(watched.leader.leader().leader, 1);
    drop(watched.cluster);
}

#[tokio::test]
async fn a_tick_comes_in_time_while_an_apply_takes_a_second() {
    let watched = watched().await;
    watched.cluster.machine.pause.store(1000, Ordering::SeqCst);
    let gap = watched.longest_gap(propose_some(&watched.leader, 3)).await;
    assert!(gap <= 2 * TICK, "{gap:?}");
    assert_eq!(watched.leader.leader().leader, 1);
}

#[tokio::test]
async fn several_writes_share_a_sync() {
    let mut cluster = Cluster::empty();
    cluster.store_options.fsync = raft_rocks::FsyncPolicy::Always;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = RaftMachineStorage::open(dir.path(), cluster.store_options.clone()).unwrap();
    let transport = cluster.network.endpoint(address(1));
    let node = cluster
        .builder_on(1, store.clone(), transport)
        .bootstrap()
        .unwrap();
    until("it leads", || async {
        (node.leader().leader == 1).then_some(())
    })
    .await;
    until("a batch of several writes", || async {
        let before = store.store().commit_stats();
        propose_some(&node, 20).await;
        let stats = store.store().commit_stats();
        let writes = stats.writes - before.writes;
        (writes > stats.batches - before.batches).then_some(())
    })
    .await;
    node.shutdown().await;
}
