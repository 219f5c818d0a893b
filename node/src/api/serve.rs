//! Serves the routers on whatever carries bytes: the Unix socket, and streams of members.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use gossip::PeerStream;
use gossip_core::id::NodeId;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::taking::{Impatience, TAKES_WITHIN, Taking};
use super::types::Complaint;
use crate::agent::Doors;

/// The most local connections at once.
const CONNECTIONS_MAX: usize = 512;

/// The most connections of one member at once: two of its users following the output of
/// as many tasks here as one may.
const MEMBER_CONNECTIONS_MAX: usize = 128;

/// Turns of members, each with its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns(Arc<Mutex<BTreeMap<NodeId, Arc<Semaphore>>>>);

impl Turns {
    fn take(&self, member: NodeId) -> Option<OwnedSemaphorePermit> {
        let mut members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(Semaphore::new(MEMBER_CONNECTIONS_MAX));
        Arc::clone(members.entry(member).or_insert_with(fresh)).try_acquire_owned().ok()
    }
}

/// How long a client may take to say what it wants.
const HEADERS_FOR: Duration = Duration::from_secs(10);

/// Who may use the local door: the owner and the group.
const SOCKET_MODE: u32 = 0o660;

/// Whose members may use a root agent's local door, where a host has such a group.
const SOCKET_GROUP: &str = "starling";

fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Who asks, as the door that let them in knows them: the owner of what they submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller(pub(crate) String);

/// The member whose stream it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member(pub(super) NodeId);

impl Caller {
    fn local(stream: &tokio::net::UnixStream) -> Self {
        let uid = stream.peer_cred().map(|peer| peer.uid());
        Self(uid.map_or("local".to_owned(), |uid| format!("uid:{uid}")))
    }

    /// An operator, by key.
    pub(crate) fn operator(key: &NodeId) -> Self {
        Self(format!("operator:{key}"))
    }
}

/// Opens the local door. A socket that nobody listens on is replaced; one that
/// somebody does is another agent.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Complaint> {
    let failed = |why: io::Error| {
        Complaint::new("socket", format!("cannot open the local door at {}", path.display()))
            .because(why)
            .hint("choose another place with --socket")
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let complaint = Complaint::new("socket_in_use", "an agent answers there already")
            .because(format!("something listens on {}", path.display()))
            .hint("`starling status` asks it; a second agent needs --data and --socket of its own");
        return Err(complaint);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    if let Some(group) = group_id(SOCKET_GROUP).filter(|_| rustix::process::geteuid().is_root()) {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(failed)?;
    }
    Ok(listener)
}

/// Whether a task of an ordinary user's agent has found the door, wherever that is: it
/// is of the same user, in a user namespace of its own. Who left since has no more to say.
fn is_a_task(stream: &tokio::net::UnixStream) -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    let space = |of: &str| fs::read_link(format!("/proc/{of}/ns/user")).ok();
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
    space("self").is_some_and(|own| peer.and_then(|pid| space(&pid.to_string())) != Some(own))
}

/// Serves the local door until the agent goes down.
pub(crate) async fn unix(listener: UnixListener, doors: Doors) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = doors.stop.cancelled() => return,
        };
        match accepted {
            // A task has no say, whoever it runs as.
            Ok((stream, _)) if is_a_task(&stream) => drop((stream, permit)),
            Ok((stream, _)) => {
                let connection = doors.clone();
                let caller = Caller::local(&stream);
                doors.tasks.spawn(async move {
                    connect(stream, connection, caller).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a local connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one stream that a member opened: only what members may ask.
pub(crate) async fn member(from: NodeId, stream: PeerStream, doors: Doors) {
    let Some(_permit) = doors.member_turns.take(from) else {
        tracing::warn!(peer = %from.short(), "a member asks too much at once");
        return;
    };
    let stop = doors.stop.clone();
    serve(stream, super::member_router(doors).layer(Extension(Member(from))), stop).await;
}

/// Serves one connection of a user to its end.
pub(crate) async fn connect(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    doors: Doors,
    caller: Caller,
) {
    let stop = doors.stop.clone();
    serve(stream, super::router(doors).layer(Extension(caller)), stop).await;
}

/// A client that ends its side has left, and what it asked for ends with it.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    stop: CancellationToken,
) {
    let impatience = Impatience::default();
    let stream = Taking::new(stream, impatience.clone(), TAKES_WITHIN);
    let service = TowerToHyperService::new(router.layer(Extension(impatience)));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADERS_FOR);
    let connection = server.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        match error.source().and_then(|why| why.downcast_ref::<io::Error>()) {
            Some(why) if why.kind() == io::ErrorKind::TimedOut => {
                tracing::warn!(reason = %why, "an answer was cut off");
            }
            _ => tracing::debug!(%error, "a connection ended early"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_member_cannot_take_the_turns_of_another() {
        let (greedy, modest) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        let turns = Turns::default();
        let held: Vec<_> = std::iter::from_fn(|| turns.take(greedy)).collect();
        assert_eq!(held.len(), MEMBER_CONNECTIONS_MAX);
        assert!(turns.take(modest).is_some());
        drop(held);
        assert!(turns.take(greedy).is_some());
    }
}
