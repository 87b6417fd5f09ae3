//! Starts, restarts, and the end of clusters.

use std::sync::atomic::Ordering;
use std::time::Duration;

use raft_rocks::driver::{Consistency, JoinOptions, NodeInfo, StartError};

use crate::cluster::{CLUSTER_ID, Cluster, address, commands, retried, status_when};
use crate::machines::Journal;

#[tokio::test]
async fn a_cluster_that_was_stopped_has_everything_when_it_is_back() {
    let mut cluster = Cluster::of(&[1, 2, 3]).await;
    for round in 1..=3 {
        for command in 0..10 {
            cluster.propose(&format!("{round} {command}")).await;
        }
        match round {
            2 => cluster.shutdown().await,
            _ => {
                for id in 1..=3 {
                    cluster.halt(id).await;
                }
            }
        }
        for id in 1..=3 {
            cluster.reopen(id);
        }
        assert_eq!(cluster.agreed(10 * round).await.len(), 10 * round);
    }
}

#[tokio::test]
async fn a_store_belongs_to_one_node() {
    let mut cluster = Cluster::of(&[1]).await;
    cluster.shutdown().await;
    let refused = cluster.builder(1).open_as(2).map(drop).unwrap_err();
    let expected = (1, 2);
    let StartError::OtherId { stored, asked } = refused else {
        panic!("{refused}");
    };
    assert_eq!((stored, asked), expected);
    let refused = cluster.builder(1).bootstrap().map(drop).unwrap_err();
    assert!(matches!(refused, StartError::HasIdentity(_)), "{refused}");
    let refused = cluster.builder(2).open().map(drop).unwrap_err();
    assert!(matches!(refused, StartError::NoIdentity), "{refused}");
    // It is opened instead.
    let node = cluster
        .builder(1)
        .join(vec![], JoinOptions::default())
        .await
        .unwrap();
    assert_eq!(node.id(), 1);
}

/// It was closed on a thread that nobody waited for, and a process that ended meanwhile was
/// aborted (`pthread lock: Invalid argument`): RocksDB destroys at `exit` what a closing needs.
#[tokio::test]
async fn a_store_is_free_when_the_last_handle_of_its_node_is_dropped() {
    let mut cluster = Cluster::of(&[1]).await;
    for round in 0..10 {
        let node = cluster.nodes.remove(&1).unwrap();
        node.propose(format!("{round}")).await.unwrap();
        drop(node);
        cluster.reopen(1);
        cluster.leader().await;
    }
}

#[tokio::test]
async fn a_query_that_holds_the_last_handle_does_not_wait_for_itself() {
    let mut cluster = Cluster::of(&[1]).await;
    let (held, node) = (cluster.node(1), cluster.nodes.remove(&1).unwrap());
    let (reached, reaches) = tokio::sync::oneshot::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
    let (dropped, drops) = tokio::sync::oneshot::channel();
    let asked = tokio::spawn(async move {
        let query = move |_: &Journal| {
            reached.send(()).unwrap();
            goes_on.recv().unwrap();
            drop(held);
            dropped.send(()).unwrap();
        };
        node.query(Consistency::Stale, query).await
    });
    reaches.await.unwrap();
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    go_on.send(()).unwrap();
    // Less than the drop of a handle waits elsewhere.
    let dropped = tokio::time::timeout(Duration::from_secs(8), drops).await;
    dropped.unwrap().unwrap();
}

#[tokio::test]
async fn a_newcomer_that_nobody_takes_in_gives_up() {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| options.join_patience = options.tick * 10);
    let joined = cluster
        .builder(1)
        .join(vec![address(9)], JoinOptions::default())
        .await;
    assert!(matches!(joined, Err(StartError::Join(_))));
}

#[tokio::test]
async fn a_first_membership_names_nobody_twice_and_a_newcomer_asks_somebody() {
    let cluster = Cluster::empty();
    let builder = cluster.builder(1);
    let twice = vec![builder.node_info(1).unwrap(), builder.node_info(2).unwrap()];
    let refused = builder.bootstrap_with(1, CLUSTER_ID, twice).map(drop);
    assert!(
        matches!(refused, Err(StartError::Membership(_))),
        "{refused:?}"
    );
    let nobody = cluster.builder(1).join(vec![], JoinOptions::default());
    let refused = nobody.await.map(drop);
    assert!(
        matches!(refused, Err(StartError::Options(_))),
        "{refused:?}"
    );
}

/// What was begun and not finished could be opened as a member of the old cluster.
#[tokio::test]
async fn a_new_cluster_that_was_forced_in_part_is_neither_the_old_one_nor_the_new() {
    let mut cluster = Cluster::of(&[1]).await;
    cluster.propose("kept").await;
    let first = cluster.node(1);
    first.snapshot_now();
    cluster.halt(1).await;
    drop(first);
    cluster.machine.jammed.store(true, Ordering::SeqCst);
    let forced = cluster.builder(1).force_new_cluster().map(drop);
    assert!(matches!(forced, Err(StartError::Node(_))), "{forced:?}");
    let opened = cluster.builder(1).open().map(drop);
    assert!(matches!(opened, Err(StartError::Interrupted)), "{opened:?}");
    cluster.machine.jammed.store(false, Ordering::SeqCst);
    let node = cluster.builder(1).force_new_cluster().unwrap();
    assert_eq!(commands(&node).await, [b"kept"]);
    node.halt().await;
    drop(node);
    cluster.reopen(1);
    cluster.propose("more").await;
}

#[tokio::test]
async fn one_survivor_begins_a_new_cluster_with_everything_it_has() {
    let mut cluster = Cluster::of(&[1, 2, 3]).await;
    for command in 0..10 {
        cluster.propose(&command.to_string()).await;
    }
    cluster.agreed(10).await;
    let leader = cluster.leader().await;
    let id = leader.id();
    // Never committed: the others do not hear of it.
    cluster.network.isolate(&address(id));
    let last = leader.status().await.unwrap().raft.last_index;
    let learner = NodeInfo {
        id: 4,
        address: address(4),
        ..NodeInfo::default()
    };
    let uncommitted = leader.propose("uncommitted");
    let learner = leader.add_learner(learner);
    tokio::select! {
        ended = uncommitted => panic!("{ended:?}"),
        ended = learner => panic!("{ended:?}"),
        _ = status_when(&leader, "both are in the log", |of| of.raft.last_index > last + 1) => {}
    }
    drop(leader);
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    for id in ids {
        cluster.halt(id).await;
    }
    cluster.heal();
    let old = cluster.builder(id).identity().unwrap().unwrap();
    let node = cluster.builder(id).force_new_cluster().unwrap();
    cluster.nodes.insert(id, node.clone());
    assert_ne!(node.cluster_id(), old.cluster_id);
    let status = status_when(&node, "it leads", |status| status.raft.leader == id).await;
    assert_eq!(status.raft.conf_state.get_voters(), [id]);
    assert_eq!(commands(&node).await.len(), 11);
    // The old ones are strangers, and their ids are gone.
    assert_eq!(status.raft.conf_state.get_learners(), []);
    assert!(status.raft.book.is_retired(4));
    for other in [1, 2, 3].into_iter().filter(|other| *other != id) {
        assert!(status.raft.book.is_retired(other));
        cluster.reopen(other);
    }
    let newcomer = cluster.builder(9);
    let newcomer = newcomer
        .join(vec![address(id)], JoinOptions::default())
        .await
        .unwrap();
    assert_eq!(newcomer.id(), 5);
    status_when(&newcomer, "it is a voter", |status| {
        status.raft.conf_state.get_voters().contains(&5)
    })
    .await;
    retried("a proposal", || newcomer.propose("new")).await;
    assert_eq!(commands(&newcomer).await.len(), 12);
    status_when(&node, "the old ones are refused", |status| {
        status.packets_refused > 0
    })
    .await;
    // And it is there after a restart.
    cluster.halt(id).await;
    drop(node);
    let node = cluster.reopen(id);
    status_when(&node, "all is applied", |status| status.raft.applied > 12).await;
}

#[tokio::test]
async fn a_node_alone_becomes_a_cluster_and_goes_on_alone_when_it_is_removed() {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| options.alone_when_removed = true);
    let mut cluster = cluster.start(&[1]).await;
    cluster.propose("alone").await;
    cluster.join(2, 1).await;
    cluster.join(3, 1).await;
    let removed = cluster.node(2);
    status_when(&removed, "it is a voter", |status| {
        status.raft.conf_state.get_voters().len() == 3
    })
    .await;
    cluster.propose("together").await;
    cluster.agreed(2).await;
    let first = cluster.node(1);
    retried("a removal", || first.remove(2)).await;
    status_when(&removed, "it knows", |status| status.removed).await;
    cluster.nodes.remove(&2);
    removed.shutdown().await;
    drop(removed);
    let alone = cluster.builder(2).open().unwrap();
    status_when(&alone, "it leads", |status| status.raft.leader == 2).await;
    alone.propose("alone again").await.unwrap();
    assert_eq!(
        commands(&alone).await,
        [&b"alone"[..], b"together", b"alone again"]
    );
    cluster.propose("without it").await;
    assert_eq!(cluster.agreed(3).await.len(), 3);
}
