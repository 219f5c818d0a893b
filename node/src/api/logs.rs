//! Logs of any task from any peer, and `follow`, which a foreground run reads.
//!
//! The node that was asked merges what the holders send. A task's output comes
//! before its end, and the end of the job after everything.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use futures::stream;
use gossip_core::id::{JobId, NodeId};
use http_body_util::BodyExt as _;
use runtime::{LogRecord, LogRequest, LogStream, TaskId};
use starling_core::view::{Ended, JobState, TaskView};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::answer::Refused;
use super::local::LogQuery;
use super::types::LogItem;
use super::{find, jobs, peer};
use crate::agent::{Doors, task_prefix};

/// How many lines may wait for a slow reader.
const LINES_WAITING: usize = 256;

/// The longest line that another member may send.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// How many starts of one allocation are looked for.
const STARTS_MAX: u32 = 100_000;

/// The sending half of a streamed answer.
#[derive(Clone, Debug)]
pub(super) struct Lines(mpsc::Sender<Bytes>);

/// The reader of an answer left.
#[derive(Debug)]
struct Left;

impl Lines {
    /// A pair: where lines go in, and the body they come out of.
    pub(super) fn new() -> (Self, impl Stream<Item = Result<Bytes, std::io::Error>>) {
        let (sender, receiver) = mpsc::channel::<Bytes>(LINES_WAITING);
        let body = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|line| (Ok(line), receiver))
        });
        (Self(sender), body)
    }

    async fn item(&self, item: &LogItem) -> Result<(), Left> {
        let mut line = serde_json::to_vec(item).unwrap_or_default();
        line.push(b'\n');
        self.0.send(Bytes::from(line)).await.map_err(|_closed| Left)
    }

    async fn raw(&self, bytes: Bytes) -> Result<(), Left> {
        self.0.send(bytes).await.map_err(|_closed| Left)
    }
}

/// One allocation's output.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Its tender.
    pub(super) tender: u64,
    /// Its index.
    pub(super) index: u32,
    /// What it is called in the lines.
    pub(super) label: String,
    /// Only its last lines.
    pub(super) tail: Option<usize>,
}

/// `GET /v1/jobs/{job}/logs`.
pub(super) async fn logs(
    State(doors): State<Doors>,
    Path(text): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refused> {
    let reference = find::reference(&doors, &text).await?;
    let (lines, body) = Lines::new();
    let owner = doors.tasks.clone();
    owner.spawn(async move {
        let mut follower = Follower::new(doors, reference.job, lines);
        follower.index = reference.index;
        follower.tail = query.tail;
        // The reader left: nobody is there to be told.
        let _ = if query.follow { follower.run().await } else { follower.once().await };
    });
    Ok(Body::from_stream(body).into_response())
}

/// `GET /v1/jobs/{job}/follow`.
pub(super) async fn follow(
    State(doors): State<Doors>,
    Path(text): Path<String>,
) -> Result<Response, Refused> {
    let job = find::job(&doors, &text).await?;
    let (lines, body) = Lines::new();
    let owner = doors.tasks.clone();
    owner.spawn(async move {
        let mut follower = Follower::new(doors, job, lines);
        follower.tells_ends = true;
        // The reader left: nobody is there to be told.
        let _ = follower.run().await;
    });
    Ok(Body::from_stream(body).into_response())
}

/// Sends what this node has of an allocation's output.
pub(super) async fn send_local(doors: &Doors, source: Source, follow: bool, lines: &Lines) {
    let node = doors.facts.name.clone();
    let prefix = task_prefix(source.tender, source.index);
    let ids = (0..STARTS_MAX).map_while(|start| format!("{prefix}{start}").parse::<TaskId>().ok());
    let mut misses = 0;
    for id in ids {
        let request = LogRequest { follow, tail: source.tail };
        let Ok(mut reader) = doors.runtime.logs(&id, request).await else {
            // Old starts may be gone; after the newest there is nothing.
            misses += 1;
            if misses > 2 {
                return;
            }
            continue;
        };
        misses = 0;
        loop {
            let record = tokio::select! {
                record = reader.next() => record,
                () = lines.0.closed() => return,
            };
            let broken = record.is_err();
            let item = match record {
                Ok(Some(record)) => log_item(&source.label, &node, record),
                Ok(None) => break,
                Err(error) => LogItem::Notice { message: format!("{}: {error}", source.label) },
            };
            if lines.item(&item).await.is_err() {
                return;
            }
            if broken {
                break;
            }
        }
    }
}

fn log_item(task: &str, node: &str, record: LogRecord) -> LogItem {
    match record {
        LogRecord::Output { unix_ns, stream, bytes } => LogItem::Output {
            task: task.to_owned(),
            node: node.to_owned(),
            at_ns: unix_ns,
            stream: if stream == LogStream::Stdout { 1 } else { 2 },
            data: data_encoding::BASE64.encode(&bytes),
        },
        LogRecord::Missing { bytes } => {
            let much = bytes.map_or("some".to_owned(), |bytes| format!("{bytes} bytes of"));
            LogItem::Notice { message: format!("{task}: {much} output was dropped here") }
        }
    }
}

/// Names one allocation and where it is.
type Place = (u64, u32, NodeId);

/// Follows one job, allocation by allocation.
struct Follower {
    doors: Doors,
    job: JobId,
    index: Option<u32>,
    tail: Option<usize>,
    tells_ends: bool,
    lines: Lines,
    readers: JoinSet<Place>,
    reading: BTreeSet<Place>,
    read: BTreeSet<Place>,
    told: BTreeMap<Place, ()>,
}

impl Follower {
    fn new(doors: Doors, job: JobId, lines: Lines) -> Self {
        Self {
            doors,
            job,
            index: None,
            tail: None,
            tells_ends: false,
            lines,
            readers: JoinSet::new(),
            reading: BTreeSet::new(),
            read: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }

    async fn tasks(&self) -> Option<Vec<TaskView>> {
        let (job, index) = (self.job, self.index);
        let mut tasks =
            self.doors.agent.look(move |core, _| core.task_views(&job, Ended::Shown)).await.ok()?;
        tasks.retain(|task| index.is_none_or(|index| task.slot.index == index));
        Some(tasks)
    }

    /// Everything there is, without waiting for more.
    async fn once(&mut self) -> Result<(), Left> {
        for task in self.tasks().await.unwrap_or_default() {
            if let Some((tender, index, node)) = place(&task) {
                let source = self.source(tender, index, &task);
                send(&self.doors, node, source, false, &self.lines).await;
            }
        }
        Ok(())
    }

    fn source(&self, tender: u64, index: u32, task: &TaskView) -> Source {
        Source { tender, index, label: task.task.clone(), tail: self.tail }
    }

    /// Until the job is over and everything was sent.
    async fn run(&mut self) -> Result<(), Left> {
        let mut changes = self.doors.agent.changes();
        loop {
            changes.mark_unchanged();
            let Some(tasks) = self.tasks().await else { return Ok(()) };
            self.read_new(&tasks).await?;
            self.tell_ends(&tasks).await?;
            if let Some(done) = self.is_done(&tasks).await {
                return if self.tells_ends { self.lines.item(&done).await } else { Ok(()) };
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
                Some(place) = self.readers.join_next(), if !self.readers.is_empty() => {
                    if let Ok(place) = place {
                        self.reading.remove(&place);
                        self.read.insert(place);
                    }
                }
                () = self.lines.0.closed() => return Err(Left),
                () = self.doors.stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn read_new(&mut self, tasks: &[TaskView]) -> Result<(), Left> {
        for task in tasks {
            let Some(place) = place(task) else { continue };
            let begun = task.ended || task.state == "running" || task.state == "restarting";
            if !begun || self.reading.contains(&place) || self.read.contains(&place) {
                continue;
            }
            self.reading.insert(place);
            if self.tells_ends {
                let (task, node) = (task.task.clone(), task.node_name.clone());
                self.lines.item(&LogItem::Placed { task, node }).await?;
            }
            let source = self.source(place.0, place.1, task);
            let (doors, lines) = (self.doors.clone(), self.lines.clone());
            self.readers.spawn(async move {
                send(&doors, place.2, source, true, &lines).await;
                place
            });
        }
        Ok(())
    }

    async fn tell_ends(&mut self, tasks: &[TaskView]) -> Result<(), Left> {
        for task in tasks.iter().filter(|task| task.ended && self.tells_ends) {
            let Some(place) = place(task) else { continue };
            if self.read.contains(&place) && self.told.insert(place, ()).is_none() {
                let item = LogItem::Ended {
                    task: task.task.clone(),
                    node: task.node_name.clone(),
                    exit_code: task.exit_code.unwrap_or(125),
                    detail: task.detail.clone(),
                };
                self.lines.item(&item).await?;
            }
        }
        Ok(())
    }

    async fn is_done(&self, tasks: &[TaskView]) -> Option<LogItem> {
        let unread = |task: &TaskView| {
            task.ended && place(task).is_some_and(|place| !self.read.contains(&place))
        };
        if tasks.iter().any(|task| !task.ended || unread(task)) {
            return None;
        }
        let view = jobs::view(&self.doors, self.job).await.ok()?;
        match view.state {
            JobState::Pending | JobState::Running if self.index.is_none() => None,
            JobState::Pending | JobState::Running if tasks.is_empty() => None,
            state => Some(LogItem::Done {
                exit_code: view.exit_code.unwrap_or(143),
                state: state.as_str().to_owned(),
            }),
        }
    }
}

fn place(task: &TaskView) -> Option<Place> {
    Some((task.tender, task.slot.index, task.node?))
}

async fn send(doors: &Doors, node: NodeId, source: Source, follow: bool, lines: &Lines) {
    if node == doors.facts.node {
        return send_local(doors, source, follow, lines).await;
    }
    if let Err(error) = send_remote(doors, node, &source, follow, lines).await {
        let message = format!("{}: its node {error}", source.label);
        // The reader left: nobody is there to be told.
        let _ = lines.item(&LogItem::Notice { message }).await;
    }
}

async fn send_remote(
    doors: &Doors,
    node: NodeId,
    source: &Source,
    follow: bool,
    lines: &Lines,
) -> Result<(), peer::PeerError> {
    let Source { tender, index, label, tail } = source;
    let tail = tail.map_or(String::new(), |tail| format!("&tail={tail}"));
    let path = format!("/v1/local/logs/{tender:016x}/{index}?follow={follow}&label={label}{tail}");
    let mut body = peer::get(doors, node, &path).await?.into_body();
    let mut partial = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = lines.0.closed() => return Ok(()),
        };
        let Some(frame) = frame else { return Ok(()) };
        let Ok(data) = frame?.into_data() else { continue };
        partial.extend_from_slice(&data);
        if partial.len() > LINE_BYTES_MAX {
            return Err(peer::PeerError::Unreadable);
        }
        // Only whole lines are passed on, so that readers of several tasks never mix.
        if let Some(end) = partial.iter().rposition(|byte| *byte == b'\n') {
            let rest = partial.split_off(end + 1);
            let whole = Bytes::from(std::mem::replace(&mut partial, rest));
            if lines.raw(whole).await.is_err() {
                return Ok(());
            }
        }
    }
}
