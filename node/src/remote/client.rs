//! The command line's side of the operators' door.

use std::net::SocketAddr;
use std::time::Duration;

use gossip_core::grant::{Chain, Role};
use gossip_core::id::ClusterId;
use gossip_core::invite::Token;
use gossip_core::removal::Removal;
use gossip_core::sign::Key;
use gossip_core::wire::gate::{Claim, Hello, Refusal, Reply, VERSION};
use tokio::io::{AsyncRead, AsyncWrite};

use super::login::Login;
use super::{PORT, hello, tls};
use crate::api::types::Complaint;

/// How long a peer may take to let an operator in.
const CONNECT_FOR: Duration = Duration::from_secs(5);

/// Nobody checks it: keys are names here. It must be a valid name all the same.
const SERVER_NAME: &str = "starling";

/// A connection that was let in; each stream is one HTTP connection.
#[derive(Debug)]
pub(crate) struct Remote {
    /// Keeps the socket.
    _endpoint: quinn::Endpoint,
    connection: quinn::Connection,
}

impl Remote {
    /// Reaches `peer` with the login that is kept here.
    pub(crate) async fn connect(peer: &str) -> Result<Self, Complaint> {
        let login = Login::load()?;
        let hello = Hello {
            version: VERSION,
            cluster: login.cluster,
            claim: Claim::Member { chain: login.chain.clone() },
            removals: Vec::new(),
        };
        let (remote, reply) = talk(peer, &login.key(), |_| hello, login.cluster).await?;
        match reply {
            Reply::Welcome { .. } => Ok(remote),
            Reply::Granted { .. } => Err(odd(peer)),
            Reply::Refused(refusal) => Err(refused(peer, refusal)),
            Reply::Removed { proof } => Err(removed(peer, &proof)),
        }
    }

    /// Opens one HTTP connection.
    pub(crate) async fn open(
        &self,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static, Complaint> {
        let (send, receive) = self.connection.open_bi().await.map_err(|e| {
            Complaint::new("unreachable", "the peer left")
                .because(e)
                .hint("try again, or another peer")
        })?;
        Ok(tokio::io::join(receive, send))
    }
}

/// Redeems an operator's token at the first of its addresses that can.
pub(crate) async fn login(token: &Token) -> Result<Login, Complaint> {
    if token.invitation.role != Role::Operator {
        return Err(Complaint::new("member_token", "this token admits a host, not an operator")
            .hint("`starling join TOKEN` uses it; `starling invite --operator` prints one for a person"));
    }
    let key = Key::from_seed(rand::random());
    let cluster = token.invitation.cluster;
    let mut last = Complaint::new("unreachable", "the token names no address")
        .hint("ask for a fresh one: `starling invite --operator`");
    for address in &token.addresses {
        let hello = |asked| Hello {
            version: VERSION,
            cluster,
            claim: Claim::Invited {
                invitation: Box::new(token.invitation.clone()),
                proof: token.proof(&key.id(), &asked),
            },
            removals: Vec::new(),
        };
        match talk(address, &key, hello, cluster).await {
            Ok((_, Reply::Granted { yours, .. })) => {
                check(&yours, &cluster, &key, Role::Operator).ok_or_else(|| odd(address))?;
                return Ok(Login::new(cluster, &key, yours, token.addresses.clone()));
            }
            // What one member cannot do, another may.
            Ok((_, Reply::Refused(refusal @ (Refusal::NotReady | Refusal::Disk)))) => {
                last = refused(address, refusal);
            }
            Ok((_, Reply::Refused(refusal))) => return Err(refused(address, refusal)),
            Ok((_, Reply::Welcome { .. })) => last = odd(address),
            // Another member may be one still.
            Ok((_, Reply::Removed { proof })) => last = removed(address, &proof),
            Err(complaint) => last = complaint,
        }
    }
    Err(last)
}

/// The peer is no member any more, or whoever made this operator is none.
fn removed(peer: &str, proof: &Removal) -> Complaint {
    let (whom, by) = (proof.subject.short(), proof.issuer().unwrap_or(proof.subject).short());
    Complaint::new("removed", format!("{peer} lets nobody in with this login"))
        .because(format!("node {whom} was removed from the cluster by node {by}"))
        .hint("try another peer; if that says the same, ask for `starling invite --operator`")
}

fn check(chain: &Chain, cluster: &ClusterId, key: &Key, role: Role) -> Option<()> {
    (chain.verify(cluster, &key.id()) == Ok(role)).then_some(())
}

async fn talk(
    peer: &str,
    key: &Key,
    hello: impl FnOnce(gossip_core::id::NodeId) -> Hello,
    cluster: ClusterId,
) -> Result<(Remote, Reply), Complaint> {
    let late =
        |_elapsed| unreachable(peer, format!("no answer within {} s", CONNECT_FOR.as_secs()));
    tokio::time::timeout(CONNECT_FOR, async {
        let address = resolve(peer).await?;
        let any: SocketAddr = if address.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let endpoint = quinn::Endpoint::client(any).map_err(|e| unreachable(peer, e))?;
        let config = tls::client(key).map_err(|e| unreachable(peer, e))?;
        let connecting = endpoint.connect_with(config, address, SERVER_NAME);
        let connection = connecting.map_err(|e| unreachable(peer, e))?;
        let connection = connection.await.map_err(|e| unreachable(peer, e))?;
        let asked = tls::peer(&connection).ok_or_else(|| odd(peer))?;
        let (mut send, mut receive) =
            connection.open_bi().await.map_err(|e| unreachable(peer, e))?;
        hello::say(&mut send, &hello(asked)).await.map_err(|e| unreachable(peer, e))?;
        let reply: Reply = hello::hear(&mut receive).await.map_err(|e| unreachable(peer, e))?;
        let chain = match &reply {
            Reply::Welcome { chain } | Reply::Granted { chain, .. } => Some(chain),
            Reply::Refused(_) | Reply::Removed { .. } => None,
        };
        if chain.is_some_and(|chain| chain.verify(&cluster, &asked) != Ok(Role::Member)) {
            let complaint =
                Complaint::new("impostor", format!("{peer} is no member of this cluster"));
            return Err(complaint
                .because("it was told who calls and why that key may, but no secret and no request")
                .hint("check the address"));
        }
        Ok((Remote { _endpoint: endpoint, connection }, reply))
    })
    .await
    .map_err(late)?
}

async fn resolve(peer: &str) -> Result<SocketAddr, Complaint> {
    let bare_v6 = peer.parse::<std::net::Ipv6Addr>().is_ok();
    let has_port =
        !bare_v6 && peer.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let full = match (has_port, bare_v6) {
        (true, _) => peer.to_owned(),
        (false, true) => format!("[{peer}]:{PORT}"),
        (false, false) => format!("{peer}:{PORT}"),
    };
    let mut found = tokio::net::lookup_host(full).await.map_err(|e| unreachable(peer, e))?;
    found.next().ok_or_else(|| unreachable(peer, "the name has no address"))
}

fn unreachable(peer: &str, why: impl ToString) -> Complaint {
    Complaint::new("unreachable", format!("cannot reach {peer}")).because(why).hint(
        "check the address, and that UDP reaches its --operator-listen port (7828 by default)",
    )
}

fn refused(peer: &str, refusal: Refusal) -> Complaint {
    Complaint::new("not_authorised", format!("{peer} does not let this operator in"))
        .because(refusal)
        .hint("`starling invite --operator` on a member, then `starling login TOKEN` here")
}

fn odd(peer: &str) -> Complaint {
    Complaint::new("bad_answer", format!("{peer} answered out of turn"))
        .hint("client and agent may differ: compare `starling version` on both")
}
