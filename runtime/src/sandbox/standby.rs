//! A container's process before there is a container: in its namespaces already, made
//! while its supervisor waits.
//!
//! ```text
//! supervisor  clone ─▶ waits ─▶ order ─▶ open trees ─▶ commission ─▶ map ids ─▶ go ─▶ …
//! standby      └▶ loopback ─▶ waits ────────────────────┘└▶ own mounts ─▶ join groups ─▶ …
//! ```
//!
//! New namespaces, that of the network above all, are the longest part of a start, and
//! the same for nearly all containers. From its commission on the process is like any
//! other; it does all steps of its plan. Its mounts it has from then on: a copy of the
//! host's made earlier would be an old one, and keep the host's from being given back.
//!
//! Invariants: it serves one task, and none was before. It is hidden from all that cannot
//! look into its supervisor, holds nothing open but the keeper's streams and its socket,
//! and ends with its supervisor, whose end closes that.

use std::convert::Infallible;
use std::ffi::CStr;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{UnshareFlags, set_name};
use serde::{Deserialize, Serialize};

use super::chamber::Chamber;
use super::outside::end;
use super::report::{self, Failure};
use super::{Ends, Order};
use crate::cgroup::Joining;
use crate::launch::Launch;
use crate::plan::{self, Facts, Namespaces, Plan, Step};
use crate::proc::ProcessMark;
use crate::sys::clone::{self, Birth};
use crate::sys::{self, Fork};

/// How `ps` calls it; fifteen bytes are shown.
const NAME: &CStr = c"starling-stands";

/// How it is called from its commission to its program: as one that was not made ahead,
/// which has its supervisor's name.
const AT_WORK: &CStr = c"starling-superv";

/// Bit of `CAP_SYS_PTRACE` of `linux/capability.h`: who has it sees what is hidden.
const SYS_PTRACE: u64 = 1 << 19;

/// Longest commission: nearly every launch, and few pages to receive it.
const COMMISSION_BYTES: usize = 16 << 10;

/// Most descriptors that come with one: a container of a dozen layers and some volumes.
const HANDLES_MAX: usize = 64;

/// The first descriptors that come with one: the streams, and the task's directory.
const FIRST: usize = 4;

#[derive(Serialize)]
struct Commission<'a> {
    launch: &'a Launch,
    /// How many control groups are joined by hand.
    groups: usize,
    /// Which trees of the plan were there to be opened.
    trees: Vec<bool>,
}

#[derive(Deserialize)]
struct Commissioned {
    launch: Launch,
    groups: usize,
    trees: Vec<bool>,
}

/// Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Standby {
    pid: Pid,
    /// Over which it is commissioned, until it is or has died.
    socket: Option<OwnedFd>,
    mark: ProcessMark,
    namespaces: Namespaces,
}

/// One that has become a container's process.
#[derive(Debug)]
pub(super) struct Born {
    pub(super) pid: Pid,
    pub(super) socket: OwnedFd,
    pub(super) mark: ProcessMark,
}

/// What a process for this plan can be made in ahead; none if it cannot.
pub(super) fn ahead(plan: &Plan, facts: &Facts) -> Option<Namespaces> {
    // It hides, and its supervisor must find its namespaces all the same.
    let may_look = facts.privileged() && facts.capabilities & SYS_PTRACE != 0;
    if !may_look || !plan.steps().contains(&Step::Loopback) {
        return None;
    }
    let before = plan
        .steps()
        .iter()
        .find(|step| !matches!(step, Step::Open(_) | Step::PrepareChanges { .. }));
    match before {
        Some(Step::Clone(namespaces)) => Some(*namespaces),
        _ => None,
    }
}

impl Standby {
    /// Makes one, born in the control group behind `group` if there is one. None where the
    /// kernel cannot do that. The caller has one thread.
    pub(crate) fn make(
        namespaces: Namespaces,
        group: Option<BorrowedFd<'_>>,
        facts: &Facts,
    ) -> Option<Self> {
        let (socket, theirs) = report::channel().ok()?;
        let ahead = namespaces.without(Namespaces::MOUNTS);
        let (side, birth) = clone::fork_into(ahead.bits(), group).ok()?;
        let pid = match side {
            Fork::Parent(pid) => pid,
            Fork::Child => wait(theirs, namespaces, facts, birth),
        };
        let Ok(mark) = ProcessMark::of(pid) else {
            end(pid);
            return None;
        };
        let standby = Self { pid, socket: Some(socket), mark, namespaces };
        (group.is_none() || birth == Birth::InGroup).then_some(standby)
    }

    /// What it was made in, and will be.
    pub(crate) fn namespaces(&self) -> Namespaces {
        self.namespaces
    }

    /// Whether it can still be used; somebody may have killed it.
    pub(crate) fn lives(&mut self) -> bool {
        let lives = matches!(waitpid(Some(self.pid), WaitOptions::NOHANG), Ok(None));
        if !lives {
            // The number may be another's by now.
            self.socket = None;
        }
        lives
    }

    /// Makes it the process of a container that is born in its namespaces; none if it
    /// cannot be told, and then it is gone.
    pub(super) fn commission(
        mut self,
        order: &Order<'_>,
        trees: &[Option<OwnedFd>],
    ) -> Option<Born> {
        tell(self.socket.as_ref()?, order, trees).ok()?;
        Some(Born { pid: self.pid, socket: self.socket.take()?, mark: self.mark })
    }
}

fn tell(socket: &OwnedFd, order: &Order<'_>, trees: &[Option<OwnedFd>]) -> Result<(), Errno> {
    let Ends { stdin, stdout, stderr } = order.ends;
    let mut handles = vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), order.dir];
    handles.extend(order.join.iter().flat_map(Joining::rest));
    let groups = handles.len() - FIRST;
    handles.extend(trees.iter().flatten().map(AsFd::as_fd));
    let trees = trees.iter().map(Option::is_some).collect();
    let text = serde_json::to_vec(&Commission { launch: order.launch, groups, trees });
    let text = text.map_err(|_unsayable| Errno::INVAL)?;
    if text.len() > COMMISSION_BYTES || handles.len() > HANDLES_MAX {
        return Err(Errno::TOOBIG);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDLES_MAX))];
    let mut extra = SendAncillaryBuffer::new(&mut space);
    extra.push(SendAncillaryMessage::ScmRights(&handles));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(&text)], &mut extra, flags).map(drop)
}

impl Drop for Standby {
    fn drop(&mut self) {
        if self.socket.is_some() {
            end(self.pid);
        }
    }
}

/// What a standby has when it is commissioned.
struct Made {
    namespaces: Namespaces,
    birth: Birth,
    has_loopback: bool,
}

/// The standby itself, to its end or its container's.
fn wait(socket: OwnedFd, namespaces: Namespaces, facts: &Facts, birth: Birth) -> ! {
    let _ = set_name(NAME);
    // Root without a capability has them all in the namespaces here, and could come in.
    if clone::hide_memory().is_err() || sys::close_all_but(&[socket.as_raw_fd()]).is_err() {
        sys::exit_now(127);
    }
    // If this fails, so will the step that does it, and tells why.
    let has_loopback = crate::net::raise_loopback().is_ok();
    let Some((text, handles)) = receive(&socket) else { sys::exit_now(0) };
    let made = Made { namespaces, birth, has_loopback };
    let failure = match serve(&socket, facts, made, &text, handles) {
        Err(failure) => failure,
        Ok(never) => match never {},
    };
    report::send_failure(socket.as_fd(), report::NO_STEP, &failure);
    sys::exit_now(127)
}

/// The commission; none if the supervisor is gone.
fn receive(socket: &OwnedFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut text = vec![0; COMMISSION_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDLES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let mut message = [IoSliceMut::new(&mut text)];
    let received = rustix::net::recvmsg(socket, &mut message, &mut control, flags).ok()?.bytes;
    let handles = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(handles) => Some(handles),
        _ => None,
    });
    let handles: Vec<_> = handles.flatten().collect();
    text.truncate(received);
    (received > 0).then_some((text, handles))
}

fn serve(
    socket: &OwnedFd,
    facts: &Facts,
    made: Made,
    text: &[u8],
    handles: Vec<OwnedFd>,
) -> Result<Infallible, Failure> {
    // What it was sent as it waited was not meant for the container.
    sys::forget_signals();
    let _ = set_name(AT_WORK);
    let garbled = || Failure::because("the process that stood by was told nonsense");
    let told: Commissioned = serde_json::from_slice(text).map_err(|_nonsense| garbled())?;
    let Commissioned { launch, groups, trees } = told;
    if made.namespaces != made.namespaces.without(Namespaces::MOUNTS) {
        clone::unshare(UnshareFlags::NEWNS)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = rustix::fs::open(c"/proc/self/ns/mnt", flags, Mode::empty())?;
        report::send_mounts(socket.as_fd(), own.as_fd())?;
    }
    let mut handles = handles.into_iter();
    let mut next = || handles.next().ok_or_else(garbled);
    let (stdin, stdout, stderr, dir) = (next()?, next()?, next()?, next()?);
    let ends = Ends { stdin, stdout, stderr };
    let groups: Vec<_> = (0..groups).map(|_| next()).collect::<Result<_, _>>()?;
    let trees = trees.into_iter().map(|is_there| is_there.then(&mut next).transpose());
    let trees = trees.collect::<Result<_, _>>()?;
    let order = Order {
        launch: &launch,
        facts,
        dir: dir.as_fd(),
        volumes: None,
        join: Some(Joining::by_hand(&groups)),
        network_of: None,
        ends: &ends,
        standby: None,
    };
    let plan = plan::plan(&launch, facts, launch.id_base().unwrap_or(0));
    let plan = plan.map_err(|flaw| Failure::because(flaw.to_string()))?;
    let socket = rustix::io::fcntl_dupfd_cloexec(socket, 3)?;
    let mut chamber = Chamber::new(&plan, &order, trees, socket, made.birth);
    chamber.has_loopback = made.has_loopback;
    chamber.live()
}
