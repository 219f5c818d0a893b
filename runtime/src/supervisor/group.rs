//! The control groups of a supervisor's tasks: made once, while it waits, and used
//! for one task after another.
//!
//! Where the machine has none for us there is no slot, and all this does nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;
use rustix::process::{WaitOptions, waitpid};
use serde::{Deserialize, Serialize};

use crate::cgroup::{CgroupError, DeviceRule, Joining, Layout, Limits, Measure, Slot, Tree, Usage};
use crate::proc::{self, ProcessMark};
use crate::sys::clone::{self, Birth};
use crate::sys::{self, Fork};

/// How often a slot is looked at again that somebody else seems to remove meanwhile: he
/// may be a step ahead in each of its groups, of which v1 has most.
const BURIALS: u32 = 16;

/// Where the layout that all processes of a runtime use is kept.
const LAYOUT: &str = "groups.json";

/// Longest layout read: a dozen paths.
const LAYOUT_BYTES: u64 = 64 << 10;

/// Attempts to remove a group that somebody else may still come into.
const REMOVALS: usize = 3;

/// What this machine offered when it was first looked at in this boot.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    boot: String,
    layout: Layout,
}

/// What the slots of a runtime's directory are below, if this machine has control
/// groups for us. The tag is the directory's own number, and its file system's.
///
/// Whoever comes first in a boot decides where that is, for all who come later: some
/// bases depend on where a process was started, and an agent may be started elsewhere.
pub(crate) fn tree(dir: impl AsFd) -> Option<Tree> {
    let stat = rustix::fs::fstat(&dir).ok()?;
    let tag = format!("{:x}-{:x}", stat.st_dev, stat.st_ino);
    let tree = Tree::open(&layout(dir.as_fd()).ok()?, &tag).ok()?;
    (!tree.is_bare()).then_some(tree)
}

/// The layout that a runtime's processes use.
pub(crate) fn layout(dir: BorrowedFd<'_>) -> io::Result<Layout> {
    let boot = proc::boot_id()?;
    if let Some(seen) = recall(dir).filter(|seen| seen.boot == boot) {
        return Ok(seen.layout);
    }
    let layout = Layout::probe()?;
    if let Err(error) = layout.settle() {
        complain!("starling: our own processes stay where they are: {}", error);
    }
    let seen = Seen { boot, layout };
    let text = serde_json::to_vec(&seen)?;
    let unfinished = format!(".{LAYOUT}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, &unfinished, flags, Mode::RUSR | Mode::WUSR)?;
    File::from(file).write_all(&text)?;
    rustix::fs::renameat(dir, &unfinished, dir, LAYOUT)?;
    Ok(seen.layout)
}

fn recall(dir: BorrowedFd<'_>) -> Option<Seen> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, LAYOUT, flags, Mode::empty()).ok()?;
    let mut text = Vec::new();
    File::from(file).take(LAYOUT_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
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

/// Kills what is in a slot and removes it; false if something does not die. Fine if somebody
/// else does the same meanwhile, as keeper and agent may. Blocks.
pub(crate) fn bury(tree: &Tree, name: &str) -> Result<bool, CgroupError> {
    let mut tries = 1..BURIALS;
    loop {
        let Some(slot) = Slot::open(tree, name)? else { return Ok(true) };
        match slot.kill().and_then(|dead| Ok(dead && slot.remove()?)) {
            Err(_) if tries.next().is_some() => {}
            done => return done,
        }
    }
}

/// Whether a child of this process can be born in a slot; see [`Slot::allow_births`].
/// Tries it, in a slot of its own.
pub(crate) fn try_birth(tree: &Tree) -> bool {
    let Ok(own) = ProcessMark::own() else { return false };
    let Ok(slot) = Slot::make(tree, &slot_name(own)) else { return false };
    slot.allow_births();
    let born = match slot.descriptors().into.map(|group| clone::fork_into(0, Some(group))) {
        Some(Ok((Fork::Child, _))) => sys::exit_now(0),
        Some(Ok((Fork::Parent(child), Birth::InGroup))) => {
            let ended = retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()));
            ended.is_ok_and(|ended| ended.is_some_and(|(_, how)| how.exit_status() == Some(0)))
        }
        Some(Ok((Fork::Parent(child), Birth::Outside))) => {
            let _ = retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()));
            false
        }
        Some(Err(_)) | None => false,
    };
    if let Err(error) = slot.remove() {
        complain!("starling keeper: a control group stays: {error}");
    }
    born
}

#[derive(Debug, Default)]
pub(super) struct Group {
    slot: Option<Slot>,
    /// What it is made of.
    tree: Option<Tree>,
    /// Whether processes can be born in one that is new.
    births: bool,
    /// Counted from where another task ended.
    is_stale: bool,
}

impl Group {
    /// Makes the slot of a supervisor. `births` says whether [`try_birth`] went well.
    pub(super) fn new(tree: Option<&Tree>, births: bool, own: ProcessMark) -> Self {
        let mut group = Self { slot: None, tree: tree.cloned(), births, is_stale: true };
        group.make(&slot_name(own));
        group
    }

    fn make(&mut self, name: &str) {
        let Some(tree) = &self.tree else { return };
        let mut made = Slot::make(tree, name);
        if made.is_err()
            && let Ok(tree) = tree.again()
        {
            // A keeper that leaves removes an empty tree, and may not know of its successor.
            made = Slot::make(self.tree.insert(tree), name);
        }
        match made {
            Ok(slot) => {
                if self.births {
                    slot.allow_births();
                }
                self.slot = Some(slot);
                self.is_stale = true;
            }
            Err(error) => complain!("starling supervisor: no control group: {error}"),
        }
    }

    /// Makes ready for the next task: best while nobody waits for that.
    pub(super) fn renew(&mut self) {
        // One that was killed is of little use; see `Slot::allow_births`.
        let killed = self.slot.as_ref().filter(|slot| self.births && !slot.has_births());
        if let Some(slot) = killed
            && slot.remove().is_ok_and(|removed| removed)
        {
            let name = slot.name().to_owned();
            self.slot = None;
            self.make(&name);
        }
        if let Some(slot) = &mut self.slot
            && self.is_stale
        {
            slot.renew();
            self.is_stale = false;
        }
    }

    /// Has what was used until now counted for nobody, once the next task begins.
    pub(super) fn count_anew(&mut self) {
        self.is_stale = true;
    }

    /// Lets the next task use these devices only, or all if none are named. After
    /// [`fit`](Self::fit).
    pub(super) fn devices(&mut self, rules: Option<&[DeviceRule]>) -> Result<(), CgroupError> {
        match (&mut self.slot, rules) {
            (Some(slot), Some(rules)) => slot.devices(rules),
            (Some(slot), None) => slot.all_devices(),
            (None, Some(_)) => Err(CgroupError::NoGroup),
            (None, None) => Ok(()),
        }
    }

    /// Limits the next task.
    pub(super) fn fit(&mut self, limits: &Limits, measure: Measure) -> Result<(), CgroupError> {
        self.renew();
        self.is_stale = true;
        let lacking = |source| CgroupError::Limits { source };
        let Some(slot) = &mut self.slot else { return limits.insist(None).map_err(lacking) };
        slot.measure(measure);
        let missing = slot.limit(limits)?;
        limits.insist(Some(&missing)).map_err(lacking)
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

    /// Kills all that is in it; false if something may be left. Failing that, the rest of
    /// the tree is killed one by one.
    pub(super) fn kill(&self) -> bool {
        let killed = self.slot.as_ref().map_or(Ok(true), Slot::kill);
        killed.unwrap_or_else(|error| {
            complain!("starling supervisor: cannot kill a control group: {error}");
            false
        })
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

    /// Removes it; false if it stays. Who entered the last task may have come into it
    /// behind the end, and is killed.
    pub(super) fn remove(&self) -> bool {
        let Some(slot) = &self.slot else { return true };
        for _ in 0..REMOVALS {
            match slot.remove() {
                Ok(true) => return true,
                Ok(false) if self.kill() => {}
                Ok(false) => break,
                Err(error) => {
                    complain!("starling supervisor: a control group stays: {error}");
                    return false;
                }
            }
        }
        complain!("starling supervisor: a control group stays: something lives in it");
        false
    }
}
