//! Whether a keeper has an agent, and what it sees to while it has none.
//!
//! An agent may be killed just as it has a keeper started, and no other may ever come; or
//! while a launch of its hangs, and nobody is left whose patience ends. Its end closes
//! the file of its lock, which the kernel tells of; from then on it is looked at now and
//! then whether another has come: a few system calls.
//!
//! ```text
//! look: an agent ──▶ no look until its end: it has its own patience
//!       none ──▶ end each set-up that has hung for long enough
//!            └─ nor one at the look before ──▶ the keeper may leave, if it has no task
//! ```
//!
//! Invariant: nothing is done about a task whose program runs, and nothing at all while an
//! agent lives.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{Dir, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::adopt::{self, Host};
use crate::launch::TaskId;
use crate::order::AGENT_LOCK;
use crate::record::{self, State};
use crate::spare;
use crate::watch::SET_UP_LIMIT;

/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Room for some events without a name: what they say is known.
const EVENTS_BYTES: usize = 256;

/// Looks that find no agent before a keeper without a task leaves: after a minute at most.
const DESERTED_LOOKS: u32 = 2;

/// Looks that find a set-up under way, and no agent, before it is ended. The first finds
/// it younger than the others say.
const HUNG_LOOKS: u32 = 3;

const _: () = assert!(
    LOOK_EVERY.as_secs() * (HUNG_LOOKS as u64 - 1) >= SET_UP_LIMIT.as_secs(),
    "an agent has no more patience than a keeper without one"
);

/// What was found so far.
#[derive(Debug)]
pub(crate) struct Alone {
    every: Duration,
    /// Tells when an agent ends; none where the kernel cannot.
    ends: Option<OwnedFd>,
    /// When to look; none while there is an agent that will be told of.
    next: Option<Instant>,
    /// Looks in a row that found no agent.
    looks: u32,
    /// How many of these found a launch before its program, by its nonce.
    starting: BTreeMap<String, u32>,
}

impl Alone {
    /// Looks so often. The agent of this directory may be gone already.
    pub(crate) fn new(every: Duration, dir: &OwnedFd) -> Self {
        let ends = watch(dir).ok();
        // Asked after the watch began: one that ends later is told of.
        let is_told = ends.is_some() && has_agent(dir);
        let next = (!is_told).then(|| Instant::now() + every);
        Self { every, ends, next, looks: 0, starting: BTreeMap::new() }
    }

    /// What is readable once an agent has ended.
    pub(crate) fn ends(&self) -> Option<BorrowedFd<'_>> {
        self.ends.as_ref().map(AsFd::as_fd)
    }

    /// Takes what there is to read.
    pub(crate) fn hear(&mut self) {
        let Some(ends) = &self.ends else { return };
        let mut events = [0; EVENTS_BYTES];
        while rustix::io::read(ends, &mut events).is_ok_and(|read| read > 0) {
            self.next.get_or_insert_with(|| Instant::now() + self.every);
        }
    }

    /// How long it is to the next look; none if there is to be none.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Looks, if it is time to; true if there has been no agent for a while. Blocks no
    /// longer than a process takes to die.
    pub(crate) fn look(&mut self, dir: &OwnedFd, tasks: &OwnedFd, host: &Host) -> bool {
        if self.wait() != Some(Duration::ZERO) {
            return false;
        }
        self.next = Some(Instant::now() + self.every);
        if has_agent(dir) {
            if self.ends.is_some() {
                self.next = None;
            }
            self.looks = 0;
            self.starting.clear();
            return false;
        }
        self.looks = self.looks.saturating_add(1);
        if let Err(error) = self.end_hung(tasks, host) {
            complain!("starling keeper: cannot look for launches that hang: {error}");
        }
        self.looks >= DESERTED_LOOKS
    }

    fn end_hung(&mut self, tasks: &OwnedFd, host: &Host) -> io::Result<()> {
        let before = std::mem::take(&mut self.starting);
        for entry in Dir::read_from(tasks)? {
            let entry = entry?;
            let name = entry.file_name().to_str().ok();
            let Some(id) = name.and_then(|name| name.parse::<TaskId>().ok()) else { continue };
            // Held, so that it stays this task's whatever a new agent does meanwhile.
            let Ok(task) = spare::hold(tasks, &id) else { continue };
            let state = record::read(task.as_fd()).ok();
            let Some(state) = state.filter(|state| is_starting(state, host)) else { continue };
            let looks = before.get(&state.claim.nonce).map_or(1, |looks| looks + 1);
            if looks < HUNG_LOOKS {
                self.starting.insert(state.claim.nonce, looks);
                continue;
            }
            let reason = format!("its set-up took longer than {} s", SET_UP_LIMIT.as_secs());
            if let Err(error) = adopt::end_set_up(task.as_fd(), &id, host, &reason) {
                complain!("starling keeper: cannot end the set-up of {id}: {error}");
            }
        }
        Ok(())
    }
}

fn is_starting(state: &State, host: &Host) -> bool {
    let State { claim, task, end } = state;
    claim.boot == host.boot && claim.supervisor.is_some() && task.is_none() && end.is_none()
}

/// Watches the end of agents: only they open their lock for writing.
fn watch(dir: &OwnedFd) -> Result<OwnedFd, Errno> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let lock = format!("/proc/self/fd/{}/{AGENT_LOCK}", dir.as_raw_fd());
    inotify::add_watch(&watch, lock, WatchFlags::CLOSE_WRITE)?;
    Ok(watch)
}

/// Whether an agent has this directory. One that is just starting waits until this look
/// is over.
fn has_agent(dir: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(dir, AGENT_LOCK, flags, Mode::empty()) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockShared).is_err(),
        // Where it cannot be told there is one: nothing must be done behind its back.
        Err(error) => error != Errno::NOENT,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn it_is_alone_only_when_two_looks_in_a_row_find_nobody() {
        let place = tempfile::tempdir().expect("a directory");
        let dir: OwnedFd = File::open(place.path()).expect("a handle").into();
        let host = Host { boot: "b".into(), tree: None };
        let mut alone = Alone::new(Duration::ZERO, &dir);
        assert!(!alone.look(&dir, &dir, &host) && alone.look(&dir, &dir, &host));
        let agent = File::create(place.path().join(AGENT_LOCK)).expect("a file");
        flock(&agent, FlockOperation::NonBlockingLockExclusive).expect("locked");
        assert!(!alone.look(&dir, &dir, &host));
        flock(&agent, FlockOperation::Unlock).expect("unlocked");
        assert!(!alone.look(&dir, &dir, &host) && alone.look(&dir, &dir, &host));
        let mut patient = Alone::new(LOOK_EVERY, &dir);
        assert!(!patient.look(&dir, &dir, &host) && !patient.look(&dir, &dir, &host));
        // One that can hear of an end does not look before.
        flock(&agent, FlockOperation::NonBlockingLockExclusive).expect("locked");
        let mut told = Alone::new(Duration::ZERO, &dir);
        told.hear();
        assert_eq!(told.wait(), None);
        drop(agent);
        told.hear();
        assert_eq!(told.wait(), Some(Duration::ZERO));
        assert!(!told.look(&dir, &dir, &host) && told.look(&dir, &dir, &host));
    }
}
