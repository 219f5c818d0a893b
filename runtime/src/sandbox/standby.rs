//! A container's process before there is a container: in its namespaces already, made
//! while its supervisor waits.
//!
//! ```text
//! supervisor  clone ─▶ waits ─▶ order ─▶ open trees ─▶ commission ─▶ map ids ─▶ go ─▶ …
//! standby      └▶ loopback ─▶ waits ────────────────────┘└▶ join groups ─▶ session ─▶ …
//! ```
//!
//! New namespaces, that of the network above all, are the longest part of a start, and
//! the same for nearly all containers. From its commission on the process is like any
//! other; it does all steps of its plan.
//!
//! It waits for [`LIFETIME`] at most: its mounts are a copy of the host's, which must
//! not be kept from being unmounted, and nobody who launches nothing shall pay for it.
//!
//! Invariants: it serves one task, and none was before. It holds nothing open but its
//! socket, and ends with its supervisor, whose end closes that.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};
use rustix::process::Pid;
use rustix::thread::set_name;
use serde::{Deserialize, Serialize};

use super::chamber::Chamber;
use super::outside::end;
use super::{Ends, Order};
use crate::cgroup::Joining;
use crate::launch::Launch;
use crate::plan::{self, Facts, Namespaces, Plan, Step};
use crate::proc::ProcessMark;
use crate::sys::clone::{self, Birth};
use crate::sys::{self, Fork};

/// How long it waits for its commission.
const LIFETIME: Duration = Duration::from_secs(10);

/// How old one may be that is still commissioned: so much younger than the oldest that
/// no process of a busy machine is that late between the look and the commission.
const AGE_MAX: Duration = Duration::from_secs(5);

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
    /// Over which it is commissioned, until it is.
    socket: Option<OwnedFd>,
    mark: ProcessMark,
    namespaces: Namespaces,
    made: Instant,
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
    // An ordinary user's process opens trees anew among its mounts, which must be the host's
    // of that moment.
    if !facts.privileged() || !plan.steps().contains(&Step::Loopback) {
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
        let kind = SocketType::SEQPACKET;
        let made = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = made.ok()?;
        let (side, birth) = clone::fork_into(namespaces.bits(), group).ok()?;
        let pid = match side {
            Fork::Parent(pid) => pid,
            Fork::Child => wait(theirs, facts, birth),
        };
        let Ok(mark) = ProcessMark::of(pid) else {
            end(pid);
            return None;
        };
        let made = Instant::now();
        let standby = Self { pid, socket: Some(socket), mark, namespaces, made };
        (group.is_none() || birth == Birth::InGroup).then_some(standby)
    }

    /// Whether it can still be used.
    pub(crate) fn is_fresh(&self) -> bool {
        self.made.elapsed() < AGE_MAX
    }

    /// Makes it the process of a container; none if it is another's, and then it is gone.
    pub(super) fn commission(
        mut self,
        plan: &Plan,
        order: &Order<'_>,
        trees: &[Option<OwnedFd>],
    ) -> Option<Born> {
        let suits = ahead(plan, order.facts) == Some(self.namespaces) && self.is_fresh();
        let socket = self.socket.as_ref().filter(|_| suits)?;
        tell(socket, order, trees).ok()?;
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

/// The standby itself, to its end or its container's.
fn wait(socket: OwnedFd, facts: &Facts, birth: Birth) -> ! {
    let _ = set_name(c"starling-stands");
    if sys::close_all_but(&[socket.as_raw_fd()]).is_err() {
        sys::exit_now(127);
    }
    // If this fails, so will the step that does it, and tells why.
    let _ = crate::net::raise_loopback();
    let Ok(patience) = Timespec::try_from(LIFETIME) else { sys::exit_now(127) };
    let mut readable = [PollFd::new(&socket, PollFlags::IN)];
    match poll(&mut readable, Some(&patience)) {
        Ok(1..) => {}
        _ => sys::exit_now(0),
    }
    let Some((text, handles)) = receive(&socket) else { sys::exit_now(0) };
    serve(socket, facts, birth, &text, handles)
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

fn serve(socket: OwnedFd, facts: &Facts, birth: Birth, text: &[u8], handles: Vec<OwnedFd>) -> ! {
    let Ok(Commissioned { launch, groups, trees }) = serde_json::from_slice(text) else {
        sys::exit_now(127)
    };
    let mut handles = handles.into_iter();
    let mut next = || handles.next().unwrap_or_else(|| sys::exit_now(127));
    let (stdin, stdout, stderr, dir) = (next(), next(), next(), next());
    let ends = Ends { stdin, stdout, stderr };
    let groups: Vec<_> = (0..groups).map(|_| next()).collect();
    let trees = trees.into_iter().map(|is_there| is_there.then(&mut next)).collect();
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
    let Ok(plan) = plan::plan(&launch, facts, launch.id_base().unwrap_or(0)) else {
        sys::exit_now(127)
    };
    Chamber::new(&plan, &order, trees, socket, birth).live()
}
