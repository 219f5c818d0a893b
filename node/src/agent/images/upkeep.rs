//! Frees the disk of images that only came because a task needed them once.
//!
//! Must never: remove what somebody loaded or pulled, or what a task runs from; the store
//! itself knows both.

use std::path::Path;
use std::time::Duration;

use gossip_core::spec::Program;
use runtime::image::{Digest, Held, ImageError, Images, Removed};
use starling_core::Core;
use tokio::time::Instant;

use super::{change_store, in_store};
use crate::agent::{Doors, Gone, chain};

/// How long an image that no task runs from stays: over a long weekend, so that Monday's
/// runs of a weekly job's image do not fetch it again.
const UNUSED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long files stay that plain processes brought along and that no live job needs: each
/// run sends them anew, so that they are only kept for the next few of a loop.
const SHIPPED_UNUSED_FOR: Duration = Duration::from_secs(10 * 60);

/// How often old ones are looked for; age is counted in days.
const OLD_EVERY: Duration = Duration::from_secs(3600);

/// How often the room on the disk is looked at; a fast disk fills a tenth of itself in
/// minutes.
const ROOM_EVERY: Duration = Duration::from_secs(60);

/// What is kept free for what tasks write: a tenth of the disk, which is where file systems
/// begin to be slow, and on large disks no more than this.
const ROOM_BYTES_MAX: u64 = 20 << 30;

/// Looks after the images of this node until the agent goes down.
pub(in crate::agent) async fn keep(doors: Doors) {
    let mut old_at = Instant::now() + OLD_EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(ROOM_EVERY) => {}
            () = doors.stop.cancelled() => return,
        }
        if collect_shipped(&doors, SHIPPED_UNUSED_FOR).await.is_err() {
            return;
        }
        // What was found damaged since is no longer bid with.
        doors.supply.touch();
        let room = room(&doors.facts.data);
        let is_short = room.is_some_and(|(free, wanted)| free < wanted);
        if !is_short && Instant::now() < old_at {
            continue;
        }
        old_at = Instant::now() + OLD_EVERY;
        let wanted = room.map_or(0, |(_, wanted)| wanted);
        let Ok(needed) = needed(&doors, Need::Files).await else { return };
        let collect = move |images: &Images| {
            let _held = hold(images, &needed);
            images.collect(UNUSED_FOR, wanted)
        };
        tell(change_store(&doors, collect).await);
    }
}

fn tell(removed: Result<Removed, ImageError>) {
    match removed {
        Ok(removed) if removed.images.is_empty() => {}
        Ok(removed) => {
            let (images, bytes) = (removed.images.len(), removed.bytes);
            tracing::info!(images, bytes, "removed images that no task needs any more");
        }
        Err(error) => tracing::warn!(error = chain(&error), "old images stay"),
    }
}

/// Removes the files of processes whose job is over.
async fn collect_shipped(doors: &Doors, age: Duration) -> Result<(), Gone> {
    let old = match in_store(doors, move |images| Ok(images.shipped(age))).await {
        Ok(old) if !old.is_empty() => old,
        _ => return Ok(()),
    };
    let needed = needed(doors, Need::Files).await?;
    let collect = move |images: &Images| {
        let _held = hold(images, &needed);
        images.collect_shipped(&old, age)
    };
    tell(change_store(doors, collect).await);
    Ok(())
}

/// What live jobs need to start anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The files that they bring along. Whoever submitted one may have the only copy until
    /// another node has fetched it, and no registry has any.
    Files,
    /// And the images that they run from: a node that runs none of them may have the only copy.
    All,
}

/// What the live jobs of the cluster need of this.
pub(crate) async fn needed(doors: &Doors, need: Need) -> Result<Vec<Digest>, Gone> {
    let look = move |core: &Core, _| {
        let state = core.state();
        let live = state.jobs().filter(|(_, intent)| intent.is_live());
        let specs = live.filter_map(|(job, _)| Some((job, state.spec_of(job)?.1)));
        let ids = specs.flat_map(|(job, spec)| {
            let tasks = spec.groups.iter().flat_map(|group| &group.tasks);
            let ids = tasks.filter_map(move |task| match &task.run {
                Program::Container(_) if need == Need::Files => None,
                run => run.image()?.id,
            });
            ids.map(move |id| (job, Digest::new(*id.as_bytes())))
        });
        ids.filter(|(job, _)| !state.wanted(job).is_empty()).map(|(_, id)| id).collect()
    };
    doors.agent.look(look).await
}

/// Keeps those of them that are here.
pub(crate) fn hold(images: &Images, needed: &[Digest]) -> Vec<Held> {
    needed.iter().filter_map(|id| images.hold(id).ok()).collect()
}

/// Bytes that are free on its disk, and how many should be.
fn room(dir: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(dir).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let all = found.f_blocks.saturating_mul(found.f_frsize);
    Some((free, (all / 10).min(ROOM_BYTES_MAX)))
}
