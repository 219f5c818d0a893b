//! Where an agent is reached: opens the byte stream of one HTTP connection.
//!
//! One variant today, the Unix socket of this host's agent. A peer's door over
//! QUIC is another variant that opens a stream of its connection; nothing above
//! this file knows the difference. Opening a door never resolves a name.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::api::types::Complaint;
use crate::cli::errors::Failed;

/// Both directions of one connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Where an agent is reached.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// The agent of this host.
    Unix(PathBuf),
}

impl Door {
    /// Opens one connection.
    pub(crate) async fn open(&self) -> Result<Box<dyn Duplex>, Failed> {
        match self {
            Door::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(unreachable(path, &error).into()),
            },
        }
    }

    /// The agent's socket on this host, if that is what the door is.
    pub(crate) fn local(&self) -> Option<&Path> {
        match self {
            Door::Unix(path) => Some(path),
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

/// What `--peer` answers until there is a door for it.
pub(crate) fn no_peer_door(peer: &str) -> Complaint {
    Complaint::new("not_yet", "--peer is not in this version yet")
        .because("agents are reached through their Unix socket only")
        .hint(format!("ssh {} starling …", peer.split(':').next().unwrap_or(peer)))
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
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        assert_eq!(code().await, (69, Some("unreachable".into())));
    }
}
