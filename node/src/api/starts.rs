//! What one allocation wrote on this node, start after start.
//!
//!     … 39 40   41 ──ended──▶ 42 ──runs──▶ (43)
//!     removed   kept          kept         awaited while the allocation lives
//!
//! The agent removes the output of old starts, so numbers begin anywhere, and
//! a crash may make them jump. The runtime has no list of them: they are looked
//! for around the number that the claim tells.

use std::ops::Range;
use std::time::Duration;

use gossip_core::moment::WallTime;
use gossip_core::slot::SlotId;
use gossip_core::spec::{GroupSpec, JobKind};
use runtime::{LogError, LogRecord, LogRequest, LogStream, TaskId};
use starling_core::Core;

use super::logs::{Left, Lines, Source};
use super::spot;
use super::types::LogItem;
use crate::agent::{Doors, task_prefix, wall_now};

/// How far the number of a start may be from what the claim tells, and from the one before.
const STARTS_AROUND: u32 = 64;

/// How many starts of a service are looked for where nothing tells the number: a month of
/// the longest pauses.
const STARTS_MAX: u32 = 100_000;

/// How many of them in a row, before others get their turn.
const PROBES_AT_ONCE: u32 = 256;

/// How often it is looked whether the allocation lives, if nothing changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why not all was sent.
#[derive(Debug)]
enum Stopped {
    Left,
    Log(LogError),
}

impl From<Left> for Stopped {
    fn from(_: Left) -> Self {
        Self::Left
    }
}

impl From<LogError> for Stopped {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// Sends what this node has of an allocation's output; if it follows, until the allocation ends.
pub(super) async fn send(doors: &Doors, source: &Source, follow: bool, lines: &Lines) {
    let starts = Starts { doors, source, lines };
    let sent = tokio::select! {
        sent = starts.send(follow) => sent,
        () = lines.left() => return,
        () = doors.stop.cancelled() => return lines.cut_off().await,
    };
    if let Err(Stopped::Log(error)) = sent {
        let message = format!("{}: {error}", source.label);
        // The reader left: nobody is there to be told.
        let _ = lines.item(&LogItem::Notice { message }).await;
    }
}

struct Starts<'a> {
    doors: &'a Doors,
    source: &'a Source,
    lines: &'a Lines,
}

impl Starts<'_> {
    async fn send(&self, follow: bool) -> Result<(), Stopped> {
        let mut changes = self.doors.agent.changes();
        let mut next = 0;
        let plan = self.plan().await?;
        self.tell_what_is_gone(&plan).await?;
        for (start, tail) in plan {
            self.read(start, LogRequest { follow, tail }).await?;
            next = start + 1;
        }
        if !follow {
            return Ok(());
        }
        loop {
            changes.mark_unchanged();
            // In this order: once it does not live, no start comes that is not there already.
            let held = self.held().await;
            let newest = held.unwrap_or(0).max(next);
            match self.first(next..newest.saturating_add(STARTS_AROUND)).await? {
                Some(start) => {
                    self.read(start, LogRequest { follow, tail: None }).await?;
                    next = start + 1;
                }
                None if held.is_none() => return Ok(()),
                None => {
                    let changed = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
                    if let Ok(Err(_agent_gone)) = changed {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Says that earlier starts wrote too, to whoever asked for all.
    async fn tell_what_is_gone(&self, plan: &[(u32, Option<usize>)]) -> Result<(), Left> {
        match plan.first() {
            Some((1.., None)) => {
                let label = &self.source.label;
                let message =
                    format!("{label} was started before; what it wrote then is not kept any more");
                self.lines.item(&LogItem::Notice { message }).await
            }
            _ => Ok(()),
        }
    }

    /// The starts that are kept, and how many of each one's last lines are wanted.
    async fn plan(&self) -> Result<Vec<(u32, Option<usize>)>, LogError> {
        let kept = self.kept().await?;
        let Some(mut wanted) = self.source.tail else {
            return Ok(kept.into_iter().map(|start| (start, None)).collect());
        };
        let Some((newest, older)) = kept.split_last() else { return Ok(Vec::new()) };
        // The newest is read in any case, for more may come.
        let mut plan = vec![(*newest, Some(wanted))];
        let mut later = *newest;
        for start in older.iter().rev() {
            wanted = wanted.saturating_sub(self.count(later, wanted).await?);
            if wanted == 0 {
                break;
            }
            plan.push((*start, Some(wanted)));
            later = *start;
        }
        plan.reverse();
        Ok(plan)
    }

    async fn kept(&self) -> Result<Vec<u32>, LogError> {
        let held = self.held().await;
        let around = held.unwrap_or(0).saturating_sub(STARTS_AROUND)
            ..held.unwrap_or(0).saturating_add(STARTS_AROUND);
        let mut found = self.first(around).await?;
        let far = match held {
            Some(restarts) => restarts > 0,
            None => self.was_restarted().await,
        };
        if found.is_none() && far {
            found = self.first(0..STARTS_MAX).await?;
        }
        let mut kept = Vec::new();
        while let Some(start) = found {
            kept.push(start);
            found = self.first(start + 1..start.saturating_add(STARTS_AROUND)).await?;
        }
        Ok(kept)
    }

    async fn first(&self, range: Range<u32>) -> Result<Option<u32>, LogError> {
        for start in range {
            if start % PROBES_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            let Some(id) = self.id(start) else { return Ok(None) };
            match self.doors.runtime.logs(&id, LogRequest::default()).await {
                Ok(_reader) => return Ok(Some(start)),
                Err(LogError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn id(&self, start: u32) -> Option<TaskId> {
        let Source { tender, index, .. } = *self.source;
        format!("{}{start}", task_prefix(tender, index)).parse().ok()
    }

    /// How many of its last lines a start has, up to so many.
    async fn count(&self, start: u32, most: usize) -> Result<usize, LogError> {
        let Some(id) = self.id(start) else { return Ok(0) };
        let request = LogRequest { follow: false, tail: Some(most) };
        let mut reader = match self.doors.runtime.logs(&id, request).await {
            Err(LogError::Unknown { .. }) => return Ok(0),
            opened => opened?,
        };
        let (mut lines, mut ended) = (0, true);
        let asked_at = wall_now();
        while let Some(record) = reader.next().await? {
            if is_later(&record, asked_at) {
                break;
            }
            if let LogRecord::Output { bytes, .. } = record {
                lines += bytes.iter().filter(|byte| **byte == b'\n').count();
                ended = bytes.ends_with(b"\n");
            }
        }
        Ok(lines + usize::from(!ended))
    }

    async fn read(&self, start: u32, request: LogRequest) -> Result<(), Stopped> {
        let Some(id) = self.id(start) else { return Ok(()) };
        let mut reader = match self.doors.runtime.logs(&id, request).await {
            // Removed since it was found.
            Err(LogError::Unknown { .. }) => return Ok(()),
            opened => opened?,
        };
        let asked_at = wall_now();
        while let Some(record) = reader.next().await? {
            if !request.follow && is_later(&record, asked_at) {
                break;
            }
            self.lines.item(&self.item(record)).await?;
        }
        Ok(())
    }

    fn item(&self, record: LogRecord) -> LogItem {
        let task = &self.source.label;
        match record {
            LogRecord::Output { unix_ns, stream, bytes, .. } => LogItem::Output {
                task: task.clone(),
                node: self.doors.facts.name.clone(),
                at_ns: unix_ns,
                stream: if stream == LogStream::Stdout { 1 } else { 2 },
                data: data_encoding::BASE64.encode(&bytes),
            },
            LogRecord::Missing { bytes } => {
                let much = bytes.map_or("some".to_owned(), |bytes| format!("{bytes} bytes of"));
                LogItem::Notice { message: format!("{task}: {much} output was dropped here") }
            }
        }
    }

    /// How often it was started again, if it lives here. The newest start may have a higher number.
    async fn held(&self) -> Option<u32> {
        let Source { tender, index, .. } = *self.source;
        spot::restarts(self.doors, tender, index).await.ok().flatten()
    }

    /// Whether it was a task that may have been started often: a service's, or one with a rule.
    async fn was_restarted(&self) -> bool {
        let Source { tender, index, .. } = *self.source;
        let look = move |core: &Core, _| {
            let state = core.state();
            state.jobs().any(|(job, _)| {
                let spec = state.spec_of(job).map(|(_, spec)| spec);
                spec.is_some_and(|spec| {
                    let ruled =
                        |group: &GroupSpec| group.tasks.iter().any(|it| it.restart.is_some());
                    (spec.kind == JobKind::Service || spec.groups.iter().any(ruled))
                        && spec.groups.iter().any(|group| {
                            let slot = SlotId { job: *job, group: group.name.clone(), index };
                            state.outcomes(&slot).any(|(rank, _)| rank.epoch.tender == tender)
                        })
                })
            })
        };
        self.doors.agent.look(look).await.unwrap_or(false)
    }
}
/// Whether a task wrote it only after somebody asked: one that never stops writing would be read for ever.
fn is_later(record: &LogRecord, asked_at: WallTime) -> bool {
    matches!(record, LogRecord::Output { unix_ns, .. } if unix_ns / 1_000_000 > asked_at.0)
}
