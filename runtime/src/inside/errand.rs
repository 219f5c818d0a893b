//! From an errand to a process inside the task, in the supervisor that took it.
//!
//! The task is found by its record and verified by its mark, so that a number that
//! came round again is never entered.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, pidfd_send_signal};

use super::copy;
use super::groups::Groups;
use super::wire::{Deed, Errand, Word};
use crate::capability::{Capability, CapabilitySet};
use crate::cgroup::Joining;
use crate::launch::{End, Launch, Place, StartFault, Streams, TaskId};
use crate::order;
use crate::proc::{self, ProcessMark};
use crate::record::{self, SCRATCH};
use crate::sandbox::{self, Ends, Facts, Host, NotStarted};
use crate::session::Exec;
use crate::spare;
use crate::supervisor::ADOPTION;
use crate::supervisor::streams::{self, Ours};

/// What an archive is read and written with: any file of the container, whoever owns
/// it there.
const COPYING: CapabilitySet = CapabilitySet::of(&[
    Capability::CHOWN,
    Capability::DAC_OVERRIDE,
    Capability::FOWNER,
    Capability::FSETID,
]);

/// A process that runs inside a task.
#[derive(Debug)]
pub(crate) struct Began {
    pub(crate) pid: Pid,
    pub(crate) ours: Ours,
    /// The task's main process.
    pub(crate) task: OwnedFd,
}

struct Site<'a> {
    dir: OwnedFd,
    launch: Launch,
    task: OwnedFd,
    mark: ProcessMark,
    groups: Vec<OwnedFd>,
    facts: &'a Facts,
    null: &'a OwnedFd,
}

/// Begins an errand; or the word that answers it.
pub(crate) fn begin(
    tasks: &OwnedFd,
    boot: &str,
    facts: &Facts,
    null: &OwnedFd,
    Errand { id, deed }: Errand,
) -> Result<Began, Word> {
    let site = find(tasks, boot, facts, null, &id)?;
    let (pid, ours) = match deed {
        Deed::Exec(exec) => site.exec(exec)?,
        Deed::CopyOut { path, name } => {
            site.copy(Streams::Logged, &|root| copy::out(root, &path, name.as_deref()))?
        }
        Deed::Look(path) => site.copy(Streams::Logged, &|root| Ok(copy::look(root, &path)?))?,
        Deed::CopyIn(path) => site.copy(Streams::Input, &|root| Ok(copy::into(root, &path)?))?,
    };
    Ok(Began { pid, ours, task: site.task })
}

fn refused(what: &str, error: impl std::fmt::Display) -> Word {
    Word::Refused(order::shorten(format!("{what}: {error}")))
}

fn not_started(NotStarted { fault, reason }: NotStarted) -> Word {
    Word::Ended(End::NotStarted { fault, reason: order::shorten(reason) })
}

fn find<'a>(
    tasks: &OwnedFd,
    boot: &str,
    facts: &'a Facts,
    null: &'a OwnedFd,
    id: &TaskId,
) -> Result<Site<'a>, Word> {
    // It may just have been removed.
    let dir = spare::hold(tasks, id).map_err(|_gone| Word::NotRunning)?;
    let damaged = |error| refused("its record cannot be read", error);
    let found = record::main_process(dir.as_fd(), boot).map_err(damaged)?;
    let (mark, task) = found.ok_or(Word::NotRunning)?;
    let launch = record::read_launch(dir.as_fd()).map_err(damaged)?;
    let unjoined = |error: std::io::Error| refused("its control groups cannot be joined", error);
    let groups = Groups::of(mark.pid).map_err(unjoined)?;
    if groups.is_frozen() {
        return Err(Word::Refused("it is paused; unpause it first".to_owned()));
    }
    let groups = groups.procs().map_err(|error| unjoined(error.into()))?;
    announce(dir.as_fd(), &task)?;
    Ok(Site { dir, launch, task, mark, groups, facts, null })
}

/// Tells the task's supervisor that somebody comes into its groups. Who comes after the
/// task's end finds them gone: they are no other task's.
fn announce(dir: BorrowedFd<'_>, task: &OwnedFd) -> Result<(), Word> {
    let unseen = |error| refused("its supervisor cannot be told", error);
    let state = record::read(dir).map_err(|e| refused("its record cannot be read", e))?;
    let supervisor = state.claim.supervisor.ok_or(Word::NotRunning)?;
    let supervisor = supervisor.open().map_err(unseen)?.ok_or(Word::NotRunning)?;
    let _ = pidfd_send_signal(&supervisor, ADOPTION);
    // If it lives now, it was told before the end, and the groups found above are its own.
    match proc::has_ended(task) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Word::NotRunning),
        Err(error) => Err(unseen(error)),
    }
}

impl Site<'_> {
    fn host(&self) -> Host<'_> {
        Host { process: &self.task, pid: self.mark.pid }
    }

    fn exec(&self, exec: Exec) -> Result<(Pid, Ours), Word> {
        let launch = self.launch_of(exec)?;
        let failed = |error: Errno| refused("no streams", std::io::Error::from(error));
        let (ends, ours) = streams::open(&launch, self.null).map_err(failed)?;
        let order = sandbox::Order {
            launch: &launch,
            facts: self.facts,
            dir: self.dir.as_fd(),
            volumes: None,
            join: Some(Joining::by_hand(&self.groups)),
            network_of: None,
            ends: &ends,
            standby: None,
        };
        let spawned = match &launch.place {
            Place::Container(_) => sandbox::enter(self.task.as_fd(), order),
            // It has nothing that must be joined but its groups.
            Place::Process(_) => {
                sandbox::spawn(order, &mut |_| Err("a process has no network".to_owned()))
            }
        };
        let spawned = spawned.map_err(not_started)?;
        match spawned.terminal {
            Some(terminal) => Ok((spawned.pid, streams::of_terminal(terminal).map_err(failed)?)),
            None => Ok((spawned.pid, ours)),
        }
    }

    /// The task's launch, with another program in it.
    fn launch_of(&self, exec: Exec) -> Result<Launch, Word> {
        let mut launch = self.launch.clone();
        let Exec { argv, env, directory, user, streams } = exec;
        launch.argv = argv;
        launch.env.extend(env);
        launch.streams = streams;
        if directory.is_some() {
            launch.directory = directory;
        }
        match (&mut launch.place, user) {
            (_, None) => {}
            (Place::Container(container), Some(user)) => {
                // The home of the task's user is not another's.
                if self.launch.env.get("HOME") == launch.env.get("HOME") && user != container.user {
                    launch.env.remove("HOME");
                }
                container.user = user;
            }
            (Place::Process(_), Some(_)) => {
                let reason = "it is a plain process, so all in it runs as its own user".to_owned();
                return Err(not_started(NotStarted { fault: StartFault::User, reason }));
            }
        }
        launch.check().map_err(|flaw| not_started(NotStarted::system("it cannot be", flaw)))?;
        Ok(launch)
    }

    fn copy(
        &self,
        streams: Streams,
        work: &dyn Fn(BorrowedFd<'_>) -> Result<(), copy::Failed>,
    ) -> Result<(Pid, Ours), Word> {
        let failed = |error: Errno| refused("no streams", std::io::Error::from(error));
        let launch = Launch { streams, ..self.launch.clone() };
        let (ends, ours) = streams::open(&launch, self.null).map_err(failed)?;
        let pid = match &self.launch.place {
            Place::Container(_) => {
                let work = || match copy::open_root(Path::new("/")) {
                    Ok(root) => copy::tell(work(root.as_fd())),
                    Err(error) => copy::tell(Err(error.into())),
                };
                sandbox::work_inside(&self.groups, self.host(), ends, COPYING, work)
            }
            Place::Process(_) => self.copy_of_process(ends, work),
        };
        Ok((pid.map_err(not_started)?, ours))
    }

    /// Only the scratch directory is the task's own, so that is its root here.
    fn copy_of_process(
        &self,
        ends: Ends,
        work: &dyn Fn(BorrowedFd<'_>) -> Result<(), copy::Failed>,
    ) -> Result<Pid, NotStarted> {
        let scratch = order::open_below(&self.dir, SCRATCH);
        let scratch = scratch.map_err(|e| NotStarted::system("no scratch directory", e))?;
        let user = self.launch.user().filter(|_| self.facts.uid == 0);
        sandbox::work_outside(&self.groups, ends, user, scratch, |scratch| {
            copy::tell(work(scratch))
        })
    }
}
