//! The images that this node has, and what one that it lacks costs a bid.
//!
//! A node that must fetch an image starts its task later by as long as that takes: the bytes
//! it lacks over the link it measured. The price is bounded below that of a second copy on
//! one node: copies spread over the cluster even where only one node has their image, for
//! the others fetch it from there.

use std::collections::BTreeSet;

use gossip_core::id::ContentHash;
use gossip_core::spec::GroupSpec;

/// What each second of fetching adds to a price: ten weigh as much as a node that is full.
const SECOND_PRICE: u64 = 100;

/// The most that fetching adds: less than another copy of the same group on the node does.
pub(crate) const FETCH_PRICE_MAX: u64 = 1400;

/// What a link carries where none was measured yet, in bytes a second: 100 Mbit/s.
const LINK_UNMEASURED: u64 = 12_500_000;

/// Taken for an image whose size its job does not say.
const BYTES_UNKNOWN: u64 = 100_000_000;

/// What a node has of images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// Ids of the images that are here, whole.
    pub held: BTreeSet<ContentHash>,
    /// What fetching brought lately, in bytes a second; `None` before the first.
    pub link: Option<u64>,
}

impl Stock {
    /// What the first copy of a group costs here for the images that it lacks.
    pub fn price(&self, group: &GroupSpec) -> u64 {
        let link = self.link.unwrap_or(LINK_UNMEASURED).max(1);
        let missing = group.tasks.iter().filter_map(|task| {
            let image = task.run.image()?;
            let lacks = image.id.is_none_or(|id| !self.held.contains(&id));
            lacks.then(|| image.bytes.unwrap_or(BYTES_UNKNOWN))
        });
        let bytes = missing.fold(0_u64, u64::saturating_add);
        (bytes.saturating_mul(SECOND_PRICE) / link).min(FETCH_PRICE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossip_core::container::{ContainerSpec, ImageSpec, RootSpec};
    use gossip_core::spec::Program;

    #[test]
    fn fetching_costs_by_the_time_it_takes_and_less_than_a_second_copy() {
        let id = ContentHash::of(b"config");
        let group = |bytes| {
            let named = ImageSpec::named("app".to_owned());
            let image = ImageSpec { id: Some(id), bytes, ..named };
            let root = RootSpec::Image(image);
            let mut spec = crate::core::tests::spec(100);
            let container = ContainerSpec::new(root, Vec::new());
            spec.groups[0].tasks[0].run = Program::Container(Box::new(container));
            spec.groups.remove(0)
        };
        let mut stock = Stock::default();
        assert_eq!(stock.price(&group(Some(125_000_000))), 1000, "ten seconds");
        assert_eq!(stock.price(&group(Some(u64::MAX))), FETCH_PRICE_MAX);
        assert!(stock.price(&group(None)) > 0);
        stock.link = Some(125_000_000);
        assert_eq!(stock.price(&group(Some(125_000_000))), 100, "a faster link");
        stock.held.insert(id);
        assert_eq!(stock.price(&group(Some(125_000_000))), 0, "it is here");
        assert_eq!(stock.price(&crate::core::tests::spec(100).groups[0]), 0, "no image");
    }
}
