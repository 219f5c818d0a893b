//! Who may pass the gate: decisions only, no sockets.
//!
//! One answer for every transport: a peer passes if its chain of grants holds
//! for this cluster and for the key that the handshake proved. An invited
//! stranger passes once its redemption is on this disk. Who was removed is shown
//! the proof, and shows it to others in turn. A node that is no member yet, or none any more, lets nobody in, and goes in itself only where the other side
//! proves to be a member of the cluster that its token names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use gossip_core::grant::{BadChain, Chain, Role};
use gossip_core::id::{ClusterId, NodeId};
use gossip_core::invite::{Refused, Token};
use gossip_core::moment::WallTime;
use gossip_core::sign::Key;
use gossip_core::wire::gate::{Claim, Hello, Refusal, Reply, VERSION};
use tokio::sync::{mpsc, oneshot};

use crate::members::Notice;
use crate::scribe::Order;

mod removed;

/// Answers to a joining node that wait for it to look.
const VERDICTS_MAX: usize = 64;

/// Why a connection does not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    #[error("the peer's key is of a kind that no node has")]
    KeyKind,
    #[error("not let in: {0}")]
    Refused(Refusal),
    #[error("turned away: {0}")]
    TurnedAway(Refusal),
    #[error("the host asked proves nothing: {0}")]
    NoMember(#[from] BadChain),
    #[error("the host asked is an operator's key, not a node's")]
    NotANode,
    #[error("the host asked answered out of turn")]
    OutOfTurn,
    #[error("this node belongs to no cluster")]
    Homeless,
    #[error("{} was removed by {}", .0.short(), .1.short())]
    Removed(NodeId, NodeId),
    #[error("too many are connected")]
    Full,
    #[error("admission took too long")]
    Slow,
    #[error("a message of {0} bytes")]
    Large(usize),
    #[error("admission broke off")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Codec(#[from] gossip_core::codec::CodecError),
}

/// What became of an attempt to join.
#[derive(Debug)]
pub(crate) enum Verdict {
    Granted(Chain),
    Refused(Refusal),
    /// This node's key was removed, by that one.
    Removed(NodeId),
    /// The host asked is not what the token promises.
    Impostor(GateError),
}

#[derive(Debug)]
enum State {
    Homeless,
    Invited { token: Box<Token>, verdicts: mpsc::Sender<Verdict> },
    Member { cluster: ClusterId, chain: Chain },
}

/// Decides for all connections of this node.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    me: NodeId,
    state: Mutex<State>,
    orders: Mutex<Option<mpsc::Sender<Order>>>,
    notice: Notice,
    /// What those showed who passed, until they leave.
    passed: Mutex<BTreeMap<NodeId, Chain>>,
    /// Removed nodes that said that they know it.
    told: Mutex<BTreeSet<NodeId>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this node's clock says, for expiries.
pub(crate) fn wall_time() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Gatekeeper {
    pub(crate) fn new(key: &Key) -> Self {
        Self {
            me: key.id(),
            state: Mutex::new(State::Homeless),
            orders: Mutex::new(None),
            notice: Notice::default(),
            passed: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Where who is kept out is told.
    pub(crate) fn notice(&self) -> Notice {
        self.notice.clone()
    }

    /// From now on this node is a member.
    pub(crate) fn settle(&self, cluster: ClusterId, chain: Chain) {
        *lock(&self.state) = State::Member { cluster, chain };
    }

    /// From now on every dial redeems `token`; what comes of it is received here.
    pub(crate) fn invite(&self, token: Token) -> mpsc::Receiver<Verdict> {
        let (verdicts, receiver) = mpsc::channel(VERDICTS_MAX);
        *lock(&self.state) = State::Invited { token: Box::new(token), verdicts };
        receiver
    }

    /// From now on invitations are redeemed there.
    pub(crate) fn admit_through(&self, orders: mpsc::Sender<Order>) {
        *lock(&self.orders) = Some(orders);
    }

    /// What to say to `asked`, having dialed it.
    pub(crate) fn hello(&self, asked: &NodeId) -> Result<Hello, GateError> {
        match &*lock(&self.state) {
            State::Homeless => Err(GateError::Homeless),
            State::Invited { token, .. } => {
                let invitation = Box::new(token.invitation.clone());
                let proof = token.proof(&self.me, asked);
                let cluster = invitation.cluster;
                let claim = Claim::Invited { invitation, proof };
                Ok(Hello { version: VERSION, cluster, claim, removals: Vec::new() })
            }
            State::Member { cluster, chain } => {
                let claim = Claim::Member { chain: chain.clone() };
                let removals = self.evidence(asked);
                Ok(Hello { version: VERSION, cluster: *cluster, claim, removals })
            }
        }
    }

    /// What to make of the answer of `asked` to `hello`.
    pub(crate) fn conclude(
        &self,
        asked: &NodeId,
        hello: &Hello,
        reply: Reply,
    ) -> Result<(), GateError> {
        let was_invited = matches!(hello.claim, Claim::Invited { .. });
        let verdict = match reply {
            Reply::Refused(refusal) => Err(GateError::Refused(refusal)),
            Reply::Removed { proof } => Err(self.shown(asked, &hello.cluster, *proof)?),
            Reply::Welcome { chain } if !was_invited => {
                check_member(&chain, &hello.cluster, asked)?;
                self.check_standing(&chain, asked)?;
                return self.remember(*asked, chain).then_some(()).ok_or(GateError::Full);
            }
            Reply::Granted { chain, yours } if was_invited => {
                let checked = check_member(&chain, &hello.cluster, asked)
                    .and_then(|()| check_member(&yours, &hello.cluster, &self.me));
                let _first_of_all = self.remember(*asked, chain);
                checked.map(|()| yours)
            }
            Reply::Welcome { .. } | Reply::Granted { .. } => Err(GateError::OutOfTurn),
        };
        let state = lock(&self.state);
        let tell = |verdict| {
            if let State::Invited { verdicts, .. } = &*state {
                let _enough_were_told = verdicts.try_send(verdict);
            }
        };
        match verdict {
            Ok(yours) => {
                tell(Verdict::Granted(yours));
                Ok(())
            }
            Err(GateError::Refused(refusal)) => {
                tell(Verdict::Refused(refusal));
                Err(GateError::Refused(refusal))
            }
            Err(GateError::Removed(node, by)) => {
                if node == self.me {
                    tell(Verdict::Removed(by));
                }
                Err(GateError::Removed(node, by))
            }
            Err(error) if was_invited => {
                let text = error.to_string();
                tell(Verdict::Impostor(error));
                Err(std::io::Error::other(text).into())
            }
            Err(error) => Err(error),
        }
    }

    /// What to answer to `dialer`, who said `hello`: at the members' gate only members pass,
    /// at the operators' door only operators.
    pub(crate) async fn answer(&self, dialer: NodeId, hello: Hello, may: Role) -> Reply {
        self.decide(dialer, hello, may).await.unwrap_or_else(Reply::Refused)
    }

    async fn decide(&self, dialer: NodeId, hello: Hello, may: Role) -> Result<Reply, Refusal> {
        let (cluster, chain) = match &*lock(&self.state) {
            State::Member { cluster, chain } => (*cluster, chain.clone()),
            State::Homeless | State::Invited { .. } => return Err(Refusal::NotReady),
        };
        if hello.version != VERSION {
            return Err(Refusal::Version(VERSION));
        }
        match hello.claim {
            Claim::Member { chain: theirs } => {
                let role = theirs.verify(&cluster, &dialer);
                if hello.cluster != cluster || role != Ok(may) {
                    return Err(Refusal::NotAMember);
                }
                self.listen_to(&cluster, hello.removals).await;
                let ruling = self.notice.read();
                let mine = ruling.removals.standing(&chain).against();
                let against = mine.or_else(|| ruling.removals.standing(&theirs).against());
                if let Some(proof) = against {
                    return Ok(Reply::Removed { proof: Box::new(proof.clone()) });
                }
                // Operators have no connection here that could outlive their grant.
                if may == Role::Member && !self.remember(dialer, theirs) {
                    return Err(Refusal::NotReady);
                }
                Ok(Reply::Welcome { chain })
            }
            Claim::Invited { invitation, proof } => {
                if hello.cluster != cluster || invitation.cluster != cluster {
                    return Err(Refusal::Invitation(Refused::OtherCluster));
                }
                if invitation.role != may {
                    return Err(Refusal::NotAMember);
                }
                if self.against_me(&chain).is_some() {
                    return Err(Refusal::NotReady);
                }
                if let Some(proof) = self.notice.read().removals.of(&dialer).cloned() {
                    return Ok(Reply::Removed { proof: Box::new(proof) });
                }
                let (answer, answered) = oneshot::channel();
                let now = wall_time();
                let order = Order::Redeem { invitation, proof, joiner: dialer, now, answer };
                let orders = lock(&self.orders).clone().ok_or(Refusal::NotReady)?;
                orders.try_send(order).map_err(|_busy_or_ended| Refusal::NotReady)?;
                let yours = answered.await.map_err(|_writer_failed| Refusal::Disk)??;
                if may == Role::Member && !self.remember(dialer, yours.clone()) {
                    return Err(Refusal::NotReady);
                }
                Ok(Reply::Granted { chain, yours })
            }
        }
    }
}

fn check_member(chain: &Chain, cluster: &ClusterId, node: &NodeId) -> Result<(), GateError> {
    match chain.verify(cluster, node)? {
        Role::Member => Ok(()),
        Role::Operator => Err(GateError::NotANode),
    }
}
