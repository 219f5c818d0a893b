//! Nodes on loopback, each on a data directory of its own.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gossip::{Config, Entry, Event, Gossip, Purpose, StartError, Started};
use gossip_core::fact::{NodeCard, Record};
use gossip_core::grant::{Chain, Role};
use gossip_core::id::{ClusterId, JobId, NodeId};
use gossip_core::intent::{Edit, JobIntent};
use gossip_core::invite::Token;
use gossip_core::log::LogId;
use gossip_core::moment::WallTime;
use gossip_core::resources::Resources;
use gossip_core::state::State;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long anything may take before a test gives up.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// How long a test watches that something does not happen.
pub(crate) const A_WHILE: Duration = Duration::from_millis(600);

static TICKETS: AtomicU64 = AtomicU64::new(1);

pub(crate) struct Node {
    pub(crate) gossip: Gossip,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) cluster: ClusterId,
    pub(crate) chain: Chain,
    pub(crate) log: LogId,
    pub(crate) addresses: Vec<String>,
    pub(crate) state: State,
    pub(crate) dir: Option<TempDir>,
}

pub(crate) fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    WallTime(since.as_millis() as u64)
}

pub(crate) fn in_an_hour() -> WallTime {
    WallTime(now().0 + 3_600_000)
}

pub(crate) async fn try_start(dir: &Path, purpose: Purpose) -> Result<Started, StartError> {
    try_start_at(dir, purpose, 0).await
}

pub(crate) async fn try_start_at(
    dir: &Path,
    purpose: Purpose,
    port: u16,
) -> Result<Started, StartError> {
    let key = gossip::load_identity(dir).expect("identity");
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], port))];
    let config = Config { data: dir.to_owned(), listen, announce: vec![] };
    timeout(SOON * 2, gossip::start(config, key, purpose)).await.expect("starts or fails")
}

impl Node {
    /// A node in a new directory, with its log opened.
    pub(crate) async fn new(purpose: Purpose) -> Self {
        Self::on(tempfile::tempdir().expect("tempdir"), purpose).await
    }

    /// A node in `dir`, with its log opened.
    pub(crate) async fn on(dir: TempDir, purpose: Purpose) -> Self {
        let mut node = Self::unopened(dir, purpose, 0).await;
        node.open().await;
        node
    }

    /// A member that was stopped, on the port where it was.
    pub(crate) async fn again(dir: TempDir, port: u16) -> Self {
        let mut node = Self::unopened(dir, Purpose::Resume, port).await;
        node.open().await;
        node
    }

    /// The UDP port that it listens on.
    pub(crate) fn port(&self) -> u16 {
        let udp = self.addresses.iter().find_map(|address| address.split("/udp/").nth(1));
        udp.and_then(|rest| rest.split('/').next()?.parse().ok()).expect("listens")
    }

    /// A node whose log is not opened yet.
    pub(crate) async fn unopened(dir: TempDir, purpose: Purpose, port: u16) -> Self {
        let mut node = Self::at(dir.path(), purpose, port).await;
        node.dir = Some(dir);
        node
    }

    /// A node, not opened, in a directory that somebody else keeps.
    pub(crate) async fn in_directory(dir: &Path, purpose: Purpose) -> Self {
        Self::at(dir, purpose, 0).await
    }

    async fn at(dir: &Path, purpose: Purpose, port: u16) -> Self {
        let started = try_start_at(dir, purpose, port).await.expect("starts");
        let Started { gossip, events, cluster, chain, log, past, addresses } = started;
        let mut state = State::default();
        for (log, update) in past {
            state.apply(log, update);
        }
        Self { gossip, events, cluster, chain, log, addresses, state, dir: None }
    }

    pub(crate) async fn join(token: Token) -> Self {
        Self::new(Purpose::Join(token)).await
    }

    pub(crate) fn id(&self) -> NodeId {
        self.log.node
    }

    pub(crate) async fn open(&mut self) -> u64 {
        let card = self.card();
        self.append(vec![Entry::Fact(Record::Open { card, holdings: vec![] })]).await
    }

    pub(crate) fn card(&self) -> NodeCard {
        NodeCard {
            name: format!("node-{}", self.id().short()),
            addresses: self.addresses.clone(),
            capacity: Resources::default(),
            chain: self.chain.clone(),
            version: "0".into(),
            enforces_limits: false,
            trusts_jobs: false,
        }
    }

    /// Appends, and waits until it is durable here.
    pub(crate) async fn append(&mut self, entries: Vec<Entry>) -> u64 {
        let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
        self.gossip.try_append(ticket, entries).expect("has room");
        self.until(|event| matches!(event, Event::Durable { ticket: t } if *t == ticket)).await;
        ticket
    }

    pub(crate) async fn edit(&mut self, job: JobId, edit: Edit) -> u64 {
        self.append(vec![Entry::Edit { job, edit }]).await
    }

    pub(crate) async fn invite(&self, uses: u32) -> Token {
        self.gossip.invite(Role::Member, uses, in_an_hour()).await.expect("invites")
    }

    /// The next event; what it tells is in `state`.
    pub(crate) async fn next(&mut self) -> Event {
        let event = self.events.recv().await.expect("gossip runs");
        if let Event::Updates(updates) = &event {
            for (log, update) in updates {
                self.state.apply(*log, update.clone());
            }
        }
        event
    }

    /// Waits for an event.
    #[track_caller]
    pub(crate) fn until(&mut self, is_it: impl Fn(&Event) -> bool) -> impl Future<Output = Event> {
        let caller = std::panic::Location::caller();
        async move {
            let wait = async {
                loop {
                    let event = self.next().await;
                    if is_it(&event) {
                        return event;
                    }
                }
            };
            match timeout(SOON, wait).await {
                Ok(event) => event,
                Err(_) => panic!("waited in vain at {caller}"),
            }
        }
    }

    /// Waits until what was told says so.
    #[track_caller]
    pub(crate) fn until_state(
        &mut self,
        is_so: impl Fn(&State) -> bool,
    ) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let wait = async {
                while !is_so(&self.state) {
                    self.next().await;
                }
            };
            if timeout(SOON, wait).await.is_err() {
                panic!("waited in vain at {caller}; {:?}", self.state);
            }
        }
    }

    pub(crate) async fn sees(&mut self, other: NodeId) {
        self.until_state(|state| state.node(&other).is_some()).await;
    }

    pub(crate) async fn until_intent(&mut self, job: JobId, is_so: impl Fn(&JobIntent) -> bool) {
        self.until_state(|state| state.job(&job).is_some_and(&is_so)).await;
    }

    /// Everything that comes within a while.
    pub(crate) async fn quiet(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok(event) = timeout(A_WHILE, self.next()).await {
            if !matches!(event, Event::Heard(_)) {
                events.push(event);
            }
        }
        events
    }

    /// Ends it and gives the directory back.
    pub(crate) async fn stop(self) -> TempDir {
        self.gossip.shut_down().await;
        self.dir.expect("a directory of its own")
    }
}
