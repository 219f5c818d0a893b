//! Redeeming a token: ask its addresses until a member lets this node in.

use std::time::Duration;

use futures::StreamExt as _;
use gossip_core::grant::Chain;
use gossip_core::id::NodeId;
use gossip_core::invite::{Refused, Token};
use gossip_core::wire::gate::Refusal;
use libp2p::Multiaddr;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{Swarm, SwarmEvent};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::address;
use crate::gatekeeper::{Gatekeeper, Verdict};
use crate::swarm::{Behaviour, BehaviourEvent};

/// Between dials: most often the first address answers before the second is tried.
const STAGGER: Duration = Duration::from_millis(250);

/// A member that was not ready is asked again after this.
const AGAIN: Duration = Duration::from_millis(300);

/// How long members may take to become ready.
const READY_BY: Duration = Duration::from_secs(10);

/// Why nobody let this node in. It belongs to no cluster, as before.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A member said no, or none was ready.
    #[error("cannot join: {0}")]
    Refused(Refusal),
    /// This host's key was removed from that cluster, which is for ever.
    #[error("cannot join: this host's key was removed from the cluster by {}", .0.short())]
    Removed(NodeId),
    /// Nobody answered.
    #[error(
        "none of the token's {addresses} addresses answers ({last}); check that a member is \
             up and that UDP or TCP reaches it, or ask for a new token"
    )]
    Unreachable {
        /// How many were tried.
        addresses: usize,
        /// What the last one led to.
        last: String,
    },
    /// Somebody answered who is no member.
    #[error("the host at the token's address is no member of its cluster: {0}")]
    Impostor(String),
}

/// What was learned so far in one round.
#[derive(Debug, Default)]
struct Round {
    refusal: Option<Refusal>,
    impostor: Option<String>,
    removed: Option<NodeId>,
    last: String,
}

/// How telling a refusal is, for the one that is shown.
fn weight(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::NotReady => 0,
        Refusal::NotAMember | Refusal::Version(_) | Refusal::Disk => 1,
        // Whoever answers there may just be somebody else by now.
        Refusal::Invitation(Refused::OtherCluster) => 2,
        Refusal::Invitation(_) => 3,
    }
}

impl Round {
    fn refused(&mut self, refusal: Refusal) {
        if self.refusal.is_none_or(|known| weight(known) < weight(refusal)) {
            self.refusal = Some(refusal);
        }
    }
}

/// Dials until a grant is here; what else the swarm says meanwhile is kept in `early`.
pub(crate) async fn join(
    swarm: &mut Swarm<Behaviour>,
    gatekeeper: &Gatekeeper,
    token: Token,
    early: &mut Vec<SwarmEvent<BehaviourEvent>>,
) -> Result<Chain, JoinError> {
    let addresses: Vec<Multiaddr> = token
        .addresses
        .iter()
        .filter_map(|text| text.parse().ok())
        .filter(|address| address::transport_of(address).is_some())
        .collect();
    let mut verdicts = gatekeeper.invite(token);
    let give_up = Instant::now() + READY_BY;
    loop {
        let mut round = Round::default();
        if let Some(chain) = ask_all(swarm, &addresses, &mut verdicts, &mut round, early).await {
            return Ok(chain);
        }
        if let Some(by) = round.removed {
            return Err(JoinError::Removed(by));
        }
        match round.refusal {
            Some(Refusal::NotReady) if Instant::now() < give_up => {}
            Some(refusal) => return Err(JoinError::Refused(refusal)),
            None => {
                return Err(match round.impostor {
                    Some(what) => JoinError::Impostor(what),
                    None => JoinError::Unreachable { addresses: addresses.len(), last: round.last },
                });
            }
        }
        let again = Instant::now() + AGAIN;
        loop {
            tokio::select! {
                () = sleep_until(again) => break,
                event = swarm.select_next_some() => early.push(event),
            }
        }
    }
}

/// One dial of each address, until one leads in or all have failed.
async fn ask_all(
    swarm: &mut Swarm<Behaviour>,
    addresses: &[Multiaddr],
    verdicts: &mut mpsc::Receiver<Verdict>,
    round: &mut Round,
    early: &mut Vec<SwarmEvent<BehaviourEvent>>,
) -> Option<Chain> {
    let mut left = addresses.iter();
    let mut next_dial = Instant::now();
    let mut dialing = 0_usize;
    while dialing > 0 || left.len() > 0 {
        tokio::select! {
            biased;
            Some(verdict) = verdicts.recv() => match verdict {
                Verdict::Granted(chain) => return Some(chain),
                Verdict::Refused(refusal) => round.refused(refusal),
                Verdict::Removed(by) => round.removed = Some(by),
                Verdict::Impostor(error) => round.impostor = Some(error.to_string()),
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::OutgoingConnectionError { error, .. } => {
                    dialing = dialing.saturating_sub(1);
                    round.last = error.to_string();
                    next_dial = Instant::now();
                }
                other => early.push(other),
            },
            () = sleep_until(next_dial), if left.len() > 0 => {
                next_dial = Instant::now() + STAGGER;
                let Some(address) = left.next() else { continue };
                let dial = DialOpts::unknown_peer_id().address(address.clone());
                match swarm.dial(dial.allocate_new_port().build()) {
                    Ok(()) => dialing += 1,
                    Err(error) => round.last = error.to_string(),
                }
            }
        }
    }
    while let Ok(verdict) = verdicts.try_recv() {
        match verdict {
            Verdict::Granted(chain) => return Some(chain),
            Verdict::Refused(refusal) => round.refused(refusal),
            Verdict::Removed(by) => round.removed = Some(by),
            Verdict::Impostor(error) => round.impostor = Some(error.to_string()),
        }
    }
    None
}
