//! Who gets in and who does not, over real sockets.

mod support;

use gossip::{Event, JoinError, JournalError, Purpose, StartError};
use gossip_core::grant::{Chain, Role};
use gossip_core::invite::{Refused, Token};
use gossip_core::moment::WallTime;
use gossip_core::sign::Key;
use gossip_core::wire::gate::Refusal;
use support::{Node, in_an_hour, now, try_start};

async fn refusal(token: Token) -> Refusal {
    let dir = tempfile::tempdir().expect("tempdir");
    match try_start(dir.path(), Purpose::Join(token)).await {
        Err(StartError::Join(JoinError::Refused(refusal))) => refusal,
        other => panic!("{other:?}"),
    }
}

fn no_peer(events: &[Event]) {
    let came = |event: &Event| matches!(event, Event::PeerUp(_) | Event::Heard(_));
    assert!(!events.iter().any(came), "{events:?}");
}

#[tokio::test]
async fn each_bad_token_is_refused_by_its_own_name() {
    let mut a = Node::new(Purpose::Found).await;
    let good = a.invite(1).await;

    let mut expired = a.gossip.invite(Role::Member, 1, WallTime(now().0 - 1)).await.expect("made");
    assert_eq!(refusal(expired.clone()).await, Refusal::Invitation(Refused::Expired));
    // A longer life than the issuer signed.
    expired.invitation.expires = in_an_hour();
    assert_eq!(refusal(expired).await, Refusal::Invitation(Refused::Forged));

    let stranger = Key::from_seed([66; 32]);
    let limits = (Role::Member, 9, in_an_hour());
    let issued =
        |cluster| Token::issue(&stranger, cluster, [6; 32], limits, good.addresses.clone());
    let unknown = refusal(issued(a.cluster)).await;
    assert_eq!(unknown, Refusal::Invitation(Refused::UnknownIssuer));
    let (elsewhere, _) = Chain::found(&stranger, 1);
    let other = refusal(issued(elsewhere)).await;
    assert_eq!(other, Refusal::Invitation(Refused::OtherCluster));
    no_peer(&a.quiet().await);

    let b = Node::join(good.clone()).await;
    assert_eq!(refusal(good).await, Refusal::Invitation(Refused::UsedUp));
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn uses_are_counted_by_every_member_and_across_restarts() {
    let mut a = Node::new(Purpose::Found).await;
    let mut token = a.invite(2).await;
    let mut b = Node::join(token.clone()).await;
    let (a_id, b_id) = (a.id(), b.id());
    a.sees(b_id).await;
    b.sees(a_id).await;
    // The second use at another member, the third at the first again.
    token.addresses = b.addresses.clone();
    let mut c = Node::join(token.clone()).await;
    let c_id = c.id();
    a.sees(c_id).await;
    c.sees(a_id).await;
    token.addresses = a.addresses.clone();
    assert_eq!(refusal(token.clone()).await, Refusal::Invitation(Refused::UsedUp));
    let again = Node::on(a.stop().await, Purpose::Found).await;
    token.addresses = again.addresses.clone();
    assert_eq!(refusal(token).await, Refusal::Invitation(Refused::UsedUp));
    for node in [again, b, c] {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_member_of_another_cluster_never_becomes_a_peer() {
    let mut a = Node::new(Purpose::Found).await;
    let mut other = Node::new(Purpose::Found).await;
    // Its own token, but with the address of a: it dials a and offers its own chain.
    let mut lured = other.invite(9).await;
    lured.addresses = a.addresses.clone();
    assert_eq!(refusal(lured).await, Refusal::Invitation(Refused::OtherCluster));
    no_peer(&a.quiet().await);
    no_peer(&other.quiet().await);
    a.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_node_that_is_no_member_lets_nobody_in() {
    let a = Node::new(Purpose::Found).await;
    let mut token = a.invite(1).await;
    token.addresses = vec!["/ip4/127.0.0.1/tcp/9".into()];
    let dir = tempfile::tempdir().expect("tempdir");
    let nobody = try_start(dir.path(), Purpose::Join(token)).await;
    let error = nobody.expect_err("nobody is there");
    assert!(
        matches!(error, StartError::Join(JoinError::Unreachable { addresses: 1, .. })),
        "{error}"
    );
    let homeless = try_start(dir.path(), Purpose::Resume).await;
    assert!(matches!(homeless, Err(StartError::NotAMember)));
    a.stop().await;
}

#[tokio::test]
async fn a_second_join_resumes_and_another_cluster_is_named() {
    let a = Node::new(Purpose::Found).await;
    let other = Node::new(Purpose::Found).await;
    let token = a.invite(1).await;
    let b = Node::join(token.clone()).await;
    let id = b.id();
    let b = Node::on(b.stop().await, Purpose::Join(token)).await;
    assert_eq!((b.id(), b.cluster), (id, a.cluster));
    let dir = b.stop().await;
    let elsewhere = try_start(dir.path(), Purpose::Join(other.invite(1).await)).await;
    let error = elsewhere.expect_err("one cluster only");
    let names_both = matches!(error, StartError::OtherCluster { ours, theirs }
        if ours == a.cluster && theirs == other.cluster);
    assert!(names_both, "{error}");
    a.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn an_operators_token_is_for_no_host() {
    let a = Node::new(Purpose::Found).await;
    let token = a.gossip.invite(Role::Operator, 1, in_an_hour()).await.expect("made");
    let dir = tempfile::tempdir().expect("tempdir");
    let error = try_start(dir.path(), Purpose::Join(token)).await.expect_err("not a host's");
    assert!(matches!(error, StartError::OperatorToken));
    assert!(a.gossip.invite(Role::Member, 0, in_an_hour()).await.is_err());
    a.stop().await;
}

#[tokio::test]
async fn one_data_directory_has_one_agent() {
    let a = Node::new(Purpose::Found).await;
    let second = try_start(a.dir.as_ref().expect("its own").path(), Purpose::Found).await;
    assert!(matches!(second, Err(StartError::Journal(JournalError::InUse { .. }))));
    let dir = a.stop().await;
    Node::on(dir, Purpose::Resume).await.stop().await;
}

#[tokio::test]
async fn a_failed_start_leaves_the_journal_alone() {
    let a = Node::new(Purpose::Found).await;
    let dir = a.stop().await;
    let journal = dir.path().join("journal.redb");
    let mut bytes = std::fs::read(&journal).expect("journal");
    let middle = bytes.len() / 3;
    bytes[middle..].fill(0xee);
    std::fs::write(&journal, &bytes).expect("write");
    let error = try_start(dir.path(), Purpose::Found).await.expect_err("damaged");
    assert!(matches!(error, StartError::Journal(JournalError::Corrupt { .. })), "{error}");
    assert!(std::fs::read(&journal).expect("journal") == bytes);
}
