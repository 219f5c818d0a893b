//! From a data directory to a running member.
//!
//!     journal ─▶ learn ─▶ listen ─▶ found, resume or join ─▶ scribe, loop
//!
//! Nothing is written until it is clear what this start is: one that fails
//! leaves the data as it was. A start that succeeds has a log of its own, under
//! a start counter that no earlier one used.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use gossip_core::fact::Update;
use gossip_core::grant::{Chain, Role};
use gossip_core::id::{ClusterId, NodeId};
use gossip_core::invite::Token;
use gossip_core::log::{LogId, Vector};
use gossip_core::removal::Standing;
use gossip_core::sign::Key;
use libp2p::Multiaddr;
use libp2p::swarm::{Swarm, SwarmEvent};
use rand::RngExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::address;
use crate::api::Event;
use crate::book::Book;
use crate::doors;
use crate::feed::{self, Feed, Inlets, Roster};
use crate::gatekeeper::Gatekeeper;
use crate::handle::Gossip;
use crate::join::{self, JoinError};
use crate::journal::{Contents, Journal, Membership};
use crate::journal_error::JournalError;
use crate::knowledge::{Knowledge, News};
use crate::link::{self, Intake};
use crate::listen::listen;
use crate::names;
use crate::scribe::{self, Author, Scribe};
use crate::swarm::{self, Behaviour, BehaviourEvent, HTTP_PROTOCOL, PEER_PROTOCOL};
use crate::sync::Sync;

/// Frames read that the loop has not handled.
const HEARD_MAX: usize = 256;

/// Frames of records on their way through the scribe, of all peers together.
const TAKES_MAX: usize = 16;

/// Where data is kept and peers are awaited.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory, with the node's key in it.
    pub data: PathBuf,
    /// Each is QUIC over UDP and TCP on the same port; port 0 lets the system choose.
    pub listen: Vec<SocketAddr>,
    /// Further multiaddrs to tell others, such as a router's that forwards here.
    pub announce: Vec<String>,
}

/// What this start is for.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made once for each start")]
pub enum Purpose {
    /// Go on as a member.
    Resume,
    /// Found a cluster, or go on if this node is a member already.
    Found,
    /// Join with a token, or go on if this node is a member of that cluster already. A member
    /// whose grant was taken away by a removal joins anew, under its key.
    Join(Token),
}

/// A member that runs.
#[derive(Debug)]
pub struct Started {
    /// What can be asked of it.
    pub gossip: Gossip,
    /// What it tells.
    pub events: mpsc::Receiver<Event>,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Why it may speak.
    pub chain: Chain,
    /// The log of this start. Its first record must be [`gossip_core::fact::Record::Open`].
    pub log: LogId,
    /// What the journal held, each log's in its own order, intents last and whole.
    pub past: Vec<(LogId, Update)>,
    /// Where it listens, for its card.
    pub addresses: Vec<String>,
}

/// Why a node does not run. Its data is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Nothing to resume.
    #[error("this node belongs to no cluster; found one, or join one with a token")]
    NotAMember,
    /// It can be in one cluster only.
    #[error("this node belongs to cluster {}, and the token is for {}; \
             give the new one a --data of its own", ours.short(), theirs.short())]
    OtherCluster {
        /// Its own.
        ours: ClusterId,
        /// The token's.
        theirs: ClusterId,
    },
    /// For a person, not a node.
    #[error("this token admits an operator, not a host; ask for one that admits a host")]
    OperatorToken,
    /// Nobody let it in.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// No socket.
    #[error(
        "cannot listen on {socket} ({reason}); is another agent running? \
             Choose another with --listen"
    )]
    Listen {
        /// Which.
        socket: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Not a multiaddr.
    #[error("cannot announce {0:?}; an address looks like /ip4/203.0.113.7/udp/7827/quic-v1")]
    Announce(String),
    /// The system refused something basic.
    #[error("cannot start the network")]
    Io(#[from] std::io::Error),
}

/// Starts a node for `purpose`.
pub async fn start(config: Config, key: Key, purpose: Purpose) -> Result<Started, StartError> {
    let announced = announced(&config.announce)?;
    let (data, node) = (config.data.clone(), key.id());
    let opened = tokio::task::spawn_blocking(move || Journal::open(&data, node));
    let (journal, contents) = opened.await.map_err(std::io::Error::other)??;
    let known = contents.membership.clone();
    check_purpose(known.as_ref(), &purpose)?;

    let gatekeeper = Arc::new(Gatekeeper::new(&key));
    let mut learned = None;
    if let Some(Membership { cluster, chain, .. }) = known.clone() {
        // Who was removed is known before anybody can knock.
        let learning = tokio::task::spawn_blocking(move || learn(&contents, cluster, node));
        let known = learning.await.map_err(std::io::Error::other)?;
        gatekeeper.notice().post(known.knowledge.members().ruling());
        learned = Some(known);
        gatekeeper.settle(cluster, chain);
    }
    let keypair = names::keypair(&key).map_err(std::io::Error::other)?;
    let mut swarm = swarm::build(&keypair, Arc::clone(&gatekeeper))?;
    let mut early = Vec::new();
    let listening = listen(&mut swarm, &config.listen, &mut early).await?;

    let is_orphan = |chain: &Chain| {
        matches!(gatekeeper.notice().read().removals.standing(chain), Standing::Orphaned(_))
    };
    let membership = match (known.clone(), purpose) {
        // Whose grant was taken away is no member, and may be admitted anew under its key.
        (Some(ours), Purpose::Join(token)) if is_orphan(&ours.chain) => {
            let (cluster, bootstrap) = (ours.cluster, token.addresses.clone());
            let chain = join::join(&mut swarm, &gatekeeper, token, &mut early).await?;
            Membership { cluster, chain, bootstrap }
        }
        (Some(membership), _) => membership,
        (None, Purpose::Join(token)) => {
            let (cluster, bootstrap) = (token.invitation.cluster, token.addresses.clone());
            let chain = join::join(&mut swarm, &gatekeeper, token, &mut early).await?;
            Membership { cluster, chain, bootstrap }
        }
        (None, _) => {
            let (cluster, chain) = Chain::found(&key, rand::rng().random());
            Membership { cluster, chain, bootstrap: Vec::new() }
        }
    };

    let mut addresses: Vec<String> = address::announceable(&listening, &config.listen)
        .iter()
        .map(Multiaddr::to_string)
        .collect();
    addresses.extend(announced);
    let learned = learned.unwrap_or_else(|| Learned::nothing(membership.cluster));
    let Learned { knowledge, past, start } = learned;
    let start = start.saturating_add(1);
    let is_new = known.as_ref() != Some(&membership);
    let written = membership.clone();
    let ready = tokio::task::spawn_blocking(move || -> Result<Journal, StartError> {
        if is_new {
            journal.set_membership(&written)?;
        }
        journal.set_start(start)?;
        Ok(journal)
    });
    let journal = ready.await.map_err(std::io::Error::other)??;
    let log = LogId { node, start, nonce: rand::rng().random() };
    let held = knowledge.held().clone();
    let notice = gatekeeper.notice();
    let author = Author { key, cluster: membership.cluster, chain: membership.chain.clone(), log };
    let scribe = Scribe::new(author.clone(), journal, knowledge, notice);
    gatekeeper.settle(membership.cluster, membership.chain.clone());
    let parts = Parts { swarm, early, gatekeeper, scribe, author, held };
    let (gossip, events) = assemble(parts, &membership, &past, addresses.clone())?;
    let Membership { cluster, chain, .. } = membership;
    Ok(Started { gossip, events, cluster, chain, log, past, addresses })
}

fn announced(texts: &[String]) -> Result<Vec<String>, StartError> {
    let parse = |text: &String| match text.parse::<Multiaddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_no_multiaddr) => Err(StartError::Announce(text.clone())),
    };
    texts.iter().map(parse).collect()
}

fn check_purpose(known: Option<&Membership>, purpose: &Purpose) -> Result<(), StartError> {
    match (known, purpose) {
        (None, Purpose::Resume) => Err(StartError::NotAMember),
        (None, Purpose::Join(token)) if token.invitation.role != Role::Member => {
            Err(StartError::OperatorToken)
        }
        (Some(ours), Purpose::Join(token)) if ours.cluster != token.invitation.cluster => {
            Err(StartError::OtherCluster { ours: ours.cluster, theirs: token.invitation.cluster })
        }
        _ => Ok(()),
    }
}

/// What a journal comes to.
pub(crate) struct Learned {
    pub(crate) knowledge: Knowledge,
    past: Vec<(LogId, Update)>,
    /// The greatest start counter that was used.
    start: u64,
}

impl Learned {
    fn nothing(cluster: ClusterId) -> Self {
        Self { knowledge: Knowledge::new(cluster), past: Vec::new(), start: 0 }
    }
}

/// Learns everything again.
pub(crate) fn learn(contents: &Contents, cluster: ClusterId, node: NodeId) -> Learned {
    let mut knowledge = Knowledge::new(cluster);
    let mut news = News::default();
    let mut start = contents.start;
    for batch in &contents.batches {
        let is_rejected = |number| contents.rejected.contains_key(&(batch.log, number));
        knowledge.learn(batch, is_rejected, &mut news);
        if batch.log.node == node {
            start = start.max(batch.log.start);
        }
    }
    // Of each intent only what it says in the end; a change of it may have waited for another.
    let mut by = BTreeMap::new();
    let mut past = Vec::new();
    for (log, update) in news.updates {
        match update {
            Update::Intent { job, .. } => {
                by.insert(job, log);
            }
            other => past.push((log, other)),
        }
    }
    for (job, intent) in knowledge.documents().intents() {
        if let Some(log) = by.get(job) {
            past.push((*log, Update::Intent { job: *job, intent: intent.clone() }));
        }
    }
    Learned { knowledge, past, start }
}

struct Parts {
    swarm: Swarm<Behaviour>,
    early: Vec<SwarmEvent<BehaviourEvent>>,
    gatekeeper: Arc<Gatekeeper>,
    scribe: Scribe,
    author: Author,
    held: Vector,
}

/// Starts the thread and the tasks.
fn assemble(
    parts: Parts,
    membership: &Membership,
    past: &[(LogId, Update)],
    listening: Vec<String>,
) -> Result<(Gossip, mpsc::Receiver<Event>), StartError> {
    let Parts { mut swarm, early, gatekeeper, scribe, author, held } = parts;
    let (orders, orders_taken) = mpsc::channel(scribe::ORDERS_MAX);
    let (reports_made, reports) = mpsc::channel(scribe::REPORTS_MAX);
    let (commands_made, commands) = mpsc::channel(feed::COMMANDS_MAX);
    let (events_made, events) = mpsc::channel(feed::EVENTS_MAX);
    let (heard_made, heard) = mpsc::channel(HEARD_MAX);
    let (streams_made, streams) = mpsc::channel(doors::STREAMS_MAX);

    let topic = swarm::topic(&author.cluster);
    swarm.behaviour_mut().gossip.subscribe(&topic).map_err(std::io::Error::other)?;
    let mut control = swarm.behaviour().streams.new_control();
    let frames = control.accept(PEER_PROTOCOL).map_err(std::io::Error::other)?;
    let requests = control.accept(HTTP_PROTOCOL).map_err(std::io::Error::other)?;
    let intake = Intake {
        cluster: author.cluster,
        heard: heard_made,
        orders: orders.clone(),
        permits: Arc::new(Semaphore::new(TAKES_MAX)),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(link::accept(frames, intake));
    tasks.spawn(doors::accept(requests, streams_made));

    let now = Instant::now();
    let bootstrap = membership.bootstrap.iter().filter_map(|text| text.parse().ok()).collect();
    let mut book = Book::new(author.log.node, bootstrap, now);
    for (log, update) in past {
        if let Update::Opened { card, .. } | Update::Card(card) = update {
            book.learn(log.node, &card.addresses, now);
        }
    }
    book.keep_out(&gatekeeper.notice().read().out);
    let roster = Roster::default();
    let feed = Feed::new(
        author.key.clone(),
        author.cluster,
        author.log,
        listening,
        book,
        Sync::new(author.log, held),
        orders.clone(),
        Arc::clone(&roster),
        Arc::clone(&gatekeeper),
    );
    let writer = scribe.spawn(orders_taken, reports_made)?;
    gatekeeper.admit_through(orders.clone());
    let (writers, shared) = (JoinSet::new(), control.clone());
    let inlets =
        Inlets { swarm, commands, reports, heard, streams, tasks, writers, control: shared, early };
    let running = tokio::spawn(feed.run(inlets, events_made));
    let gossip =
        Gossip::new(author, commands_made, orders, roster, control, gatekeeper, (running, writer));
    Ok((gossip, events))
}
