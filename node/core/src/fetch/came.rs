//! What came of requests: bytes, chunks, and how requests end.
//!
//! A chunk whose request broke is gone on with where it broke, by whomever; if it turns out
//! wrong, only one who sent all of it is a liar.

use gossip_core::id::NodeId;
use gossip_core::moment::Moment;

use super::{Action, Begun, Came, Ended, Has, Part, Plan, RequestId};

impl Plan {
    /// Bytes of a request came, as they count in the layer. What counts for nothing there, as
    /// what packs nothing, is no sign that more will come.
    pub fn bytes(&mut self, now: Moment, id: RequestId, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let Some((source, _)) = self.of(id) else { return };
        if matches!(source.has, Has::Some(_)) {
            self.shared = now;
        }
        self.progress = now;
        if let Some((source, _)) = self.of(id) {
            source.came(now, id, bytes);
        }
    }

    /// A chunk of a request came whole. For a bad one the source is answered that will not be
    /// asked again: nobody, where another had sent its beginning. All requests to it end.
    pub fn chunk_came(
        &mut self,
        now: Moment,
        id: RequestId,
        chunk: u32,
        came: Came,
    ) -> Option<(NodeId, Vec<Action>)> {
        let (source, node) = self.of(id)?;
        if let Some(asked) = source.asked.get_mut(&id) {
            asked.parts.retain(|part| part.chunk != chunk);
        }
        if came == Came::Good {
            self.progress = now;
            self.settle(chunk);
            return None;
        }
        let begun = self.begun.remove(&chunk);
        self.put_back(&[Part { chunk, skip: 0 }]);
        if begun.is_some_and(|begun| begun.by != Some(node)) {
            return None;
        }
        self.excluded.insert(node);
        Some((node, self.lost(&node)))
    }

    /// A request ended by itself.
    pub fn ended(&mut self, now: Moment, id: RequestId, how: Ended) {
        let Some((source, node)) = self.of(id) else { return };
        let Some(asked) = source.asked.remove(&id) else { return };
        let is_short = !asked.parts.is_empty();
        match how {
            Ended::Done if !is_short => source.strikes = 0,
            Ended::Done | Ended::Broke { .. } => source.strike(now),
            Ended::Refused => {
                source.strike(now);
                // What it has is told again.
                if let Has::Some(has) = &mut source.has {
                    for part in &asked.parts {
                        if let Some(has) = has.get_mut(part.chunk as usize) {
                            *has = false;
                        }
                    }
                }
            }
        }
        if let (Ended::Broke { prefix }, Some(part)) = (how, asked.parts.first()) {
            self.begin(node, *part, prefix);
        }
        self.put_back(&asked.parts);
    }

    /// How far a chunk had come when its request was called off. Answers whether that is gone
    /// on with: not if the chunk was asked of another since.
    pub fn rest(&mut self, node: NodeId, part: Part, prefix: u32) -> bool {
        let is_wanted = self.wanted.contains(&part.chunk);
        if is_wanted {
            self.begin(node, part, prefix);
        }
        is_wanted
    }

    /// Remembers how far a chunk came.
    fn begin(&mut self, node: NodeId, part: Part, prefix: u32) {
        let bytes = self.pieces.get(part.chunk as usize).map_or(0, |piece| piece.bytes);
        let prefix = prefix.min(bytes.saturating_sub(1));
        if prefix <= part.skip {
            return;
        }
        let before = self.begun.get(&part.chunk).filter(|_| part.skip > 0);
        let by =
            if before.is_none_or(|before| before.by == Some(node)) { Some(node) } else { None };
        self.begun.insert(part.chunk, Begun { bytes: prefix, by });
    }
}
