//! The agent's handle: asks never wait for peers or disk, and say `Busy` instead.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use gossip_core::fact::Record;
use gossip_core::grant::{CHAIN_LENGTH_MAX, Chain, Role};
use gossip_core::id::NodeId;
use gossip_core::invite::{TOKEN_ADDRESSES_MAX, Token};
use gossip_core::market;
use gossip_core::moment::WallTime;
use gossip_core::removal::Standing;
use gossip_core::wire::gate::{Hello, Reply};
use libp2p_stream::Control;
use rand::RngExt as _;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::api::{Busy, Entry, InviteError, Invited, OpenStreamError, Peer, Say};
use crate::doors;
use crate::feed::{Command, Roster};
use crate::gatekeeper::Gatekeeper;
use crate::names;
use crate::scribe::{Author, Order};
use crate::stream::PeerStream;

/// The most streams that are being opened to one peer at a time; others wait their turn.
const OPENING_MAX: usize = 2;

/// What can be asked of gossip. It ends when told to, or with its last handle.
#[derive(Clone)]
pub struct Gossip(Arc<Inner>);

struct Inner {
    author: Author,
    commands: mpsc::Sender<Command>,
    orders: mpsc::Sender<Order>,
    roster: Roster,
    control: Control,
    gatekeeper: Arc<Gatekeeper>,
    /// Turns in opening streams, by peer: few at a time are all taken at once.
    turns: Mutex<BTreeMap<NodeId, Arc<Semaphore>>>,
    running: Mutex<Option<(JoinHandle<()>, thread::JoinHandle<()>)>>,
}

impl fmt::Debug for Gossip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gossip({:?})", self.0.author.log.node)
    }
}

impl Gossip {
    pub(crate) fn new(
        author: Author,
        commands: mpsc::Sender<Command>,
        orders: mpsc::Sender<Order>,
        roster: Roster,
        control: Control,
        gatekeeper: Arc<Gatekeeper>,
        running: (JoinHandle<()>, thread::JoinHandle<()>),
    ) -> Self {
        let running = Mutex::new(Some(running));
        let turns = Mutex::default();
        Self(Arc::new(Inner {
            author,
            commands,
            orders,
            roster,
            control,
            gatekeeper,
            turns,
            running,
        }))
    }

    /// Appends to this node's log. In this order: the entries are on this disk,
    /// [`crate::Event::Updates`] tells them, [`crate::Event::Durable`] confirms the ticket,
    /// and every connected peer is sent them.
    ///
    /// The first entry of a start must be [`gossip_core::fact::Record::Open`]. An append is
    /// whole or nothing: where one entry does not hold, nothing is written, and
    /// [`crate::Event::Refused`] is told in place of the others.
    pub fn try_append(&self, ticket: u64, entries: Vec<Entry>) -> Result<(), Busy> {
        let order = Order::Append { ticket, entries };
        self.0.orders.try_send(order).map_err(|_full_or_ended| Busy)
    }

    /// Says something about placing work; lost if `to` is not connected or too slow.
    pub fn try_send(&self, to: NodeId, message: market::Message) -> Result<(), Busy> {
        let command = Command::Send { to, message };
        self.0.commands.try_send(command).map_err(|_full_or_ended| Busy)
    }

    /// Tells everybody what this node has free; lost if gossip is busy, for it is soon said again.
    pub fn try_publish(&self, say: Say) {
        let _said_again_soon = self.0.commands.try_send(Command::Publish(say));
    }

    /// Opens a stream to the HTTP API of a connected member.
    pub async fn open_stream(&self, to: NodeId) -> Result<PeerStream, OpenStreamError> {
        let is_connected =
            self.0.roster.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&to);
        let peer = names::peer_of(&to).filter(|_| is_connected);
        let peer = peer.ok_or(OpenStreamError::NotConnected(to))?;
        let turns = {
            let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Arc::new(Semaphore::new(OPENING_MAX));
            Arc::clone(turns.entry(to).or_insert_with(fresh))
        };
        let _turn = turns.acquire().await;
        let mut control = self.0.control.clone();
        let opened = doors::open(&mut control, peer).await;
        opened.map_err(|source| OpenStreamError::Refused { node: to, source })
    }

    /// What to answer to an operator, whose key `caller` a handshake proved: welcome, a grant
    /// for a token, or a refusal. Nothing else may be said to one that is refused.
    pub async fn admit_operator(&self, caller: NodeId, hello: Hello) -> Reply {
        self.0.gatekeeper.answer(caller, hello, Role::Operator).await
    }

    /// Whether no removal stands in the way of a proof that verified before.
    pub fn still_holds(&self, chain: &Chain) -> bool {
        let ruling = self.0.gatekeeper.notice().read();
        ruling.removals.standing(chain) == Standing::Good
    }

    /// Makes a token that admits `uses` others until `expires`.
    pub async fn invite(
        &self,
        role: Role,
        uses: u32,
        expires: WallTime,
    ) -> Result<Token, InviteError> {
        if uses == 0 {
            return Err(InviteError::NoUses);
        }
        let Author { key, cluster, chain, .. } = &self.0.author;
        if self.0.gatekeeper.is_out(&key.id()) {
            return Err(InviteError::Removed);
        }
        // A chain has one link more than its rank, and the invited add one.
        if usize::try_from(chain.rank()).unwrap_or(usize::MAX).saturating_add(2) > CHAIN_LENGTH_MAX
        {
            return Err(InviteError::TooDeep);
        }
        let (answer, answered) = oneshot::channel();
        let asked = self.0.commands.send(Command::Addresses(answer)).await;
        asked.map_err(|_ended| InviteError::Ended)?;
        let mut addresses = answered.await.map_err(|_ended| InviteError::Ended)?;
        addresses.truncate(TOKEN_ADDRESSES_MAX);
        let secret = rand::rng().random();
        let token = Token::issue(key, *cluster, secret, (role, uses, expires), addresses);
        // Whoever is to be able to take it back has to know of it first.
        let written = self.note(Record::Invited(token.invitation.clone())).await;
        if written { Ok(token) } else { Err(InviteError::NotWritten) }
    }

    /// Writes a record of this node's own; whether it is on the disk.
    async fn note(&self, record: Record) -> bool {
        let (answer, answered) = oneshot::channel();
        let ordered = self.0.orders.send(Order::Note { record, answer }).await;
        ordered.is_ok() && answered.await.unwrap_or(false)
    }

    /// All invitations that are known here; none once gossip has ended.
    pub async fn invitations(&self) -> Vec<Invited> {
        let (answer, answered) = oneshot::channel();
        let _ended = self.0.orders.send(Order::Invitations(answer)).await;
        answered.await.unwrap_or_default()
    }

    /// Takes an invitation back, for good: once this answers `true` nobody is admitted by it
    /// here, nor at any member that hears of it.
    pub async fn revoke(&self, invitation: NodeId) -> bool {
        self.note(Record::Revoked { invitation }).await
    }

    /// Whom a member admitted, nodes and operators, as far as known here.
    pub async fn admitted_by(&self, member: NodeId) -> Vec<NodeId> {
        let (answer, answered) = oneshot::channel();
        let _ended = self.0.orders.send(Order::AdmittedBy { member, answer }).await;
        answered.await.unwrap_or_default()
    }

    /// Who is connected now.
    pub fn peers(&self) -> Vec<Peer> {
        let roster = self.0.roster.lock().unwrap_or_else(PoisonError::into_inner);
        roster.values().cloned().collect()
    }

    /// Ends everything: what was appended is on the disk, and what was appended or sent has
    /// reached the peers that take it within half a second; sockets and journal are closed.
    pub async fn shut_down(&self) {
        let _ended_already = self.0.commands.send(Command::Stop).await;
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((running, writer)) = running else { return };
        if let Err(error) = running.await {
            tracing::error!(%error, "the loop broke");
        }
        let joined = tokio::task::spawn_blocking(move || writer.join().is_ok()).await;
        if !joined.unwrap_or(false) {
            tracing::error!("the journal's writer broke");
        }
    }
}
