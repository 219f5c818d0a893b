//! Makes connections: names to addresses, addresses to a stream, the stream to TLS.
//!
//! Addresses are tried one after the other, each next one a little after the one before it,
//! so that a machine whose IPv6 leads nowhere does not wait for it.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::url::{Allowed, Server};
use super::{RegistryError, RegistryOptions, Speak};

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// How long one address is ahead of the next.
const AHEAD: Duration = Duration::from_millis(250);

/// What both kinds of connection are.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Makes connections as one set of options wants them.
#[derive(Debug)]
pub(super) struct Connector {
    within: Duration,
    authorities: Vec<PathBuf>,
    /// Read when the first TLS connection is made, once.
    tls: OnceCell<Arc<ClientConfig>>,
}

impl Connector {
    pub(super) fn new(options: &RegistryOptions) -> Self {
        let authorities = options.authorities.clone();
        Self { within: options.patience.connect, authorities, tls: OnceCell::new() }
    }

    /// A connection, over TLS if the server is to be spoken with so. Addresses that are not
    /// allowed are not connected to.
    pub(super) async fn connect(
        &self,
        server: &Server,
        allowed: Allowed,
    ) -> Result<Box<dyn Wire>, RegistryError> {
        let late = |what| {
            let (host, after) = (server.authority(), self.within);
            move |_| RegistryError::TimedOut { host, what, after }
        };
        let stream = timeout(self.within, dial(server, allowed));
        let stream = stream.await.map_err(late("take a connection"))??;
        if server.speak == Speak::Plain {
            return Ok(Box::new(stream));
        }
        let config = self.tls.get_or_try_init(|| self.trusted(server)).await?;
        let bad = |source: io::Error| refused_tls(server, source);
        let name = ServerName::try_from(server.host.clone());
        let name = name.map_err(|error| bad(io::Error::other(error)))?;
        let shaking = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        let shaken = timeout(self.within, shaking).await.map_err(late("speak TLS"))?;
        Ok(Box::new(shaken.map_err(bad)?))
    }

    async fn trusted(&self, server: &Server) -> Result<Arc<ClientConfig>, RegistryError> {
        let (files, host) = (self.authorities.clone(), server.authority());
        let reading = tokio::task::spawn_blocking(move || read_trusted(&files, &host));
        match reading.await {
            Ok(config) => config,
            Err(error) => Err(refused_tls(server, error.into())),
        }
    }
}

/// Whom to trust: the system's authorities, and those in these files. Blocks.
fn read_trusted(files: &[PathBuf], host: &str) -> Result<Arc<ClientConfig>, RegistryError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    // A system may keep certificates that nobody can read; those that can be are enough.
    roots.add_parsable_certificates(system.certs);
    for path in files {
        let bad = |source| RegistryError::Authorities { path: path.clone(), source };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| bad(io::Error::other(error)))?;
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(bad(io::Error::other("it holds no certificate")));
        }
    }
    if roots.is_empty() {
        return Err(RegistryError::NoAuthorities { host: host.to_owned() });
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| RegistryError::Tls {
            host: host.to_owned(),
            source: io::Error::other(error),
        })?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn refused_tls(server: &Server, source: io::Error) -> RegistryError {
    let cause = source.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let host = server.authority();
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => RegistryError::NoTls { host },
        _ => RegistryError::Tls { host, source },
    }
}

async fn dial(server: &Server, allowed: Allowed) -> Result<TcpStream, RegistryError> {
    let host = &server.host;
    let found = tokio::net::lookup_host((host.as_str(), server.port)).await;
    let found = found.map_err(|source| RegistryError::NoHost { host: host.clone(), source })?;
    let found: BTreeSet<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    let mut forbidden = false;
    let mut left = interleave(found.into_iter().filter(|address| {
        let has = allowed.has(address.ip());
        forbidden |= !has;
        has
    }))
    .into_iter();
    let mut tries = JoinSet::new();
    let mut last = None;
    loop {
        if let Some(address) = left.next() {
            tries.spawn(TcpStream::connect(address));
        }
        let more = left.len() > 0;
        let done = tokio::select! {
            done = tries.join_next() => done,
            () = sleep(AHEAD), if more => continue,
        };
        match done {
            Some(Ok(Ok(stream))) => {
                // Requests are whole when they are written.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Some(Ok(Err(error))) => last = Some(error),
            Some(Err(error)) => last = Some(error.into()),
            None if more => {}
            None => break,
        }
    }
    Err(match last {
        None if forbidden => RegistryError::Forbidden {
            host: host.clone(),
            to: server.authority(),
            why: "which only this machine or its own link reaches",
        },
        last => RegistryError::Unreachable {
            host: server.authority(),
            source: last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()),
        },
    })
}

/// Both families in turns, the newer first.
fn interleave(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (old, new): (Vec<_>, Vec<_>) = addresses.partition(SocketAddr::is_ipv4);
    let mut turns = Vec::with_capacity(old.len() + new.len());
    let (mut old, mut new) = (old.into_iter(), new.into_iter());
    loop {
        match (new.next(), old.next()) {
            (None, None) => return turns,
            (six, four) => turns.extend(six.into_iter().chain(four)),
        }
    }
}
