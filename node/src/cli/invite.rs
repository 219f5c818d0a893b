//! `invite`: a token with which other hosts join.
//!
//! A token admits: it goes to stdout only, alone when a program reads it, as
//! the whole command when a person does. Nothing else repeats it.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use gossip_core::grant::Role;

use crate::api::types::{InvitationReply, InvitationRequest};
use crate::cli::client::{Client, Patience};
use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};
use crate::cli::times;

/// The flags of `invite`.
#[derive(Args, Clone, Debug)]
pub(crate) struct InviteArgs {
    /// How long it is good for, like 30m, 1h or 2d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = times::parse)]
    ttl: Duration,
    /// How many hosts may join with it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// Invite a person or tool that uses the API from afar, not a host
    ///
    /// Operators administer the cluster: besides jobs, they may stop agents and invite others,
    /// hosts as well as operators. Give such a token only to whom you would let do that.
    #[arg(long)]
    operator: bool,
}

/// `starling invite`.
pub(crate) async fn run(args: InviteArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let role = if args.operator { Role::Operator } else { Role::Member };
    let request =
        InvitationRequest { role, uses: args.uses, ttl_s: times::seconds_up(args.ttl).max(1) };
    let answer = client.post("/v1/invitations", &request, Patience::Ordinary).await?;
    if out.format == Format::Json {
        out.json(answer.bytes())?;
        return Ok(0);
    }
    let reply: InvitationReply = answer.parse()?;
    if out.format == Format::Quiet || !std::io::stdout().is_terminal() {
        out.line(&reply.token)?;
    } else if args.operator {
        out.line(&format!("starling login {}", reply.token))?;
    } else {
        let sudo = if rustix::process::geteuid().is_root() { "sudo " } else { "" };
        out.line(&format!("{sudo}starling join {}", reply.token))?;
    }
    let plural = if args.uses == 1 { "" } else { "s" };
    let life = times::show_duration(args.ttl);
    let place = if args.operator { "for an operator" } else { "run it on the other host" };
    out.note(&format!("{place}; good for {life} and {} use{plural}", args.uses));
    Ok(0)
}
