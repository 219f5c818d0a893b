//! The switch's process: packet sockets, a control socket, and one loop around the [`Mesh`].
//!
//! It lives in a namespace of its own with one end of every cable, started by
//! [`start`] and detached from whoever started it. Frames go straight from one
//! socket to another unless a fault holds them back, in which case the loop
//! sleeps until the next is due. An order sees every frame that was sent
//! before it: ports are drained before orders are read.
//!
//! Must never outlive its fabric (it ends when the record is gone), never stop
//! because of what it receives, and never wait on anything but its one poll.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::control::{Answer, Directions, Healing, LISTED_MAX, LinkRow, ORDER_BYTES_MAX, Order};
use super::link::{Change, Faults, Link, Nanos, Tally};
use super::mesh::Mesh;
use super::netns::{self, NetnsError};
use super::{Fabric, FabricError};
use crate::sys;

/// The largest frame with its prefix: 64 KiB of segments yet to be made, and headers.
const FRAME_BYTES_MAX: usize = (64 << 10) + 256;
/// Frames taken from one port before the next has its turn.
const BURST: usize = 64;
/// How often to look whether the fabric still stands.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// What a started switch prints once it forwards.
const READY: &str = "ready";

/// Why the switch is not running.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    #[error(transparent)]
    Record(#[from] FabricError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("cannot open the port {port}")]
    Port { port: String, source: io::Error },
    #[error("cannot use {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the switch ended before it was ready: {last_words}")]
    NotReady { last_words: String },
    #[error("the switch cannot wait for frames")]
    Poll { source: io::Error },
}

/// Starts the switch of a fabric whose namespaces exist, as a process of its
/// own: `testnet switch` of the given binary. Returns once it forwards.
pub fn start(fabric: &Fabric, testnet: &Path) -> Result<(), SwitchError> {
    let log = fabric.log("switch");
    let io = |path: &Path| {
        let path = path.to_owned();
        |source| SwitchError::Io { path, source }
    };
    let mut command = Command::new(testnet);
    command
        .arg("switch")
        .arg("--data")
        .arg(&fabric.dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).map_err(io(&log))?);
    let mut child =
        netns::within(&fabric.switch_namespace(), || command.spawn())?.map_err(io(testnet))?;
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut said).map_err(io(&log))?;
    }
    if said.trim_end() != READY {
        let _ = child.wait();
        let last_words = std::fs::read_to_string(&log).unwrap_or_default();
        return Err(SwitchError::NotReady { last_words: last_words.trim_end().to_owned() });
    }
    Ok(())
}

/// Is the switch, until the fabric in `dir` is gone. Runs in its namespace.
pub fn run(dir: &Path) -> Result<(), SwitchError> {
    let fabric = Fabric::open(dir)?;
    // Fails only for a group's leader, which then has nobody to be detached from.
    let _ = rustix::process::setsid();
    let mut switch = Switch::open(fabric)?;
    println!("{READY}");
    let _ = io::stdout().flush();
    switch.forward()
}

struct Switch {
    fabric: Fabric,
    ports: Vec<OwnedFd>,
    control: UnixDatagram,
    mesh: Mesh,
    began: Instant,
}

impl Switch {
    fn open(fabric: Fabric) -> Result<Self, SwitchError> {
        let open = |name: &String| {
            sys::packet_socket(name)
                .map_err(|source| SwitchError::Port { port: name.clone(), source })
        };
        let names = fabric.hosts.iter().map(|host| &host.name);
        let ports = names.map(open).collect::<Result<Vec<_>, _>>()?;
        let path = fabric.control_socket();
        let control = UnixDatagram::bind(&path)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .map_err(|source| SwitchError::Io { path, source })?;
        let mut mesh = Mesh::new(ports.len(), fabric.seed, fabric.baseline);
        (0..ports.len()).for_each(|port| mesh.teach(netns::mac(port + 1), port));
        Ok(Self { mesh, began: Instant::now(), fabric, ports, control })
    }

    fn forward(&mut self) -> Result<(), SwitchError> {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let mut order = vec![0; ORDER_BYTES_MAX];
        let mut looked = Instant::now();
        loop {
            let now = nanos_since(self.began);
            let ports = &self.ports;
            self.mesh.deliver_due(now, &mut |port, frame| put(ports, port, frame));
            if looked.elapsed() >= LOOK_AROUND {
                if !self.fabric.stands() {
                    return Ok(());
                }
                looked = Instant::now();
            }
            let ready = self.wait()?;
            for port in ready.ports {
                self.drain(port, &mut buffer);
            }
            if ready.control {
                self.obey(&mut order);
            }
        }
    }

    /// Sleeps until a frame or an order is there, a held frame is due, or it
    /// is time to look around.
    fn wait(&self) -> Result<Ready, SwitchError> {
        let all = self.ports.iter().map(AsFd::as_fd);
        let mut polled: Vec<_> = all
            .chain([self.control.as_fd()])
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let until_due = self.mesh.deadline().map_or(LOOK_AROUND, |at| {
            Duration::from_nanos(at.saturating_sub(nanos_since(self.began)))
        });
        let timeout = Timespec::try_from(until_due.min(LOOK_AROUND))
            .map_err(|far| SwitchError::Poll { source: io::Error::other(far) })?;
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                let source = error.into();
                return Err(SwitchError::Poll { source });
            }
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        Ok(Ready {
            control: polled.pop().is_some_and(|fd| is_ready(&fd)),
            ports: (0..polled.len()).filter(|&port| is_ready(&polled[port])).collect(),
        })
    }

    fn drain(&mut self, from: usize, buffer: &mut [u8]) {
        let ports = &self.ports;
        for _ in 0..BURST {
            // Any error means nothing to read now: an empty queue, or an
            // interface that went down and says so once.
            let Ok((length, _)) = recv(&ports[from], &mut *buffer, RecvFlags::DONTWAIT) else {
                return;
            };
            let now = nanos_since(self.began);
            let frame = &buffer[..length.min(buffer.len())];
            self.mesh.carry(now, from, frame, &mut |port, frame| put(ports, port, frame));
        }
    }

    fn obey(&mut self, buffer: &mut [u8]) {
        // One order a turn: a flood of them cannot starve the frames.
        let Ok((length, asker)) = self.control.recv_from(buffer) else {
            return;
        };
        let answer = match serde_json::from_slice(&buffer[..length]) {
            Ok(order) => self.perform(&order),
            Err(bad) => Answer::Refused { why: format!("not an order: {bad}") },
        };
        // An asker that did not wait gets no answer.
        if let (Some(path), Ok(answer)) = (asker.as_pathname(), serde_json::to_vec(&answer)) {
            let _ = self.control.send_to(&answer, path);
        }
    }

    fn perform(&mut self, order: &Order) -> Answer {
        match order {
            Order::Set { on, change } => self.change(on, |faults, _| change.applied_to(faults)),
            Order::Heal { on, healing } => {
                let healing = *healing;
                self.change(on, |faults, baseline| match healing {
                    Healing::Everything => baseline,
                    Healing::Cuts => Change::JOIN.applied_to(faults),
                })
            }
            Order::Show { on } => match self.directions(on) {
                Ok(pairs) => self.list(pairs),
                Err(refusal) => refusal,
            },
            Order::ShowTroubled => {
                let count = self.ports.len();
                let all = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
                let troubled = |&(from, to): &(usize, usize)| {
                    from != to && is_troubled(self.mesh.link(from, to), self.fabric.baseline)
                };
                self.list(all.filter(troubled).collect())
            }
        }
    }

    fn change(&mut self, on: &[Directions], new: impl Fn(Faults, Faults) -> Faults) -> Answer {
        let pairs = match self.directions(on) {
            Ok(pairs) => pairs,
            Err(refusal) => return refusal,
        };
        for &(from, to) in &pairs {
            let link = self.mesh.link_mut(from, to);
            link.set(new(link.faults(), self.fabric.baseline));
        }
        Answer::Changed { links: pairs.len() }
    }

    fn list(&self, pairs: BTreeSet<(usize, usize)>) -> Answer {
        let name = |port: usize| self.fabric.hosts[port].name.clone();
        let row = |&(from, to): &(usize, usize)| LinkRow {
            from: name(from),
            to: name(to),
            faults: self.mesh.link(from, to).faults(),
            tally: self.mesh.link(from, to).tally(),
        };
        Answer::Links {
            links: pairs.iter().take(LISTED_MAX).map(row).collect(),
            left_out: pairs.len().saturating_sub(LISTED_MAX),
        }
    }

    /// The pairs of ports that are meant, or a refusal if a name is unknown.
    fn directions(&self, on: &[Directions]) -> Result<BTreeSet<(usize, usize)>, Answer> {
        let port = |name: &String| {
            let found = self.fabric.hosts.iter().position(|host| host.name == *name);
            found.ok_or_else(|| Answer::Refused { why: format!("no host is called {name:?}") })
        };
        let mut pairs = BTreeSet::new();
        for some in on {
            let to = some.to.iter().map(port).collect::<Result<Vec<_>, _>>()?;
            for from in some.from.iter().map(port) {
                let from = from?;
                pairs.extend(to.iter().filter(|&&to| to != from).map(|&to| (from, to)));
            }
        }
        Ok(pairs)
    }
}

struct Ready {
    ports: Vec<usize>,
    control: bool,
}

/// Sends a frame. One that the receiver's kernel has no room for is lost, as
/// at a real port.
fn put(ports: &[OwnedFd], port: usize, frame: &[u8]) {
    let _ = send(&ports[port], frame, SendFlags::DONTWAIT);
}

fn is_troubled(link: &Link, baseline: Faults) -> bool {
    let Tally { cut, lost, overflowed, .. } = link.tally();
    link.faults() != baseline || link.faults() != Faults::default() || cut + lost + overflowed > 0
}

fn nanos_since(began: Instant) -> Nanos {
    Nanos::try_from(began.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
}
