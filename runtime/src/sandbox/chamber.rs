//! The new process of a container, from its clone to its program.
//!
//! It has a copy of the supervisor's memory and one thread, so it may allocate; what
//! it makes dies with the exec.
//!
//! Invariant: [`Chamber::live`] returns never, and a failing step ends the process
//! after saying which it was.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Signal, fchdir, getcwd, getpid, setpgid, setsid, umask};
use rustix::thread::{
    ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use super::outside::{attributes, clone_tree, reach};
use super::place::{self, Kind};
use super::program::Program;
use super::report::{self, Failure};
use super::special::System;
use super::terminal::Terminal;
use super::user::Found;
use super::{IGNORED, Order, clocks, exact, reaper, rlimit, root, special};
use crate::plan::{ExactStep, Namespaces, Plan, Step};
use crate::sys::clone::{self, Birth};
use crate::sys::mount::{MountAttributes, Reach, set_attributes};
use crate::sys::{self, Fork};

pub(super) struct Chamber<'a> {
    plan: &'a Plan,
    order: &'a Order<'a>,
    trees: Vec<Option<OwnedFd>>,
    socket: OwnedFd,
    birth: Birth,
    root: Option<OwnedFd>,
    system: System,
    terminal: Option<Terminal>,
    user: Option<Found>,
    env: BTreeMap<String, String>,
    /// Its loopback was raised ahead.
    pub(super) has_loopback: bool,
    /// A process of the container that is entered.
    resident: Option<BorrowedFd<'a>>,
}

impl<'a> Chamber<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        order: &'a Order<'a>,
        trees: Vec<Option<OwnedFd>>,
        socket: OwnedFd,
        birth: Birth,
    ) -> Self {
        Self {
            plan,
            order,
            trees,
            socket,
            birth,
            root: None,
            system: System::default(),
            terminal: None,
            user: None,
            env: order.launch.env.clone(),
            has_loopback: false,
            resident: None,
        }
    }

    /// The same for a container that is there: a process in it, by its pidfd.
    pub(super) fn of(
        plan: &'a Plan,
        order: &'a Order<'a>,
        socket: OwnedFd,
        resident: BorrowedFd<'a>,
    ) -> Self {
        let fresh = Self::new(plan, order, Vec::new(), socket, Birth::Outside);
        Self { resident: Some(resident), ..fresh }
    }

    /// Does the steps of the process. Returns never.
    pub(super) fn live(mut self) -> ! {
        let plan = self.plan;
        for (at, step) in plan.steps().iter().enumerate() {
            if step.is_supervisors() {
                continue;
            }
            if let Err(failure) = self.perform(step) {
                report::send_failure(self.socket.as_fd(), at, &failure);
                sys::exit_now(127);
            }
        }
        sys::exit_now(127)
    }

    fn perform(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::JoinGroups => Ok(self.order.join(self.birth)?),
            Step::OwnGroupView => Ok(clone::unshare(UnshareFlags::NEWCGROUP)?),
            Step::Session => begin_session(),
            Step::OwnClocks => clocks::begin(),
            Step::Hostname(name) => Ok(rustix::system::sethostname(name.as_bytes())?),
            Step::Loopback if self.has_loopback => Ok(()),
            Step::Loopback => Ok(crate::net::raise_loopback()?),
            Step::Enter(namespaces) => self.go_in(*namespaces),
            Step::Await => self.wait(),
            Step::BeRoot => be_root(),
            Step::LeavePropagation => {
                let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
                Ok(mount_change(c"/", flags)?)
            }
            Step::Reopen { tree, .. } => self.reopen(*tree),
            Step::KeepHostSys => self.system.keep_host_sys(),
            Step::Root { layers, upper, changes } => {
                let layers = self.trees.get(..*layers).unwrap_or_default();
                let upper = upper.and_then(|upper| self.trees.get(upper)).and_then(Option::as_ref);
                self.root = Some(root::mount(layers, upper, *changes)?);
                Ok(())
            }
            Step::Special(kind) => {
                let groups = has_tty_group(self.order);
                self.system.mount(*kind, root_of(&self.root)?, groups)
            }
            Step::Device(name) => self.system.device(name),
            Step::DeviceLinks => self.system.device_links(),
            Step::Tmpfs { target, bytes, mode } => self.tmpfs(target, *bytes, *mode),
            Step::Attach { tree, target } => self.attach(*tree, target),
            Step::HostDevice { tree, target } => self.attach(*tree, target),
            Step::Sysctl { name, value } => self.system.sysctl(name, value),
            Step::Cover { how, paths } => self.system.cover(*how, paths),
            Step::Terminal { rows, columns } => {
                let (terminal, ours) = self.system.terminal((*rows, *columns))?;
                report::send_terminal(self.socket.as_fd(), ours.as_fd())?;
                terminal.control()?;
                self.terminal = Some(terminal);
                Ok(())
            }
            Step::Pivot => {
                root::leave(root_of(&self.root)?)?;
                umask(Mode::WGRP | Mode::WOTH);
                Ok(())
            }
            Step::FindUser(user) => {
                let found = Found::look_up(user, root_of(&self.root)?)?;
                self.env.entry("HOME".to_owned()).or_insert_with(|| found.home.clone());
                self.user = Some(found);
                Ok(())
            }
            Step::Directory(path) => self.enter(path),
            Step::FreezeRoot => {
                let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                Ok(set_attributes(root.as_fd(), MountAttributes::READ_ONLY, None, Reach::This)?)
            }
            Step::Reaper => self.leave_reaper(),
            Step::Streams => self.streams(),
            Step::Limit(limit) => {
                let resource = rlimit::resource(&limit.name).ok_or(Errno::INVAL)?;
                Ok(rlimit::set(resource, limit.soft, limit.hard)?)
            }
            Step::BecomeFound(caps) => {
                let user = self.user.as_ref().ok_or(Errno::INVAL)?;
                if let Some(terminal) = &self.terminal {
                    terminal.give_to(user.uid)?;
                }
                let groups: Vec<_> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
                let become_it = sys::capability::become_user_with;
                become_it(user.uid, user.gid, &groups, *caps).map_err(|error| match error {
                    Errno::INVAL => Failure::at(NO_SUCH_ID)(error),
                    error => error.into(),
                })
            }
            Step::NoNewPrivileges => Ok(rustix::thread::set_no_new_privs(true)?),
            Step::FilterCalls(caps) => Ok(sys::seccomp::install(&crate::seccomp::program(*caps))?),
            Step::Exact(step) => {
                let inside = exact::Inside { root: &mut self.root, trees: &self.trees };
                match step {
                    ExactStep::Dev => self.system.find_dev(root_of(&self.root)?),
                    step => exact::perform(step, inside),
                }
            }
            Step::Hold => match report::hold(self.socket.as_fd())? {
                true => Ok(()),
                false => sys::exit_now(127),
            },
            Step::Execute(_) => self.execute().map(|never| match never {}),
            _ => Err(Failure::because("this is not the process's to do")),
        }
    }

    /// Enters a container: this process leaves, and a child of its parent goes on, since
    /// only a new process can be in another pid namespace.
    fn go_in(&mut self, namespaces: Namespaces) -> Result<(), Failure> {
        // From here on it may be seen from inside; what it holds of the host's must
        // not be.
        sys::clone::hide_memory()?;
        for limit in &self.order.launch.rlimits {
            rlimit::raise(getpid(), limit)?;
        }
        let resident = self.resident.ok_or(Errno::SRCH)?;
        let types = ThreadNameSpaceType::from_bits_retain(namespaces.bits());
        move_into_thread_name_spaces(resident, types)?;
        if let Fork::Parent(inside) = clone::fork_sibling()? {
            // Without its number nobody could wait for it; it cannot go on then.
            report::send_process(self.socket.as_fd(), inside)?;
            sys::exit_now(0)
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.root = Some(rustix::fs::open(c"/", flags, Mode::empty())?);
        self.system.find_terminals(root_of(&self.root)?)
    }

    fn wait(&self) -> Result<(), Failure> {
        if !report::await_go(self.socket.as_fd())? {
            sys::exit_now(127);
        }
        // From here on it may be seen from inside; what it holds of the host's must not be.
        Ok(sys::clone::hide_memory()?)
    }

    /// A tree that only this mount namespace lets an ordinary user clone. The path is
    /// the host's, and is checked to lead to what the supervisor opened.
    fn reopen(&mut self, tree: usize) -> Result<(), Failure> {
        let Some(Some(theirs)) = self.trees.get(tree) else { return Ok(()) };
        let planned = self.plan.trees().nth(tree).ok_or(Errno::INVAL)?;
        let path = special::descriptor(theirs.as_fd());
        let path = rustix::fs::readlink(path, Vec::new())?;
        let ours = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let (was, is) = (rustix::fs::fstat(theirs)?, rustix::fs::fstat(&ours)?);
        if (was.st_dev, was.st_ino) != (is.st_dev, is.st_ino) {
            return Err(Failure::because("it was exchanged meanwhile"));
        }
        // Mounts below cannot be left out: they may cover something.
        let clone = clone_tree(ours.as_fd(), Reach::All)?;
        set_attributes(clone.as_fd(), attributes(planned), None, reach(&planned.source))?;
        if let Some(slot) = self.trees.get_mut(tree) {
            *slot = Some(clone);
        }
        Ok(())
    }

    fn tmpfs(&self, target: &Path, bytes: u64, mode: u32) -> Result<(), Failure> {
        let root = root_of(&self.root)?;
        let place = place::make(root, target, Kind::Directory)?;
        place::not_the_kernels(place.as_fd())?;
        let options = [("size", bytes.to_string()), ("mode", format!("{mode:o}"))];
        let mount = special::make("tmpfs", &options, special::QUIET)?;
        Ok(place::attach(mount.as_fd(), place.as_fd())?)
    }

    fn attach(&self, tree: usize, target: &Path) -> Result<(), Failure> {
        let Some(Some(mount)) = self.trees.get(tree) else { return Ok(()) };
        let place = place::make(root_of(&self.root)?, target, place::kind(mount)?)?;
        place::not_the_kernels(place.as_fd())?;
        Ok(place::attach(mount.as_fd(), place.as_fd())?)
    }

    /// Enters a directory of the container, made if it is missing, and checks where
    /// that led: a working directory outside is a way out.
    fn enter(&self, path: &Path) -> Result<(), Failure> {
        let root = root_of(&self.root)?;
        let place = match self.resident {
            None => place::make(root, path, Kind::Directory)?,
            Some(_) => place::open(root, path, OFlags::PATH | OFlags::DIRECTORY)?,
        };
        fchdir(&place)?;
        match getcwd(Vec::new())?.as_bytes() {
            [b'/', ..] => Ok(()),
            _ => Err(Failure::because("it is outside of the container")),
        }
    }

    /// From here on the program is a child, in a process group of its own, so that
    /// what is sent to the first process's group comes to it once.
    fn leave_reaper(&mut self) -> Result<(), Failure> {
        // Before there is anybody inside who could look.
        sys::set_title(reaper::TITLE);
        match sys::fork()? {
            Fork::Parent(program) => reaper::serve(program),
            Fork::Child => {
                setpgid(None, None)?;
                if let Some(terminal) = &self.terminal {
                    // Asking from the background stops whoever does not block this.
                    sys::block_only(&[Signal::TTOU]);
                    terminal.put_in_front(getpid())?;
                }
                Ok(())
            }
        }
    }

    fn streams(&self) -> Result<(), Failure> {
        match &self.terminal {
            Some(terminal) => terminal.become_streams()?,
            None => {
                let ends = self.order.ends;
                rustix::stdio::dup2_stdin(&ends.stdin)?;
                rustix::stdio::dup2_stdout(&ends.stdout)?;
                rustix::stdio::dup2_stderr(&ends.stderr)?;
            }
        }
        Ok(sys::close_all_on_exec()?)
    }

    fn execute(&self) -> Result<Infallible, Failure> {
        let program = Program::new(&self.order.launch.argv, &self.env);
        let program = program.ok_or_else(|| Failure::because("it holds a zero byte"))?;
        sys::block_only(&[]);
        Err(program.execute().into())
    }
}

fn root_of(root: &Option<OwnedFd>) -> Result<BorrowedFd<'_>, Failure> {
    root.as_ref().map(AsFd::as_fd).ok_or_else(|| Failure::because("there is no root yet"))
}

/// Said of a user whose id is not mapped.
const NO_SUCH_ID: &str = "the container has no such id; an ordinary user's containers have \
    root, and more if newuidmap is installed and /etc/subuid and /etc/subgid grant them";

/// As a fresh program expects to begin; its own session, hence its own group.
pub(super) fn begin_session() -> Result<(), Failure> {
    setsid()?;
    IGNORED.into_iter().for_each(sys::heed);
    // What we make in the root has exactly the permissions we say.
    umask(Mode::empty());
    Ok(())
}

pub(super) fn be_root() -> Result<(), Failure> {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    match set_thread_groups(&[]) {
        // An ordinary user's namespace with one id has given that up for good.
        Ok(()) | Err(Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    // Some hosts forbid keyrings; then system calls on them are filtered all the same.
    let _ = clone::own_keyring();
    Ok(())
}

/// Whether the group `tty`, 5 everywhere, exists among the container's ids.
fn has_tty_group(order: &Order<'_>) -> special::TtyGroup {
    if order.facts.privileged() { special::TtyGroup::Known } else { special::TtyGroup::Unknown }
}
