//! Invitations: making one, listing all, taking one back.
//!
//! The token is in the answer to whoever made it and nowhere else: neither the
//! list nor a log line nor a record of the cluster has its secret.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use gossip::Invited;
use gossip_core::grant::Role;
use gossip_core::id::NodeId;
use gossip_core::moment::WallTime;
use starling_core::Core;
use starling_core::view::Listing;

use super::answer::Refused;
use super::member_types::{InvitationView, RevokedInvitation};
use super::nodes::name;
use super::types::{Complaint, InvitationReply, InvitationRequest};
use crate::agent::{Doors, wall_now};

/// The longest an invitation may last: a month.
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The fewest digits of an id that are taken for one.
const ID_DIGITS_MIN: usize = 4;

/// `POST /v1/invitations`.
pub(super) async fn make(
    State(doors): State<Doors>,
    body: Result<Json<InvitationRequest>, JsonRejection>,
) -> Result<Json<InvitationReply>, Refused> {
    let refused = |why: String| {
        let complaint = Complaint::new("bad_invitation", "no invitation was made").because(why);
        Refused::new(StatusCode::UNPROCESSABLE_ENTITY, complaint)
    };
    let Json(request) = body.map_err(|e| refused(e.body_text()))?;
    let ttl = Duration::from_secs(request.ttl_s);
    if ttl.is_zero() || ttl > TTL_MAX {
        return Err(refused("it must last between a second and 30 days".to_owned()));
    }
    let expires = WallTime(wall_now().0.saturating_add(request.ttl_s.saturating_mul(1000)));
    let token = doors.gossip.invite(request.role, request.uses, expires).await;
    let mut token = token.map_err(|e| refused(crate::agent::chain(&e)))?;
    if request.role == Role::Operator {
        // Operators use a door of their own, and a token's addresses are only hints.
        token.addresses.clone_from(&doors.facts.operator_addresses);
    }
    let id = Some(token.invitation.id);
    let token = token.to_text().map_err(|e| refused(e.to_string()))?;
    Ok(Json(InvitationReply { token, expires, id }))
}

/// `GET /v1/invitations`.
pub(super) async fn list(
    State(doors): State<Doors>,
) -> Result<Json<Listing<InvitationView>>, Refused> {
    let known = doors.gossip.invitations().await;
    let listing = doors
        .agent
        .look(move |core, now| {
            let as_of = wall_now();
            let mut items: Vec<_> = known.iter().map(|it| view(core, it, as_of)).collect();
            items.sort_by_key(|view| (view.expires, view.id));
            Listing { items, as_of, view: core.freshness(now.moment) }
        })
        .await?;
    Ok(Json(listing))
}

fn view(core: &Core, known: &Invited, now: WallTime) -> InvitationView {
    let made = known.invitation.as_ref();
    let used = u32::try_from(known.redeemed.len()).unwrap_or(u32::MAX);
    let state = match made {
        _ if known.revoked.is_some() => "revoked",
        _ if known.is_void => "void",
        Some(made) if made.expires < now => "expired",
        Some(made) if used >= made.uses => "used up",
        _ => "open",
    };
    InvitationView {
        id: known.id,
        state: state.to_owned(),
        issuer: made.map(|made| name(core, made.issuer)),
        role: made.map(|made| made.role),
        uses: made.map(|made| made.uses),
        used,
        expires: made.map(|made| made.expires),
        revoked_by: known.revoked.map(|by| name(core, by)),
    }
}

/// `DELETE /v1/invitations/{id}`.
pub(super) async fn revoke(
    State(doors): State<Doors>,
    Path(text): Path<String>,
) -> Result<Json<RevokedInvitation>, Refused> {
    let known = doors.gossip.invitations().await;
    let is_meant =
        |it: &&Invited| text.len() >= ID_DIGITS_MIN && it.id.to_string().starts_with(text.as_str());
    let meant: Vec<_> = known.iter().filter(is_meant).collect();
    let [invitation] = meant.as_slice() else { return Err(no_such(&text, meant.len())) };
    let id: NodeId = invitation.id;
    if invitation.revoked.is_none() && !doors.gossip.revoke(id).await {
        let complaint = Complaint::new("not_revoked", "the invitation was not revoked")
            .because("this node cannot write to its log now")
            .hint("try again, or on another member");
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, complaint));
    }
    tracing::info!(invitation = %id.short(), "revoked");
    let used = u32::try_from(invitation.redeemed.len()).unwrap_or(u32::MAX);
    Ok(Json(RevokedInvitation { id, used }))
}

fn no_such(text: &str, found: usize) -> Refused {
    let (status, code, why) = match found {
        0 => (StatusCode::NOT_FOUND, "no_such_invitation", "there is no invitation"),
        _ => (StatusCode::CONFLICT, "ambiguous", "several invitations begin with"),
    };
    let complaint = Complaint::new(code, format!("{why} {text:?}"))
        .hint("`starling invite --list` shows their ids; four digits are the fewest");
    Refused::new(status, complaint)
}
