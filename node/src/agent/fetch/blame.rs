//! Who lied, of those who sent a layer's chunks and the list of them.
//!
//! ```text
//! the list led to the layer       ─▶ whoever's bytes disagreed with it lied
//! it led to something else        ─▶ whose list it was lied
//! nobody gives what it says       ─▶ its own author does not either: that lied;
//!                                    else another's list is tried, alone
//! ```
//!
//! Must never: blame a member for bytes that only a list disagrees with, before that list led
//! to the layer: then one liar would keep a layer from a node that an honest member has.

use std::collections::BTreeSet;

use gossip_core::id::NodeId;
use runtime::image::ImageError;

use super::Fault;
use super::run::Ended;
use crate::agent::chain;

/// What is said of a member whose bytes are not what a true list says.
pub(super) const WRONG_CHUNK: &str = "sent a wrong chunk";

/// What is to be done about a fetch that came to nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Go on without this one, of whom this is said.
    Lied(NodeId, String),
    /// It is not known who lied: try again, with this one alone if there is one.
    Doubt(Option<NodeId>),
}

/// Where the list is from.
#[derive(Clone, Copy, Debug)]
pub(super) struct List<'a> {
    /// Some of it was there before.
    pub(super) is_old: bool,
    /// Whom the rest is from.
    pub(super) by: &'a BTreeSet<NodeId>,
}

impl List<'_> {
    /// The one whose list it is, if it is of one alone.
    fn author(&self) -> Option<NodeId> {
        let first = self.by.first().copied();
        first.filter(|_| !self.is_old && self.by.len() == 1)
    }
}

/// Judges a fetch whose list was asked of these.
///
/// # Errors
///
/// If nobody is to blame.
pub(super) fn verdict(
    ended: Ended,
    list: List<'_>,
    disagreed: &BTreeSet<NodeId>,
    asked: &[NodeId],
) -> Result<Verdict, Fault> {
    match ended {
        Ended::Whole => Err(Fault::Whole),
        Ended::Disagrees(node, why) if list.author() == Some(node) => Ok(Verdict::Lied(node, why)),
        Ended::Disagrees(node, _) => Ok(Verdict::Doubt(Some(node))),
        Ended::There if disagreed.is_empty() => Err(Fault::There),
        Ended::There => match list.author().filter(|author| disagreed.contains(author)) {
            Some(author) => Ok(Verdict::Lied(author, WRONG_CHUNK.to_owned())),
            None if list.is_old => Ok(Verdict::Doubt(None)),
            None => {
                let other = asked.iter().copied().find(|node| disagreed.contains(node));
                other.map(|other| Verdict::Doubt(Some(other))).ok_or(Fault::There)
            }
        },
        Ended::Staged(
            error @ (ImageError::Mismatch { .. }
            | ImageError::Layer { .. }
            | ImageError::Document { .. }),
        ) => Ok(match list.author() {
            Some(author) => Verdict::Lied(author, chain(&error)),
            None => Verdict::Doubt(list.by.first().copied().filter(|_| !list.is_old)),
        }),
        Ended::Staged(other) => Err(Fault::Here(other)),
    }
}

#[cfg(test)]
mod tests {
    use runtime::image::Digest;

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    fn mismatch() -> Ended {
        let (wanted, found) = (Digest::of(b"1"), Digest::of(b"2"));
        Ended::Staged(ImageError::Mismatch { what: "it".into(), wanted, found })
    }

    /// By whom the list is, whether some of it is old, who disagreed, and how it ended; who is
    /// to blame then, or who is tried alone. 0 is nobody.
    type Row<'a> = (&'a [u8], bool, &'a [u8], Ended, Result<u8, u8>);

    #[test]
    fn only_whose_list_it_was_is_blamed_before_the_layer_is_found() {
        let there = || Ended::There;
        let says = |number| Ended::Disagrees(node(number), "says so".to_owned());
        let table: [Row; 12] = [
            // It led elsewhere, and others had disagreed with it.
            (&[1], false, &[2], mismatch(), Ok(1)),
            (&[1, 2], false, &[], mismatch(), Err(1)),
            (&[2], true, &[], mismatch(), Err(0)),
            // Nobody gives what it says, its author neither.
            (&[1], false, &[1, 2], there(), Ok(1)),
            (&[1], false, &[2], there(), Err(2)),
            (&[1, 2], false, &[1, 2], there(), Err(1)),
            (&[1], true, &[1], there(), Err(0)),
            // It contradicts itself, or another.
            (&[1], false, &[], says(1), Ok(1)),
            (&[1], false, &[], says(2), Err(2)),
            (&[1, 2], false, &[], says(2), Err(2)),
            (&[], true, &[], says(1), Err(1)),
            (&[], false, &[], says(1), Err(1)),
        ];
        for (by, is_old, disagreed, ended, expected) in table {
            let about = format!("{by:?} {is_old} {disagreed:?} {ended:?}");
            let (by, disagreed) = (
                by.iter().map(|number| node(*number)).collect(),
                disagreed.iter().map(|number| node(*number)).collect(),
            );
            let list = List { is_old, by: &by };
            let verdict = verdict(ended, list, &disagreed, &[node(1), node(2)]);
            let number = |of: NodeId| of.as_bytes()[0];
            let found = match verdict.expect("somebody is") {
                Verdict::Lied(of, _) => Ok(number(of)),
                Verdict::Doubt(of) => Err(of.map_or(0, number)),
            };
            assert_eq!(found, expected, "{about}");
        }
    }

    #[test]
    fn nobody_is_blamed_for_a_link_that_is_cut_or_a_disk_that_is_full() {
        let (by, nobody) = ([node(1)].into(), BTreeSet::new());
        let list = List { is_old: false, by: &by };
        let judged = verdict(Ended::There, list, &nobody, &[node(1)]);
        assert!(matches!(judged, Err(Fault::There)), "{judged:?}");
        // Whoever fetches too and was led astray has no list to be tried with.
        let judged = verdict(Ended::There, list, &[node(9)].into(), &[node(1)]);
        assert!(matches!(judged, Err(Fault::There)), "{judged:?}");
        let full = std::io::ErrorKind::StorageFull.into();
        let full = Ended::Staged(ImageError::Read { what: "it".into(), source: full });
        assert!(matches!(verdict(full, list, &nobody, &[node(1)]), Err(Fault::Here(_))));
    }
}
