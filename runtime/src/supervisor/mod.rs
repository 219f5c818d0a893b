//! The supervisor: waits for an order, then is the parent of one task, from before
//! its start until after its end; and waits again.
//!
//! ```text
//! prepare ─▶ wait ─▶ order ─▶ claim ─▶ start ─▶ answer ─▶ drain pipes, obey
//!    ▲                                                      │
//!    └──── told ◀─ end on record ◀─ drain ◀─ kill the rest ◀─ main process ends
//! ```
//!
//! To prepare is to make what any task needs: its directory, its control groups and, where
//! the last one was a container, the process of the next.
//!
//! A fork of the keeper, without exec: it costs a few pages. Every orphan of the
//! task comes to it, so what the task leaves behind is its children, in whatever
//! session they hide. It has one thread and no runtime.
//!
//! Waiting, it dies with its keeper; with an order it outlives everybody. All it
//! keeps from one task to the next is itself, and which namespaces the last one had:
//! nothing else of it comes from a task.
//!
//! Invariant: it is never done with a task while anything of it lives (but for a
//! process the kernel cannot kill), and never before the end is on record. It
//! never waits for the agent.

mod desk;
mod enter;
mod group;
pub(crate) mod input;
mod kin;
mod neighbour;
mod nodes;
mod prepared;
mod pump;
mod running;
mod signals;
mod start;
pub(crate) mod streams;
mod texts;

pub(crate) use group::{bury, sweep_slots, tree, try_birth};
pub(crate) use prepared::{is_prepared, sweep};
pub(crate) use signals::{ADOPTION, KNOCK, TAKEN};
pub(crate) use texts::ETC;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, sockopt};
use rustix::process::{
    Pid, Signal, geteuid, getpid, getppid, set_child_subreaper, set_parent_process_death_signal,
    setsid,
};
use rustix::thread::set_name;

use crate::cgroup::Tree;
use crate::frame::{self, Inbox};
use crate::launch::{Launch, Place, StartFault};
use crate::order::{self, Order, Report};
use crate::plan::Namespaces;
use crate::proc::ProcessMark;
use crate::sandbox::{self, Facts, Standby};
use crate::sys::{self, Seat, Seats};
use group::Group;
use prepared::Prepared;
use signals::{KEEPER_DEATH, Signals};

/// Supervisors that wait, at least: the next launches find one without a fork.
/// More than the cores of a small machine can start at once, and few enough to
/// cost nothing.
pub(crate) const WAITING: usize = 4;

/// What `ps` calls it; fifteen bytes are shown.
const NAME: &CStr = c"starling-superv";
const WAITING_NAME: &CStr = c"starling-waits";

/// How long a connection may take to give its order. Whoever made it does so at once, unless
/// it is stopped or its machine is; and meanwhile others wait for the next.
const ORDER_PATIENCE: Duration = Duration::from_secs(30);

/// Before the next attempt to accept, where descriptors or memory are short.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Orders one supervisor takes, so that whatever may grow in it starts anew: after a
/// thousand its heap lay in three more pages than after a hundred, and one more than after
/// fifty. A fork costs about a hundredth of so many tasks.
const ORDERS: u64 = 50;

/// Longest order after which it is still reused: a longer one may have grown it.
const REUSE_ORDER_BYTES: usize = 64 << 10;

/// What a supervisor is forked with.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) tasks: OwnedFd,
    /// Where orders come; blocking. None when it was given up.
    pub(crate) listener: Option<OwnedFd>,
    /// Wakes the keeper.
    pub(crate) wake: OwnedFd,
    pub(crate) seats: Seats,
    pub(crate) seat: Seat,
    pub(crate) keeper: Pid,
    pub(crate) boot: String,
    pub(crate) facts: Facts,
    /// Below which it has its control groups.
    pub(crate) tree: Option<Tree>,
    /// Whether processes can be born in those.
    pub(crate) births: bool,
}

#[derive(Debug)]
struct Supervisor {
    post: Post,
    pid: Pid,
    own: ProcessMark,
    /// None while it works.
    seat: Option<Seat>,
    signals: Signals,
    null: OwnedFd,
    group: Group,
    prepared: Option<Prepared>,
    /// Directories prepared so far.
    made: u64,
    /// The last task was a container, so the next may be one.
    expects_container: bool,
    /// What its process was born in, if the next one can be born ahead.
    expects: Option<Namespaces>,
    standby: Option<Standby>,
    inbox: Inbox,
    /// Takes no further order.
    leaves: bool,
    /// Something is wrong that the keeper must look after.
    is_bad: bool,
}

/// Takes orders until there is no place for another waiting one; returns this
/// process's exit status.
pub(crate) fn supervise(post: Post) -> i32 {
    match Supervisor::new(post) {
        Ok(supervisor) => i32::from(!supervisor.serve()),
        Err(error) => {
            complain!("starling supervisor: cannot begin: {error}");
            1
        }
    }
}

impl Supervisor {
    fn new(post: Post) -> io::Result<Self> {
        let pid = getpid();
        post.seats.confirm(post.seat, pid);
        setsid()?;
        set_child_subreaper(Some(pid))?;
        // A log that hits a file size limit must come back as an error, and so must
        // a pipe that nobody reads.
        sandbox::IGNORED.into_iter().for_each(sys::ignore);
        let signals = Signals::new()?;
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let seat = Some(post.seat);
        let own = ProcessMark::own()?;
        let group = Group::new(post.tree.as_ref(), post.births, own);
        Ok(Self {
            post,
            pid,
            own,
            seat,
            signals,
            null,
            group,
            prepared: None,
            made: 0,
            expects_container: false,
            expects: None,
            standby: None,
            inbox: Inbox::default(),
            leaves: false,
            is_bad: false,
        })
    }

    /// False if something went wrong that leaves work for the keeper.
    fn serve(mut self) -> bool {
        while let Some(connection) = self.wait() {
            self.obey(connection);
            if self.leaves || self.is_bad || self.made >= ORDERS || !self.sit() {
                break;
            }
        }
        self.rise();
        self.standby = None;
        if let Some(prepared) = self.prepared.take() {
            prepared.remove(&self.post.tasks);
        }
        self.is_bad |= !self.group.remove();
        !self.is_bad
    }

    /// Takes a place among those that wait, if there is one.
    fn sit(&mut self) -> bool {
        self.seat = self.post.seats.sit(self.pid);
        if self.post.seats.is_leaving() {
            self.wake_keeper();
        }
        self.seat.is_some()
    }

    fn rise(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.post.seats.rise(seat);
        }
    }

    fn wake_keeper(&self) {
        // A keeper that is gone needs nothing.
        let _ = rustix::io::write(&self.post.wake, &1_u64.to_ne_bytes());
    }

    /// Waits for somebody with an order; none if it is time to leave.
    fn wait(&mut self) -> Option<OwnedFd> {
        set_parent_process_death_signal(Some(Signal::KILL)).ok()?;
        // It may have died before that held.
        if getppid() != Some(self.post.keeper) {
            return None;
        }
        let _ = set_name(WAITING_NAME);
        self.group.renew();
        if let Err(error) = self.prepare() {
            // The order will meet it again, and can be told.
            complain!("starling supervisor: cannot prepare: {error}");
        }
        self.stand_by();
        let connection = loop {
            let listener = self.post.listener.as_ref()?;
            match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(connection) => break connection,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                // The keeper closed the door, and nobody is left before it.
                Err(Errno::INVAL) => return None,
                Err(error) => {
                    complain!("starling supervisor: cannot accept: {error}");
                    sleep(ACCEPT_RETRY);
                }
            }
        };
        self.rise();
        if self.post.seats.taken() < WAITING {
            self.wake_keeper();
        }
        let _ = set_name(NAME);
        // From here on it lives for its task.
        set_parent_process_death_signal(Some(KEEPER_DEATH)).ok()?;
        Some(connection)
    }

    fn prepare(&mut self) -> io::Result<()> {
        if self.prepared.is_none() {
            self.made += 1;
            let prepared = Prepared::make(&self.post.tasks, self.own, self.made)?;
            // What is missing is made by the launch.
            let _ = match self.expects_container {
                true => sandbox::make_changes(prepared.dir.as_fd()).map(drop),
                false => prepared.make_scratch(),
            };
            self.prepared = Some(prepared);
        }
        Ok(())
    }

    /// Makes the process of the next container, if the next task may be one.
    fn stand_by(&mut self) {
        if self.standby.as_ref().map(Standby::namespaces) == self.expects {
            return;
        }
        self.standby = None;
        let (Some(namespaces), join) = (self.expects, self.group.join()) else { return };
        let group = join.and_then(|join| join.into);
        // One that must join by hand what others are born in waits long for that.
        if join.is_none() || group.is_some() {
            self.standby = Standby::make(namespaces, group, &self.post.facts);
        }
    }

    /// Sends it away if it is of no use to what is launched. What it took is not the task's.
    fn stand_down(&mut self, launch: &Launch) {
        let is_container = matches!(launch.place, Place::Container(_));
        if let Some(standby) = &mut self.standby
            && !(is_container && standby.lives())
        {
            self.standby = None;
            self.group.count_anew();
        }
    }

    fn obey(&mut self, connection: OwnedFd) {
        self.inbox.clear();
        match self.order(&connection) {
            Ok(Some((Order::Launch { nonce, launch }, text))) => {
                self.post.seats.set_leaving(false);
                self.leaves |= text.len() > REUSE_ORDER_BYTES;
                self.launch(&connection, nonce, *launch, text);
            }
            Ok(Some((Order::Enter(errand), _))) => {
                // What it held for that is not for the next.
                self.leaves = true;
                self.standby = None;
                self.enter(&connection, *errand);
            }
            Ok(Some((Order::Leave, _))) => {
                self.post.seats.set_leaving(true);
                self.wake_keeper();
            }
            // Somebody looked whether we are there.
            Ok(None) => {}
            Err(error) => {
                complain!("starling supervisor: a bad order: {error}");
                let reason = order::shorten(format!("the order cannot be understood: {error}"));
                let report = Report::NotStarted { fault: StartFault::System, reason };
                let _ = order::say(&connection, &report);
            }
        }
    }

    /// What the other side wants, with its text; none if it wants nothing.
    fn order(&mut self, connection: &OwnedFd) -> io::Result<Option<(Order, Vec<u8>)>> {
        let uid = sockopt::socket_peercred(connection)?.uid;
        if !uid.is_root() && uid != geteuid() {
            return Err(io::Error::other(format!("from user {uid:?}")));
        }
        let Some(text) = self.message(connection, ORDER_PATIENCE)? else { return Ok(None) };
        Ok(Some((frame::decode(&text)?, text)))
    }

    /// The next message of a connection; none at its end.
    fn message(&mut self, from: &OwnedFd, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        let until = Instant::now() + patience;
        sockopt::set_socket_timeout(from, sockopt::Timeout::Recv, Some(patience))?;
        loop {
            if let Some(text) = self.inbox.take()? {
                return Ok(Some(text));
            }
            match order::hear(from, &mut self.inbox, RecvFlags::empty()) {
                Ok(true) if Instant::now() < until => {}
                Ok(true) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(false) | Err(Errno::CONNRESET) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
