//! The pitfalls that drivers have been seen to fall into, one test each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raft_rocks::driver::{
    Builder, Consistency, Faults, Lane, LocalNetwork, MemoryLog, NodeInfo, NodeOptions,
    RequestError, StartError,
};

use crate::cluster::{
    CLUSTER_ID, Cluster, TestNode, address, commands, node_options, retried, status_when, until,
};
use crate::machines::{Durable, Journal, pause};

/// Syncs what is not durable, until told to stop.
fn keep_syncing(log: &MemoryLog) -> (Arc<AtomicBool>, std::thread::JoinHandle<()>) {
    let on = Arc::new(AtomicBool::new(true));
    let (log, goes_on) = (log.clone(), Arc::clone(&on));
    let thread = std::thread::spawn(move || {
        while goes_on.load(Ordering::SeqCst) {
            if !log.sync_one() {
                pause(Duration::from_millis(1));
            }
        }
    });
    (on, thread)
}

fn on_memory(log: MemoryLog) -> Builder<MemoryLog, Journal> {
    let network = LocalNetwork::new(0);
    let mut options = node_options(1);
    options.compaction.every_entries = 20;
    options.compaction.keep_entries = 5;
    Builder::new(
        log,
        Journal::default(),
        network.endpoint(address(1)),
        options,
    )
    .unwrap()
}

/// 1. Hard state saved before the entries it commits, or a snapshot and its hard state apart: the
/// node never starts again. Whatever prefix of the writes survives, it starts, with everything
/// that was acknowledged.
#[tokio::test]
async fn pitfall_1_a_node_starts_from_whatever_a_crash_left() {
    let log = MemoryLog::with_held_syncs([1; 16]);
    let (on, thread) = keep_syncing(&log);
    let node = on_memory(log.clone()).bootstrap().unwrap();
    status_when(&node, "it leads", |status| status.raft.leader == 1).await;
    for number in 0..50_u32 {
        node.propose(number.to_be_bytes()).await.unwrap();
    }
    on.store(false, Ordering::SeqCst);
    thread.join().unwrap();
    let mut unacknowledged = tokio::task::JoinSet::new();
    for number in 50..90_u32 {
        let node = node.clone();
        unacknowledged.spawn(async move { node.propose(number.to_be_bytes()).await });
        tokio::task::yield_now().await;
    }
    until("writes wait", || async {
        (log.unsynced() > 0).then_some(())
    })
    .await;
    for kept in 0..=log.unsynced() {
        let left = log.after_crash(kept);
        let (on, thread) = keep_syncing(&left);
        let again = on_memory(left).open().unwrap();
        status_when(&again, "it leads", |status| status.raft.leader == 1).await;
        let seen = again
            .query(Consistency::Linearizable, |of| of.commands.len())
            .await;
        assert!(seen.clone().unwrap() >= 50, "{seen:?} after {kept} writes");
        again.halt().await;
        on.store(false, Ordering::SeqCst);
        thread.join().unwrap();
    }
    node.halt().await;
}

/// 2. `Config.applied = hard_state.commit` at boot: entries skipped after a crash. A durable state
/// machine replaying: applied twice.
#[tokio::test]
async fn pitfall_2_nothing_is_skipped_or_applied_twice_after_a_restart() {
    let cluster = Cluster::empty();
    let network = LocalNetwork::new(0);
    let mut expected = 0;
    for round in 0..4 {
        let store = cluster.store(1);
        let machine = Durable::load(&store);
        let transport = network.endpoint(address(1));
        let builder = Builder::new(store, machine, transport, node_options(1)).unwrap();
        let node = match round {
            0 => builder.bootstrap().unwrap(),
            _ => builder.open().unwrap(),
        };
        status_when(&node, "it leads", |status| status.raft.leader == 1).await;
        let seen = node.query(Consistency::Linearizable, |machine| machine.count);
        assert_eq!(seen.await.unwrap(), expected);
        for _ in 0..25 {
            node.propose("one more").await.unwrap();
            expected += 1;
        }
        node.halt().await;
    }
    // The same with a machine in memory, whose snapshot lags behind the commit.
    let mut cluster = Cluster::of(&[1]).await;
    for number in 0..30 {
        cluster.propose(&number.to_string()).await;
    }
    cluster.halt(1).await;
    cluster.reopen(1);
    assert_eq!(cluster.agreed(30).await.len(), 30);
}

async fn compacted(node: &TestNode) {
    status_when(node, "its log is compacted", |status| {
        status.raft.first_index > 20
    })
    .await;
}

fn compacting() -> Cluster {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| {
        options.compaction.every_entries = 20;
        options.compaction.keep_entries = 5;
    });
    cluster
}

/// 3. The state machine not restored from the snapshot at restart.
#[tokio::test]
async fn pitfall_3_the_machine_is_restored_from_the_snapshot_at_a_restart() {
    let mut cluster = compacting().start(&[1]).await;
    for number in 0..50 {
        cluster.propose(&number.to_string()).await;
    }
    compacted(&cluster.node(1)).await;
    cluster.halt(1).await;
    cluster.reopen(1);
    let expected: Vec<_> = (0..50)
        .map(|number| number.to_string().into_bytes())
        .collect();
    assert_eq!(cluster.agreed(50).await, expected);
}

/// 4. A snapshot labelled with an index that is not the one its data was taken at: who starts from
/// it lacks commands, or has some twice.
#[tokio::test]
async fn pitfall_4_a_snapshot_under_load_continues_without_a_gap() {
    let mut cluster = compacting().start(&[1]).await;
    let (node, go_on) = (cluster.node(1), Arc::new(AtomicBool::new(true)));
    let load = {
        let go_on = Arc::clone(&go_on);
        tokio::spawn(async move {
            let mut number = 0;
            while go_on.load(Ordering::SeqCst) {
                node.propose(number.to_string()).await.unwrap();
                number += 1;
            }
            number
        })
    };
    compacted(&cluster.node(1)).await;
    for id in 2..=4 {
        let node = cluster.join(id, 1).await;
        status_when(&node, "it is a voter", |status| {
            status.raft.conf_state.get_voters().contains(&id)
        })
        .await;
    }
    go_on.store(false, Ordering::SeqCst);
    let count: usize = load.await.unwrap();
    let expected: Vec<_> = (0..count)
        .map(|number| number.to_string().into_bytes())
        .collect();
    assert_eq!(cluster.agreed(count).await, expected);
}

/// 5. Replies matched by arrival order or by a per-node counter: wrong answers after a change of
/// leaders.
#[tokio::test]
async fn pitfall_5_an_answer_is_that_of_its_own_command_over_changes_of_leaders() {
    let cluster = Cluster::of(&[1, 2, 3]).await;
    let mut applied = 0;
    for round in 0..5 {
        let old = cluster.leader().await;
        let mut asked = tokio::task::JoinSet::new();
        let ask = |asked: &mut tokio::task::JoinSet<_>, node: &TestNode, name: String| {
            let node = node.clone();
            asked.spawn(async move {
                let ended = node.propose(name.clone()).await;
                (name.into_bytes(), ended)
            });
        };
        for number in 0..20 {
            ask(&mut asked, &old, format!("{round} before {number}"));
        }
        tokio::task::yield_now().await;
        cluster.network.isolate(&address(old.id()));
        for number in 0..20 {
            ask(&mut asked, &old, format!("{round} cut {number}"));
        }
        let new = until("another leads", || async {
            let others = cluster.nodes.values().filter(|node| node.id() != old.id());
            let led = |node: &&TestNode| ![0, old.id()].contains(&node.leader().leader);
            others.clone().find(led).cloned()
        })
        .await;
        for number in 0..20 {
            ask(&mut asked, &new, format!("{round} after {number}"));
        }
        // They have an outcome before the old leader hears of it, or at the latest then.
        cluster.propose(&format!("{round} last")).await;
        cluster.heal();
        let ended = asked.join_all().await;
        let journal = cluster.agreed(1).await;
        for (name, ended) in ended {
            let count = journal.iter().filter(|of| **of == name).count();
            match ended {
                Ok(proposed) => {
                    let place = proposed.answer.unwrap().try_into().unwrap();
                    assert_eq!(journal[u64::from_be_bytes(place) as usize], name);
                    applied += 1;
                }
                Err(RequestError::OutcomeUnknown) => assert!(count <= 1),
                Err(e) => {
                    assert!(e.is_retryable(), "{e}");
                    assert_eq!(count, 0, "{e}, and it was applied");
                }
            }
        }
    }
    assert!(applied > 50, "{applied}");
}

/// 6. Messages reordered; a slow peer that blocks the others; a peer that stays frozen because its
/// snapshot was never reported. The stream of the snapshot breaks; the newcomer comes in all the
/// same, and nobody has waited for it.
#[tokio::test]
async fn pitfall_6_a_peer_whose_snapshot_broke_off_is_not_frozen_and_blocks_nobody() {
    let mut cluster = compacting();
    let base = cluster.adapt;
    cluster.adapt = Box::new(move |options: &mut NodeOptions| {
        base(options);
        options.snapshot_patience = Duration::from_millis(300);
    });
    let mut cluster = cluster.start(&[1, 2, 3]).await;
    for number in 0..50 {
        cluster.propose(&number.to_string()).await;
    }
    let leader = cluster.leader().await;
    compacted(&leader).await;
    let ways = [1, 2, 3].map(|id| (address(id), address(4)));
    for (from, to) in &ways {
        cluster.network.cut_lane(from, to, Lane::Snapshots);
    }
    let newcomer = cluster.join(4, leader.id()).await;
    status_when(&leader, "a snapshot is on its way to nobody", |status| {
        let of_4 = status.raft.progress.iter().find(|of| of.id == 4);
        of_4.is_some_and(|of| of.pending_snapshot > 0)
    })
    .await;
    status_when(&leader, "the failure is reported", |status| {
        let of_4 = status.raft.progress.iter().find(|of| of.id == 4);
        of_4.is_some_and(|of| of.pending_snapshot == 0)
    })
    .await;
    for number in 50..60 {
        cluster.propose(&number.to_string()).await;
    }
    cluster.heal();
    status_when(&newcomer, "it has caught up", |status| {
        status.raft.applied > 60
    })
    .await;
    assert_eq!(cluster.agreed(60).await.len(), 60);

    // And messages out of order do no harm.
    cluster.network.set_faults(Faults {
        reorder: 300,
        duplicate: 300,
        jitter: Duration::from_millis(3),
        ..Faults::default()
    });
    for number in 60..90 {
        cluster.propose(&number.to_string()).await;
    }
    cluster.heal();
    let journal = cluster.agreed(90).await;
    assert_eq!(journal.iter().collect::<BTreeSet<_>>().len(), 90);
}

/// 7. A total timeout for a snapshot: large ones never finish. This one takes many times the
/// patience of the sender. (`transfer.rs` has the exact test.)
#[tokio::test]
async fn pitfall_7_a_snapshot_may_take_longer_than_the_patience_while_it_moves() {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| options.snapshot_patience = Duration::from_millis(400));
    let mut cluster = cluster.start(&[1]).await;
    for number in 0..40_u8 {
        let node = cluster.node(1);
        node.propose(vec![number; 512 << 10]).await.unwrap();
    }
    let node = cluster.node(1);
    cluster.network.set_faults(Faults {
        delay: Duration::from_millis(100),
        ..Faults::default()
    });
    let begun = std::time::Instant::now();
    let newcomer = cluster.join(2, node.id()).await;
    status_when(&newcomer, "it has the snapshot", |status| {
        status.raft.first_index > 40
    })
    .await;
    assert!(begun.elapsed() > 2 * Duration::from_millis(400));
    cluster.heal();
    assert_eq!(cluster.agreed(40).await.len(), 40);
}

/// 8. A node wiped and restarted with its old id may vote twice. It is refused by its store id,
/// and comes back under a new id.
#[tokio::test]
async fn pitfall_8_a_wiped_node_is_refused_under_its_old_id() {
    let mut cluster = Cluster::of(&[1, 2, 3]).await;
    cluster.propose("before").await;
    let wiped = cluster.follower().await.id();
    let members = cluster
        .leader()
        .await
        .status()
        .await
        .unwrap()
        .raft
        .book
        .nodes;
    cluster.halt(wiped).await;
    std::fs::remove_dir_all(cluster.dir(wiped)).unwrap();
    let impostor = cluster
        .builder(wiped)
        .bootstrap_with(wiped, CLUSTER_ID, members)
        .unwrap();
    let leader = cluster.leader().await;
    impostor.campaign();
    status_when(&leader, "it is refused", |status| {
        status.packets_refused > 0
    })
    .await;
    // Without it there is no majority when another is gone: it has no vote.
    let third = [1, 2, 3]
        .into_iter()
        .find(|id| ![wiped, leader.id()].contains(id))
        .unwrap();
    let before = leader.status().await.unwrap().packets_refused;
    cluster.halt(third).await;
    status_when(&leader, "it leads no longer", |status| {
        status.raft.leader == 0
    })
    .await;
    status_when(&leader, "it asks in vain", |status| {
        status.packets_refused > before + 5
    })
    .await;
    assert_eq!(leader.leader().leader, 0);
    cluster.reopen(third);
    impostor.halt().await;
    drop(impostor);
    let leader = cluster.leader().await;
    retried("a removal", || leader.remove(wiped)).await;
    std::fs::remove_dir_all(cluster.dir(wiped)).unwrap();
    let back = cluster
        .builder(wiped)
        .join(vec![address(leader.id())], Default::default())
        .await;
    assert_eq!(back.unwrap().id(), 4);
}

/// 9. 0.0.0.0 or [::] advertised; a removed node that keeps disturbing elections.
#[tokio::test]
async fn pitfall_9_no_wildcard_is_advertised_and_a_removed_node_learns_it_and_is_quiet() {
    let network = LocalNetwork::new(0);
    for wildcard in ["0.0.0.0:7000", "[::]:7000", "http://0.0.0.0:1", ""] {
        let (log, machine) = (MemoryLog::new([1; 16]), Journal::default());
        let options = NodeOptions::new(wildcard);
        let refused = Builder::new(log, machine, network.endpoint("x"), options).map(drop);
        assert!(matches!(refused, Err(StartError::Options(_))), "{wildcard}");
    }
    let mut cluster = Cluster::of(&[1, 2, 3]).await;
    let removed = cluster.follower().await;
    cluster.network.isolate(&address(removed.id()));
    let leader = cluster.leader().await;
    retried("a removal", || leader.remove(removed.id())).await;
    let term = leader.leader().term;
    cluster.network.heal();
    // It never gets the entry that removes it, and asks for votes.
    status_when(&removed, "it knows", |status| status.removed).await;
    assert_eq!(removed.propose("no").await, Err(RequestError::Removed));
    cluster.nodes.remove(&removed.id());
    cluster.propose("undisturbed").await;
    assert_eq!(cluster.leader().await.leader().term, term);
}

/// 10. A joiner that cannot be reached must not stop those who apply its membership.
#[tokio::test]
async fn pitfall_10_a_joiner_that_cannot_be_reached_stops_nobody() {
    let cluster = Cluster::of(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let nowhere = NodeInfo {
        id: 9,
        address: "nowhere".to_owned(),
        store_id: vec![9; 16],
        ..NodeInfo::default()
    };
    retried("a learner", || leader.add_learner(nowhere.clone())).await;
    for number in 0..50 {
        cluster.propose(&number.to_string()).await;
    }
    cluster.agreed(50).await;
    assert_eq!(cluster.leader().await.leader(), leader.leader());
    assert_eq!(commands(&leader).await.len(), 50);
}
