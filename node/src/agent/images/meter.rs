//! How far each image is that is on its way here, for whoever asks.
//!
//! ```text
//! fetch of layers ─┐                        ┌─▶ this node's users, and members that ask
//! pull ────────────┴─▶ Meter ─▶ Meters ─────┴─▶ whoever waits for that pull
//! ```
//!
//! Read when somebody asks, and told to nobody else: how far a fetch is changes all the time,
//! and is worth no word to those who do not look.
//!
//! Must never: keep what is over. A meter goes with the fetch that it belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gossip_core::id::NodeId;
use runtime::image::chunks::SpoolView;
use runtime::image::{Digest, Progress, Stage};

/// Members that are named beside one fetch: more are no help to whoever reads it.
const GIVERS_MAX: usize = 8;

/// Who gave some of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Giver {
    /// A member.
    Member(NodeId),
    /// A registry.
    Host(String),
}

/// How far one image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The digest of its config, where that is known.
    pub(crate) id: Option<Digest>,
    /// What whoever wants it calls it.
    pub(crate) name: String,
    /// Of what this node lacked.
    pub(crate) bytes: u64,
    /// What it lacked, where that is known of every layer.
    pub(crate) of: Option<u64>,
    pub(crate) from: BTreeSet<Giver>,
}

/// All that are on their way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meters(Arc<Mutex<Vec<Weak<Mutex<State>>>>>);

/// One of them, for as long as this lives.
#[derive(Clone, Debug)]
pub(crate) struct Meter(Arc<Mutex<State>>);

/// The same, for whoever does not keep it.
#[derive(Clone, Debug)]
pub(crate) struct WeakMeter(Weak<Mutex<State>>);

#[derive(Debug)]
struct State {
    id: Option<Digest>,
    name: String,
    /// By what people know the layer by.
    layers: BTreeMap<String, Layer>,
    from: BTreeSet<Giver>,
    /// All that is left to do is done by that one.
    through: Option<Meter>,
}

#[derive(Debug)]
enum Layer {
    /// It is lacked, and has so many bytes.
    Lacked(u64),
    /// It comes in chunks.
    Coming(SpoolView),
    /// It comes from its beginning to its end.
    Told(Progress),
}

impl Layer {
    fn bytes(&self) -> (u64, Option<u64>) {
        match self {
            Self::Lacked(of) => (0, Some(*of)),
            Self::Coming(view) => (view.ranges().bytes(), Some(view.bytes())),
            // It was here before.
            Self::Told(told) if told.stage == Stage::Known => (0, Some(0)),
            Self::Told(told) => (told.bytes, told.of),
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Meters {
    /// Of an image that is fetched from now on.
    pub(crate) fn begin(&self, id: Option<Digest>, name: &str) -> Meter {
        let (layers, from, through) = Default::default();
        let state = State { id, name: name.to_owned(), layers, from, through };
        let state = Arc::new(Mutex::new(state));
        let mut all = held(&self.0);
        all.retain(|state| state.strong_count() > 0);
        all.push(Arc::downgrade(&state));
        Meter(state)
    }

    /// How far each is.
    pub(crate) fn read(&self) -> Vec<Reading> {
        let all: Vec<_> = held(&self.0).iter().filter_map(Weak::upgrade).collect();
        all.iter().map(|state| held(state).read()).collect()
    }
}

impl Meter {
    /// A layer of so many bytes is not here.
    pub(crate) fn lacks(&self, layer: &Digest, bytes: u64) {
        held(&self.0).layers.insert(layer.short(), Layer::Lacked(bytes));
    }

    /// A layer comes in chunks, in whichever order.
    pub(crate) fn coming(&self, layer: &Digest, view: SpoolView) {
        held(&self.0).layers.insert(layer.short(), Layer::Coming(view));
    }

    /// A layer is here.
    pub(crate) fn came(&self, layer: &Digest, bytes: u64) {
        let layer = Some(layer.short());
        self.tell(Progress { layer, stage: Stage::Done, bytes, of: Some(bytes) });
    }

    /// A layer went on.
    pub(crate) fn tell(&self, progress: Progress) {
        let Some(layer) = progress.layer.clone() else { return };
        let mut state = held(&self.0);
        let of = progress.of.or_else(|| state.layers.get(&layer).and_then(|it| it.bytes().1));
        state.layers.insert(layer, Layer::Told(Progress { of, ..progress }));
    }

    /// Who gave some of it.
    pub(crate) fn from(&self, giver: Giver) {
        let mut state = held(&self.0);
        if state.from.len() < GIVERS_MAX {
            state.from.insert(giver);
        }
    }

    /// From now on the image comes by another way, which has a meter of its own.
    pub(crate) fn through(&self, other: Meter) {
        held(&self.0).through = Some(other);
    }

    /// For whoever does not keep it.
    pub(crate) fn downgrade(&self) -> WeakMeter {
        WeakMeter(Arc::downgrade(&self.0))
    }

    /// How far each layer is of which that was told.
    pub(crate) fn told(&self) -> Vec<Progress> {
        let state = held(&self.0);
        let told = state.layers.values().filter_map(|layer| match layer {
            Layer::Told(told) => Some(told.clone()),
            Layer::Lacked(_) | Layer::Coming(_) => None,
        });
        told.collect()
    }
}

impl WeakMeter {
    /// The meter, if its fetch is not over.
    pub(crate) fn upgrade(&self) -> Option<Meter> {
        self.0.upgrade().map(Meter)
    }
}

impl State {
    fn read(&self) -> Reading {
        if let Some(through) = &self.through {
            return Reading { id: self.id, name: self.name.clone(), ..held(&through.0).read() };
        }
        let (mut bytes, mut of) = (0_u64, (!self.layers.is_empty()).then_some(0_u64));
        for layer in self.layers.values() {
            let (came, whole) = layer.bytes();
            bytes = bytes.saturating_add(came);
            of = of.zip(whole).map(|(sum, whole)| sum.saturating_add(whole.max(came)));
        }
        let (name, from) = (self.name.clone(), self.from.clone());
        Reading { id: self.id, name, bytes, of, from }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(layer: &str, stage: Stage, bytes: u64, of: Option<u64>) -> Progress {
        Progress { layer: Some(layer.to_owned()), stage, bytes, of }
    }

    #[test]
    fn what_is_lacked_and_what_came_is_summed_up_and_what_was_here_is_not() {
        let meters = Meters::default();
        let meter = meters.begin(None, "app:1");
        let read = || {
            let all = meters.read();
            all.first().map(|it| (it.bytes, it.of))
        };
        assert_eq!(read(), Some((0, None)), "nothing is known yet");
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        meter.lacks(&one, 100);
        meter.lacks(&two, 50);
        assert_eq!(read(), Some((0, Some(150))));
        // Whoever tells of a layer may not know how long it is.
        meter.tell(told(&one.short(), Stage::Working, 30, None));
        assert_eq!(read(), Some((30, Some(150))));
        meter.came(&two, 50);
        meter.tell(told("x", Stage::Known, 7000, Some(7000)));
        assert_eq!(read(), Some((80, Some(150))));
        meter.tell(told("y", Stage::Working, 1, None));
        assert_eq!(read(), Some((81, None)), "of one it is not known");
        assert_eq!(meter.told().len(), 4);
    }

    #[test]
    fn a_meter_goes_with_its_fetch() {
        let meters = Meters::default();
        let (meter, other) = (meters.begin(None, "a"), meters.begin(None, "b"));
        let shared = meter.clone();
        drop(meter);
        assert_eq!(meters.read().len(), 2, "somebody has it still");
        drop((shared, other));
        assert!(meters.read().is_empty());
        let _third = meters.begin(None, "c");
        assert_eq!(held(&meters.0).len(), 1, "nothing is kept of those that are over");
    }

    #[test]
    fn an_image_that_comes_another_way_is_as_far_as_that() {
        let meters = Meters::default();
        let (wanted, pull) =
            (meters.begin(Some(Digest::of(b"app")), "app:1"), meters.begin(None, "x"));
        wanted.lacks(&Digest::of(b"1"), 100);
        wanted.through(pull.clone());
        pull.from(Giver::Host("h".to_owned()));
        pull.tell(told("1", Stage::Working, 3, Some(10)));
        let reading = meters.read().remove(0);
        assert_eq!((reading.id, reading.name.as_str()), (Some(Digest::of(b"app")), "app:1"));
        assert_eq!((reading.bytes, reading.of, reading.from.len()), (3, Some(10), 1));
    }

    #[test]
    fn not_all_who_give_are_named() {
        let meters = Meters::default();
        let meter = meters.begin(None, "a");
        for number in 0..100 {
            meter.from(Giver::Member(NodeId::new([number; 32])));
        }
        assert_eq!(meters.read()[0].from.len(), GIVERS_MAX);
    }
}
