//! The bridge of this host's containers: who is on it, and coming and going.
//!
//! The kernel's own lists are the record: a cable's alias and a rule's comment name
//! the task. What is held in memory is read from them at [`Bridge::open`], so a
//! crash at any instant leaves nothing that the next open or [`Bridge::sweep`] does
//! not find. Nothing here is on disk.
//!
//! All calls block, for a millisecond or a few: an async caller wraps them in
//! `spawn_blocking`. They may come from many threads, all of them in the host's
//! network namespace; coming is served one at a time, since the kernel does it so
//! anyway, and goings overlap, since there it mostly waits.
//!
//! Invariant: an address is given to one task at a time, and is free only after no
//! rule leads there any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::container::{Protocol, Publish};

use super::addresses::{Mac, Prefix6, Subnet};
use super::executor::{Hands, StepError, alias_task, unplug};
use super::facts::{NetworkFacts, NoBridge};
use super::home;
use super::nft;
use super::plan::{self, BadTag, Family, Names, PlanError, Step};
use super::publish::{PublishError, check};
use super::route::{self, Host};
use super::wire::WireError;

/// How many ports the kernel gives a bridge; one more is refused.
const BRIDGE_PORTS: usize = 1023;

/// What tells this machine from all others.
const MACHINE_ID: &str = "/etc/machine-id";

/// What a bridge is opened with.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// Tells this agent's interfaces and rules from another's on the same host: 1 to
    /// 8 of a-z and 0-9.
    pub tag: String,
    /// The agent's directory. Where that is gone, another agent removes the network.
    pub home: PathBuf,
    /// Where containers live; none to let the host's routes decide.
    pub subnet: Option<Subnet>,
}

/// A task's place on the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its address of IPv6, where the host has that.
    pub address6: Option<Ipv6Addr>,
    /// The hardware address of its eth0.
    pub mac: Mac,
    /// The host's address on the bridge, its way out.
    pub gateway: Ipv4Addr,
}

/// What [`Bridge::close`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Nothing of ours is left.
    Gone,
    /// Tasks are on it, so it stays.
    InUse {
        /// How many.
        tasks: usize,
    },
}

/// Why a bridge could not be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The tag cannot be part of names.
    #[error(transparent)]
    Tag(#[from] BadTag),
    /// This host has no bridges.
    #[error(transparent)]
    Unavailable(#[from] NoBridge),
    /// The bridge does not fit the host.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A port cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A step failed; what was done of the task is undone.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The host's network cannot be read.
    #[error("cannot read the host's network")]
    Look(#[from] WireError),
    /// The subnet is full.
    #[error("all addresses of {subnet} are taken")]
    Full {
        /// Which.
        subnet: Subnet,
    },
    /// The bridge is full.
    #[error("{BRIDGE_PORTS} tasks are on the bridge {bridge}, and the kernel has room for no more")]
    Crowded {
        /// Which.
        bridge: String,
    },
    /// The task is on the bridge.
    #[error("{task} is attached already")]
    Attached {
        /// Which.
        task: String,
    },
    /// [`Bridge::close`] came first.
    #[error("the bridge of this agent is closed")]
    Closed,
}

/// One task's share.
#[derive(Debug)]
struct Held {
    address: Ipv4Addr,
    /// What its published ports speak.
    spoken: BTreeSet<Protocol>,
    /// Somebody is taking it off.
    leaving: bool,
}

impl Held {
    fn new(address: Ipv4Addr) -> Self {
        Self { address, spoken: BTreeSet::new(), leaving: false }
    }
}

#[derive(Debug)]
struct State {
    hands: Hands,
    held: BTreeMap<String, Held>,
    /// The number of the address given out last.
    last: u32,
    closed: bool,
}

/// A bridge of ours, its packet rules, and the tasks on it.
#[derive(Debug)]
pub struct Bridge {
    names: Names,
    subnet: Subnet,
    prefix: Option<Prefix6>,
    mtu: u32,
    state: Mutex<State>,
    /// Told whenever a task is off the bridge, or could not be taken off it.
    left: Condvar,
}

impl Bridge {
    /// What the host offers, without changing it.
    ///
    /// # Errors
    /// If the tag cannot be part of names.
    pub fn facts(tag: &str) -> Result<NetworkFacts, BridgeError> {
        Ok(NetworkFacts::look(&Names::new(tag)?.bridge))
    }

    /// Makes the bridge and its rules, or takes over what an earlier agent of this tag
    /// left, with the tasks on it. Switches on the host's forwarding if it is off.
    ///
    /// # Errors
    /// If the host has no bridges, the subnet does not fit, or a step fails; the steps
    /// before it remain, and another open or [`Bridge::close`] deals with them.
    pub fn open(config: &BridgeConfig) -> Result<Self, BridgeError> {
        let names = Names::new(&config.tag)?;
        let facts = NetworkFacts::look(&names.bridge);
        facts.bridge()?;
        let mut hands = Hands::open(&names.table, &names.bridge)?;
        let _turn = home::turn();
        let host = without_deserted(&mut hands)?;
        let alias = home::alias(&config.home);
        let base = plan::base(&names, &alias, config.subnet, &host, facts.forwards())?;
        for step in &base.steps {
            if *step == Step::Forward {
                tracing::info!("containers need the host to pass packets on: {step}");
            }
            hands.perform(step, None)?;
        }
        let prefix = match facts.forwards6() {
            Some(forwards) => six(&mut hands, &names, &host, forwards),
            None => None,
        };
        for warning in facts.warnings(&names.bridge) {
            tracing::warn!("{warning}");
        }
        let mut state = State { hands, held: BTreeMap::new(), last: 0, closed: false };
        state.take_over(&names, base.subnet)?;
        let (subnet, mtu) = (base.subnet, base.mtu);
        Ok(Self { names, subnet, prefix, mtu, state: Mutex::new(state), left: Condvar::new() })
    }

    /// Where the containers live.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The name of its interface, which the tag makes.
    pub fn name(&self) -> &str {
        &self.names.bridge
    }

    /// Whether its interface is there still: whoever may change the host's network may remove it.
    ///
    /// # Errors
    /// If the host's network cannot be read.
    pub fn is_there(&self) -> Result<bool, BridgeError> {
        let mut state = self.state();
        Ok(route::index(&mut state.hands.links, &self.names.bridge)?.is_some())
    }

    /// The tasks on the bridge, with their addresses.
    pub fn tasks(&self) -> BTreeMap<String, Ipv4Addr> {
        self.state().held.iter().map(|(task, held)| (task.clone(), held.address)).collect()
    }

    /// What [`Bridge::attach`] would do, for a person to read.
    ///
    /// # Errors
    /// If no address is free or a port cannot be published by its nature; whether a
    /// port is taken is not asked.
    pub fn explain(&self, task: &str, publish: &[Publish]) -> Result<Vec<String>, BridgeError> {
        let (_, address) = self.vacant(&self.state())?;
        let steps = self.steps(task, address, publish)?;
        Ok(steps.iter().map(Step::to_string).collect())
    }

    fn steps(
        &self,
        task: &str,
        address: Ipv4Addr,
        publish: &[Publish],
    ) -> Result<Vec<Step>, BridgeError> {
        let base = (self.subnet, self.prefix, self.mtu);
        Ok(plan::attach(&self.names, base, task, address, publish)?)
    }

    /// Puts a task's network namespace on the bridge as eth0 and opens its ports, which
    /// somebody holds by then ([`Ports`](super::Ports)): packet rules ask nobody. Its
    /// loopback is started on the way. All or nothing.
    ///
    /// # Errors
    /// If the task is attached, the subnet is full, or a step fails.
    pub fn attach(
        &self,
        task: &str,
        netns: BorrowedFd<'_>,
        publish: &[Publish],
    ) -> Result<Attached, BridgeError> {
        let mut state = self.state();
        if state.closed {
            return Err(BridgeError::Closed);
        }
        if state.held.contains_key(task) {
            return Err(BridgeError::Attached { task: task.to_owned() });
        }
        if state.held.len() >= BRIDGE_PORTS {
            return Err(BridgeError::Crowded { bridge: self.names.bridge.clone() });
        }
        publish.iter().try_for_each(check)?;
        let (number, address) = self.vacant(&state)?;
        let steps = self.steps(task, address, publish)?;
        let spoken = publish.iter().map(|one| one.protocol).collect();
        for step in &steps {
            if let Err(error) = state.hands.perform(step, Some(netns)) {
                self.undo(&mut state, task, address, &spoken);
                return Err(error.into());
            }
        }
        state.last = number;
        let held = Held { spoken, ..Held::new(address) };
        state.held.insert(task.to_owned(), held);
        let address6 = plan::addresses(self.subnet, self.prefix, address).six;
        let (mac, gateway) = (Mac::of(address), self.subnet.gateway());
        Ok(Attached { address, address6, mac, gateway })
    }

    /// Takes a task off the bridge and frees its ports and address; fine if it is not
    /// on it, or its network namespace is gone.
    ///
    /// # Errors
    /// If a step fails: the address stays taken, and another try may do better.
    pub fn detach(&self, task: &str) -> Result<(), BridgeError> {
        let mut state = self.state();
        // Whoever is at it does what we would do.
        while state.held.get(task).is_some_and(|held| held.leaving) {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let Some(held) = state.held.get_mut(task) else { return Ok(()) };
        held.leaving = true;
        let steps = plan::detach(&self.names, self.range(), task, held.address, &held.spoken);
        drop(state);
        let done = steps.iter().try_for_each(|step| match step {
            Step::Unplug { near } => unplug(near),
            step => self.state().hands.perform(step, None),
        });
        let mut state = self.state();
        match (&done, state.held.get_mut(task)) {
            (Err(_), Some(held)) => held.leaving = false,
            _ => drop(state.held.remove(task)),
        }
        self.left.notify_all();
        Ok(done?)
    }

    /// Removes what belongs to tasks that are not among the living, and returns their
    /// names. Whatever is being started must be among them.
    ///
    /// # Errors
    /// If the kernel cannot be read or a step fails; another try may do better.
    pub fn sweep(&self, living: &BTreeSet<String>) -> Result<Vec<String>, BridgeError> {
        let mut dead: Vec<String> = self.state().held.keys().cloned().collect();
        dead.retain(|task| !living.contains(task));
        for task in &dead {
            self.detach(task)?;
        }
        self.state().clear(&self.names, self.subnet)?;
        Ok(dead)
    }

    /// Puts back what somebody removed of our rules, as `nft flush ruleset` does with
    /// everybody's: the table's own, and those of the ports that these tasks publish.
    /// Says how many were put back, the table counting as one.
    ///
    /// # Errors
    /// If the kernel cannot be read or a step fails; another try may do better.
    pub fn repair(&self, wanted: &BTreeMap<String, Vec<Publish>>) -> Result<usize, BridgeError> {
        let mut state = self.state();
        if state.closed {
            return Ok(0);
        }
        let mut steps = Vec::new();
        if !nft::is_whole(&mut state.hands.rules, &self.names.table, Family::V4)? {
            steps.push(plan::table(&self.names, self.subnet));
        }
        if let Some(prefix) = self.prefix
            && !nft::is_whole(&mut state.hands.rules, &self.names.table, Family::V6)?
        {
            steps.push(plan::table6(&self.names, prefix));
        }
        let published = nft::published(&mut state.hands.rules, &self.names.table)?;
        for (task, publish) in wanted {
            let Some(held) = state.held.get_mut(task).filter(|held| !held.leaving) else {
                continue;
            };
            let addresses = plan::addresses(self.subnet, self.prefix, held.address);
            held.spoken.extend(publish.iter().map(|one| one.protocol));
            let missing = plan::redirects(addresses, publish)?.into_iter().filter(|one| {
                let leads = |rule: &nft::Published| rule.task == *task && rule.is_of(one);
                !published.iter().any(leads)
            });
            steps.extend(missing.map(|redirect| Step::Publish { task: task.clone(), redirect }));
        }
        for step in &steps {
            state.hands.perform(step, None)?;
        }
        Ok(steps.len())
    }

    /// Removes the bridge and the rules if no task is on it, and attaches nobody from
    /// then on. The host's forwarding stays on: others may count on it by now.
    ///
    /// # Errors
    /// If a step fails.
    pub fn close(&self) -> Result<Closed, BridgeError> {
        let mut state = self.state();
        if !state.held.is_empty() {
            return Ok(Closed::InUse { tasks: state.held.len() });
        }
        state.closed = true;
        for step in plan::close(&self.names) {
            state.hands.perform(&step, None)?;
        }
        Ok(Closed::Gone)
    }

    /// What of a tag is on this host, by name: bridge, cables, table. Empty means that
    /// nothing is left.
    ///
    /// # Errors
    /// If the tag is none or the host's network cannot be read.
    pub fn remains(tag: &str) -> Result<Vec<String>, BridgeError> {
        let names = Names::new(tag)?;
        let mut hands = Hands::open(&names.table, &names.bridge)?;
        let ours = |name: &str| name == names.bridge || names.cable_number(name).is_some();
        let links = route::links(&mut hands.links)?.into_iter().map(|link| link.name);
        let mut found: Vec<String> = links.filter(|name| ours(name)).collect();
        let tables = nft::tables(&mut hands.rules)?;
        found.extend(tables.into_iter().filter(|table| *table == names.table));
        Ok(found)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What the kernel has is the truth, whatever a panicked thread left undone.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn range(&self) -> (Subnet, Option<Prefix6>) {
        (self.subnet, self.prefix)
    }

    fn vacant(&self, state: &State) -> Result<(u32, Ipv4Addr), BridgeError> {
        let held = state.held.values().map(|held| held.address).collect();
        self.subnet.free(state.last, &held).ok_or(BridgeError::Full { subnet: self.subnet })
    }

    /// Takes back a half-made attachment; what fails here waits for the next sweep.
    fn undo(&self, state: &mut State, task: &str, address: Ipv4Addr, spoken: &BTreeSet<Protocol>) {
        for step in plan::detach(&self.names, self.range(), task, address, spoken) {
            if let Err(error) = state.hands.perform(&step, None) {
                tracing::warn!(task, %step, error = %error, "cannot undo");
            }
        }
    }
}

/// What the host has, once the networks of agents that are no more are removed.
fn without_deserted(hands: &mut Hands) -> Result<Host, BridgeError> {
    let host = Host::look(&mut hands.links)?;
    let deserted = plan::deserted(&host, home::is_gone);
    if deserted.is_empty() {
        return Ok(host);
    }
    for step in deserted.iter().flat_map(plan::close) {
        tracing::info!("the network of an agent whose directory is gone: {step}");
        if let Err(error) = hands.perform(&step, None) {
            let error = crate::order::chain(&error);
            tracing::warn!(error, "a deserted network stays");
        }
    }
    Ok(Host::look(&mut hands.links)?)
}

/// Gives the bridge IPv6, by the range it has or one that is this machine's; none if that
/// fails, since IPv4 goes on without.
fn six(hands: &mut Hands, names: &Names, host: &Host, forwards: bool) -> Option<Prefix6> {
    let bridge = host.link(&names.bridge).map(|link| link.index);
    let present = host.addresses6.iter().filter(|(index, _)| Some(*index) == bridge);
    let machine = std::fs::read_to_string(MACHINE_ID).unwrap_or_default();
    let prefix = present
        .filter_map(|(_, address)| Prefix6::around(*address))
        .next()
        .unwrap_or_else(|| Prefix6::of(&format!("{} {}", machine.trim(), names.bridge)));
    for step in plan::base6(names, prefix, forwards) {
        if step == Step::Forward6 {
            tracing::info!("containers need the host to pass packets on: {step}");
        }
        if let Err(error) = hands.perform(&step, None) {
            let error = crate::order::chain(&error);
            tracing::warn!(error, "containers have IPv4 only");
            return None;
        }
    }
    Some(prefix)
}

impl State {
    /// Learns from the kernel who is on the bridge.
    fn take_over(&mut self, names: &Names, subnet: Subnet) -> Result<(), BridgeError> {
        let bridge = self.hands.bridge_index()?;
        for link in route::links(&mut self.hands.links)? {
            let number = names
                .cable_number(&link.name)
                .filter(|number| subnet.number(subnet.nth(*number)) == *number);
            if let (Some(number), Some(task)) = (number, alias_task(&link.alias)) {
                self.held.insert(task.to_owned(), Held::new(subnet.nth(number)));
                self.last = self.last.max(number);
                // Somebody removed the bridge under it, and this one is new.
                if link.on.is_none() {
                    route::plug(&mut self.hands.links, &link.name, bridge)?;
                }
            }
        }
        self.clear(names, subnet)?;
        for rule in nft::published(&mut self.hands.rules, &names.table)? {
            let Some(held) = self.held.get_mut(&rule.task) else { continue };
            held.spoken.insert(rule.protocol);
        }
        Ok(())
    }

    /// Removes cables and rules that belong to nobody: what a crash between two steps
    /// leaves, and rules whose cable went with its container.
    fn clear(&mut self, names: &Names, subnet: Subnet) -> Result<(), BridgeError> {
        let held: BTreeSet<String> =
            self.held.values().map(|held| names.cable(subnet, held.address)).collect();
        for link in route::links(&mut self.hands.links)? {
            if names.cable_number(&link.name).is_some() && !held.contains(&link.name) {
                self.hands.perform(&Step::Unplug { near: link.name }, None)?;
            }
        }
        let published = nft::published(&mut self.hands.rules, &names.table)?;
        let orphans: BTreeSet<&String> = published
            .iter()
            .map(|rule| &rule.task)
            .filter(|task| !self.held.contains_key(*task))
            .collect();
        for task in orphans {
            self.hands.perform(&Step::Withdraw { task: task.clone() }, None)?;
        }
        Ok(())
    }
}
