//! Removals as tables: who removed whom, and who is left.

use super::*;

const CLUSTER_NONCE: u64 = 7;

/// Keys `0..8`, admitted as `grants` says, the founder being 0.
struct World {
    cluster: ClusterId,
    chains: BTreeMap<usize, Chain>,
}

fn key(n: usize) -> Key {
    Key::from_seed([n as u8 + 1; 32])
}

fn id(n: usize) -> NodeId {
    key(n).id()
}

fn world(grants: &[(usize, usize)]) -> World {
    let (cluster, founder) = Chain::found(&key(0), CLUSTER_NONCE);
    let mut chains = BTreeMap::from([(0, founder)]);
    for (nonce, (grantor, subject)) in (1..).zip(grants) {
        let chain = chains[grantor]
            .extend(&key(*grantor), &cluster, id(*subject), Role::Member, nonce)
            .expect("room");
        chains.insert(*subject, chain);
    }
    World { cluster, chains }
}

impl World {
    fn removal(&self, issuer: usize, subject: usize, keeps: &[usize]) -> Removal {
        let keeps = keeps.iter().map(|n| id(*n)).collect();
        let about = (id(subject), self.chains[&issuer].clone());
        Removal::sign(&key(issuer), &self.cluster, about, keeps, WallTime(5))
    }

    /// Who is removed and who has lost its grant, after these in every order of arrival.
    fn judged(&self, said: &[(usize, usize, &[usize])]) -> (Vec<usize>, Vec<usize>) {
        let all: Vec<_> = said.iter().map(|(by, of, keep)| self.removal(*by, *of, keep)).collect();
        let mut seen = Vec::new();
        for turn in 0..all.len().max(1) {
            let mut order = all.clone();
            order.rotate_left(turn);
            for reversed in [false, true] {
                if reversed {
                    order.reverse();
                }
                let mut removals = Removals::default();
                order.iter().for_each(|removal| assert!(removals.insert(removal.clone())));
                order.iter().for_each(|removal| assert!(!removals.insert(removal.clone())));
                seen.push(removals);
            }
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "the order of arrival decides");
        let (mut removed, mut orphaned) = (Vec::new(), Vec::new());
        for (n, chain) in &self.chains {
            match seen[0].standing(chain) {
                Standing::Good => {}
                Standing::Removed(_) => removed.push(*n),
                Standing::Orphaned(_) => orphaned.push(*n),
            }
        }
        (removed, orphaned)
    }
}

/// Of two keys of one rank the one whose removals come first.
fn first_of(a: usize, b: usize) -> (usize, usize) {
    let hash = |n| ContentHash::of(id(n).as_bytes());
    if hash(a) < hash(b) { (a, b) } else { (b, a) }
}

#[test]
fn rank_decides_who_is_left() {
    // 0 ─▶ 1, 2, 3;  1 ─▶ 4 ─▶ 5
    let world = world(&[(0, 1), (0, 2), (0, 3), (1, 4), (4, 5)]);
    let (first, second) = first_of(1, 2);
    type Said<'a> = &'a [(usize, usize, &'a [usize])];
    let table: [(&str, Said<'_>, Vec<usize>, Vec<usize>); 11] = [
        ("nobody", &[], vec![], vec![]),
        ("a leaf", &[(0, 5, &[])], vec![5], vec![]),
        ("by one below", &[(5, 2, &[])], vec![2], vec![]),
        ("each other, the founder wins", &[(0, 1, &[4]), (1, 0, &[1, 2, 3])], vec![1], vec![]),
        ("each other, of one rank", &[(1, 2, &[]), (2, 1, &[4])], vec![second], vec![]),
        ("a grant that is not kept", &[(0, 1, &[])], vec![1], vec![4, 5]),
        ("a grant that is kept", &[(0, 1, &[4])], vec![1], vec![]),
        ("kept above, lost below", &[(0, 1, &[4]), (0, 4, &[])], vec![1, 4], vec![5]),
        ("of a removed", &[(0, 1, &[4]), (1, 3, &[])], vec![1], vec![]),
        ("of one whose grant is lost", &[(0, 1, &[]), (4, 3, &[])], vec![1], vec![4, 5]),
        ("the founder, by one below", &[(5, 0, &[1, 2, 3])], vec![0], vec![]),
    ];
    for (what, said, removed, orphaned) in table {
        assert_eq!(world.judged(said), (removed, orphaned), "{what}");
    }
    // A ring of one rank: the first in order stands, and so does who its victim removed.
    let (removed, _) = world.judged(&[(first, second, &[4]), (second, 3, &[]), (3, first, &[4])]);
    assert!(removed.contains(&second) && removed.len() == 2, "{removed:?}");
}

#[test]
fn of_two_removals_of_one_key_the_first_says_what_is_kept() {
    let world = world(&[(0, 1), (0, 2), (1, 3), (1, 4)]);
    let (removed, orphaned) = world.judged(&[(0, 1, &[3]), (2, 1, &[4])]);
    assert_eq!((removed, orphaned), (vec![1], vec![4]));
}

#[test]
fn only_what_a_member_signed_about_another_holds() {
    let world = world(&[(0, 1), (0, 2)]);
    let good = world.removal(1, 2, &[0]);
    assert_eq!(good.verify(&world.cluster), Ok(()));
    let changed = |change: fn(&mut Removal)| {
        let mut removal = good.clone();
        change(&mut removal);
        removal.verify(&world.cluster)
    };
    assert_eq!(changed(|it| it.subject = id(0)), Err(BadRemoval::Forged));
    assert_eq!(changed(|it| it.keeps.clear()), Err(BadRemoval::Forged));
    assert_eq!(changed(|it| it.at.0 += 1), Err(BadRemoval::Forged));
    assert_eq!(changed(|it| it.subject = id(1)), Err(BadRemoval::Own));
    assert_eq!(changed(|it| it.keeps = vec![id(0); 2]), Err(BadRemoval::Keeps));
    let elsewhere = Chain::found(&key(1), 9).0;
    assert_eq!(good.verify(&elsewhere), Err(BadRemoval::Chain(BadChain::OtherCluster)));
    let operator =
        world.chains[&1].extend(&key(1), &world.cluster, id(6), Role::Operator, 1).expect("room");
    let by_operator =
        Removal::sign(&key(6), &world.cluster, (id(2), operator), vec![], WallTime(0));
    assert_eq!(by_operator.verify(&world.cluster), Err(BadRemoval::Operator));
    // In another's name.
    let forged = Removal::sign(
        &key(2),
        &world.cluster,
        (id(1), world.chains[&0].clone()),
        vec![],
        WallTime(0),
    );
    assert_eq!(forged.verify(&world.cluster), Err(BadRemoval::Forged));
}

#[test]
fn a_removal_of_the_most_grants_fits_a_message_of_admission() {
    let world = world(&[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]);
    let mut chain = world.chains[&6].clone();
    while let Ok(longer) = chain.extend(&key(6), &world.cluster, id(6), Role::Member, u64::MAX) {
        chain = longer;
    }
    let keeps = (0..KEEPS_MAX as u64 + 9).map(|n| {
        let mut bytes = [0xff; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        NodeId::new(bytes)
    });
    let removal =
        Removal::sign(&key(6), &world.cluster, (id(1), chain), keeps.collect(), WallTime(u64::MAX));
    assert_eq!(removal.keeps.len(), KEEPS_MAX);
    let bytes = crate::codec::to_cbor(&removal).expect("cbor").len();
    // A hello carries its own chain beside it.
    assert!(bytes + 8 * 1024 < crate::wire::gate::MESSAGE_BYTES_MAX, "{bytes}");
}

#[test]
fn a_removal_that_takes_another_along_is_known_beforehand() {
    let world = world(&[(0, 1), (1, 2), (0, 3)]);
    let mut removals = Removals::default();
    removals.insert(world.removal(1, 3, &[]));
    let next = world.removal(0, 1, &[2]);
    assert!(removals.would_change(&next));
    let undone: Vec<_> = removals.undone_by(&next).iter().map(|it| it.subject).collect();
    assert_eq!(undone, [id(3)], "whoever 1 removed would be back");
    removals.insert(next.clone());
    assert!(removals.of(&id(3)).is_none());
    assert!(!removals.would_change(&next), "it is known");
    assert!(!removals.would_change(&world.removal(1, 2, &[])), "by a key that is gone");
    let defence: Vec<_> = removals.defence_of(&id(3), 8).iter().map(|it| it.subject).collect();
    assert_eq!(defence, [id(1)]);
    assert!(removals.defence_of(&id(1), 8).is_empty(), "there is none");
}
