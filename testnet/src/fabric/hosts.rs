//! The processes of one host: agent, keeper, supervisors and tasks.
//!
//! A host is not a container, so its processes are found by what they cannot
//! shed: its network namespace, its data directory, or a parent among them.
//! Tasks have namespaces of their own, but somebody above them does not.
//! Every process is held by a pidfd that is opened before it is judged again,
//! so a reused pid is never signalled.
//!
//! Must never touch the caller or the caller's ancestors.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::procfs::{self, Entry};
use super::{Fabric, Host, netns};

/// A killed process is gone in milliseconds; one that is not hangs in the kernel.
const DYING: Duration = Duration::from_secs(10);

/// Nothing tells of a stop but looking.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Processes that would not go.
#[derive(Debug, thiserror::Error)]
#[error("still there after {} s: {pids:?}", DYING.as_secs())]
pub struct Survivors {
    pids: Vec<i32>,
}

/// How a host's agent is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    Running,
    Paused,
    Stopped,
}

impl AgentState {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What marks a process as belonging somewhere.
#[derive(Clone, Debug, Default)]
pub struct Marks<'a> {
    netns: Option<(u64, u64)>,
    data: Option<&'a Path>,
}

impl<'a> Marks<'a> {
    /// A host's marks.
    pub fn of(host: &'a Host) -> Self {
        Self { netns: host.namespace.as_deref().and_then(netns::identity), data: Some(&host.data) }
    }

    /// Whatever lives in a namespace.
    pub fn of_namespace(name: &str) -> Self {
        Self { netns: netns::identity(name), data: None }
    }

    /// The marks of everything a fabric runs: its hosts and its switch.
    pub fn of_fabric(fabric: &'a Fabric) -> Vec<Self> {
        let switch = Self::of_namespace(&fabric.switch_namespace());
        fabric.hosts.iter().map(Self::of).chain([switch]).collect()
    }

    fn fit(&self, entry: &Entry) -> bool {
        (self.netns.is_some() && self.netns == entry.netns)
            || self.data.is_some_and(|data| entry.uses(data))
    }
}

/// A process that cannot be mistaken for a later one.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    stopped: bool,
    fd: OwnedFd,
}

impl Process {
    fn hold(entry: &Entry) -> Option<Self> {
        let fd = pidfd_open(Pid::from_raw(entry.pid)?, PidfdFlags::empty()).ok()?;
        (procfs::started(entry.pid) == Some(entry.started)).then_some(Self {
            pid: entry.pid,
            stopped: entry.state == 'T',
            fd,
        })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn state(&self) -> AgentState {
        if self.stopped { AgentState::Paused } else { AgentState::Running }
    }

    /// Sends a signal; a process that is gone already is no failure.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until every thread of it is stopped, or it has ended: a signal is
    /// sent at once, but a thread obeys when it next comes out of the kernel.
    pub fn stops_by(&self, deadline: Instant) -> bool {
        while !procfs::is_stopped(self.pid) {
            let soon = Instant::now() + LOOK_AGAIN;
            if self.ends_by(soon.min(deadline)) {
                return true;
            }
            if soon > deadline {
                return false;
            }
        }
        true
    }

    /// Waits until it has ended; `false` when it has not by then.
    pub fn ends_by(&self, deadline: Instant) -> bool {
        ends_by(&self.fd, deadline)
    }
}

/// Waits until the process of a pidfd has ended.
pub fn ends_by(pidfd: &impl AsFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = Timespec::try_from(left) else {
            return false;
        };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(ended) => return ended > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// One picture of the machine, to ask about any number of hosts.
#[derive(Debug)]
pub struct Census(Vec<Entry>);

impl Census {
    pub fn take() -> Self {
        Self(procfs::everyone())
    }

    /// The processes that bear the marks, and all that descend from them.
    pub fn find(&self, marks: &[Marks<'_>]) -> Vec<Process> {
        let us = std::process::id().cast_signed();
        let members = members(&self.0, marks, us);
        let held = self.0.iter().filter(|entry| members.contains(&entry.pid));
        held.filter_map(Process::hold).collect()
    }

    /// The agent of a host: who listens on its socket, or else whoever of its
    /// processes runs `starling agent`.
    pub fn agent(&self, host: &Host) -> Option<Process> {
        let mut processes = self.find(&[Marks::of(host)]);
        let listener = listener(&host.socket);
        let at = processes
            .iter()
            .position(|process| Some(process.pid) == listener)
            .or_else(|| processes.iter().position(|process| self.is_agent(process.pid)))?;
        Some(processes.swap_remove(at))
    }

    fn is_agent(&self, pid: i32) -> bool {
        // A script has its interpreter before it.
        let named =
            |entry: &Entry| entry.arguments.iter().skip(1).take(2).any(|one| one == b"agent");
        self.0.iter().any(|entry| entry.pid == pid && named(entry))
    }
}

/// Kills everything that bears the marks, until nothing is left; gives how many.
pub fn kill(marks: &[Marks<'_>]) -> Result<usize, Survivors> {
    let deadline = Instant::now() + DYING;
    let mut killed = BTreeSet::new();
    // Again until none is found: what is being killed may still have forked.
    loop {
        let found = Census::take().find(marks);
        if found.is_empty() {
            return Ok(killed.len());
        }
        for process in &found {
            let _ = process.signal(Signal::KILL);
            killed.insert(process.pid);
        }
        if !found.iter().all(|process| process.ends_by(deadline)) {
            let pids = found.iter().map(Process::pid).collect();
            return Err(Survivors { pids });
        }
    }
}

fn members(everyone: &[Entry], marks: &[Marks<'_>], us: i32) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let mut parents = BTreeMap::new();
    for entry in everyone {
        children.entry(entry.parent).or_default().push(entry.pid);
        parents.insert(entry.pid, entry.parent);
    }
    let mut spared = BTreeSet::new();
    let mut next = Some(us);
    while let Some(pid) = next
        && spared.insert(pid)
    {
        next = parents.get(&pid).copied();
    }
    let dead = |pid: &i32| everyone.iter().any(|one| one.pid == *pid && one.is_dead());
    let marked =
        |entry: &&Entry| !spared.contains(&entry.pid) && marks.iter().any(|marks| marks.fit(entry));
    let mut open: Vec<i32> = everyone.iter().filter(marked).map(|entry| entry.pid).collect();
    let mut found = BTreeSet::new();
    while let Some(pid) = open.pop() {
        if !spared.contains(&pid) && found.insert(pid) {
            open.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found.retain(|pid| !dead(pid));
    found
}

/// The process that listens on a Unix socket.
fn listener(socket: &Path) -> Option<i32> {
    // Not blocking: the queue of a paused agent may be full.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let caller = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&caller, &SocketAddrUnix::new(socket).ok()?).ok()?;
    let credentials = rustix::net::sockopt::socket_peercred(&caller).ok()?;
    Some(credentials.pid.as_raw_nonzero().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: i32, parent: i32, netns: u64) -> Entry {
        Entry { pid, parent, state: 'S', netns: Some((4, netns)), ..Entry::default() }
    }

    #[test]
    fn a_host_is_its_namespace_its_directory_and_their_descendants() {
        let data = Path::new("/d/host1");
        let mut everyone = vec![
            entry(1, 0, 1),
            entry(2, 1, 1),   // a shell
            entry(3, 2, 1),   // this process
            entry(10, 1, 7),  // an agent
            entry(11, 1, 7),  // a supervisor
            entry(12, 11, 8), // its task, in a namespace of its own
            entry(13, 12, 8), // the task's child
            entry(20, 1, 9),  // another host
            entry(30, 1, 1),  // keeps files in the data directory
            entry(31, 1, 1),  // a user's shell standing there
            entry(40, 11, 7), // ended
        ];
        everyone[8].directory = Some(data.join("scratch"));
        everyone[9].directory = Some(data.to_owned());
        everyone[9].terminal = true;
        everyone[10].state = 'Z';
        let marks = Marks { netns: Some((4, 7)), data: Some(data) };
        let found = members(&everyone, &[marks], 3);
        assert_eq!(found, BTreeSet::from([10, 11, 12, 13, 30]));
    }

    #[test]
    fn the_caller_and_its_ancestors_are_spared_but_not_its_children() {
        let everyone = [entry(1, 0, 7), entry(2, 1, 7), entry(3, 2, 7), entry(4, 3, 7)];
        let marks = Marks { netns: Some((4, 7)), data: None };
        assert_eq!(members(&everyone, &[marks], 3), BTreeSet::from([4]));
    }

    #[test]
    fn a_socket_names_who_listens_on_it() {
        let us = std::process::id().cast_signed();
        let path = std::env::temp_dir().join(format!("testnet-listener-{us}"));
        assert_eq!(listener(&path), None);
        let socket = std::os::unix::net::UnixListener::bind(&path).expect("free");
        assert_eq!(listener(&path), Some(us));
        drop(socket);
        assert_eq!(listener(&path), None, "nobody listens any more");
        std::fs::remove_file(&path).expect("ours");
    }

    #[test]
    fn no_marks_fit_nobody() {
        let everyone = [entry(1, 0, 7), Entry::default()];
        assert!(members(&everyone, &[Marks::default()], 99).is_empty());
    }
}
