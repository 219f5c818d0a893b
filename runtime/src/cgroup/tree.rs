//! The directory `starling-TAG` in every hierarchy: all groups of one runtime
//! directory, and nothing else.
//!
//! Opening it twice gives the same tree, so the keeper opens it for its supervisors
//! and the agent for itself.
//!
//! Invariant: a controller that cannot be had is a shortfall to be told, not a
//! reason to run nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use rustix::io::Errno;

use super::deserted;
use super::group::{Group, check_name};
use super::layout::{Controller, LEAF, Layout, Standing, TOP, Unified, Version};
use super::{CgroupError, Slot};

/// Rounds of moving processes out of the base: each takes all that are there, and
/// only what forked meanwhile needs another.
const SETTLE_ROUNDS: usize = 100;

/// Tries to remove a group whose last processes have just died: they leave it a
/// moment after they are gone from its list.
const REMOVE_TRIES: usize = 200;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// What we switch on in v2, where it is to be had.
const WANTED: [Controller; 5] =
    [Controller::Cpu, Controller::Memory, Controller::Pids, Controller::Io, Controller::Cpuset];

/// All groups of one runtime directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tree(pub(super) Arc<Trunk>);

#[derive(Debug)]
pub(super) struct Trunk {
    pub(super) branches: Vec<Branch>,
    pub(super) name: String,
    shortfalls: Vec<String>,
    pub(super) layout: Layout,
}

/// The tree in one hierarchy.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) version: Version,
    pub(super) controllers: Vec<Controller>,
    pub(super) dir: Group,
    /// What it lies in.
    pub(super) above: Group,
    /// What that lies in, if it is ours to remove.
    top: Option<Group>,
}

/// What [`Tree::sweep`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Slots that are gone.
    pub removed: BTreeSet<String>,
    /// Slots that hold processes which cannot be killed.
    pub stuck: BTreeSet<String>,
}

impl Layout {
    /// Moves every process of a delegated v2 base to its leaf `agent`, so that the
    /// base can pass its controllers on: ours, and whoever else is there (a shell, in
    /// the scope of a terminal). Call it once, before [`Tree::open`]. Returns how many
    /// were moved; does nothing where v2 is not delegated.
    pub fn settle(&self) -> Result<usize, CgroupError> {
        let Some(Unified { standing: Standing::Delegated { base }, .. }) = &self.unified else {
            return Ok(0);
        };
        let base = Group::open(base)?;
        let mut moved = 0;
        for _ in 0..SETTLE_ROUNDS {
            let processes = base.processes()?;
            if processes.is_empty() {
                return Ok(moved);
            }
            let (leaf, _) = base.make(LEAF)?;
            for process in processes {
                match leaf.try_write("cgroup.procs", &process.to_string()) {
                    Ok(()) => moved += 1,
                    // Gone meanwhile.
                    Err(Errno::SRCH) => {}
                    Err(_) => {
                        return Err(CgroupError::Unsettled { path: base.path().to_owned() });
                    }
                }
            }
        }
        Err(CgroupError::Unsettled { path: base.path().to_owned() })
    }
}

impl Tree {
    /// Opens the tree of a runtime directory, and makes what is missing of it. The
    /// tag names that directory on this machine.
    pub fn open(layout: &Layout, tag: &str) -> Result<Self, CgroupError> {
        let name = format!("{TOP}-{tag}");
        check_name(&name)?;
        let (branches, shortfalls) = (Vec::new(), Vec::new());
        let mut trunk = Trunk { branches, name, shortfalls, layout: layout.clone() };
        if let Some(unified) = layout.usable() {
            trunk.graft(|trunk| trunk.unified(unified));
        }
        for legacy in &layout.legacy {
            if let Some(base) = &legacy.base {
                trunk.graft(|trunk| {
                    let above = Group::open(base)?;
                    let (dir, new) = deserted::hold(&above, &trunk.name)?;
                    if new && legacy.controllers.contains(&Controller::Cpuset) {
                        inherit_cpuset(&above, &dir)?;
                    }
                    let controllers = legacy.controllers.clone();
                    Ok(Branch { version: Version::V1, controllers, dir, above, top: None })
                });
            }
        }
        Ok(Self(Arc::new(trunk)))
    }

    /// Opens it anew, and makes what is missing by now: whoever left last may have removed
    /// it, while another was about to come.
    pub fn again(&self) -> Result<Self, CgroupError> {
        let tag = self.0.name.strip_prefix(TOP).and_then(|rest| rest.strip_prefix('-'));
        Self::open(&self.0.layout, tag.unwrap_or_default())
    }

    /// Sentences about what was to be had by the layout and is not.
    pub fn shortfalls(&self) -> &[String] {
        &self.0.shortfalls
    }

    /// Whether there is any group at all: without, no slot can be made.
    pub fn is_bare(&self) -> bool {
        self.0.branches.is_empty()
    }

    /// The names of all slots, in whichever hierarchy.
    pub fn slots(&self) -> Result<BTreeSet<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for branch in &self.0.branches {
            names.extend(branch.dir.names()?);
        }
        Ok(names)
    }

    /// Kills and removes every slot that is not to be kept. Blocks as long as
    /// [`Slot::kill`] may, for each. The caller sees to it that no slot is made
    /// between counting those to keep and this.
    pub fn sweep(&self, keep: &BTreeSet<String>) -> Result<Swept, CgroupError> {
        let mut swept = Swept::default();
        for name in self.slots()?.difference(keep) {
            let gone = match Slot::open(self, name)? {
                Some(slot) => slot.kill()? && slot.remove()?,
                None => true,
            };
            let list = if gone { &mut swept.removed } else { &mut swept.stuck };
            list.insert(name.clone());
        }
        Ok(swept)
    }

    /// Removes the tree if it has no slot; false if it has. The next
    /// [`open`](Self::open) makes it again.
    pub fn remove_if_empty(&self) -> Result<bool, CgroupError> {
        let mut removed = true;
        for branch in &self.0.branches {
            removed &= branch.above.remove(&self.0.name)?;
            if let Some(top) = &branch.top {
                // Other runtime directories may have theirs there.
                top.remove(TOP)?;
            }
        }
        Ok(removed)
    }
}

impl Trunk {
    fn graft(&mut self, make: impl FnOnce(&mut Self) -> Result<Branch, CgroupError>) {
        match make(self) {
            Ok(branch) => self.branches.push(branch),
            Err(error) => self.shortfalls.push(sentence(&error)),
        }
    }

    fn unified(&mut self, unified: &Unified) -> Result<Branch, CgroupError> {
        let (above, top) = match &unified.standing {
            Standing::Delegated { base } => (Group::open(base)?, None),
            _ => {
                let mount = Group::open(&unified.mount)?;
                self.pass_on(&mount);
                (mount.make(TOP)?.0, Some(mount))
            }
        };
        self.pass_on(&above);
        let (dir, _) = deserted::hold(&above, &self.name)?;
        self.pass_on(&dir);
        let passed = dir.text("cgroup.subtree_control")?.unwrap_or_default();
        let controllers = Controller::from_unified(&passed);
        Ok(Branch { version: Version::V2, controllers, dir, above, top })
    }

    /// Switches on, for the groups below, every controller that is to be had.
    fn pass_on(&mut self, group: &Group) {
        let read = |file| {
            let text = group.small(file, |text| Some(Controller::from_unified(text)));
            text.unwrap_or_default()
        };
        let (had, on) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
        let missing = WANTED.into_iter().filter(|one| had.contains(one) && !on.contains(one));
        let wanted: Vec<_> = missing.map(|one| format!("+{}", one.name())).collect();
        if wanted.is_empty() || group.try_write(SUBTREE, &wanted.join(" ")).is_ok() {
            return;
        }
        // All or nothing was nothing: one of them may be at fault.
        for one in wanted {
            if let Err(error) = group.write(SUBTREE, &one) {
                self.shortfalls.push(sentence(&error));
            }
        }
    }

    /// Where a controller is.
    pub(super) fn branch_of(&self, controller: Controller) -> Option<usize> {
        self.branches.iter().position(|branch| branch.controllers.contains(&controller))
    }

    /// Where processes are tracked: v2 knows of emptiness and kills in one step; of
    /// v1 the freezer can at least hold still what is to be killed.
    pub(super) fn tracker(&self) -> Option<usize> {
        let v2 = self.branches.iter().position(|branch| branch.version == Version::V2);
        v2.or_else(|| self.branch_of(Controller::Freezer))
            .or_else(|| self.branch_of(Controller::Pids))
            .or_else(|| (!self.branches.is_empty()).then_some(0))
    }
}

impl Branch {
    /// Removes a slot's group and all below it; false if something lives in it.
    pub(super) fn remove(&self, name: &str) -> Result<bool, CgroupError> {
        for _ in 0..REMOVE_TRIES {
            if self.dir.remove(name)? {
                return Ok(true);
            }
            let Some(group) = self.dir.below(name)? else { return Ok(true) };
            group.remove_below()?;
            if self.dir.remove(name)? {
                return Ok(true);
            }
            if !group.has_no_process() {
                return Ok(false);
            }
            sleep(REMOVE_PAUSE);
        }
        Ok(false)
    }
}

const SUBTREE: &str = "cgroup.subtree_control";

/// A new v1 cpuset has no processors and no memory, and nothing can join it. With
/// `clone_children` the slots below copy theirs when they are made.
fn inherit_cpuset(above: &Group, dir: &Group) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Some(text) = above.text(file)? {
            dir.write(file, &text)?;
        }
    }
    dir.write("cgroup.clone_children", "1")
}

fn sentence(error: &CgroupError) -> String {
    use std::error::Error;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
