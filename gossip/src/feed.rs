//! The loop: everything that happens between peers, scribe and agent.
//!
//!     swarm, readers, scribe, agent ─▶ select! ─▶ one handler ─▶ links, scribe, outbox
//!
//! Only `select!` waits. A handler changes state and queues what follows; the
//! outbox holds what the agent has not taken yet, and while it is full no more
//! is read, so that what must not be lost waits at its source. What may be
//! lost is dropped first. Nothing is pushed to a peer before it is on the disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use gossip_core::advert::Advert;
use gossip_core::id::{ClusterId, NodeId};
use gossip_core::log::LogId;
use gossip_core::market;
use gossip_core::sign::Key;
use gossip_core::wire::Frame;
use libp2p::Multiaddr;
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use libp2p_stream::Control;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::api::{Event, Peer, Say, Transport};
use crate::book::Book;
use crate::gatekeeper::Gatekeeper;
use crate::link::{Heard, Link};
use crate::members::Notice;
use crate::names;
use crate::nuisance::Nuisance;
use crate::receipts::Receipts;
use crate::scribe::{Order, Report};
use crate::stream::PeerStream;
use crate::swarm::{Behaviour, BehaviourEvent};
use crate::sync::Sync;

mod peers;
mod records;

/// Commands of the agent that wait.
pub(crate) const COMMANDS_MAX: usize = 1024;

/// Events that wait in the channel to the agent.
pub(crate) const EVENTS_MAX: usize = 256;

/// Beyond this many events waiting nothing more is read from peers and disk.
const OUTBOX_MAX: usize = 4096;

/// Beyond this many, what may be lost is lost.
const OUTBOX_SOFT_MAX: usize = 1024;

/// The loop's own rhythm: changes are told, dials made.
const TICK: Duration = Duration::from_millis(200);

/// Every link says something this often, and one of them everything.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A peer that said nothing for this long is disconnected.
const SILENCE_MAX: Duration = Duration::from_secs(6);

/// A tick this late says that this host slept, and nothing about peers.
const LATE: Duration = Duration::from_secs(2);

/// Two members that dial each other at once have both connections within this.
const SIMULTANEOUS: Duration = Duration::from_secs(2);

/// Between two `Heard` of one peer.
const HEARD_EVERY: Duration = Duration::from_millis(250);

/// Peers' newest adverts kept, one for each node.
const ADVERTS_MAX: usize = 65_536;

/// How long peers may take to read the last that this node has to say.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long connections may take to close.
const FAREWELL: Duration = Duration::from_millis(300);

/// What the agent's side asks of the loop.
#[derive(Debug)]
pub(crate) enum Command {
    Send {
        to: NodeId,
        message: market::Message,
    },
    Publish(Say),
    /// Addresses of this node and of some others, for an invitation.
    Addresses(oneshot::Sender<Vec<String>>),
    Stop,
}

/// Who is connected, for those outside of the loop.
pub(crate) type Roster = Arc<Mutex<BTreeMap<NodeId, Peer>>>;

/// What the loop is fed from.
pub(crate) struct Inlets {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) reports: mpsc::Receiver<Report>,
    pub(crate) heard: mpsc::Receiver<(NodeId, Heard)>,
    pub(crate) streams: mpsc::Receiver<(NodeId, PeerStream)>,
    /// Tasks that run as long as the loop: those that accept streams.
    pub(crate) tasks: JoinSet<()>,
    /// Those that write to peers: they end after everything else, when all is said.
    pub(crate) writers: JoinSet<()>,
    pub(crate) control: Control,
    /// What the swarm said before the loop ran.
    pub(crate) early: Vec<SwarmEvent<BehaviourEvent>>,
}

struct Connection {
    link: Link,
    writer: AbortHandle,
    ways: BTreeMap<ConnectionId, Way>,
    heard: Instant,
    told: Option<Instant>,
    is_reading: bool,
}

/// One of the connections to a peer.
struct Way {
    address: Multiaddr,
    transport: Transport,
    since: Instant,
}

/// The loop's state.
pub(crate) struct Feed {
    pub(crate) key: Key,
    pub(crate) cluster: ClusterId,
    pub(crate) log: LogId,
    pub(crate) listening: Vec<String>,
    pub(crate) book: Book,
    pub(crate) sync: Sync,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) roster: Roster,
    pub(crate) outbox: VecDeque<Event>,
    gatekeeper: Arc<Gatekeeper>,
    notice: Notice,
    connections: BTreeMap<NodeId, Connection>,
    adverts: BTreeMap<NodeId, Advert>,
    receipts: Receipts,
    nuisance: Nuisance,
    /// Who is kept out changed: connections are to be looked through.
    ruled: bool,
    said: Option<Say>,
    adverts_made: u64,
    beat: Instant,
    ticked: Instant,
    failed: bool,
}

impl Feed {
    #[expect(clippy::too_many_arguments, reason = "each is one thing that the loop is made of")]
    pub(crate) fn new(
        key: Key,
        cluster: ClusterId,
        log: LogId,
        listening: Vec<String>,
        book: Book,
        sync: Sync,
        orders: mpsc::Sender<Order>,
        roster: Roster,
        gatekeeper: Arc<Gatekeeper>,
    ) -> Self {
        let now = Instant::now();
        Self {
            key,
            cluster,
            log,
            listening,
            book,
            sync,
            orders,
            roster,
            outbox: VecDeque::new(),
            notice: gatekeeper.notice(),
            gatekeeper,
            connections: BTreeMap::new(),
            adverts: BTreeMap::new(),
            receipts: Receipts::default(),
            nuisance: Nuisance::new(now),
            ruled: false,
            said: None,
            adverts_made: 0,
            beat: now,
            ticked: now,
            failed: false,
        }
    }

    /// Runs until the agent stops it or is gone.
    pub(crate) async fn run(mut self, mut inlets: Inlets, events: mpsc::Sender<Event>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for event in std::mem::take(&mut inlets.early) {
            self.on_swarm(event, &mut inlets);
        }
        loop {
            let has_room = self.outbox.len() < OUTBOX_MAX;
            tokio::select! {
                permit = events.reserve(), if !self.outbox.is_empty() => {
                    let Ok(permit) = permit else { break };
                    if let Some(event) = self.outbox.pop_front() {
                        permit.send(event);
                    }
                }
                command = inlets.commands.recv() => match command {
                    None | Some(Command::Stop) => break,
                    Some(command) => self.on_command(command, &mut inlets.swarm),
                },
                report = inlets.reports.recv(), if has_room && !self.failed => {
                    self.on_report(report);
                    self.part(&mut inlets.swarm);
                }
                Some((from, heard)) = inlets.heard.recv(), if has_room => {
                    self.on_heard(from, heard);
                }
                Some((from, stream)) = inlets.streams.recv() => {
                    self.tell_softly(Event::Stream { from, stream });
                }
                event = inlets.swarm.select_next_some() => self.on_swarm(event, &mut inlets),
                Some(_ended) = inlets.tasks.join_next() => {}
                Some(_ended) = inlets.writers.join_next() => {}
                _ = ticks.tick() => self.on_tick(&mut inlets.swarm),
            }
        }
        self.close(inlets).await;
    }

    /// Lets the scribe finish what it was given and the peers hear of it, then closes.
    async fn close(mut self, inlets: Inlets) {
        let Inlets { mut swarm, mut reports, mut tasks, mut writers, .. } = inlets;
        tasks.shutdown().await;
        let orders = self.orders.clone();
        let stopping = orders.send(Order::Stop);
        tokio::pin!(stopping);
        let mut is_told = false;
        loop {
            tokio::select! {
                _ended = &mut stopping, if !is_told => is_told = true,
                report = reports.recv() => match report {
                    Some(report) => self.on_report(Some(report)),
                    None => break,
                },
                // Streams need it; nobody hears of connections any more.
                _unheard = swarm.select_next_some() => {}
            }
        }
        let peers: Vec<_> = self.connections.keys().filter_map(names::peer_of).collect();
        // Writers end when their link is gone and what was in it is read.
        self.connections.clear();
        let last_words = async {
            tokio::select! {
                () = async { while writers.join_next().await.is_some() {} } => {}
                () = async { loop { swarm.select_next_some().await; } } => {}
            }
        };
        let _late = tokio::time::timeout(LAST_WORDS, last_words).await;
        writers.shutdown().await;
        for peer in peers {
            let _was_connected = swarm.disconnect_peer_id(peer);
        }
        // A moment for the farewells to leave; then the sockets close with the swarm.
        let farewell = async {
            while swarm.network_info().num_peers() > 0 {
                swarm.next().await;
            }
        };
        let _late = tokio::time::timeout(FAREWELL, farewell).await;
        self.roster.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// For what may be lost when the agent is slow.
    fn tell_softly(&mut self, event: Event) {
        if self.outbox.len() < OUTBOX_SOFT_MAX {
            self.outbox.push_back(event);
        }
    }

    fn send(&self, to: &NodeId, frame: &Frame) {
        let Some(connection) = self.connections.get(to) else { return };
        match frame.encode() {
            Ok(bytes) => connection.link.send(Bytes::from(bytes)),
            Err(error) => tracing::warn!(%error, "a frame cannot be sent"),
        }
    }

    fn on_command(&mut self, command: Command, swarm: &mut Swarm<Behaviour>) {
        match command {
            Command::Send { to, message } if to == self.key.id() => {
                self.tell_softly(Event::Market { from: to, message });
            }
            Command::Send { to, message } => self.send(&to, &Frame::Market(message)),
            Command::Publish(say) => {
                self.said = Some(say);
                self.publish(swarm);
            }
            Command::Addresses(answer) => {
                let mut addresses = self.listening.clone();
                for node in self.connections.keys() {
                    addresses.extend(self.book.addresses(node).map(Multiaddr::to_string));
                }
                let _asker_is_gone = answer.send(addresses);
            }
            Command::Stop => {}
        }
    }
}
