//! Several layers of one image from one that has all, over one link.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::chunks;
use super::*;

const STEP_MS: u64 = 5;

struct Layer {
    plan: Plan,
    chunks: Vec<u32>,
    /// What is left of each request, and how much came of its first chunk.
    asked: BTreeMap<RequestId, (Vec<Part>, u32)>,
    done_ms: Option<u64>,
}

impl Layer {
    fn new(seed: u64, bytes: u64, source: NodeId, now: Moment) -> Self {
        let chunks = chunks(seed, bytes);
        let mut plan = Plan::new(NodeId::new([1; 32]), now);
        chunks.iter().for_each(|bytes| plan.chunk(now, *bytes, false));
        plan.listed();
        plan.holder(now, source, Has::Whole);
        Self { plan, chunks, asked: BTreeMap::new(), done_ms: None }
    }

    fn carry(&mut self, mut budget: u64, now: Moment) {
        while budget > 0 {
            let Some((&id, (parts, have))) = self.asked.iter_mut().next() else { return };
            let Some(part) = parts.first().copied() else {
                self.asked.remove(&id);
                self.plan.ended(now, id, Ended::Done);
                continue;
            };
            let left = u64::from(self.chunks[part.chunk as usize] - *have);
            let piece = left.min(budget);
            *have += piece as u32;
            budget -= piece;
            self.plan.bytes(now, id, piece);
            if piece == left {
                parts.remove(0);
                *have = 0;
                self.plan.chunk_came(now, id, part.chunk, Came::Good);
            }
        }
    }
}

/// When each layer was there, and the most requests that ran at once.
fn fetch(sizes: &[u64], rate: u64) -> (Vec<u64>, usize) {
    let (source, began) = (NodeId::new([9; 32]), Moment(1_000));
    let layers = sizes.iter().enumerate();
    let mut layers: Vec<Layer> =
        layers.map(|(at, bytes)| Layer::new(at as u64, *bytes, source, began)).collect();
    let (mut now, mut most) = (began, 0);
    while layers.iter().any(|layer| layer.done_ms.is_none()) {
        assert!(now.0 < 600_000, "it ends");
        for at in 0..layers.len() {
            let all: usize = layers.iter().map(|layer| layer.asked.len()).sum();
            let layer = &mut layers[at];
            layer.plan.elsewhere(BTreeMap::from([(source, all - layer.asked.len())]));
            for action in layer.plan.step(now) {
                match action {
                    Action::Ask { id, parts, .. } => drop(layer.asked.insert(id, (parts, 0))),
                    Action::CallOff(id) => drop(layer.asked.remove(&id)),
                }
            }
        }
        most = most.max(layers.iter().map(|layer| layer.asked.len()).sum());
        let busy = layers.iter().filter(|layer| !layer.asked.is_empty()).count() as u64;
        for layer in layers.iter_mut().filter(|layer| layer.done_ms.is_none()) {
            layer.carry(rate * STEP_MS / 1000 / busy.max(1), now);
            if layer.plan.is_complete() {
                (layer.done_ms, _) =
                    (Some(now.since(began).as_millis() as u64), layer.asked.clear());
            }
        }
        now = now + Duration::from_millis(STEP_MS);
    }
    (layers.into_iter().filter_map(|layer| layer.done_ms).collect(), most)
}

#[test]
fn a_small_layer_need_not_wait_for_a_large_one_and_the_link_is_as_full() {
    let (done, most) = fetch(&[40 * MB, MB, 2 * MB], 10 * MB);
    assert!(done[1] < 1_000 && done[2] < 1_500, "{done:?}");
    assert!(done[0] < 4_900, "all of it as fast as the link: {done:?}");
    assert!(most <= 4, "{most} requests at once");
}

#[test]
fn however_many_layers_come_each_asks_and_none_asks_for_two() {
    let (done, most) = fetch(&[4 * MB; 8], 10 * MB);
    assert!(done.iter().all(|ms| *ms < 3_900), "{done:?}");
    assert!(most <= 9, "{most} requests at once");
}
