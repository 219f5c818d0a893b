//! From an order to a running program, and from its end to the next wait.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, Signal};

use super::Supervisor;
use super::desk::Desk;
use super::kin;
use super::neighbour;
use super::nodes;
use super::prepared::Prepared;
use super::pump::Pump;
use super::running::{Fate, News, Ran, Running, Told};
use super::streams::{self, Ours};
use super::texts;
use crate::cgroup::{Limits, Measure};
use crate::container::{Changes, Mount, Network, Publish};
use crate::frame;
use crate::launch::{End, Launch, Place, StartFault, Streams, TaskId};
use crate::log::LogWriter;
use crate::net::Ports;
use crate::order::{self, Reply, Report};
use crate::proc::ProcessMark;
use crate::record::{Claim, StateFile};
use crate::sandbox::{self, Held, NotStarted, Spawned};
use crate::shipped;
use crate::volume;

/// How long an agent may take to hear of an end before what is left to do is done.
const HEARD_WITHIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// How long an agent may take to make a network.
const NETWORK_PATIENCE: Duration = Duration::from_secs(20);

/// A program that runs, and what we hold of it.
struct Begun {
    task: Pid,
    mark: std::io::Result<ProcessMark>,
    ours: Ours,
    /// The pipes it writes to, held so that nobody is woken when it closes them: that is
    /// shortly before its end, which is told by a signal.
    writers: Option<[OwnedFd; 2]>,
    /// The task's directory, for its log.
    log: OwnedFd,
    /// A container's mounts, which go when the end is told: that takes a while.
    mounts: Option<OwnedFd>,
    /// The host's ports that lead to it, which are its as long as it runs.
    ports: Ports,
    held: Option<Held>,
}

/// Why a launch is not ours.
enum Unclaimed {
    Exists,
    Failed(NotStarted),
}

impl Supervisor {
    /// Runs one task to its end and tells the agent.
    pub(super) fn launch(&mut self, agent: &OwnedFd, nonce: String, launch: Launch, text: Vec<u8>) {
        // What was meant for the last task is not for this one.
        self.signals.take();
        if order::is_closed(agent) {
            // Whoever asked is gone, and may be back by now and have seen that there is nothing.
            return;
        }
        let claimed = self.claim(nonce, &launch, &text);
        drop(text);
        let prepared = match claimed {
            Ok(prepared) => prepared,
            Err(Unclaimed::Exists) => {
                let _ = order::say(agent, &Report::Exists);
                return;
            }
            Err(Unclaimed::Failed(NotStarted { fault, reason })) => {
                let reason = order::shorten(reason);
                let _ = order::say(agent, &Report::NotStarted { fault, reason });
                return;
            }
        };
        // Whoever asked may have given it up meanwhile, and told so; then it must never run.
        let begun = if order::is_closed(agent) {
            let reason = "whoever asked for it had gone".to_owned();
            Err(NotStarted { fault: StartFault::Interrupted, reason })
        } else {
            self.begin(agent, &prepared, &launch)
        };
        let Prepared { dir, mut state, .. } = prepared;
        // What takes time to be closed, and nobody wants.
        let mut rest = None;
        let (end, report) = match begun {
            Ok(mut begun) => {
                rest = Some((begun.mounts.take(), begun.writers.take()));
                self.run(agent, &dir, &mut state, launch, begun)
            }
            Err(NotStarted { fault, reason }) => {
                let reason = order::shorten(reason);
                let end = End::NotStarted { fault, reason: reason.clone() };
                (end, Report::NotStarted { fault, reason })
            }
        };
        if let Err(error) = state.add_end(&end) {
            // Who asks later finds this process gone and no end: a lost task.
            complain!("starling supervisor: cannot record {end:?}: {error}");
            self.is_bad = true;
        }
        // An agent that is gone finds the end on record. Its successor watches this
        // process, as a signal said or will: so it must not stay.
        self.leaves |= order::say(agent, &report).is_err();
        if let Some((Some(_mounts), _)) = &rest {
            order::await_close(agent, HEARD_WITHIN);
        }
        drop(rest);
        self.signals.take();
        self.leaves |= self.signals.adopted || self.signals.orphaned;
    }

    /// Makes the launch ours, unless there is a task of that id.
    fn claim(
        &mut self,
        nonce: String,
        launch: &Launch,
        text: &[u8],
    ) -> Result<Prepared, Unclaimed> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Unclaimed::Failed(NotStarted::system(what, error))
        };
        launch.check().map_err(|flaw| failed("the launch is flawed", &flaw))?;
        self.stand_down(launch);
        // A process that nobody limits is not counted where that costs it time.
        let is_plain = launch.limits == Limits::default();
        let measure = match launch.place {
            Place::Process(_) if is_plain => Measure::Limited,
            _ => Measure::Everything,
        };
        let fitted = self.group.fit(&launch.limits, measure);
        fitted.map_err(|error| failed("cannot limit the task", &order::chain(&error)))?;
        let slot = self.group.name();
        let baseline = self.group.baseline();
        let boot = self.post.boot.clone();
        let (id, supervisor) = (Some(launch.id.clone()), Some(self.own));
        let claim = Claim { id, nonce, boot, supervisor, slot, baseline };
        // The second attempt is for a directory that was swept away as it waited.
        for _ in 0..2 {
            let prepare = "cannot prepare the task's directory";
            self.prepare().map_err(|error| failed(prepare, &error))?;
            let Some(mut prepared) = self.prepared.take() else { continue };
            let done = prepared.state.claim(&claim, text);
            let done = done.and_then(|()| self.give(&prepared, launch));
            if let Err(error) = done {
                prepared.remove(&self.post.tasks);
                return Err(failed("cannot record the launch", &error));
            }
            match prepared.become_task(&self.post.tasks, &launch.id) {
                Ok(()) => return Ok(prepared),
                Err(Errno::NOENT) => {}
                Err(error) => {
                    prepared.remove(&self.post.tasks);
                    return Err(match error {
                        Errno::EXIST => Unclaimed::Exists,
                        error => failed("cannot claim the launch", &error),
                    });
                }
            }
        }
        Err(failed("cannot claim the launch", &"its directory vanishes"))
    }

    fn give(&self, prepared: &Prepared, launch: &Launch) -> std::io::Result<()> {
        if let Place::Process(_) = launch.place {
            prepared.make_scratch()?;
        }
        match launch.user() {
            Some(user) if rustix::process::geteuid().is_root() => prepared.give(user),
            _ => Ok(()),
        }
    }

    /// Starts the program.
    fn begin(
        &mut self,
        agent: &OwnedFd,
        prepared: &Prepared,
        launch: &Launch,
    ) -> Result<Begun, NotStarted> {
        let failed = |error: Errno| NotStarted::system("cannot prepare the task", error);
        let standby = self.standby.take();
        let (ends, ours) = streams::open(launch, &self.null).map_err(failed)?;
        let log = fcntl_dupfd_cloexec(&prepared.dir, 3).map_err(failed)?;
        let facts = self.post.facts.clone();
        let mut volumes = None;
        self.expects_container = false;
        self.expects = None;
        if let Place::Process(process) = &launch.place
            && process.files.is_some()
        {
            shipped::take(&self.post.tasks, &launch.id, &prepared.dir)
                .map_err(|error| NotStarted::system("cannot have its files", error))?;
        }
        if let Place::Container(container) = &launch.place {
            self.expects_container = container.changes == Changes::Disk;
            texts::make(prepared.dir.as_fd(), &self.post.tasks, &launch.id, container)
                .map_err(|error| NotStarted::system("cannot name the container", error))?;
            if container.mounts.iter().any(|mount| matches!(mount, Mount::Volume { .. })) {
                let opened = order::open_below(&self.post.tasks, "..")
                    .and_then(|runtime| volume::directory(&runtime));
                let failed = |error| NotStarted::system("cannot open the volumes", error);
                volumes = Some(opened.map_err(failed)?);
            }
        }
        nodes::restrict(&mut self.group, launch)
            .map_err(|reason| NotStarted::system("cannot limit its devices", reason))?;
        let shared = neighbour::network(&self.post.tasks, &self.post.boot, launch)
            .map_err(|reason| NotStarted::system("cannot share a network", reason))?;
        let group = std::mem::take(&mut self.group);
        let sandbox_order = sandbox::Order {
            launch,
            facts: &facts,
            dir: prepared.dir.as_fd(),
            volumes: volumes.as_ref().map(AsFd::as_fd),
            join: group.join(),
            network_of: shared.as_ref().map(AsFd::as_fd),
            ends: &ends,
            standby,
        };
        // Taken after the clone: no process of the container has them open.
        let mut ports = Ports::default();
        let mut network = |namespace| {
            ports = Ports::hold(published(launch)).map_err(|error| order::chain(&error))?;
            self.network(agent, &launch.id, namespace)
        };
        let mut spawned = None;
        let made = ProcessMark::of_new(|| {
            let made = sandbox::spawn(sandbox_order, &mut network)?;
            Ok::<_, NotStarted>(spawned.insert(made).pid)
        });
        self.group = group;
        let (task, mark) = made?;
        let Some(Spawned { mark: known, ahead, terminal, mounts, held, .. }) = spawned else {
            return Err(NotStarted::system("cannot start", "no process was made"));
        };
        let mark = known.map_or(mark, Ok);
        self.expects = ahead;
        let ours = match terminal {
            Some(terminal) => streams::of_terminal(terminal).map_err(|error| {
                sandbox::end(task);
                failed(error)
            })?,
            None => ours,
        };
        let writers = match launch.streams {
            Streams::Logged | Streams::Input => Some([ends.stdout, ends.stderr]),
            Streams::Terminal { .. } | Streams::Of { .. } => None,
        };
        Ok(Begun { task, mark, ours, writers, log, mounts, ports, held })
    }

    fn run(
        &mut self,
        agent: &OwnedFd,
        dir: &OwnedFd,
        state: &mut StateFile,
        launch: Launch,
        begun: Begun,
    ) -> (End, Report) {
        let Begun { task, mark, ours, log, ports, held, .. } = begun;
        let mut pump = Pump::new(LogWriter::new(log, launch.log), ours.outputs);
        let recorded = mark.and_then(|mark| state.add_task(mark));
        if let Err(error) = recorded {
            // A task that a restarted agent could not find must not run.
            self.is_bad |= !kin::kill_children(&mut self.signals, &mut pump, &self.group);
            let reason = format!("its start could not be recorded: {error}");
            let end = End::Lost { reason };
            return (end.clone(), Report::Ended { end });
        }
        let pid = task.as_raw_nonzero().get().unsigned_abs();
        let running = Running {
            news: News::new(agent, pid),
            own: self.own,
            task,
            stop_signal: Signal::from_named_raw(launch.stop_signal).unwrap_or(Signal::TERM),
            dir,
            signals: &mut self.signals,
            group: &self.group,
            orders: &mut self.post.listener,
            pump,
            input: ours.input,
            desk: Desk::default(),
            fate: Fate::new(launch.deadline_boot_ns),
            held,
        };
        // What is not needed any more is not held for the task's life.
        drop(launch);
        let Ran { end, news, is_gone } = running.run();
        // Whoever starts in its place wants them.
        drop(ports);
        // The keeper looks for what stayed.
        self.is_bad |= !is_gone;
        // An agent that is gone finds the state on disk.
        self.leaves |= news == Told::Failed;
        let report = match news {
            Told::Nothing => Report::Ran { pid, end: end.clone() },
            Told::Started | Told::Failed => Report::Ended { end: end.clone() },
        };
        (end, report)
    }

    /// Has the agent make a network of a namespace.
    fn network(&mut self, agent: &OwnedFd, id: &TaskId, namespace: OwnedFd) -> Result<(), String> {
        let text = frame::encode(&Report::NetworkWanted { id: id.clone() });
        let text = text.map_err(|error| error.to_string())?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut extra = SendAncillaryBuffer::new(&mut space);
        let handles = [namespace.as_fd()];
        extra.push(SendAncillaryMessage::ScmRights(&handles));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let gone = "the agent is gone, and networks are its work";
        rustix::net::sendmsg(agent, &[IoSlice::new(&text)], &mut extra, flags)
            .map_err(|error| format!("{gone}: {error}"))?;
        match self.message(agent, NETWORK_PATIENCE) {
            Ok(Some(text)) => match frame::decode(&text) {
                Ok(Reply::NetworkReady) => Ok(()),
                Ok(Reply::NetworkFailed { reason }) => Err(reason),
                Err(error) => Err(error.to_string()),
            },
            Ok(None) => Err(gone.to_owned()),
            Err(error) => Err(format!("no network came: {error}")),
        }
    }
}

/// The ports of the host that a launch wants to have.
fn published(launch: &Launch) -> &[Publish] {
    match &launch.place {
        Place::Container(container) => match &container.network {
            Network::Bridge { publish } => publish,
            _ => &[],
        },
        Place::Process(_) => &[],
    }
}
