//! Who may pass the gate: decisions only, no sockets.
//!
//! One answer for every transport: a peer passes if its chain of grants holds
//! for this cluster and for the key that the handshake proved. An invited
//! stranger passes once its redemption is on this disk. A node that is no
//! member yet lets nobody in, and goes in itself only where the other side
//! proves to be a member of the cluster that its token names.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use gossip_core::grant::{BadChain, Chain, Role};
use gossip_core::id::{ClusterId, NodeId};
use gossip_core::invite::{Refused, Token};
use gossip_core::moment::WallTime;
use gossip_core::sign::Key;
use gossip_core::wire::gate::{Claim, Hello, Refusal, Reply, VERSION};
use tokio::sync::{mpsc, oneshot};

use crate::scribe::Order;

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
    /// The host asked is not what the token promises.
    Impostor(GateError),
}

#[derive(Debug)]
enum Standing {
    Homeless,
    Invited { token: Box<Token>, verdicts: mpsc::Sender<Verdict> },
    Member { cluster: ClusterId, chain: Chain },
}

/// Decides for all connections of this node.
#[derive(Debug)]
pub(crate) struct Gatekeeper {
    me: NodeId,
    standing: Mutex<Standing>,
    orders: Mutex<Option<mpsc::Sender<Order>>>,
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
        Self { me: key.id(), standing: Mutex::new(Standing::Homeless), orders: Mutex::new(None) }
    }

    /// From now on this node is a member.
    pub(crate) fn settle(&self, cluster: ClusterId, chain: Chain) {
        *lock(&self.standing) = Standing::Member { cluster, chain };
    }

    /// From now on every dial redeems `token`; what comes of it is received here.
    pub(crate) fn invite(&self, token: Token) -> mpsc::Receiver<Verdict> {
        let (verdicts, receiver) = mpsc::channel(VERDICTS_MAX);
        *lock(&self.standing) = Standing::Invited { token: Box::new(token), verdicts };
        receiver
    }

    /// From now on invitations are redeemed there.
    pub(crate) fn admit_through(&self, orders: mpsc::Sender<Order>) {
        *lock(&self.orders) = Some(orders);
    }

    /// What to say to `asked`, having dialed it.
    pub(crate) fn hello(&self, asked: &NodeId) -> Result<Hello, GateError> {
        match &*lock(&self.standing) {
            Standing::Homeless => Err(GateError::Homeless),
            Standing::Invited { token, .. } => {
                let invitation = Box::new(token.invitation.clone());
                let proof = token.proof(&self.me, asked);
                let cluster = invitation.cluster;
                let claim = Claim::Invited { invitation, proof };
                Ok(Hello { version: VERSION, cluster, claim })
            }
            Standing::Member { cluster, chain } => {
                let claim = Claim::Member { chain: chain.clone() };
                Ok(Hello { version: VERSION, cluster: *cluster, claim })
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
            Reply::Welcome { chain } if !was_invited => {
                return check_member(&chain, &hello.cluster, asked);
            }
            Reply::Granted { chain, yours } if was_invited => {
                check_member(&chain, &hello.cluster, asked)
                    .and_then(|()| check_member(&yours, &hello.cluster, &self.me))
                    .map(|()| yours)
            }
            Reply::Welcome { .. } | Reply::Granted { .. } => Err(GateError::OutOfTurn),
        };
        let standing = lock(&self.standing);
        let tell = |verdict| {
            if let Standing::Invited { verdicts, .. } = &*standing {
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
        let (cluster, chain) = match &*lock(&self.standing) {
            Standing::Member { cluster, chain } => (*cluster, chain.clone()),
            Standing::Homeless | Standing::Invited { .. } => return Err(Refusal::NotReady),
        };
        if hello.version != VERSION {
            return Err(Refusal::Version(VERSION));
        }
        match hello.claim {
            Claim::Member { chain: theirs } => {
                let role = theirs.verify(&cluster, &dialer);
                if hello.cluster == cluster && role == Ok(may) {
                    Ok(Reply::Welcome { chain })
                } else {
                    Err(Refusal::NotAMember)
                }
            }
            Claim::Invited { invitation, proof } => {
                if hello.cluster != cluster || invitation.cluster != cluster {
                    return Err(Refusal::Invitation(Refused::OtherCluster));
                }
                if invitation.role != may {
                    return Err(Refusal::NotAMember);
                }
                let (answer, answered) = oneshot::channel();
                let now = wall_time();
                let order = Order::Redeem { invitation, proof, joiner: dialer, now, answer };
                let orders = lock(&self.orders).clone().ok_or(Refusal::NotReady)?;
                orders.try_send(order).map_err(|_busy_or_ended| Refusal::NotReady)?;
                let yours = answered.await.map_err(|_writer_failed| Refusal::Disk)??;
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
