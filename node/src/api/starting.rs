//! Tasks that start, for whoever follows their job: which node has one, and how far the image
//! is that it fetches first.
//!
//! Told when a task is first seen so, and then as its image comes; only changes are told.

use std::collections::BTreeMap;
use std::time::Duration;

use gossip_core::id::NodeId;
use starling_core::fetch::Fetching;
use starling_core::view::TaskView;
use tokio::time::Instant;

use super::fetching;
use super::logs::{Left, Lines};
use super::types::LogItem;
use crate::agent::Doors;

/// Between two looks at images that come. What starts sooner was not waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Tasks of one job that are told of: more than a line or two of progress nobody reads.
const TASKS_MAX: usize = 16;

type Place = (u64, u32, NodeId);

/// What was told of them.
pub(super) struct Starting {
    doors: Doors,
    lines: Lines,
    told: BTreeMap<Place, Option<Fetching>>,
    look_at: Instant,
}

impl Starting {
    pub(super) fn new(doors: Doors, lines: Lines) -> Self {
        Self { doors, lines, told: BTreeMap::new(), look_at: Instant::now() }
    }

    /// Tells what is new of those that start.
    pub(super) async fn tell(&mut self, tasks: &[TaskView]) -> Result<(), Left> {
        let is_starting = |task: &&TaskView| task.state == "starting" && task.node.is_some();
        let mut starting: Vec<TaskView> =
            tasks.iter().filter(is_starting).take(TASKS_MAX).cloned().collect();
        if starting.is_empty() {
            self.told.clear();
            return Ok(());
        }
        if self.told.is_empty() {
            self.look_at = Instant::now() + LOOK_EVERY;
        }
        let is_due = self.look_at <= Instant::now();
        if is_due {
            // Without an answer there is no detail.
            let _ = fetching::fill(&self.doors, &mut starting).await;
            self.look_at = Instant::now() + LOOK_EVERY;
        }
        for task in starting {
            let Some(node) = task.node else { continue };
            let place = (task.tender, task.slot.index, node);
            let is_news = match self.told.get(&place) {
                None => true,
                Some(before) => is_due && *before != task.fetching,
            };
            if is_news {
                let (task, node, fetching) = (task.task, task.node_name, task.fetching);
                self.told.insert(place, fetching.clone());
                self.lines.item(&LogItem::Starting { task, node, fetching }).await?;
            }
        }
        Ok(())
    }

    /// Until there may be news of images that come; for ever while none does.
    pub(super) async fn due(&self) {
        if self.told.is_empty() {
            std::future::pending().await
        }
        tokio::time::sleep_until(self.look_at).await;
    }
}
