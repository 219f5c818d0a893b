//! The agent's side of the operators' door.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gossip_core::grant::Chain;
use gossip_core::sign::Key;
use gossip_core::wire::gate::{Claim, Hello, Reply};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{hello, tls};
use crate::agent::Doors;
use crate::api;
use crate::api::serve::Caller;
use crate::api::types::Complaint;

/// The most operators connected at once.
const CONNECTIONS_MAX: usize = 256;

/// The most callers at once that have not proved that they may. They take nothing from
/// those who have: at worst the next operator has to call again.
const CALLERS_MAX: usize = 32;

/// How long a caller may take to prove who it is and that it may.
const ADMISSION_FOR: Duration = Duration::from_secs(5);

/// Given to a caller that may not: no more than a stranger may know.
const NOT_AUTHORISED: (u32, &[u8]) = (1, b"not authorised");

/// Given to an operator that comes when all places are taken.
const FULL: (u32, &[u8]) = (2, b"too many operators are connected");

/// Opens the door.
pub(crate) fn bind(address: SocketAddr, key: &Key) -> Result<quinn::Endpoint, Complaint> {
    let failed = |why: String| {
        Complaint::new("operator_port", format!("cannot open the operators' door on {address}"))
            .because(why)
            .hint("choose another with --operator-listen")
    };
    let config = tls::server(key).map_err(|e| failed(e.to_string()))?;
    quinn::Endpoint::server(config, address).map_err(|e| failed(e.to_string()))
}

/// Serves operators until the agent goes down.
pub(crate) async fn serve(endpoint: quinn::Endpoint, doors: Doors) {
    let threshold = Arc::new(Semaphore::new(CALLERS_MAX));
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = doors.stop.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        let Ok(permit) = threshold.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let (caller, room) = (doors.clone(), room.clone());
        doors.tasks.spawn(async move {
            let from = incoming.remote_address();
            if let Err(why) = admit_and_serve(incoming, permit, &room, caller).await {
                tracing::debug!(%from, why, "an operator's connection ended");
            }
        });
    }
    endpoint.close(0_u32.into(), b"going down");
}

async fn admit_and_serve(
    incoming: quinn::Incoming,
    threshold: OwnedSemaphorePermit,
    room: &Semaphore,
    doors: Doors,
) -> Result<(), String> {
    let connection = tokio::time::timeout(ADMISSION_FOR, async {
        let connection = incoming.await.map_err(|e| e.to_string())?;
        if let Some(chain) = admit(&connection, &doors).await? {
            return Ok((connection, chain));
        }
        // The refusal is on its way; leave it the time to be read.
        connection.closed().await;
        Err("not authorised".to_owned())
    });
    let (connection, chain) =
        connection.await.map_err(|_elapsed| "admission took too long".to_owned())??;
    drop(threshold);
    let Ok(_place) = room.try_acquire() else {
        connection.close(FULL.0.into(), FULL.1);
        return Err("too many operators at once".to_owned());
    };
    let caller = tls::peer(&connection).ok_or("a key of another kind")?;
    let caller = Caller::operator(&caller);
    let mut changes = doors.agent.changes();
    loop {
        let stream = tokio::select! {
            stream = connection.accept_bi() => stream,
            changed = changes.changed(), if changes.has_changed().is_ok() => {
                // Whoever made this operator may have been removed since.
                if changed.is_ok() && !doors.gossip.still_holds(&chain) {
                    connection.close(NOT_AUTHORISED.0.into(), NOT_AUTHORISED.1);
                    return Err("its grant does not hold any more".to_owned());
                }
                continue;
            }
            () = doors.stop.cancelled() => break,
        };
        let Ok((send, receive)) = stream else { break };
        let doors = doors.clone();
        let owner = doors.tasks.clone();
        let stream = tokio::io::join(receive, send);
        owner.spawn(api::serve::connect(stream, doors, caller.clone()));
    }
    Ok(())
}

/// Lets an operator in by the grants it answers; `None` if it was refused.
async fn admit(connection: &quinn::Connection, doors: &Doors) -> Result<Option<Chain>, String> {
    let caller = tls::peer(connection).ok_or("a key of another kind")?;
    let (mut send, mut receive) = connection.accept_bi().await.map_err(|e| e.to_string())?;
    let hello: Hello = hello::hear(&mut receive).await.map_err(|e| e.to_string())?;
    let shown = match &hello.claim {
        Claim::Member { chain } => Some(chain.clone()),
        Claim::Invited { .. } => None,
    };
    let reply = doors.gossip.admit_operator(caller, hello).await;
    hello::say(&mut send, &reply).await.map_err(|e| e.to_string())?;
    // An answer that cannot be finished is told by the connection's own end.
    let _ = send.finish();
    if let Reply::Refused(_) | Reply::Removed { .. } = reply {
        let why = match reply {
            Reply::Refused(refusal) => refusal.to_string(),
            _ => "it, its grant or this node was removed".to_owned(),
        };
        tracing::info!(caller = %caller.short(), why, "an operator was refused");
        let _ = tokio::time::timeout(Duration::from_secs(1), send.stopped()).await;
        connection.close(NOT_AUTHORISED.0.into(), NOT_AUTHORISED.1);
        return Ok(None);
    }
    Ok(match reply {
        Reply::Granted { yours, .. } => Some(yours),
        _ => shown,
    })
}
