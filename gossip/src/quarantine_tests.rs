//! The quarantine against hostile bytes, and merges in any order.

use super::*;
use crate::document::{actor_of, genesis};
use crate::documents::{Documents, Outcome};
use automerge::transaction::{CommitOptions, Transactable as _};
use automerge::{ObjType, ROOT};
use gossip_core::id::{ContentHash, NodeId};
use gossip_core::intent::Edit;
use gossip_core::log::LogId;
use gossip_core::moment::WallTime;
use gossip_core::slot::Generation;

const JOB: JobId = JobId::new([7; 16]);

fn log(n: u8) -> LogId {
    LogId { node: NodeId::new([n; 32]), start: 1, nonce: 1 }
}

fn submit(counter: u64) -> Edit {
    let generation = Generation { counter, spec: ContentHash::of(&counter.to_be_bytes()) };
    Edit::Submit { generation, at: WallTime(100 + counter) }
}

/// Makes `edit` on `documents` as `log`, and answers the change.
fn edited(documents: &mut Documents, log: LogId, number: u64, edit: &Edit) -> Vec<u8> {
    let tried = documents.attempt_edit(&log, &JOB, edit, None).expect("edits");
    let (change, _after) = tried.expect("changes something");
    assert_eq!(documents.offer((log, number), JOB, change.clone()), [Outcome::Applied(log)]);
    change
}

/// A change that does `what` to a fresh document, well-formed and in the name of `log(1)`.
fn custom(what: impl FnOnce(&mut automerge::transaction::Transaction<'_>)) -> Vec<u8> {
    let base = genesis(&JOB).expect("genesis");
    let mut document = Automerge::load(&base.bytes).expect("loads").with_actor(actor_of(&log(1)));
    let mut transaction = document.transaction();
    what(&mut transaction);
    let (hash, _) = transaction.commit_with(CommitOptions::default().with_time(0));
    let change = document.get_change_by_hash(&hash.expect("a change")).expect("there");
    change.raw_bytes().to_vec()
}

fn refusal(change: &[u8]) -> String {
    let base = genesis(&JOB).expect("genesis");
    match judge(&JOB, &base, &actor_of(&log(1)), change) {
        Verdict::Refused(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn edits_made_apart_merge_to_one_intent_in_any_order() {
    let (mut a, mut b) = (Documents::default(), Documents::default());
    let first = edited(&mut a, log(1), 0, &submit(1));
    let second = edited(&mut a, log(1), 1, &submit(2));
    let other = edited(&mut b, log(2), 0, &submit(3));
    let stop = edited(&mut b, log(2), 1, &Edit::Remove);
    assert_eq!(a.attempt_edit(&log(1), &JOB, &submit(2), None), Ok(None), "nothing to change");

    a.offer((log(2), 0), JOB, other);
    a.offer((log(2), 1), JOB, stop);
    // Out of order: the second waits for the first.
    assert_eq!(b.offer((log(1), 1), JOB, second), []);
    let both = [Outcome::Applied(log(1)), Outcome::Applied(log(1))];
    assert_eq!(b.offer((log(1), 0), JOB, first), both);
    assert_eq!(a.intent(&JOB), b.intent(&JOB));
    let intent = a.intent(&JOB).expect("known");
    assert_eq!(intent.generations.len(), 3);
    assert!(intent.stopped && intent.removed);
    assert_eq!(intent.submitted, WallTime(101), "the earlier of the two");
}

#[test]
fn a_change_that_no_edit_makes_is_refused() {
    let base = genesis(&JOB).expect("genesis");
    let document = Automerge::load(&base.bytes).expect("loads");
    let object = |name: &str| document.get(ROOT, name).expect("reads").expect("there").1;
    let (flags, generations) = (object("flags"), object("generations"));
    let fits = custom(|t| t.put(&flags, "stopped", true).expect("put"));
    let judged = judge(&JOB, &base, &actor_of(&log(1)), &fits);
    assert!(matches!(judged, Verdict::Accepted(_)), "{judged:?}");

    let hostile = [
        custom(|t| t.put(&flags, "stopped", false).expect("put")),
        custom(|t| t.put(&generations, "1-x", true).expect("put")),
        custom(|t| t.put(ROOT, "flags", true).expect("put")),
        custom(|t| t.delete(ROOT, "generations").expect("delete")),
        custom(|t| {
            t.put_object(&flags, "more", ObjType::Map).expect("put");
        }),
    ];
    for change in hostile {
        assert!(refusal(&change).contains("no edit"));
    }
    let theirs = judge(&JOB, &base, &actor_of(&log(2)), &fits);
    assert!(matches!(theirs, Verdict::Refused(reason) if reason.contains("name")));
    let elsewhere = JobId::new([8; 16]);
    let wrong = genesis(&elsewhere).expect("genesis");
    let judged = judge(&elsewhere, &wrong, &actor_of(&log(1)), &fits);
    assert!(matches!(judged, Verdict::Refused(_)), "{judged:?}");
}

#[test]
fn malformed_bytes_are_refused_and_never_panic_out() {
    let base = genesis(&JOB).expect("genesis");
    let document = Automerge::load(&base.bytes).expect("loads");
    let flags = document.get(ROOT, "flags").expect("reads").expect("there").1;
    let good = custom(|t| t.put(&flags, "stopped", true).expect("put"));
    refusal(b"");
    refusal(&vec![0; CHANGE_BYTES_MAX + 1]);
    refusal(&[good.as_slice(), good.as_slice()].concat());
    for kind in [0, 2, 3, 9] {
        let mut other = good.clone();
        other[8] = kind;
        assert!(refusal(&other).contains("uncompressed"));
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, good[at].wrapping_add(1)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            // The checksum is right, so that the parser behind it is reached.
            let sum = ContentHash::of(&bytes[8..]);
            bytes[4..8].copy_from_slice(&sum.as_bytes()[..4]);
            if let Verdict::Accepted(after) = judge(&JOB, &base, &actor_of(&log(1)), &bytes) {
                Automerge::load(&after.bytes).expect("what is accepted loads");
            }
        }
    }
    std::panic::set_hook(hook);
    let judged = judge(&JOB, &base, &actor_of(&log(1)), &good);
    assert!(matches!(judged, Verdict::Accepted(_)));
}
