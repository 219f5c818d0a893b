//! What a store has and who holds what of it, in memory: looked up by every launch.
//!
//! Pure: no disk, no clock. The disk follows it or comes before it, as `commit` and
//! `removal` say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use super::super::{Digest, ImageConfig, ImageError, Reference};
use super::record::{ImageRecord, LayerRecord};
use super::stage::Fresh;
use super::{ImageInfo, LayerInfo};

/// Configs kept parsed: those of all images that a machine starts often.
const CONFIGS_MAX: usize = 64;

/// Fewest digits that name an image.
const DIGITS_MIN: usize = 2;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) images: BTreeMap<Digest, ImageRecord>,
    pub(super) names: BTreeMap<Reference, Digest>,
    pub(super) layers: BTreeMap<Digest, LayerRecord>,
    /// Those of the layers whose files are not what they were: to be had again, and told to
    /// nobody.
    pub(super) damaged: BTreeSet<Digest>,
    /// What lies aside of layers that were damaged and had again, for tasks that still run
    /// from it.
    pub(super) replaced: BTreeMap<Digest, Vec<String>>,
    /// When images were used last, in milliseconds since 1970.
    pub(super) used: BTreeMap<Digest, u64>,
    /// Whether that is not written down yet.
    pub(super) used_is_news: bool,
    /// Layers being staged whose digest is known before.
    pub(super) busy: BTreeMap<Digest, Arc<AtomicU64>>,
    /// Layers that are staged.
    pub(super) fresh: BTreeMap<Digest, Weak<Fresh>>,
    configs: BTreeMap<Digest, Arc<ImageConfig>>,
    held_images: BTreeMap<Digest, usize>,
    held_layers: BTreeMap<Digest, usize>,
}

/// What people meant by a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// An image by one of its names.
    Name(Reference, Digest),
    /// An image by its id or manifest.
    Image(Digest),
}

impl State {
    pub(super) fn info(&self, id: &Digest) -> Option<ImageInfo> {
        let record = self.images.get(id)?;
        Some(ImageInfo {
            id: *id,
            manifest: record.manifest,
            names: self.names_of(id),
            layers: record.layers.clone(),
            created: record.created.clone(),
            platform: record.platform.clone(),
            came_ms: record.came_ms,
            used_ms: self.used.get(id).copied(),
            origin: record.origin,
            in_use: self.is_held(id),
            damaged: self.damaged_of(record),
        })
    }

    /// A layer that is here and what it should be.
    pub(super) fn sound(&self, layer: &Digest) -> Option<&LayerRecord> {
        self.layers.get(layer).filter(|_| !self.damaged.contains(layer))
    }

    /// Which layers of an image are damaged.
    pub(super) fn damaged_of(&self, record: &ImageRecord) -> Vec<Digest> {
        let layers = record.layers.iter().map(|layer| layer.diff_id);
        layers.filter(|layer| self.damaged.contains(layer)).collect()
    }

    /// What lies aside of some layers that nobody holds.
    pub(super) fn take_replaced(&mut self, among: &[Digest]) -> Vec<String> {
        let free = among.iter().filter(|layer| !self.held_layers.contains_key(layer));
        free.filter_map(|layer| self.replaced.remove(layer)).flatten().collect()
    }

    pub(super) fn names_of(&self, id: &Digest) -> Vec<Reference> {
        let of_it = self.names.iter().filter(|(_, image)| *image == id);
        of_it.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn is_held(&self, id: &Digest) -> bool {
        self.held_images.contains_key(id)
    }

    /// When something last needed an image to be here.
    pub(super) fn last_needed_ms(&self, id: &Digest) -> u64 {
        let came = self.images.get(id).map_or(0, |record| record.came_ms);
        self.used.get(id).copied().unwrap_or_default().max(came)
    }

    /// The image of a name, by the name itself or by the manifest that it says.
    pub(super) fn named(&self, name: &Reference) -> Option<Digest> {
        self.names.get(name).copied().or_else(|| {
            let manifest = name.digest()?;
            let has = |record: &ImageRecord| record.manifest.as_ref() == Some(manifest);
            self.images.iter().find(|(_, record)| has(record)).map(|(id, _)| *id)
        })
    }

    /// What people mean: an id or its first digits, but a name first.
    pub(super) fn meant(&self, text: &str) -> Result<Meant, ImageError> {
        let unknown = || ImageError::Unknown { wanted: text.chars().take(300).collect() };
        if let Ok(id) = text.parse::<Digest>() {
            return self.images.contains_key(&id).then_some(Meant::Image(id)).ok_or_else(unknown);
        }
        if let Ok(name) = text.parse::<Reference>() {
            match (self.names.get(&name), self.named(&name)) {
                (Some(id), _) => return Ok(Meant::Name(name, *id)),
                (None, Some(id)) => return Ok(Meant::Image(id)),
                (None, None) => {}
            }
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() < DIGITS_MIN || !digits.bytes().all(hex) {
            // A name that is none is said so, rather than not found.
            return Err(text.parse::<Reference>().err().map_or_else(unknown, Into::into));
        }
        let begun: Vec<_> =
            self.images.keys().filter(|id| id.hex().starts_with(digits)).copied().collect();
        match begun.as_slice() {
            [] => Err(unknown()),
            [id] => Ok(Meant::Image(*id)),
            more => Err(ImageError::Ambiguous { wanted: text.to_owned(), count: more.len() }),
        }
    }

    /// The layers to mount for an image, lowest first: none that is hidden whole by one above
    /// it, and none twice, for overlay takes each once. A layer that comes again has all of
    /// itself to say at its highest place.
    pub(super) fn stack(&self, layers: &[LayerInfo]) -> Vec<Digest> {
        let mut stack = Vec::new();
        let mut seen = BTreeSet::new();
        for LayerInfo { diff_id, .. } in layers.iter().rev() {
            if seen.insert(*diff_id) {
                stack.push(*diff_id);
            }
            if self.layers.get(diff_id).is_some_and(|layer| layer.hides_all) {
                break;
            }
        }
        stack.reverse();
        stack
    }

    /// Images that are mounted from just these layers.
    pub(super) fn images_of(&self, stack: &[Digest]) -> Vec<Digest> {
        let same = |record: &ImageRecord| self.stack(&record.layers) == stack;
        self.images.iter().filter(|(_, record)| same(record)).map(|(id, _)| *id).collect()
    }

    pub(super) fn hold(&mut self, images: &[Digest], layers: &[Digest]) {
        for id in images {
            *self.held_images.entry(*id).or_default() += 1;
        }
        for id in layers {
            *self.held_layers.entry(*id).or_default() += 1;
        }
    }

    /// Ends a hold; returns its layers that nobody needs any more.
    pub(super) fn release(&mut self, images: &[Digest], layers: &[Digest]) -> Vec<Digest> {
        images.iter().for_each(|id| count_down(&mut self.held_images, id));
        layers.iter().for_each(|id| count_down(&mut self.held_layers, id));
        self.orphans(layers)
    }

    /// Whether these layers would have nobody else if one hold on them ended.
    pub(super) fn are_last(&self, layers: &[Digest]) -> bool {
        let needed = self.needed();
        let goes = |id: &Digest| !needed.contains(id) || self.replaced.contains_key(id);
        layers.iter().any(|id| goes(id) && self.held_layers.get(id) == Some(&1))
    }

    /// Those of some layers that no image has and nobody holds.
    pub(super) fn orphans(&self, among: &[Digest]) -> Vec<Digest> {
        if among.is_empty() {
            return Vec::new();
        }
        let needed = self.needed();
        let mut orphans: Vec<_> = among
            .iter()
            .filter(|id| self.layers.contains_key(id) && !needed.contains(id))
            .filter(|id| !self.held_layers.contains_key(id))
            .copied()
            .collect();
        orphans.sort();
        orphans.dedup();
        orphans
    }

    fn needed(&self) -> BTreeSet<Digest> {
        let layers = self.images.values().flat_map(|record| &record.layers);
        layers.map(|layer| layer.diff_id).collect()
    }

    /// A config that was parsed before.
    pub(super) fn config(&self, id: &Digest) -> Option<Arc<ImageConfig>> {
        self.configs.get(id).cloned()
    }

    pub(super) fn keep_config(&mut self, id: Digest, config: Arc<ImageConfig>) {
        if self.configs.len() >= CONFIGS_MAX {
            self.configs.clear();
        }
        self.configs.insert(id, config);
    }

    /// Forgets an image and its names; returns what may be needed to take that back.
    pub(super) fn forget(&mut self, id: &Digest) -> Option<ImageRecord> {
        self.names.retain(|_, image| image != id);
        self.configs.remove(id);
        self.used_is_news |= self.used.remove(id).is_some();
        self.images.remove(id)
    }
}

fn count_down(counts: &mut BTreeMap<Digest, usize>, id: &Digest) {
    if let Some(count) = counts.get_mut(id) {
        *count -= 1;
        if *count == 0 {
            counts.remove(id);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
mod tests {
    use super::super::Origin;
    use super::*;

    fn digest(first: u8) -> Digest {
        let mut sum = [0; 32];
        sum[0] = first;
        Digest::new(sum)
    }

    fn image(layers: &[u8], came_ms: u64) -> ImageRecord {
        let layer = |first: &u8| LayerInfo { diff_id: digest(*first), bytes: 1 };
        ImageRecord {
            version: 1,
            manifest: None,
            created: None,
            platform: String::new(),
            came_ms,
            origin: Origin::Asked,
            layers: layers.iter().map(layer).collect(),
        }
    }

    /// Images 0xa1 of layers 1 2, 0xa2 of layers 2 3 and 0xb1 of 3.
    fn state() -> State {
        let mut state = State::default();
        for (first, layers) in [(0xa1, &[1, 2][..]), (0xa2, &[2, 3]), (0xb1, &[3])] {
            state.images.insert(digest(first), image(layers, u64::from(first)));
        }
        for layer in 1..=4 {
            state.layers.insert(digest(layer), LayerRecord::new(1, layer == 4, digest(layer)));
        }
        state.names.insert("a1".parse().unwrap(), digest(0xb1));
        state
    }

    #[test]
    fn people_mean_a_name_before_digits_and_digits_only_if_one_image_has_them() {
        let state = state();
        let name = "a1".parse().unwrap();
        assert_eq!(state.meant("a1").unwrap(), Meant::Name(name, digest(0xb1)));
        assert_eq!(state.meant("a10").unwrap(), Meant::Image(digest(0xa1)));
        assert_eq!(state.meant("sha256:b1").unwrap(), Meant::Image(digest(0xb1)));
        let whole = digest(0xa2).to_string();
        assert_eq!(state.meant(&whole).unwrap(), Meant::Image(digest(0xa2)));
        assert!(matches!(state.meant("a"), Err(ImageError::Unknown { .. })));
        assert!(matches!(state.meant("c1"), Err(ImageError::Unknown { .. })));
        assert!(matches!(state.meant(""), Err(ImageError::Reference(_))));
        let mut state = state;
        state.names.clear();
        state.images.insert(digest(0xa1), image(&[], 0));
        let mut other = [0; 32];
        other[..2].copy_from_slice(&[0xa1, 1]);
        state.images.insert(Digest::new(other), image(&[], 0));
        assert!(matches!(state.meant("a1"), Err(ImageError::Ambiguous { count: 2, .. })));
    }

    #[test]
    fn a_layer_is_an_orphan_once_neither_image_nor_hand_has_it() {
        let mut state = state();
        let all: Vec<_> = (1..=4).map(digest).collect();
        assert_eq!(state.orphans(&all), [digest(4)]);
        state.hold(&[digest(0xa1)], &[digest(1), digest(2)]);
        state.hold(&[digest(0xa1)], &[digest(1), digest(2)]);
        assert!(state.is_held(&digest(0xa1)));
        assert!(state.forget(&digest(0xa1)).is_some());
        assert!(!state.are_last(&[digest(1)]), "there is another hand");
        assert_eq!(state.release(&[digest(0xa1)], &[digest(1), digest(2)]), []);
        assert!(state.are_last(&[digest(1)]) && !state.are_last(&[digest(2)]));
        assert_eq!(state.release(&[digest(0xa1)], &[digest(1), digest(2)]), [digest(1)]);
        assert!(!state.is_held(&digest(0xa1)));
        assert_eq!(state.orphans(&all), [digest(1), digest(4)]);
    }

    #[test]
    fn a_stack_ends_at_what_hides_all_and_has_each_layer_at_its_highest() {
        let state = state();
        let stack = |layers: &[u8]| state.stack(&image(layers, 0).layers);
        let digests = |layers: &[u8]| layers.iter().map(|first| digest(*first)).collect::<Vec<_>>();
        assert_eq!(stack(&[1, 2, 3]), digests(&[1, 2, 3]));
        assert_eq!(stack(&[1, 2, 1]), digests(&[2, 1]));
        assert_eq!(stack(&[1, 4, 2, 3]), digests(&[4, 2, 3]));
        assert_eq!(stack(&[4, 1, 4]), digests(&[4]));
        assert_eq!(state.images_of(&digests(&[3])), [digest(0xb1)]);
        assert_eq!(state.images_of(&digests(&[1])), []);
    }
}
