//! The images that this node has, and what one that it lacks costs a bid.
//!
//! A node that must fetch an image starts its task later by as long as that takes: the bytes
//! it lacks over the link it measured. The price is bounded below that of a second copy on
//! one node: copies spread over the cluster even where only one node has their image, for
//! the others fetch it from there.

use std::collections::BTreeSet;

use gossip_core::container::ImageSpec;
use gossip_core::id::ContentHash;
use gossip_core::resources::show_bytes;
use gossip_core::spec::GroupSpec;

/// What each second of fetching adds to a price: ten weigh as much as a node that is full.
const SECOND_PRICE: u64 = 100;

/// The most that fetching adds: less than another copy of the same group on the node does.
pub(crate) const FETCH_PRICE_MAX: u64 = 1400;

/// What a link carries where none was measured yet, in bytes a second: 100 Mbit/s.
const LINK_UNMEASURED: u64 = 12_500_000;

/// Taken for an image whose size its job does not say.
const BYTES_UNKNOWN: u64 = 100_000_000;

/// How much of the disk an image takes while it is fetched: what came, and what it unpacks to.
const WHILE_FETCHED: u64 = 2;

/// What a node has of images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// Ids of the images that are here, whole.
    pub held: BTreeSet<ContentHash>,
    /// What fetching brought lately, in bytes a second; `None` before the first.
    pub link: Option<u64>,
    /// Bytes that images may still take of the disk; `None` where that is not known.
    pub room: Option<u64>,
}

impl Stock {
    /// What is lacking here to fetch the images of a group, in words.
    pub fn lacking(&self, group: &GroupSpec) -> Option<String> {
        let room = self.room?;
        let missing = self.missing(group).filter_map(|image| image.bytes);
        let bytes = missing.fold(0_u64, u64::saturating_add).saturating_mul(WHILE_FETCHED);
        let what = || format!("disk {} < {} for its image", show_bytes(room), show_bytes(bytes));
        (bytes > room).then(what)
    }

    fn missing<'a>(&'a self, group: &'a GroupSpec) -> impl Iterator<Item = &'a ImageSpec> {
        let images = group.tasks.iter().filter_map(|task| task.run.image());
        images.filter(|image| image.id.is_none_or(|id| !self.held.contains(&id)))
    }

    /// What the first copy of a group costs here for the images that it lacks.
    pub fn price(&self, group: &GroupSpec) -> u64 {
        let link = self.link.unwrap_or(LINK_UNMEASURED).max(1);
        let missing = self.missing(group).map(|image| image.bytes.unwrap_or(BYTES_UNKNOWN));
        let bytes = missing.fold(0_u64, u64::saturating_add);
        (bytes.saturating_mul(SECOND_PRICE) / link).min(FETCH_PRICE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossip_core::container::{ContainerSpec, RootSpec};
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
        stock.room = Some(0);
        assert_eq!(stock.lacking(&group(Some(1))), None, "it is here");
        stock.held.clear();
        stock.room = Some(2 << 20);
        assert_eq!(stock.lacking(&group(Some(1 << 20))), None);
        assert_eq!(stock.lacking(&group(None)), None, "nobody knows");
        let lacks = stock.lacking(&group(Some(2 << 20)));
        assert_eq!(lacks.as_deref(), Some("disk 2MiB < 4MiB for its image"));
        assert_eq!(stock.price(&crate::core::tests::spec(100).groups[0]), 0, "no image");
    }
}
