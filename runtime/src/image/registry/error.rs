//! Why a registry did not give or take an image, in words for whoever asked.
//!
//! What a registry says of itself is shown shortened and without control characters, and only
//! where it came from the host that was asked: not from one it sent us to, whose answers are
//! nobody's here to read.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a registry could not be used. Hosts are written as people write them.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No address for that name.
    #[error("there is no host {host}")]
    NoHost {
        /// The host.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No connection to any of its addresses.
    #[error("nothing can be reached at {host}")]
    Unreachable {
        /// The host, with its port.
        host: String,
        /// What the kernel said of the last address.
        source: io::Error,
    },
    /// TLS did not come about.
    #[error("no TLS with {host}")]
    Tls {
        /// The host, with its port.
        host: String,
        /// What is wrong.
        source: io::Error,
    },
    /// TLS was begun and the answer was none of TLS.
    #[error("{host} does not speak TLS")]
    NoTls {
        /// The host, with its port.
        host: String,
    },
    /// Nobody is trusted here.
    #[error("this machine has no certificates of authorities by which to trust {host}")]
    NoAuthorities {
        /// The host.
        host: String,
    },
    /// A file of authorities that cannot be used.
    #[error("cannot use the certificates in {}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// It took too long.
    #[error("{host} did not {what} within {} s", after.as_secs_f32())]
    TimedOut {
        /// The host.
        host: String,
        /// What it did not do.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection ended where it must not.
    #[error("the connection to {host} broke")]
    Broke {
        /// The host.
        host: String,
        /// How.
        source: io::Error,
    },
    /// 401, and nobody gave credentials.
    #[error("{host} shows {repository} to nobody without credentials, if it exists at all")]
    NeedsCredentials {
        /// The host.
        host: String,
        /// What was asked for.
        repository: String,
    },
    /// 401, with credentials.
    #[error("{host} does not accept the credentials, or not for {repository}")]
    WrongCredentials {
        /// The host.
        host: String,
        /// What was asked for.
        repository: String,
    },
    /// 403.
    #[error("{host} denies {repository}{}", quote(said))]
    Denied {
        /// The host.
        host: String,
        /// What was asked for.
        repository: String,
        /// Whether credentials were given.
        with_credentials: bool,
        /// What the registry said.
        said: String,
    },
    /// No such repository.
    #[error("{host} has no {repository}")]
    NoRepository {
        /// The host.
        host: String,
        /// What was asked for.
        repository: String,
    },
    /// The repository has no such tag, digest or layer.
    #[error("{host} has no {wanted} in {repository}")]
    NotFound {
        /// The host.
        host: String,
        /// What was asked for.
        repository: String,
        /// The tag or digest.
        wanted: String,
    },
    /// Something else answers there.
    #[error("what answers at {host} is no registry: {why}")]
    NotARegistry {
        /// The host.
        host: String,
        /// By what that is seen.
        why: String,
    },
    /// It asked for more patience than there is: 429, 503.
    #[error("{host} is too busy{}{}", wait(*after), quote(said))]
    Busy {
        /// The host.
        host: String,
        /// For how long it says that it will be.
        after: Option<Duration>,
        /// What the registry said.
        said: String,
    },
    /// Any other answer that is none of success.
    #[error("{host} answers {status}{}", quote(said))]
    Status {
        /// The host.
        host: String,
        /// HTTP's number.
        status: u16,
        /// What the registry said.
        said: String,
    },
    /// An answer that makes no sense.
    #[error("{host} {why}")]
    Nonsense {
        /// The host.
        host: String,
        /// What it did.
        why: String,
    },
    /// Sent from one place to another without end.
    #[error("{host} redirects in circles")]
    Circles {
        /// The host.
        host: String,
    },
    /// Sent to a place that is not gone to.
    #[error("{host} sends us to {to}, {why}")]
    Forbidden {
        /// The host.
        host: String,
        /// Where to.
        to: String,
        /// Why that is not gone to.
        why: &'static str,
    },
    /// An answer longer than any honest one.
    #[error("{what} from {host} is longer than {max} bytes")]
    TooLong {
        /// The host.
        host: String,
        /// What it is.
        what: &'static str,
        /// The bound that it broke, in bytes.
        max: u64,
    },
    /// A file of credentials that cannot be read.
    #[error("cannot read the credentials in {}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

impl RegistryError {
    /// Whether credentials, or other ones, may help.
    pub fn wants_credentials(&self) -> bool {
        match self {
            Self::NeedsCredentials { .. } | Self::WrongCredentials { .. } => true,
            Self::Denied { with_credentials, .. } => !with_credentials,
            _ => false,
        }
    }
}

fn quote(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said:?}") }
}

fn wait(after: Option<Duration>) -> String {
    after
        .map(|after| format!("; it says to come back in {} s", after.as_secs()))
        .unwrap_or_default()
}
