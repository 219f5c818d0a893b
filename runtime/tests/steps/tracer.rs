//! Follows an agent and all it starts, system call by system call, and kills one of them
//! at a given step.
//!
//! A program of a task is let go at its exec: what it does is its own.
//!
//! Invariant: this thread waits for its own tracees only, so that tests beside it keep
//! their children. When it ends, the kernel lets go of all that are left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Who makes a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Agent,
    /// The keeper, and the process that becomes it.
    Keeper,
    /// A supervisor without a task.
    Waiting,
    /// A supervisor from its order until it waits again.
    Supervisor,
    /// A process that a supervisor made, until it runs its program.
    SetUp,
}

pub(crate) const ROLES: [Role; 5] =
    [Role::Agent, Role::Keeper, Role::Waiting, Role::Supervisor, Role::SetUp];

/// At which system call of its role somebody is killed, before it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Murder {
    pub(crate) role: Role,
    pub(crate) step: u64,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// System calls by role.
    pub(crate) steps: BTreeMap<Role, u64>,
    /// The number of the call at which the victim was killed, with its arguments.
    pub(crate) killed_at: Option<String>,
    /// How the agent exited, if it did before that: then nobody else can wait for it.
    pub(crate) agent_exit: Option<i32>,
}

/// `PTRACE_EVENT_*` of `linux/ptrace.h`.
const FORKS: [i32; 3] =
    [libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK, libc::PTRACE_EVENT_CLONE];

struct Tracer {
    agent: Pid,
    murder: Option<Murder>,
    roles: BTreeMap<Pid, Role>,
    /// Stopped at birth; their parents have not told of them yet.
    newborn: BTreeSet<Pid>,
    /// In a system call.
    inside: BTreeSet<Pid>,
    /// Supervisors that take an order now.
    at_the_door: BTreeSet<Pid>,
    seen: Seen,
}

/// Follows an agent that waits to be let go, which `go` does, until the murder is done or
/// everybody has left.
pub(crate) fn follow(agent: i32, murder: Option<Murder>, go: impl FnOnce()) -> Seen {
    let agent = Pid::from_raw(agent);
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(agent, options).expect("seized");
    ptrace::interrupt(agent).expect("interrupted");
    go();
    let mut tracer = Tracer {
        agent,
        murder,
        roles: BTreeMap::from([(agent, Role::Agent)]),
        newborn: BTreeSet::new(),
        inside: BTreeSet::new(),
        at_the_door: BTreeSet::new(),
        seen: Seen::default(),
    };
    while tracer.seen.killed_at.is_none() {
        match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            Ok(status) => tracer.turn(status),
            Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => break,
            Err(error) => panic!("{error}"),
        }
    }
    tracer.seen
}

/// A file of a process, as text; empty if it is gone.
fn proc(pid: Pid, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn leader(thread: Pid) -> Option<Pid> {
    let status = proc(thread, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok().map(Pid::from_raw)
}

impl Tracer {
    fn turn(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::PtraceSyscall(pid) => self.call(pid),
            WaitStatus::PtraceEvent(pid, _, event) if FORKS.contains(&event) => {
                if let Ok(child) = ptrace::getevent(pid) {
                    self.birth(pid, Pid::from_raw(i32::try_from(child).expect("a pid")));
                }
                resume(pid, None);
            }
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => {
                // The agent runs its keeper, and may be seen before it runs itself; all
                // others run what is not ours.
                if matches!(self.roles.get(&pid), Some(Role::Agent | Role::Keeper)) {
                    self.inside.insert(pid);
                    resume(pid, None);
                } else {
                    self.forget(pid);
                    let _ = ptrace::detach(pid, None);
                }
            }
            WaitStatus::PtraceEvent(pid, ..) => {
                if self.roles.contains_key(&pid) {
                    resume(pid, None);
                } else {
                    self.newborn.insert(pid);
                }
            }
            WaitStatus::Stopped(pid, signal) => resume(pid, Some(signal)),
            WaitStatus::Exited(pid, code) => {
                if pid == self.agent {
                    self.seen.agent_exit = Some(code);
                }
                self.forget(pid);
            }
            WaitStatus::Signaled(pid, ..) => self.forget(pid),
            WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
        }
    }

    fn forget(&mut self, pid: Pid) {
        self.roles.remove(&pid);
        for set in [&mut self.newborn, &mut self.inside, &mut self.at_the_door] {
            set.remove(&pid);
        }
    }

    fn birth(&mut self, parent: Pid, child: Pid) {
        let Some(role) = self.roles.get(&parent) else { return };
        let role = match role {
            Role::Agent if leader(child) == Some(self.agent) => Role::Agent,
            Role::Agent => Role::Keeper,
            // Only the keeper itself bears that name, and it forks nothing else.
            Role::Keeper if proc(parent, "comm").trim() == "starling-keeper" => Role::Waiting,
            Role::Keeper => Role::Keeper,
            Role::Waiting | Role::Supervisor | Role::SetUp => Role::SetUp,
        };
        self.roles.insert(child, role);
        if self.newborn.remove(&child) {
            resume(child, None);
        }
    }

    /// At the beginning or the end of a system call: the two take turns, and whoever is
    /// new begins outside.
    fn call(&mut self, pid: Pid) {
        if self.inside.remove(&pid) {
            return resume(pid, None);
        }
        self.inside.insert(pid);
        if !self.is_last(pid) {
            resume(pid, None);
        }
    }

    /// Counts a call, and kills whoever makes it if it is the one.
    fn is_last(&mut self, pid: Pid) -> bool {
        let text = proc(pid, "syscall");
        let number = text.split(' ').next().and_then(|word| word.parse::<i64>().ok());
        let waits = number == Some(libc::SYS_accept4);
        let Some(role) = self.roles.get_mut(&pid) else { return false };
        match role {
            Role::Waiting if self.at_the_door.contains(&pid) && !waits => *role = Role::Supervisor,
            Role::Supervisor if waits => *role = Role::Waiting,
            _ => {}
        }
        if waits {
            self.at_the_door.insert(pid);
        } else {
            self.at_the_door.remove(&pid);
        }
        let step = self.seen.steps.entry(*role).or_default();
        *step += 1;
        match self.murder {
            Some(murder) if murder.role == *role && murder.step == *step => {}
            _ => return false,
        }
        let victim = leader(pid).unwrap_or(pid);
        let victim = rustix::process::Pid::from_raw(victim.as_raw()).expect("a pid");
        rustix::process::kill_process(victim, rustix::process::Signal::KILL).expect("killed");
        self.seen.killed_at = Some(text.trim().to_owned());
        true
    }
}

/// Lets a stopped process go on to its next stop. It may have been killed meanwhile.
fn resume(pid: Pid, signal: Option<Signal>) {
    match ptrace::syscall(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("{pid} does not go on: {error}"),
    }
}
