//! Passes on what another member has of an allocation's output.
//!
//! A stream that breaks is opened again, and goes on behind what was passed on
//! already: pieces of output are told apart by their time on their own node.

use std::time::Duration;

use bytes::Bytes;
use gossip_core::id::NodeId;
use http_body_util::BodyExt as _;

use super::logs::{Lines, Source};
use super::peer::{self, PeerError};
use super::types::LogItem;
use crate::agent::Doors;

/// The longest line that another member may send.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// How often a reading is begun without anything new coming of it. With the
/// pauses between, a node that is gone is known to be lost before this is reached.
const TRIES_MAX: u32 = 7;

/// The first pause before another try; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(250);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How often it is looked whether a silent member is lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How far one allocation's output was passed on: the time of the last piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed(Option<u64>);

/// Passes everything on, or answers why not.
pub(super) async fn send(
    doors: &Doors,
    node: NodeId,
    source: &Source,
    follow: bool,
    passed: &mut Passed,
    lines: &Lines,
) -> Result<(), PeerError> {
    let reading = async {
        let mut tries = 0;
        loop {
            let before = *passed;
            let Err(error) = read(doors, node, source, follow, passed, lines).await else {
                return Ok(());
            };
            tries = if *passed == before { tries + 1 } else { 1 };
            if tries >= TRIES_MAX || is_lost(doors, node).await {
                return Err(error);
            }
            let pause = PAUSE_FIRST.saturating_mul(1 << (tries - 1)).min(PAUSE_MAX);
            tracing::debug!(%error, ?pause, "output of another member is asked for again");
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        sent = reading => sent,
        () = lines.left() => Ok(()),
    }
}

async fn is_lost(doors: &Doors, node: NodeId) -> bool {
    doors.agent.look(move |core, _| core.is_lost(&node)).await.unwrap_or(true)
}

async fn read(
    doors: &Doors,
    node: NodeId,
    source: &Source,
    follow: bool,
    passed: &mut Passed,
    lines: &Lines,
) -> Result<(), PeerError> {
    let Source { tender, index, label, tail } = source;
    // The last lines are others by now: those that are known already are skipped instead.
    let tail = tail.filter(|_| passed.0.is_none());
    let tail = tail.map_or(String::new(), |tail| format!("&tail={tail}"));
    let path = format!("/v1/local/logs/{tender:016x}/{index}?follow={follow}&label={label}{tail}");
    let mut body = peer::get(doors, node, &path).await?.into_body();
    let mut skip_to = passed.0;
    let mut partial = Vec::new();
    loop {
        let frame = match tokio::time::timeout(LOOK_EVERY, body.frame()).await {
            Ok(Some(frame)) => frame?,
            Ok(None) => return Ok(()),
            Err(_elapsed) if is_lost(doors, node).await => return Err(PeerError::Lost),
            Err(_elapsed) => continue,
        };
        let Ok(data) = frame.into_data() else { continue };
        partial.extend_from_slice(&data);
        // Only whole lines are passed on, so that readers of several tasks never mix.
        if let Some(end) = partial.iter().rposition(|byte| *byte == b'\n') {
            let rest = partial.split_off(end + 1);
            let mut whole = std::mem::replace(&mut partial, rest);
            if let Some(mark) = skip_to {
                let (fresh, more) = behind(mark, &whole);
                (whole, skip_to) = (fresh, more.then_some(mark));
            }
            let last = last_piece(&whole);
            if !whole.is_empty() && lines.raw(Bytes::from(whole)).await.is_err() {
                return Ok(());
            }
            passed.0 = last.or(passed.0);
        }
        if partial.len() > LINE_BYTES_MAX {
            return Err(PeerError::Unreadable);
        }
    }
}

/// The lines behind the piece of that time, and whether more is to be skipped.
fn behind(mark: u64, lines: &[u8]) -> (Vec<u8>, bool) {
    let mut rest = lines;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(end + 1);
        match time(line) {
            Some(at) if at == mark => return (after.to_vec(), false),
            // The piece itself is gone.
            Some(at) if at > mark => return (rest.to_vec(), false),
            _ => rest = after,
        }
    }
    (Vec::new(), true)
}

fn last_piece(lines: &[u8]) -> Option<u64> {
    lines.rsplit(|byte| *byte == b'\n').find_map(time)
}

fn time(line: &[u8]) -> Option<u64> {
    match serde_json::from_slice(line) {
        Ok(LogItem::Output { at_ns, .. }) => Some(at_ns),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(times: &[u64]) -> Vec<u8> {
        let line = |at_ns: &u64| {
            let (task, node) = ("a.1".to_owned(), "h1".to_owned());
            let item =
                LogItem::Output { task, node, at_ns: *at_ns, stream: 1, data: "eA==".into() };
            let notice = LogItem::Notice { message: "x".to_owned() };
            let json = |item| serde_json::to_string(item).expect("JSON");
            format!("{}\n{}\n", json(&item), json(&notice))
        };
        times.iter().map(line).collect::<String>().into_bytes()
    }

    #[test]
    fn a_second_reading_goes_on_behind_the_first() {
        let all = lines(&[10, 20, 30]);
        assert_eq!(last_piece(&all), Some(30));
        assert_eq!(last_piece(b"{}\n"), None);
        let (fresh, more) = behind(20, &all);
        assert!(fresh.ends_with(&lines(&[30])) && !more);
        assert_eq!(last_piece(&fresh), Some(30));
        assert_eq!(behind(30, &lines(&[10, 20])), (Vec::new(), true), "not there yet");
        assert_eq!(behind(5, &all), (all.clone(), false), "the piece itself is gone");
    }
}
