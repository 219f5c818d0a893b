//! Members that are removed, over real sockets: gone at once, everywhere, for good.

mod support;

use gossip::{Entry, Event, JoinError, Purpose, StartError};
use gossip_core::fact::Grants;
use gossip_core::grant::Role;
use gossip_core::id::NodeId;
use gossip_core::invite::Refused;
use gossip_core::moment::WallTime;
use gossip_core::wire::gate::Refusal;
use support::{Node, in_an_hour, try_start};

fn removal(node: NodeId, grants: Grants) -> Vec<Entry> {
    vec![Entry::Remove { node, grants, at: WallTime(1) }]
}

/// A cluster of as many, who know each other, the founder first.
async fn cluster(count: u32) -> Vec<Node> {
    let founder = Node::new(Purpose::Found).await;
    let token = founder.invite(count).await;
    let mut nodes = vec![founder];
    for _ in 1..count {
        nodes.push(Node::join(token.clone()).await);
    }
    let ids: Vec<_> = nodes.iter().map(Node::id).collect();
    for node in &mut nodes {
        for id in &ids {
            node.sees(*id).await;
        }
        let others = |node: &Node| node.gossip.peers().len() + 1 == ids.len();
        while !others(node) {
            node.next().await;
        }
    }
    nodes
}

/// A node that was stopped, on its port, which its last connections leave in their own time.
async fn again(dir: tempfile::TempDir, port: u16) -> Node {
    let free = async {
        while std::net::UdpSocket::bind(("127.0.0.1", port)).is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(support::SOON, free).await.expect("its port is free");
    Node::again(dir, port).await
}

async fn until_parted(node: &mut Node, from: NodeId) {
    while node.gossip.peers().iter().any(|peer| peer.node == from) {
        node.until(|event| matches!(event, Event::PeerDown(_) | Event::Heard(_))).await;
    }
}

#[tokio::test]
async fn a_removed_member_is_parted_from_by_all_and_never_let_in_again() {
    let mut nodes = cluster(3).await;
    let mut c = nodes.pop().expect("three");
    let (mut b, mut a) = (nodes.pop().expect("three"), nodes.pop().expect("three"));
    let (a_id, c_id) = (a.id(), c.id());
    b.append(removal(c_id, Grants::Keep)).await;
    for node in [&mut a, &mut b] {
        node.until_state(|state| state.is_out(&c_id)).await;
        until_parted(node, c_id).await;
        assert!(node.state.nodes().all(|(id, _)| *id != c_id));
    }
    // It learns of it at the gate, with who did it.
    c.until_state(|state| state.is_out(&c_id)).await;
    assert_eq!(c.state.removals().of(&c_id).and_then(|it| it.issuer()), Some(b.id()));
    assert!(c.gossip.invite(Role::Member, 1, in_an_hour()).await.is_err());
    // Neither after restarts of all, nor with an invitation.
    let token = a.invite(1).await;
    let (a_port, b_port, c_port) = (a.port(), b.port(), c.port());
    let dirs = [a.stop().await, b.stop().await, c.stop().await];
    let [a_dir, b_dir, c_dir] = dirs;
    let mut c = again(c_dir, c_port).await;
    assert!(c.state.is_out(&c_id), "it remembers");
    let mut a = again(a_dir, a_port).await;
    let mut b = again(b_dir, b_port).await;
    a.until(|event| matches!(event, Event::PeerUp(id) if *id == b.id())).await;
    for node in [&mut a, &mut b, &mut c] {
        let me = node.id();
        let met = |event: &Event| match event {
            Event::PeerUp(id) | Event::Heard(id) => *id == c_id || me == c_id,
            _ => false,
        };
        let events = node.quiet().await;
        assert!(!events.iter().any(met), "{events:?}");
    }
    let c_dir = c.stop().await;
    std::fs::remove_file(c_dir.path().join("journal.redb")).expect("removed");
    let refused = try_start(c_dir.path(), Purpose::Join(token)).await.expect_err("its key is gone");
    assert!(matches!(refused, StartError::Join(JoinError::Removed(_))), "{refused}");
    assert_eq!(a.id(), a_id);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn two_that_removed_each_other_apart_agree_when_they_meet() {
    let mut nodes = cluster(2).await;
    let (b, a) = (nodes.pop().expect("two"), nodes.pop().expect("two"));
    let (a_id, b_id, a_port, b_port) = (a.id(), b.id(), a.port(), b.port());
    let b_dir = b.stop().await;
    let mut a = a;
    a.append(removal(b_id, Grants::Keep)).await;
    let a_dir = a.stop().await;
    let mut b = again(b_dir, b_port).await;
    b.append(removal(a_id, Grants::Keep)).await;
    assert!(b.state.is_out(&a_id) && !b.state.is_out(&b_id));
    // Neither would dial the other as a peer; the founder's word reaches the other all the same.
    let a = again(a_dir, a_port).await;
    b.until_state(|state| state.is_out(&b_id) && !state.is_out(&a_id)).await;
    assert!(!a.state.is_out(&a_id) && a.state.is_out(&b_id));
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn one_whose_grant_is_not_kept_may_be_admitted_anew() {
    let mut nodes = cluster(2).await;
    let (mut b, mut a) = (nodes.pop().expect("two"), nodes.pop().expect("two"));
    let mut c = Node::join(b.invite(1).await).await;
    let (b_id, c_id) = (b.id(), c.id());
    a.sees(c_id).await;
    c.sees(a.id()).await;
    assert_eq!(a.gossip.admitted_by(b_id).await, [c_id]);
    a.append(removal(b_id, Grants::Drop)).await;
    c.until_state(|state| state.is_out(&c_id) && state.is_out(&b_id)).await;
    b.until_state(|state| state.is_out(&b_id)).await;
    until_parted(&mut a, c_id).await;
    let token = a.invite(1).await;
    let c_dir = c.stop().await;
    let mut c = Node::on(c_dir, Purpose::Join(token)).await;
    assert_eq!(c.id(), c_id, "the same key");
    a.until_state(|state| !state.is_out(&c_id)).await;
    c.until_state(|state| !state.is_out(&c_id)).await;
    let c_id_again = c.id();
    a.until(|event| matches!(event, Event::Heard(id) if *id == c_id_again)).await;
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test]
async fn whom_a_removed_member_removed_stays_removed() {
    let mut nodes = cluster(3).await;
    let mut c = nodes.pop().expect("three");
    let (mut b, mut a) = (nodes.pop().expect("three"), nodes.pop().expect("three"));
    let (b_id, c_id) = (b.id(), c.id());
    b.append(removal(c_id, Grants::Keep)).await;
    a.until_state(|state| state.is_out(&c_id)).await;
    a.append(removal(b_id, Grants::Keep)).await;
    a.until_state(|state| state.is_out(&b_id)).await;
    assert_eq!(a.state.removals().of(&c_id).and_then(|it| it.issuer()), Some(a.id()));
    c.until_state(|state| state.is_out(&c_id)).await;
    // Twice, and oneself: refused in words.
    for node in [b_id, a.id()] {
        a.gossip.try_append(77, removal(node, Grants::Keep)).expect("has room");
        let refused = a.until(|event| matches!(event, Event::Refused { ticket: 77, .. })).await;
        let Event::Refused { reason, .. } = refused else { unreachable!() };
        assert!(reason.contains("removed before") || reason.contains("itself"), "{reason}");
    }
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_revoked_invitation_admits_nobody_at_any_member() {
    let mut nodes = cluster(2).await;
    let (mut b, mut a) = (nodes.pop().expect("two"), nodes.pop().expect("two"));
    let mut token = a.invite(5).await;
    let id = token.invitation.id;
    let knows = |all: Vec<gossip::Invited>| all.into_iter().find(|known| known.id == id);
    // It came before the ticket of what follows it.
    let ticket = a.append(vec![Entry::Fact(gossip_core::fact::Record::Card(a.card()))]).await;
    a.until(|event| matches!(event, Event::Persisted { ticket: t, .. } if *t == ticket)).await;
    let known = knows(b.gossip.invitations().await).expect("told");
    assert_eq!(known.invitation.as_ref(), Some(&token.invitation));
    assert!(b.gossip.revoke(id).await, "any member may");
    let refused = Refusal::Invitation(Refused::Revoked);
    for addresses in [b.addresses.clone(), a.addresses.clone()] {
        if addresses == a.addresses {
            let ticket =
                b.append(vec![Entry::Fact(gossip_core::fact::Record::Card(b.card()))]).await;
            b.until(|event| matches!(event, Event::Persisted { ticket: t, .. } if *t == ticket))
                .await;
        }
        token.addresses = addresses;
        let dir = tempfile::tempdir().expect("tempdir");
        let error = try_start(dir.path(), Purpose::Join(token.clone())).await.expect_err("revoked");
        let is_refused =
            matches!(&error, StartError::Join(JoinError::Refused(why)) if *why == refused);
        assert!(is_refused, "{error}");
    }
    assert_eq!(knows(a.gossip.invitations().await).expect("known").revoked, Some(b.id()));
    a.stop().await;
    b.stop().await;
}
