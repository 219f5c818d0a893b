//! Doing the steps of a plan, one after the other.
//!
//! Blocking. Adds nothing to a step and decides nothing; a step that is done already
//! counts as done. Must never configure a network namespace it was not handed: the
//! host's own is refused as a container's.

use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::BorrowedFd;
use std::thread;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::addresses::{Prefix6, Subnet};
use super::loopback::raise_loopback;
use super::nft::Own;
use super::plan::{Addresses, INSIDE, Step};
use super::route::{Cable, Trait};
use super::wire::{Wire, WireError};
use super::{flows, nft, route};

/// The first port that needs no right to bind, in the calling thread's namespace.
const LOW_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Switches of IPv6, one directory for each interface.
const SWITCHES6: &str = "/proc/sys/net/ipv6/conf";

/// The bridge's address on its own link. A router looks for the neighbour to whom it
/// passes a packet under no other.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The kernel did not want it.
    #[error("cannot {step}")]
    Kernel {
        /// What was to be done.
        step: String,
        /// Why not.
        source: WireError,
    },
    /// A switch of the kernel could not be set.
    #[error("cannot write {value} to {path}; where that is read-only, set it on the host")]
    Switch {
        /// Which one.
        path: String,
        /// To what.
        value: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A container's network could not be entered.
    #[error("cannot enter the container's network namespace")]
    Enter(#[source] io::Error),
    /// A container's network is not its own.
    #[error("the network namespace to attach is the host's own")]
    Host,
}

/// The sockets that steps are done with.
#[derive(Debug)]
pub(super) struct Hands {
    pub(super) links: Wire,
    pub(super) rules: Wire,
    table: String,
    bridge: String,
    /// The bridge's index, once there is one.
    index: Option<u32>,
}

impl Hands {
    pub(super) fn open(table: &str, bridge: &str) -> Result<Self, WireError> {
        Ok(Self {
            links: Wire::open(NETLINK_ROUTE)?,
            rules: Wire::open(NETLINK_NETFILTER)?,
            table: table.to_owned(),
            bridge: bridge.to_owned(),
            index: None,
        })
    }

    /// Does one step. `netns` is the container's, for the steps that concern one.
    pub(super) fn perform(
        &mut self,
        step: &Step,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<(), StepError> {
        tracing::debug!(%step, "network");
        let refused = |source| StepError::Kernel { step: step.to_string(), source };
        match step {
            Step::Forward => return switch_on("/proc/sys/net/ipv4/ip_forward"),
            Step::Localnet { bridge } => {
                return switch_on(&format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"));
            }
            Step::Forward6 => return forward6(),
            Step::Inside { addresses, subnet, prefix } => {
                let Some(netns) = netns else { return Err(StepError::Host) };
                let mut wire = enter(netns)?;
                inside(&mut wire, *addresses, *subnet, *prefix)
            }
            Step::Cable { near, task, mac, mtu } => {
                let Some(netns) = netns else { return Err(StepError::Host) };
                if is_ours(netns).map_err(StepError::Enter)? {
                    return Err(StepError::Host);
                }
                self.bridge_index().and_then(|bridge| {
                    let cable =
                        Cable { near, far: INSIDE, far_mac: *mac, mtu: *mtu, bridge, netns };
                    route::make_cable(&mut self.links, &cable)?;
                    let traits = [Trait::Alias(&alias(task)), Trait::Hairpin];
                    route::raise(&mut self.links, near, &traits)
                })
            }
            other => self.simple(other),
        }
        .map_err(refused)
    }

    fn simple(&mut self, step: &Step) -> Result<(), WireError> {
        match step {
            Step::Bridge { name, mtu } => route::make_bridge(&mut self.links, name, *mtu),
            Step::Raise { link, mac, alias } => {
                let traits = [Trait::Mac(*mac), Trait::Alias(alias)];
                route::raise(&mut self.links, link, &traits)
            }
            Step::Address { address, subnet, .. } => {
                let index = self.bridge_index()?;
                route::add_address(&mut self.links, index, *address, *subnet)
            }
            Step::Table { name, bridge, subnet } => {
                nft::make_table(&mut self.rules, name, bridge, Own::V4(*subnet))
            }
            Step::Address6 { prefix, .. } => {
                let index = self.bridge_index()?;
                route::add_address6(&mut self.links, index, prefix.gateway())?;
                route::add_address6(&mut self.links, index, ROUTER)
            }
            Step::Table6 { name, bridge, prefix } => {
                nft::make_table(&mut self.rules, name, bridge, Own::V6(*prefix))
            }
            Step::Publish { task, redirect } => {
                nft::publish(&mut self.rules, &self.table, task, redirect)
            }
            Step::Withdraw { task } => {
                let mut theirs = nft::published(&mut self.rules, &self.table)?;
                theirs.retain(|rule| rule.task == *task);
                nft::withdraw(&mut self.rules, &self.table, &theirs)
            }
            Step::ForgetPorts { ports } => flows::forget_ports(&mut self.rules, ports),
            Step::ForgetAddress { address } => flows::forget_address(&mut self.rules, *address),
            Step::Unplug { near: name } | Step::RemoveBridge { name } => {
                route::remove_link(&mut self.links, name)
            }
            Step::RemoveTable { name } => nft::remove_table(&mut self.rules, name),
            // The caller does these itself.
            Step::Forward
            | Step::Forward6
            | Step::Localnet { .. }
            | Step::Inside { .. }
            | Step::Cable { .. } => Ok(()),
        }
    }

    pub(super) fn bridge_index(&mut self) -> Result<u32, WireError> {
        if let Some(index) = self.index {
            return Ok(index);
        }
        let found = route::index(&mut self.links, &self.bridge)?;
        self.index = found;
        found.ok_or_else(|| WireError::Refused {
            said: format!("{} is gone", self.bridge),
            source: io::Error::from_raw_os_error(libc::ENODEV),
        })
    }
}

/// Removes a cable on a socket of its own, so that several can go at once: the kernel
/// takes 10 ms for each, most of them waiting.
pub(super) fn unplug(near: &str) -> Result<(), StepError> {
    Wire::open(NETLINK_ROUTE)
        .and_then(|mut wire| route::remove_link(&mut wire, near))
        .map_err(|source| StepError::Kernel { step: format!("remove cable {near}"), source })
}

/// What the alias of a cable says, and back.
pub(super) fn alias(task: &str) -> String {
    format!("starling task {task}")
}

pub(super) fn alias_task(alias: &str) -> Option<&str> {
    alias.strip_prefix("starling task ")
}

fn switch_on(path: &str) -> Result<(), StepError> {
    fs::write(path, "1").map_err(|source| StepError::Switch {
        path: path.to_owned(),
        value: "1",
        source,
    })
}

/// A socket inside a container, which has its loopback started on the way. Only a
/// thread can go there, and it could not be trusted afterwards, so it ends.
fn enter(netns: BorrowedFd<'_>) -> Result<Wire, StepError> {
    let go = || -> Result<Wire, StepError> {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
            .and_then(|()| raise_loopback())
            .map_err(|errno| StepError::Enter(errno.into()))?;
        // Its ports are all its own, also for a user who is not root. Kernels before
        // 4.11 have no such switch, and images run there as they always did.
        let _ = fs::write(LOW_PORTS, "0");
        Wire::open(NETLINK_ROUTE).map_err(|source| StepError::Kernel {
            step: "open a socket in the container's network".to_owned(),
            source,
        })
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, go);
        let thread = thread.map_err(StepError::Enter)?;
        thread.join().unwrap_or_else(|_| Err(StepError::Enter(io::ErrorKind::Other.into())))
    })
}

fn inside(
    wire: &mut Wire,
    Addresses { four, six }: Addresses,
    subnet: Subnet,
    prefix: Option<Prefix6>,
) -> Result<(), WireError> {
    let index = route::index(wire, INSIDE)?.unwrap_or_default();
    route::raise(wire, INSIDE, &[])?;
    route::add_address(wire, index, four, subnet)?;
    route::add_default_route(wire, index, subnet.gateway().into())?;
    if let (Some(six), Some(prefix)) = (six, prefix) {
        route::add_address6(wire, index, six)?;
        route::add_default_route(wire, index, prefix.gateway().into())?;
    }
    Ok(())
}

/// Makes the host a router of IPv6. A router does not take its own address and its way
/// out from its neighbours any more, so interfaces that did are told to go on (2: also
/// as a router) before that: else this would cut the host off.
fn forward6() -> Result<(), StepError> {
    for interface in fs::read_dir(SWITCHES6).into_iter().flatten().flatten() {
        let path = interface.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            let path = path.display().to_string();
            fs::write(&path, "2").map_err(|source| StepError::Switch {
                path,
                value: "2",
                source,
            })?;
        }
    }
    switch_on(&format!("{SWITCHES6}/all/forwarding"))
}

/// Whether a network namespace is that of the calling thread.
fn is_ours(netns: BorrowedFd<'_>) -> io::Result<bool> {
    let own = rustix::fs::stat("/proc/thread-self/ns/net")?;
    let theirs = rustix::fs::fstat(netns)?;
    Ok((own.st_dev, own.st_ino) == (theirs.st_dev, theirs.st_ino))
}
