//! A node is removed: its work is everybody else's, and it has none.

use gossip_core::fact::Grants;
use gossip_core::id::NodeId;

use super::*;

fn removal(node: NodeId) -> Ask {
    Ask::RemoveNode { node, grants: Grants::Keep }
}

/// Of the first two nodes the one whose removals come first: all have one rank here.
fn stronger_and_weaker(cluster: &Cluster) -> (usize, usize) {
    let hash = |at: usize| ContentHash::of(cluster.logs[at].node.as_bytes());
    if hash(0) < hash(1) { (0, 1) } else { (1, 0) }
}

#[test]
fn the_work_of_a_removed_node_runs_elsewhere_and_it_takes_no_more() {
    let mut cluster = Cluster::new(&[1000, 1000, 1000]);
    cluster.ask(1, submit(100));
    assert!(cluster.places().iter().any(|(node, _)| *node == 2));
    let gone = cluster.logs[2].node;
    cluster.ask(0, removal(gone));
    assert!(
        matches!(cluster.replies.last(), Some(Reply::NodeRemoved { node, .. }) if *node == gone)
    );
    cluster.run(10_000);
    let places = cluster.places();
    assert_eq!(places.len(), 3, "all run: {places:?}");
    assert!(places.iter().all(|(node, _)| *node != 2), "{places:?}");
    assert!(cluster.cores[2].allocations().is_empty());
    assert_eq!(cluster.cores[2].ledger().free(), cluster.cores[2].ledger().capacity());
    let by = |at: usize| cluster.cores[at].own_removal().and_then(|it| it.issuer());
    assert_eq!((by(2), by(0)), (Some(cluster.logs[0].node), None));
    // It says nothing any more that others would do.
    for ask in [submit(100), Ask::Stop(job()), removal(cluster.logs[0].node)] {
        cluster.ask(2, ask);
        assert_eq!(cluster.replies.last(), Some(&Reply::Outcast));
    }
    // Nor does it after a restart.
    let past = cluster.past();
    cluster.add(2, 1000, 2, past, &BTreeMap::new());
    cluster.run(10_000);
    assert!(cluster.places().iter().all(|(node, _)| *node != 2));
    let views = cluster.cores[0].node_views(cluster.clock().moment);
    assert_eq!(views.len(), 2, "{views:?}");
}

#[test]
fn of_two_that_removed_each_other_one_works_on() {
    let mut cluster = Cluster::new(&[1000, 1000, 1000]);
    cluster.ask(2, submit(100));
    let (stays, goes) = stronger_and_weaker(&cluster);
    let (stays_id, goes_id) = (cluster.logs[stays].node, cluster.logs[goes].node);
    // The weaker one's is heard first, and everybody believes it for a while.
    cluster.ask(goes, removal(stays_id));
    cluster.run(3_000);
    assert!(cluster.cores[2].state().is_out(&stays_id));
    let log = cluster.logs[stays];
    let entry =
        gossip_core::fact::Entry::Remove { node: goes_id, grants: Grants::Keep, at: WallTime(1) };
    let update = cluster.update(stays, entry);
    for to in 0..3 {
        cluster.mail.push_back((to, Input::Updates(vec![(log, update.clone())])));
    }
    cluster.run(10_000);
    for core in &cluster.cores {
        assert!(core.state().is_out(&goes_id) && !core.state().is_out(&stays_id));
    }
    let places = cluster.places();
    assert_eq!(places.len(), 3, "{places:?}");
    assert!(places.iter().all(|(node, _)| *node != goes), "{places:?}");
    let mut more = spec(100);
    more.name = "more".into();
    cluster.ask(2, Ask::Submit { job: JobId::new([6; 16]), spec: Box::new(more) });
    cluster.run(3_000);
    assert!(cluster.places().iter().any(|(node, _)| *node == stays), "it takes work again");
}
