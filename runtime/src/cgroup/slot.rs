//! One group in every hierarchy that is needed, under one name: what one task after
//! another is put into.
//!
//! Made with what tracks and measures; the other hierarchies are added when a limit
//! first needs them, since each costs some 10 to 40 us to make, and a write to join.
//! A hierarchy that no limit of the present task needs is not joined.
//!
//! Invariant: while a slot is in use, one process writes its limits. Others (the
//! agent) may open it by name to measure, freeze and kill.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use rustix::io::{Errno, retry_on_intr, write};

use super::CgroupError;
use super::group::{Group, check_name};
use super::layout::{Controller, Version};
use super::limits::Limits;
use super::settings::{self, FREE, FREE_DEVICES, MEMORY, Setting};
use super::tree::{Tree, Trunk};
use super::usage::{Gauges, Usage};

/// Most v1 hierarchies that we can meet: one for each controller.
const LEGACY_MAX: usize = 8;

/// What a task is counted in. A v1 hierarchy costs whoever joins it some 10 us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// Processor time, memory and number of processes, whatever is limited.
    #[default]
    Everything,
    /// Processor time (with v2), and what is limited anyway.
    Limited,
}

/// The groups of one task at a time.
#[derive(Debug)]
pub struct Slot {
    pub(super) trunk: Arc<Trunk>,
    pub(super) name: String,
    /// By branch of the trunk.
    members: Vec<Option<Member>>,
    measure: Measure,
    /// What was written; none when that is not known.
    now: Option<Vec<Setting>>,
    applied: Option<(Limits, Vec<&'static str>)>,
    pub(super) baseline: Usage,
    pub(super) gauges: Gauges,
    /// The program that decides on devices in v2.
    pub(super) program: Option<OwnedFd>,
    pub(super) restricted: bool,
    /// Whether a process can be born in the v2 group.
    births: AtomicBool,
}

#[derive(Debug)]
struct Member {
    group: Group,
    /// By which whoever writes a zero joins.
    procs: OwnedFd,
    joined: bool,
}

/// The descriptors by which a process joins a slot. All close on exec.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// For `clone3` with `CLONE_INTO_CGROUP`: the v2 group's directory.
    pub into: Option<BorrowedFd<'a>>,
    unified: Option<BorrowedFd<'a>>,
    legacy: [Option<BorrowedFd<'a>>; LEGACY_MAX],
}

impl<'a> Joining<'a> {
    /// By these `cgroup.procs`, open for writing, whosever groups they are of.
    pub(crate) fn by_hand(procs: &'a [OwnedFd]) -> Self {
        let mut legacy = [None; LEGACY_MAX];
        let mut procs = procs.iter().map(AsFd::as_fd);
        legacy.iter_mut().zip(procs.by_ref()).for_each(|(slot, procs)| *slot = Some(procs));
        // One more than there are controllers: version 2.
        Self { into: None, unified: procs.next(), legacy }
    }
}

impl Joining<'_> {
    /// What [`join_rest`](Self::join_rest) writes to.
    pub(crate) fn rest(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.legacy.iter().flatten().copied()
    }

    /// Joins all hierarchies but v2, by the process that calls: after a `clone3` into
    /// v2. Only write(2): safe between fork and exec.
    pub fn join_rest(&self) -> Result<(), Errno> {
        self.legacy.iter().flatten().try_for_each(join)
    }

    /// Joins all hierarchies: after a plain fork. Only write(2).
    pub fn join_all(&self) -> Result<(), Errno> {
        self.unified.iter().try_for_each(join)?;
        self.join_rest()
    }
}

/// Zero means whoever writes.
fn join(procs: &BorrowedFd<'_>) -> Result<(), Errno> {
    retry_on_intr(|| write(procs, b"0")).map(drop)
}

impl Slot {
    /// Makes a slot for one task after another. What a crash left of that name is
    /// removed first, unless something lives in it.
    pub fn make(tree: &Tree, name: &str) -> Result<Self, CgroupError> {
        check_name(name)?;
        let mut slot = Self::bare(tree, name);
        if !slot.make_groups()? {
            let path = slot.tracked()?.path().to_owned();
            slot = Self::bare(tree, name);
            if !slot.remove()? || !slot.make_groups()? {
                return Err(CgroupError::Occupied { path });
            }
        }
        Ok(slot)
    }

    /// Makes what tracks and measures; whether all of it is new.
    fn make_groups(&mut self) -> Result<bool, CgroupError> {
        let tracker = self.trunk.tracker().ok_or(CgroupError::NoGroup)?;
        let tracked_by = self.trunk.branches.get(tracker).map(|branch| branch.version);
        let mut new = self.grow(tracker)?;
        // The core of v2 counts processor time itself.
        let counted = (tracked_by == Some(Version::V1)).then_some(Controller::Cpuacct);
        for controller in [Controller::Memory, Controller::Pids].into_iter().chain(counted) {
            if let Some(at) = self.trunk.branch_of(controller) {
                new &= self.grow(at)?;
            }
        }
        Ok(new)
    }

    /// Opens a slot that somebody else made; none if there is none of that name.
    pub fn open(tree: &Tree, name: &str) -> Result<Option<Self>, CgroupError> {
        check_name(name)?;
        let mut slot = Self::bare(tree, name);
        slot.now = None;
        slot.find_others()?;
        Ok(slot.members.iter().any(Option::is_some).then_some(slot))
    }

    fn bare(tree: &Tree, name: &str) -> Self {
        let trunk = Arc::clone(&tree.0);
        let members = trunk.branches.iter().map(|_| None).collect();
        Self {
            trunk,
            name: name.to_owned(),
            members,
            measure: Measure::default(),
            now: Some(Vec::new()),
            applied: None,
            baseline: Usage::default(),
            gauges: Gauges::default(),
            program: None,
            restricted: false,
            births: AtomicBool::new(false),
        }
    }

    /// The name it was made under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes this slot's group in a branch; whether it is new.
    fn grow(&mut self, at: usize) -> Result<bool, CgroupError> {
        let Some((branch, place)) = self.trunk.branches.get(at).zip(self.members.get_mut(at))
        else {
            return Ok(false);
        };
        if place.is_some() {
            return Ok(true);
        }
        let (group, new) = branch.dir.make(&self.name)?;
        *place = Some(Member::new(group, branch.version)?);
        Ok(new)
    }

    /// Takes up what groups of this name there are.
    fn find_others(&mut self) -> Result<(), CgroupError> {
        for (branch, place) in self.trunk.branches.iter().zip(&mut self.members) {
            if place.is_none()
                && let Some(group) = branch.dir.below(&self.name)?
            {
                match Member::new(group, branch.version) {
                    Ok(member) => *place = Some(member),
                    // Somebody removed it between the two.
                    Err(CgroupError::Open { source, .. }) if is_no_more(&source) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Writes those limits that differ from what the slot has. Returns the names of
    /// the limits that this machine cannot enforce.
    ///
    /// After an error nothing is known of the slot's limits; the next call looks first.
    pub fn limit(&mut self, limits: &Limits) -> Result<Vec<&'static str>, CgroupError> {
        if let Some((applied, missing)) = &self.applied
            && applied == limits
        {
            return Ok(missing.clone());
        }
        limits.check().map_err(|source| CgroupError::Limits { source })?;
        let version = |controller| {
            let branch = self.trunk.branches.get(self.trunk.branch_of(controller)?)?;
            Some(branch.version)
        };
        let (mut wanted, mut missing) = settings::settings(limits, version);
        self.applied = None;
        let now = match self.now.take() {
            Some(now) => now,
            None => self.read_back()?,
        };
        let mut fileless = Vec::new();
        for (setting, set) in settings::changes(&now, &wanted) {
            if !set {
                self.take_back(setting)?;
            } else if !self.set(setting)? {
                fileless.push(setting.clone());
            }
        }
        // Else the next task would be believed to have them.
        wanted.retain(|setting| !fileless.contains(setting));
        missing.extend(settings::unsaid(&fileless, &wanted));
        self.now = Some(wanted);
        self.choose_joined();
        self.applied = Some((limits.clone(), missing.clone()));
        Ok(missing)
    }

    /// Whether the kernel has a file for it.
    fn set(&mut self, setting: &Setting) -> Result<bool, CgroupError> {
        let Some(at) = self.trunk.branch_of(setting.controller) else { return Ok(false) };
        self.grow(at)?;
        let Some(Some(Member { group, .. })) = self.members.get(at) else { return Ok(false) };
        let text = setting.text();
        let mut done = group.try_write(setting.file, &text);
        if done == Err(Errno::BUSY) && setting.file == MEMORY {
            // What the last task left in the page cache is more than the new limit.
            let _ = group.try_write("memory.force_empty", "0");
            done = group.try_write(setting.file, &text);
        }
        match done {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(group.unwritten(setting.file, &text, errno)),
        }
    }

    fn take_back(&self, setting: &Setting) -> Result<(), CgroupError> {
        let Some((version, group)) = self.of(setting.controller) else { return Ok(()) };
        if version == Version::V1 && setting.controller == Controller::Cpuset {
            return Ok(());
        }
        let text = setting.free_text();
        match group.try_write(setting.file, &text) {
            Ok(()) | Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(group.unwritten(setting.file, &text, errno)),
        }
    }

    /// What the files say, where nobody remembers what was written.
    fn read_back(&self) -> Result<Vec<Setting>, CgroupError> {
        let mut found = Vec::new();
        let mut add = |controller, file, device: &str, value: &str, free| {
            let (device, value) = (device.to_owned(), Cow::from(value.trim_ascii().to_owned()));
            let (limit, implied) = ("", false);
            found.push(Setting { limit, controller, file, device, value, free, implied });
        };
        for (version, controller, file, free) in FREE {
            if let Some((_, group)) = self.of(controller).filter(|(is, _)| *is == version)
                && let Some(text) = group.text(file)?
            {
                add(controller, file, "", &text, free);
            }
        }
        let Some((version, group)) = self.of(Controller::Io) else { return Ok(found) };
        for (_, file, free) in FREE_DEVICES.iter().filter(|(of, ..)| *of == version) {
            for line in group.text(file)?.unwrap_or_default().lines() {
                // `default 100` is no device.
                if let Some((device, value)) = line.split_once(' ').filter(|(d, _)| d.contains(':'))
                {
                    add(Controller::Io, file, device, value, free);
                }
            }
        }
        Ok(found)
    }

    /// Joins what tracks, what measures, and what limits the present task.
    fn choose_joined(&mut self) {
        let wanted = self.now.as_deref().unwrap_or_default();
        let trunk = &self.trunk;
        let (tracker, devices) = (trunk.tracker(), trunk.branch_of(Controller::Devices));
        let measures = [Controller::Memory, Controller::Pids, Controller::Cpuacct];
        for (at, place) in self.members.iter_mut().enumerate() {
            let Some((member, branch)) = place.as_mut().zip(trunk.branches.get(at)) else {
                continue;
            };
            let has = |controller: &Controller| branch.controllers.contains(controller);
            member.joined = tracker == Some(at)
                || (self.measure == Measure::Everything && measures.iter().any(has))
                || wanted.iter().any(|setting| has(&setting.controller))
                || (devices == Some(at) && self.restricted);
        }
    }

    /// Says what to count from the next task on; everything unless said otherwise.
    pub fn measure(&mut self, measure: Measure) {
        self.measure = measure;
        self.choose_joined();
    }

    /// What a new process needs to join.
    ///
    /// Whoever joins a v2 group by hand waits for every processor, 2 to 15 ms where no
    /// process moved just before; one that is born in it does not.
    pub fn descriptors(&self) -> Joining<'_> {
        let mut joining = Joining { into: None, unified: None, legacy: [None; LEGACY_MAX] };
        let mut legacy = joining.legacy.iter_mut();
        for (branch, member) in self.trunk.branches.iter().zip(&self.members) {
            let Some(member) = member.as_ref().filter(|member| member.joined) else { continue };
            if branch.version == Version::V2 {
                joining.into = self.has_births().then(|| member.group.as_fd());
                joining.unified = Some(member.procs.as_fd());
            } else if let Some(place) = legacy.next() {
                *place = Some(member.procs.as_fd());
            }
        }
        joining
    }

    /// Says that processes may be born in the v2 group (`CLONE_INTO_CGROUP`).
    ///
    /// Since Linux 6.14 a group counts its `cgroup.kill`s, and a new process is killed at
    /// birth if the count of its group is not that of its parent's. So this holds only
    /// where it was tried with a fresh slot, and until the slot is killed.
    pub fn allow_births(&self) {
        self.births.store(true, Ordering::Relaxed);
    }

    /// Whether it holds.
    pub fn has_births(&self) -> bool {
        self.births.load(Ordering::Relaxed)
    }

    /// It was killed.
    pub(super) fn forbid_births(&self) {
        self.births.store(false, Ordering::Relaxed);
    }

    /// Moves a running process, with all its threads, into the slot.
    pub fn enter(&self, process: rustix::process::Pid) -> Result<(), CgroupError> {
        let text = process.as_raw_nonzero().to_string();
        let mut joined = self.members.iter().flatten().filter(|member| member.joined);
        joined.try_for_each(|member| member.group.write("cgroup.procs", &text))
    }

    /// What `pids.max` holds.
    pub(super) fn pids_max(&self) -> String {
        let now = self.now.iter().flatten().find(|setting| setting.file == "pids.max");
        now.map_or_else(|| "max".to_owned(), Setting::text)
    }

    /// The group that has a controller, with the version of its hierarchy.
    pub(super) fn of(&self, controller: Controller) -> Option<(Version, &Group)> {
        let at = self.trunk.branch_of(controller)?;
        let version = self.trunk.branches.get(at)?.version;
        let member = self.members.get(at)?.as_ref()?;
        Some((version, &member.group))
    }

    /// The same, but only if the present task is in it.
    pub(super) fn joined(&self, controller: Controller) -> Option<(Version, &Group)> {
        let at = self.trunk.branch_of(controller)?;
        self.members.get(at)?.as_ref().filter(|member| member.joined)?;
        self.of(controller)
    }

    /// The v2 group.
    pub(super) fn unified(&self) -> Option<&Group> {
        let pairs = self.trunk.branches.iter().zip(&self.members);
        let mut v2 = pairs.filter(|(branch, _)| branch.version == Version::V2);
        Some(&v2.next()?.1.as_ref()?.group)
    }

    /// The group by which processes are found.
    pub(super) fn tracked(&self) -> Result<&Group, CgroupError> {
        let at = self.trunk.tracker().ok_or(CgroupError::NoGroup)?;
        let member = self.members.get(at).and_then(Option::as_ref);
        // After a crash half-way there may be any of them.
        let member = member.or_else(|| self.members.iter().flatten().next());
        member.map(|member| &member.group).ok_or(CgroupError::NoGroup)
    }

    /// Makes the group of a controller if there is one to make, and joins it.
    pub(super) fn join(&mut self, controller: Controller) -> Result<(), CgroupError> {
        let Some(at) = self.trunk.branch_of(controller) else { return Ok(()) };
        self.grow(at)?;
        if let Some(Some(member)) = self.members.get_mut(at) {
            member.joined = true;
        }
        Ok(())
    }

    /// Removes the slot and what groups its task made below it; false if something
    /// lives in it.
    pub fn remove(&self) -> Result<bool, CgroupError> {
        let mut removed = true;
        for branch in &self.trunk.branches {
            removed &= branch.remove(&self.name)?;
        }
        Ok(removed)
    }
}

impl Member {
    fn new(group: Group, version: Version) -> Result<Self, CgroupError> {
        // What moves a whole process waits for every processor; what moves the one thread
        // that writes does not, and whoever joins has one. In v2 it may not.
        let file = if version == Version::V1 { "tasks" } else { "cgroup.procs" };
        let procs = group.open_file(file, OFlags::WRONLY).map_err(|errno| CgroupError::Open {
            path: group.path().join(file),
            source: errno.into(),
        })?;
        Ok(Self { group, procs, joined: true })
    }
}

/// Whether a group's file could not be opened because the group was removed.
fn is_no_more(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NODEV))
}
