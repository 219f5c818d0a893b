//! Logs of any task from any peer, and `follow`, which a foreground run reads.
//!
//!     holder ── starts ──▶ lines ──▶ reader                 (this node's)
//!     holder ── starts ──▶ lines ── relay ──▶ lines ──▶ reader   (others')
//!
//! The node that was asked merges what the holders send (`follower`).

use std::io;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::answer::{Query, Refused};
use super::find;
use super::follower::{Follower, Wish};
use super::local::LogQuery;
use super::starting::Starting;
use crate::agent::Doors;

/// How many lines may wait for a slow reader.
const LINES_WAITING: usize = 256;

/// The sending half of a streamed answer.
#[derive(Clone, Debug)]
pub(super) struct Lines(mpsc::Sender<io::Result<Bytes>>);

/// The reader of an answer left.
#[derive(Debug)]
pub(super) struct Left;

impl Lines {
    /// A pair: where lines go in, and the body they come out of.
    pub(super) fn new() -> (Self, impl Stream<Item = io::Result<Bytes>>) {
        let (sender, receiver) = mpsc::channel(LINES_WAITING);
        let body = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|line| (line, receiver))
        });
        (Self(sender), body)
    }

    pub(super) async fn item(&self, item: &impl Serialize) -> Result<(), Left> {
        self.raw(line(item)).await
    }

    /// Sends it if there is room; whoever reads too slowly does without.
    pub(super) fn item_if_room(&self, item: &impl Serialize) {
        // Full, or the reader left: neither is to be waited for.
        let _ = self.0.try_send(Ok(line(item)));
    }

    /// Whether the reader left.
    pub(super) fn is_left(&self) -> bool {
        self.0.is_closed()
    }

    pub(super) async fn raw(&self, bytes: Bytes) -> Result<(), Left> {
        self.0.send(Ok(bytes)).await.map_err(|_closed| Left)
    }

    /// Ends the answer as one that is not whole.
    pub(super) async fn cut_off(&self) {
        // The reader left: nobody is there to be told.
        let _ = self.0.send(Err(io::ErrorKind::Interrupted.into())).await;
    }

    /// Until the reader left.
    pub(super) async fn left(&self) {
        self.0.closed().await;
    }
}

fn line(item: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(item).unwrap_or_default();
    line.push(b'\n');
    Bytes::from(line)
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
    let find::Reference { job, part } = find::reference(&doors, &text).await?;
    let wish = if query.follow { Wish::Follow } else { Wish::Past };
    Ok(answer(doors, |doors, lines| {
        let mut follower = Follower::new(doors, job, wish, lines);
        follower.part = part;
        follower.tail = query.tail;
        follower
    }))
}

#[derive(Debug, Deserialize)]
pub(super) struct FollowQuery {
    /// Tell of tasks that start, too.
    #[serde(default)]
    starting: bool,
}

/// `GET /v1/jobs/{job}/follow`.
pub(super) async fn follow(
    State(doors): State<Doors>,
    Path(text): Path<String>,
    Query(query): Query<FollowQuery>,
) -> Result<Response, Refused> {
    let job = find::job(&doors, &text).await?;
    Ok(answer(doors, |doors, lines| {
        let mut follower = Follower::new(doors.clone(), job, Wish::Everything, lines.clone());
        follower.starting = query.starting.then(|| Starting::new(doors, lines));
        follower
    }))
}

fn answer(doors: Doors, follower: impl FnOnce(Doors, Lines) -> Follower) -> Response {
    let (lines, body) = Lines::new();
    let owner = doors.tasks.clone();
    let mut follower = follower(doors, lines);
    owner.spawn(async move {
        // The reader left: nobody is there to be told.
        let _ = follower.run().await;
    });
    Body::from_stream(body).into_response()
}
