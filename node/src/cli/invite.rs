//! `invite`: a token with which other hosts join; all of them, and the end of one.
//!
//! A token admits: it goes to stdout only, alone when a program reads it, as
//! the whole command when a person does. Nothing else repeats it: lists show
//! the invitation's id, which admits nobody.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use gossip_core::grant::Role;
use starling_core::view::Listing;

use crate::api::member_types::{InvitationView, RevokedInvitation};
use crate::api::types::{InvitationReply, InvitationRequest};
use crate::cli::client::{Client, Patience, segment};
use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};
use crate::cli::table::Table;
use crate::cli::times::{self, timestamp};

/// The flags of `invite`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct InviteArgs {
    /// How long it is good for, like 30m, 1h or 2d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = times::parse)]
    ttl: Duration,
    /// How many hosts may join with it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// Invite a person or tool that uses the API from afar, not a host
    ///
    /// Operators administer the cluster: besides jobs, they may stop agents, invite and remove
    /// hosts and operators. Give such a token only to whom you would let do that.
    #[arg(long)]
    operator: bool,
    /// List the invitations that are open
    #[arg(long, conflicts_with_all = ["ttl", "uses", "operator", "revoke"])]
    list: bool,
    /// With --list: those too that admit nobody any more
    #[arg(short, long, requires = "list")]
    all: bool,
    /// Take an invitation back: it admits nobody from now on
    #[arg(long, value_name = "ID", conflicts_with_all = ["ttl", "uses", "operator"])]
    revoke: Option<String>,
    #[command(subcommand)]
    command: Option<InviteCommand>,
}

/// The same as commands.
#[derive(clap::Subcommand, Clone, Debug)]
enum InviteCommand {
    /// List the invitations that are open
    #[command(visible_alias = "list")]
    Ls {
        /// Those too that admit nobody any more
        #[arg(short, long)]
        all: bool,
    },
    /// Take an invitation back: it admits nobody from now on
    Revoke {
        /// Its id, or the beginning of it
        id: String,
    },
}

/// `starling invite`.
pub(crate) async fn run(args: InviteArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    match (&args.command, &args.revoke) {
        (Some(InviteCommand::Ls { all }), _) => list(*all, client, out).await,
        (Some(InviteCommand::Revoke { id }), _) | (None, Some(id)) => revoke(id, client, out).await,
        (None, None) if args.list => list(args.all, client, out).await,
        (None, None) => make(args, client, out).await,
    }
}

async fn make(args: InviteArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
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
    if let Some(id) = reply.id {
        out.note(&format!("starling invite --revoke {}   takes it back", id.short()));
    }
    Ok(0)
}

async fn list(all: bool, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let answer = client.get("/v1/invitations").await?;
    if out.format == Format::Quiet {
        let list: Listing<InvitationView> = answer.parse()?;
        let shown = list.items.iter().filter(|it| is_shown(it, all));
        shown.into_iter().try_for_each(|it| out.line(&it.id.short()))?;
        return Ok(0);
    }
    out.listing(&answer, |it: &InvitationView| it.id.short(), |list| table(list, all))?;
    Ok(0)
}

fn is_shown(it: &InvitationView, all: bool) -> bool {
    all || it.state == "open"
}

fn table(list: &Listing<InvitationView>, all: bool) -> Table {
    let mut table = Table::new(["ID", "STATE", "FOR", "USED", "EXPIRES", "BY"]);
    for it in list.items.iter().filter(|it| is_shown(it, all)) {
        let role = it.role.map(|role| match role {
            Role::Member => "hosts",
            Role::Operator => "operators",
        });
        let uses = it.uses.map_or_else(|| "?".to_owned(), |uses| uses.to_string());
        table.row([
            it.id.short(),
            it.state.replace(' ', "-"),
            role.unwrap_or_default().to_owned(),
            format!("{}/{uses}", it.used),
            it.expires.map(timestamp).unwrap_or_default(),
            it.issuer.as_ref().map(|by| by.name.clone()).unwrap_or_default(),
        ]);
    }
    table
}

async fn revoke(id: &str, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let answer = client.delete(&format!("/v1/invitations/{}", segment(id))).await?;
    let revoked: RevokedInvitation = answer.parse()?;
    match out.format {
        Format::Json => out.json(answer.bytes())?,
        Format::Quiet => out.line(&revoked.id.short())?,
        Format::Human => {
            out.line(&format!("{} revoked", revoked.id.short()))?;
            if revoked.used > 0 {
                let used = revoked.used;
                out.note(&format!("{used} joined with it before, and stay: starling node rm"));
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_invitation_is_a_line_and_those_that_are_over_are_shown_when_asked_for() {
        let one = |n: u8, state: &str| {
            json!({
                "id": format!("{n:02x}").repeat(32), "state": state,
                "issuer": {"id": "0a".repeat(32), "name": "h1"},
                "role": "member", "uses": 3, "used": 1, "expires": 0,
            })
        };
        let mut older = one(3, "used up");
        older["issuer"] = json!(null);
        older["uses"] = json!(null);
        let items = json!([one(1, "open"), one(2, "revoked"), older]);
        let view = json!({"peer": "h1", "heard": 1, "known": 1, "silent": []});
        let list: Listing<InvitationView> =
            serde_json::from_value(json!({"items": items, "as_of": 0, "view": view}))
                .expect("a listing");
        let text = table(&list, false).print(None);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("010101010101  open   hosts  1/3"), "{text}");
        let text = table(&list, true).print(None);
        assert!(text.contains("030303030303  used-up  hosts  1/?"), "{text}");
    }
}
