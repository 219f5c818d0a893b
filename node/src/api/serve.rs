//! Serves the router on whatever carries bytes: the Unix socket, and streams of members.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gossip::PeerStream;
use gossip_core::id::NodeId;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use super::types::Complaint;
use crate::agent::Doors;

/// The most local connections at once.
const CONNECTIONS_MAX: usize = 512;

/// How long a client may take to say what it wants.
const HEADERS_FOR: Duration = Duration::from_secs(10);

/// Who may use the local door: the owner and the group.
const SOCKET_MODE: u32 = 0o660;

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
    Ok(listener)
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
            Ok((stream, _)) => {
                let connection = doors.clone();
                doors.tasks.spawn(async move {
                    connect(stream, connection).await;
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

/// Serves one stream that a member opened.
pub(crate) async fn member(from: NodeId, stream: PeerStream, doors: Doors) {
    tracing::debug!(peer = %from.short(), "a member asks");
    connect(stream, doors).await;
}

/// Serves one connection to its end.
pub(crate) async fn connect(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    doors: Doors,
) {
    let stop = doors.stop.clone();
    let service = TowerToHyperService::new(super::router(doors));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADERS_FOR).half_close(true);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
