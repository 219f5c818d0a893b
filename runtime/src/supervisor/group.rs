//! The control groups of a supervisor's tasks: made once, while it waits, and used
//! for one task after another.
//!
//! Where the machine has none for us there is no slot, and all this does nothing.

use std::collections::BTreeSet;
use std::io;

use crate::cgroup::{CgroupError, Joining, Layout, Limits, Measure, Slot, Tree, Usage};
use crate::proc::ProcessMark;

/// What the slots of a runtime's directory are below, if this machine has control
/// groups for us. The tag is the directory's own number, and its file system's.
pub(crate) fn tree(dir: impl std::os::fd::AsFd) -> Option<Tree> {
    let stat = rustix::fs::fstat(dir).ok()?;
    let tag = format!("{:x}-{:x}", stat.st_dev, stat.st_ino);
    let tree = Tree::open(&Layout::probe().ok()?, &tag).ok()?;
    (!tree.is_bare()).then_some(tree)
}

/// The name of a supervisor's slot.
fn slot_name(of: ProcessMark) -> String {
    format!("{}-{}", of.pid, of.start)
}

fn owner(name: &str) -> Option<ProcessMark> {
    let (pid, start) = name.split_once('-')?;
    Some(ProcessMark { pid: pid.parse().ok()?, start: start.parse().ok()? })
}

/// Kills what is in the slots of dead supervisors, and removes them. Blocks.
pub(crate) fn sweep_slots(tree: &Tree) -> Result<(), CgroupError> {
    let names = tree.slots()?;
    let lives = |name: &String| {
        let owner = owner(name).map(ProcessMark::open);
        !matches!(owner, Some(Ok(None)))
    };
    let keep: BTreeSet<String> = names.into_iter().filter(lives).collect();
    // A slot made meanwhile belongs to somebody who lives.
    for name in tree.slots()?.difference(&keep).filter(|name| !lives(name)) {
        bury(tree, name)?;
    }
    Ok(())
}

/// Kills what is in a slot and removes it; false if something does not die. Blocks.
pub(crate) fn bury(tree: &Tree, name: &str) -> Result<bool, CgroupError> {
    match Slot::open(tree, name)? {
        Some(slot) => Ok(slot.kill()? && slot.remove()?),
        None => Ok(true),
    }
}

#[derive(Debug, Default)]
pub(super) struct Group {
    slot: Option<Slot>,
    /// Counted from where another task ended.
    is_stale: bool,
}

impl Group {
    /// Makes the slot of a supervisor.
    pub(super) fn new(tree: Option<&Tree>, own: ProcessMark) -> Self {
        let slot = tree.and_then(|tree| match Slot::make(tree, &slot_name(own)) {
            Ok(slot) => Some(slot),
            Err(error) => {
                eprintln!("starling supervisor: no control group: {error}");
                None
            }
        });
        Self { slot, is_stale: true }
    }

    /// Makes ready for the next task: best while nobody waits for that.
    pub(super) fn renew(&mut self) {
        if let Some(slot) = &mut self.slot
            && self.is_stale
        {
            slot.renew();
            self.is_stale = false;
        }
    }

    /// Limits the next task.
    pub(super) fn fit(&mut self, limits: &Limits, measure: Measure) -> Result<(), CgroupError> {
        self.renew();
        self.is_stale = true;
        let Some(slot) = &mut self.slot else { return Ok(()) };
        slot.measure(measure);
        slot.limit(limits).map(drop)
    }

    /// What a later agent finds it by.
    pub(super) fn name(&self) -> Option<String> {
        self.slot.as_ref().map(|slot| slot.name().to_owned())
    }

    /// Where its counters stood before the present task.
    pub(super) fn baseline(&self) -> Option<Usage> {
        self.slot.as_ref().map(Slot::baseline)
    }

    /// By which a process joins.
    pub(super) fn join(&self) -> Option<Joining<'_>> {
        self.slot.as_ref().map(Slot::descriptors)
    }

    /// Kills all that is in it. Failing that, the rest of the tree is killed one by one.
    pub(super) fn kill(&self) {
        if let Some(slot) = &self.slot
            && let Err(error) = slot.kill()
        {
            eprintln!("starling supervisor: cannot kill a control group: {error}");
        }
    }

    /// Stops all that is in it, or lets it go on.
    pub(super) fn freeze(&self, frozen: bool) -> io::Result<()> {
        let none = "this machine has no control groups for us";
        let unsupported = || io::Error::new(io::ErrorKind::Unsupported, none);
        let slot = self.slot.as_ref().ok_or_else(unsupported)?;
        let done = if frozen { slot.freeze() } else { slot.thaw() };
        match done {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Whether the kernel killed in it for want of memory during the present task.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let kills = self.slot.as_ref().and_then(Slot::oom_kills);
        kills.is_some_and(|kills| kills > 0)
    }

    /// Removes it, empty as it is.
    pub(super) fn remove(&self) {
        if let Some(slot) = &self.slot
            && let Err(error) = slot.remove()
        {
            eprintln!("starling supervisor: a control group stays: {error}");
        }
    }
}
