//! The event feed, as server-sent events.

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use starling_core::event::Event;
use tokio::sync::broadcast::error::RecvError;

use super::answer::Query;
use crate::agent::Doors;

#[derive(Debug, Deserialize)]
pub(super) struct EventQuery {
    #[serde(default)]
    follow: bool,
    since: Option<u64>,
}

/// `GET /v1/events`.
pub(super) async fn events(
    State(doors): State<Doors>,
    Query(query): Query<EventQuery>,
) -> Response {
    let (past, live) = doors.events.follow();
    let since = query.since.unwrap_or(0);
    let stop = doors.stop.clone();
    let past = past.into_iter().filter(move |event| event.number > since);
    // Made as it is read: a follower that does not read costs its place in the feed, no more.
    let first = stream::iter(past.map(|event| Ok::<_, std::io::Error>(Bytes::from(line(&event)))));
    let body = if query.follow {
        let rest = stream::unfold((live, stop), |(mut live, stop)| async move {
            let bytes = tokio::select! {
                event = live.recv() => match event {
                    Ok(event) => Bytes::from(line(&event)),
                    Err(RecvError::Lagged(missed)) => Bytes::from(format!(": {missed} events missed\n\n")),
                    Err(RecvError::Closed) => return None,
                },
                () = stop.cancelled() => return None,
            };
            Some((Ok(bytes), (live, stop)))
        });
        Body::from_stream(futures::StreamExt::chain(first, rest))
    } else {
        Body::from_stream(first)
    };
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn line(event: &Event) -> String {
    let json = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\ndata: {json}\n\n", event.number)
}
