//! Where an agent is reached: opens the byte stream of one HTTP connection.
//!
//! The Unix socket of this host's agent, or a peer's door over QUIC, where each
//! HTTP connection is a stream of one connection that is made at the first
//! need. Nothing above this file knows the difference.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

use crate::api::types::Complaint;
use crate::cli::errors::Failed;
use crate::remote::client::Remote;

/// Both directions of one connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Where an agent is reached.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// The agent of this host.
    Unix(PathBuf),
    /// A peer, from afar.
    Peer(Arc<Peer>),
}

/// A peer's door, and the connection to it once there is one.
#[derive(Debug)]
pub(crate) struct Peer {
    name: String,
    remote: OnceCell<Remote>,
}

impl Door {
    /// The door of another host's agent.
    pub(crate) fn peer(name: &str) -> Self {
        Self::Peer(Arc::new(Peer { name: name.to_owned(), remote: OnceCell::new() }))
    }

    /// Opens one connection.
    pub(crate) async fn open(&self) -> Result<Box<dyn Duplex>, Failed> {
        match self {
            Door::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(unreachable(path, &error).into()),
            },
            Door::Peer(peer) => {
                let remote = peer.remote.get_or_try_init(|| Remote::connect(&peer.name)).await?;
                Ok(Box::new(remote.open().await?))
            }
        }
    }

    /// The agent's socket on this host, if that is what the door is.
    pub(crate) fn local(&self) -> Option<&Path> {
        match self {
            Door::Unix(path) => Some(path),
            Door::Peer(_) => None,
        }
    }
}

fn unreachable(path: &Path, error: &io::Error) -> Complaint {
    let complaint = Complaint::new("unreachable", "no agent answers on this host");
    let at = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => complaint
            .because(format!("there is no socket at {at}"))
            .hint("starling up   start an agent here, or name its socket with --socket PATH"),
        io::ErrorKind::ConnectionRefused => complaint
            .because(format!("nobody listens at {at}; the agent has ended"))
            .hint("starling up   start it again; tasks that run are taken over"),
        io::ErrorKind::PermissionDenied => Complaint::new("unreachable", "the agent is not yours")
            .because(format!("{at} may not be opened by this user"))
            .hint("sudo starling …, or become a member of the group `starling`"),
        _ => complaint.because(format!("{at}: {error}")).hint("starling up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_missing_socket_and_a_deserted_one_are_both_unreachable() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("api.sock");
        let code = async || match Door::Unix(path.clone()).open().await {
            Ok(_) => panic!("nobody listens"),
            Err(failed) => (failed.exit(), failed.code().map(str::to_owned)),
        };
        assert_eq!(code().await, (69, Some("unreachable".into())));
        // Closing alone would not do: a program that another test starts just now holds the
        // listener, too, until it is executed.
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("binds");
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("deserts it");
        assert_eq!(code().await, (69, Some("unreachable".into())));
    }
}
