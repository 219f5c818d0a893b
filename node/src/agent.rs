//! The agent: one process that wires what is known, decided and done.
//!
//!     gossip ──events──▶ ┌──────┐ ──effects──▶ gossip, runtime
//!     runtime ─events──▶ │ Core │
//!     doors ───asks────▶ └──────┘ ──replies──▶ doors
//!
//! One loop waits, one function changes (`steps`). The agent is no parent of
//! any task, so it may be killed and started again at any time; what it must
//! know then lies in the journal and in the runtime's directory.

mod calls;
pub(crate) mod fetch;
mod handle;
mod health;
mod host;
pub(crate) mod images;
pub(crate) mod inside;
mod machine;
mod naming;
mod request;
mod signals;
pub(crate) mod sources;
mod steps;
pub(crate) mod words;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gossip::{StartError, Started};
use gossip_core::fact::{NodeCard, Update};
use gossip_core::invite::Token;
use gossip_core::moment::WallTime;
use gossip_core::resources::Resources;
use starling_core::core::Identity;
use tokio_util::sync::CancellationToken;

pub(crate) use handle::{Doors, Gone, How, wall_now};
pub(crate) use naming::task_prefix;
pub(crate) use request::{Here, preview, vet};

use crate::api::types::{Complaint, Failure};
use crate::{api, remote};

/// Everything that a start is told.
#[derive(Debug)]
pub(crate) struct Options {
    /// Where identity, journal and tasks live.
    pub(crate) data: PathBuf,
    /// The local door.
    pub(crate) socket: PathBuf,
    /// What people call this host.
    pub(crate) name: String,
    /// Where members reach it.
    pub(crate) listen: Vec<SocketAddr>,
    /// Where operators reach it from afar.
    pub(crate) operator_listen: Option<SocketAddr>,
    /// Thousandths of a core to offer; all of them if not said.
    pub(crate) capacity_cpu_milli: Option<u64>,
    /// Bytes of memory to offer; most of it if not said.
    pub(crate) capacity_memory: Option<u64>,
    /// Take jobs that could take this host over.
    pub(crate) trust_jobs: bool,
    /// Bytes a second to be sent of images; without a budget if not said.
    pub(crate) image_rate: Option<u64>,
    /// Found, join or resume.
    pub(crate) purpose: Purpose,
    /// Become another host first, with a key of its own: this one was removed.
    pub(crate) anew: bool,
    /// Told once when the doors are open, or why they never will be.
    pub(crate) ready: Option<OwnedFd>,
}

impl Options {
    /// Where operators are awaited: beside the members, one port further, unless said otherwise.
    fn operator_address(&self) -> SocketAddr {
        self.operator_listen.unwrap_or_else(|| match self.listen.first() {
            Some(members) => {
                let port = members.port();
                SocketAddr::new(members.ip(), if port == 0 { 0 } else { port.saturating_add(1) })
            }
            None => SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), remote::PORT),
        })
    }
}

/// Where operators can reach this host, for their tokens: the members' hosts with the operators' port.
fn operator_addresses(operators: &quinn::Endpoint, members: &[String]) -> Vec<String> {
    let Ok(bound) = operators.local_addr() else { return Vec::new() };
    if !bound.ip().is_unspecified() {
        return vec![bound.to_string()];
    }
    let hosts = members.iter().filter_map(|address| {
        let mut parts = address.split('/').skip(1);
        match (parts.next()?, parts.next()?) {
            ("ip6", host) => Some(format!("[{host}]:{}", bound.port())),
            (_, host) => Some(format!("{host}:{}", bound.port())),
        }
    });
    let unique: std::collections::BTreeSet<_> = hosts.collect();
    unique.into_iter().collect()
}

/// What a start is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// This host is a member already.
    Resume,
    /// Found a cluster, unless this host is a member already.
    Found,
    /// Join the cluster of this token.
    Join(String),
}

/// Runs the agent until it is told to go down.
pub(crate) async fn run(mut options: Options) -> Result<(), Complaint> {
    let ready = options.ready.take().map(Ready);
    // Whoever joined has arrived once it knows somebody else.
    let company = if matches!(options.purpose, Purpose::Join(_)) { 2 } else { 1 };
    match start(options).await {
        Ok(running) => running.run(ready, company).await,
        Err(complaint) => {
            let failure = Failure { error: complaint.clone() };
            if let Some(ready) = ready {
                ready.say(&serde_json::to_string(&failure).unwrap_or_default());
            }
            Err(complaint)
        }
    }
}

/// Where it is said, once, that the agent is ready or why it never will be.
#[derive(Debug)]
struct Ready(OwnedFd);

impl Ready {
    fn say(self, line: &str) {
        // Whoever waited may be gone; that is theirs to notice.
        let _ = rustix::io::write(&self.0, format!("{line}\n").as_bytes());
    }
}

async fn start(options: Options) -> Result<steps::Running, Complaint> {
    let path = options.socket.clone();
    let socket = api::serve::bind(&path)?;
    let own = std::fs::metadata(&path).map(|found| found.ino()).ok();
    let started = start_behind(socket, options).await;
    if started.is_err() && std::fs::metadata(&path).map(|found| found.ino()).ok() == own {
        // A door that never opened is not left for others to knock at.
        let _ = std::fs::remove_file(&path);
    }
    started
}

async fn start_behind(
    socket: tokio::net::UnixListener,
    options: Options,
) -> Result<steps::Running, Complaint> {
    let purpose = match &options.purpose {
        Purpose::Resume => gossip::Purpose::Resume,
        Purpose::Found => gossip::Purpose::Found,
        Purpose::Join(text) => gossip::Purpose::Join(Token::from_text(text).map_err(|bad| {
            Complaint::new("bad_token", "this token cannot be used")
                .because(&bad)
                .hint("copy it whole from the output of `starling invite`")
        })?),
    };
    if options.anew {
        let data = options.data.clone();
        let moved = tokio::task::spawn_blocking(move || gossip::set_aside(&data)).await;
        moved
            .map_err(std::io::Error::other)
            .map_err(|e| not_anew(&e))?
            .map_err(|e| not_anew(&e))?;
    }
    let key = gossip::load_identity(&options.data).map_err(|e| {
        Complaint::new("identity", "cannot use this host's identity")
            .because(chain(&e))
            .hint("choose another directory with --data, or check its owner and permissions")
    })?;
    let config = gossip::Config {
        data: options.data.clone(),
        listen: options.listen.clone(),
        announce: Vec::new(),
    };
    let node = key.id();
    let operators = remote::server::bind(options.operator_address(), &key)?;
    let gossip = gossip::start(config, key, purpose).await.map_err(|e| complain(&e))?;
    let runtime = open_runtime(&options.data).await?;
    let capacity = Resources {
        cpu_milli: options.capacity_cpu_milli.unwrap_or_else(host::cpu_milli),
        memory_bytes: options.capacity_memory.unwrap_or_else(host::memory_bytes),
    };
    let card = NodeCard {
        name: options.name.clone(),
        addresses: gossip.addresses.clone(),
        capacity,
        chain: gossip.chain.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        enforces_limits: host::enforces_limits(),
        trusts_jobs: options.trust_jobs,
    };
    let identity = Identity { node, cluster: gossip.cluster, card, lacks: host::lacks() };
    let known = known_tasks(&gossip, node);
    let naming::Sorted { held: found, orphans, ended } = naming::sort_found(&runtime.found, &known);
    let Started { gossip: handle, events, cluster, past, addresses, .. } = gossip;
    let parts = steps::Parts {
        here: Here::new(options.name.clone(), &options.data, options.trust_jobs),
        identity,
        past,
        found,
        orphans,
        ended,
        gossip: handle.clone(),
        gossip_events: events,
        runtime: runtime.runtime.clone(),
        runtime_events: runtime.events,
        origin: Instant::now(),
        image_rate: options.image_rate,
    };
    let facts = handle::Facts {
        node,
        name: options.name,
        data: options.data,
        cluster,
        operator_addresses: operator_addresses(&operators, &addresses),
        addresses,
        started: wall_now(),
        warnings: host::warnings(),
    };
    let stop = CancellationToken::new();
    let listeners = steps::Listeners { socket, socket_path: options.socket, operators };
    Ok(steps::Running::new(parts, facts, listeners, stop))
}

fn not_anew(error: &dyn std::error::Error) -> Complaint {
    Complaint::new("not_anew", "this host cannot begin anew").because(chain(error)).hint(
        "only a host that was removed can: `starling node rm` on another member does that; \
         or give the new one a --data of its own",
    )
}

async fn open_runtime(data: &Path) -> Result<runtime::Opened, Complaint> {
    let failed = |why: String| {
        Complaint::new("runtime", "cannot run tasks on this host")
            .because(why)
            .hint("check the owner and permissions of the data directory")
    };
    let program = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
    let config = runtime::Config { dir: data.join("run"), program };
    runtime::Runtime::open(config).await.map_err(|e| failed(chain(&e)))
}

/// The tasks that this node's last log says it holds, by their names in the runtime.
fn known_tasks(started: &Started, node: gossip_core::id::NodeId) -> naming::Known {
    let mut known = BTreeMap::new();
    for (log, update) in &started.past {
        if log.node != node {
            continue;
        }
        match update {
            Update::Opened { holdings, .. } => {
                known = holdings.iter().map(naming::known).collect();
            }
            Update::Claim(claim) => known.extend([naming::known(claim)]),
            Update::Outcome(outcome) => {
                known.remove(&(outcome.epoch.tender, outcome.slot.index));
            }
            _ => {}
        }
    }
    known
}

fn complain(error: &StartError) -> Complaint {
    let (code, hint) = calls::classify(error);
    let complaint = Complaint::new(code, "the agent cannot start").because(chain(error));
    match hint {
        Some(hint) => complaint.hint(hint),
        None => complaint,
    }
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Milliseconds of this process's monotonic clock.
fn moment(origin: Instant) -> gossip_core::moment::Moment {
    gossip_core::moment::Moment(u64::try_from(origin.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// What the wall clock says, as milliseconds since 1970.
fn wall(now: std::time::SystemTime) -> WallTime {
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
