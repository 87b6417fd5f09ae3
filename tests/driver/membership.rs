//! Nodes come, go, and change their parts.

use raft_rocks::driver::{JoinOptions, MemberChange, Refusal, RequestError};

use crate::cluster::{Cluster, TICK, address, commands, retried, status_when};

#[tokio::test]
async fn a_newcomer_gets_its_id_from_the_leader_catches_up_and_becomes_a_voter() {
    let cluster = Cluster::of(&[1]).await;
    for command in 0..30 {
        cluster.propose(&command.to_string()).await;
    }
    let builder = cluster.builder(9);
    let node = builder
        .join(vec![address(1)], JoinOptions::default())
        .await
        .unwrap();
    assert_eq!(node.id(), 2);
    let status = status_when(&node, "it is a voter", |status| {
        // In no order.
        status.raft.conf_state.get_voters().len() == 2
    });
    assert_eq!(status.await.raft.book.node(2).unwrap().address, address(9));
    retried("a proposal", || node.propose("from the newcomer")).await;
    assert_eq!(commands(&node).await.len(), 31);
}

#[tokio::test]
async fn a_newcomer_that_asks_a_follower_finds_the_leader() {
    let mut cluster = Cluster::of(&[1, 2, 3]).await;
    let follower = cluster.follower().await.id();
    cluster.propose("before").await;
    let node = cluster.join(4, follower).await;
    status_when(&node, "it is a voter", |status| {
        status.raft.conf_state.get_voters().contains(&4)
    })
    .await;
    cluster.agreed(1).await;
}

#[tokio::test]
async fn two_newcomers_at_once_get_different_ids() {
    let cluster = Cluster::of(&[1]).await;
    let join = |id| {
        cluster
            .builder(id)
            .join(vec![address(1)], JoinOptions::default())
    };
    let (a, b) = tokio::join!(join(8), join(9));
    let mut ids = [a.unwrap().id(), b.unwrap().id()];
    ids.sort_unstable();
    assert_eq!(ids, [2, 3]);
}

/// It had nobody's address, could not answer those who lead now, and got nothing for ever.
#[tokio::test]
async fn a_node_that_was_away_while_all_others_were_replaced_comes_back() {
    let mut cluster = Cluster::of(&[1, 2, 3]).await;
    cluster.propose("before").await;
    cluster.agreed(1).await;
    let away = cluster.follower().await.id();
    cluster.halt(away).await;
    let old: Vec<u64> = cluster.nodes.keys().copied().collect();
    for newcomer in [4, 5] {
        let node = cluster.join(newcomer, old[0]).await;
        status_when(&node, "it is a voter", |status| {
            status.raft.conf_state.get_voters().contains(&newcomer)
        })
        .await;
    }
    for id in old {
        let node = cluster.node(id);
        retried("a departure", || node.leave()).await;
        cluster.halt(id).await;
    }
    cluster.propose("meanwhile").await;
    cluster.reopen(away);
    cluster.agreed(2).await;
}

#[tokio::test]
async fn a_change_of_nothing_is_done_at_once() {
    let cluster = Cluster::of(&[1]).await;
    let leader = cluster.leader().await;
    leader.change_membership(vec![]).await.unwrap();
}

#[tokio::test]
async fn leadership_is_handed_over() {
    let cluster = Cluster::of(&[1, 2, 3]).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    retried("a transfer", || leader.transfer_leader(follower.id())).await;
    assert_eq!(leader.leader().leader, follower.id());
    // Asked of a node that does not lead.
    retried("a transfer back", || leader.transfer_leader(leader.id())).await;
    assert_eq!(leader.leader().leader, leader.id());
    let refused = leader.transfer_leader(99).await;
    assert_eq!(refused, Err(Refusal::Unknown(99).into()));
}

#[tokio::test]
async fn a_leader_that_shuts_down_hands_leadership_over() {
    let mut cluster = Cluster::empty();
    cluster.adapt = Box::new(|options| options.peer.election_ticks = 100);
    let mut cluster = cluster.start(&[1, 2, 3]).await;
    // A leader that nobody has answered yet knows of no successor.
    cluster.propose("before").await;
    cluster.agreed(1).await;
    let leader = cluster.leader().await;
    let term = leader.leader().term;
    cluster.nodes.remove(&leader.id());
    let begun = std::time::Instant::now();
    leader.shutdown().await;
    let next = cluster.leader().await;
    // Nobody waited for an election timeout.
    assert!(begun.elapsed() < 100 * TICK, "{:?}", begun.elapsed());
    assert_ne!(next.id(), leader.id());
    assert!(next.leader().term > term);
    cluster.propose("goes on").await;
    drop(leader);
    // The store is free again.
    drop(cluster.store(cluster.nodes.keys().fold(6, |rest, id| rest - id)));
}

#[tokio::test]
async fn a_node_leaves_also_when_it_leads() {
    let mut cluster = Cluster::of(&[1, 2, 3]).await;
    for left in [2, 1] {
        let leader = cluster.leader().await;
        cluster.propose("before").await;
        retried("leaving", || leader.leave()).await;
        cluster.nodes.remove(&leader.id()).unwrap().shutdown().await;
        let next = cluster.leader().await;
        let status = status_when(&next, "it has left", |status| {
            status.raft.book.is_retired(leader.id())
        });
        assert_eq!(status.await.raft.conf_state.get_voters().len(), left);
        cluster.propose("after").await;
    }
    let last = cluster.leader().await;
    assert!(matches!(last.leave().await, Err(RequestError::Refused(_))));
    assert_eq!(cluster.agreed(4).await.len(), 4);
}

#[tokio::test]
async fn several_changes_are_one_joint_change() {
    let cluster = Cluster::of(&[1, 2, 3]).await;
    let mut newcomer = cluster.builder(4).node_info(4).unwrap();
    newcomer.promote = false;
    let leader = cluster.leader().await;
    let gone = cluster.follower().await.id();
    let stays: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != gone).collect();
    retried("a joint change", || {
        leader.change_membership(vec![
            MemberChange::Remove(gone),
            MemberChange::Voter(newcomer.clone()),
        ])
    })
    .await;
    status_when(&leader, "the joint configuration is left", |status| {
        let conf_state = &status.raft.conf_state;
        let mut voters = conf_state.get_voters().to_vec();
        voters.sort_unstable();
        voters == stays && conf_state.get_voters_outgoing().is_empty()
    })
    .await;
    cluster.propose("after").await;
}

#[tokio::test]
async fn an_id_is_never_used_again() {
    let mut cluster = Cluster::of(&[1, 2, 3]).await;
    let gone = cluster.follower().await.id();
    let leader = cluster.leader().await;
    retried("a removal", || leader.remove(gone)).await;
    cluster.halt(gone).await;
    std::fs::remove_dir_all(cluster.dir(gone)).unwrap();
    let info = cluster.builder(gone).node_info(gone).unwrap();
    let refused = leader.add_learner(info).await;
    assert_eq!(refused, Err(Refusal::Retired(gone).into()));
}
