//! `node`: the members of the cluster, as the agent that is asked sees them.

use clap::{Args, Subcommand};
use gossip_core::resources::{show_bytes, show_cpu};
use starling_core::view::{Listing, NodeView};

use crate::cli::client::Client;
use crate::cli::errors::Failed;
use crate::cli::output::Output;
use crate::cli::table::Table;
use crate::cli::times;

mod inspect;
mod remove;

/// What can be done with nodes.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the members of the cluster
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show all that is known of one node
    #[command(after_help = "Examples:\n  starling node inspect h2\n  \
        starling node inspect h2 --json | jq .chain")]
    Inspect {
        /// A name, an id, or the beginning of an id
        node: String,
    },
    /// Remove a node from the cluster, for ever
    #[command(visible_alias = "remove", after_help = remove::EXAMPLES)]
    Rm(remove::RmArgs),
}

/// The flags of `node ls`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct LsArgs {
    /// Those too that are no members any more
    #[arg(short, long)]
    all: bool,
}

/// `starling node`.
pub(crate) async fn run(
    command: Option<NodeCommand>,
    client: &mut Client,
    out: Output,
) -> Result<u8, Failed> {
    match command {
        None => ls(&LsArgs::default(), client, out).await,
        Some(NodeCommand::Ls(args)) => ls(&args, client, out).await,
        Some(NodeCommand::Inspect { node }) => inspect::run(&node, client, out).await,
        Some(NodeCommand::Rm(args)) => remove::run(args, client, out).await,
    }
}

async fn ls(args: &LsArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let answer = client.get(&format!("/v1/nodes?all={}", args.all)).await?;
    out.listing(&answer, |node: &NodeView| node.name.clone(), nodes)?;
    Ok(0)
}

fn nodes(list: &Listing<NodeView>) -> Table {
    let mut table = Table::new([
        "NODE", "STATE", "CPU", "MEMORY", "TASKS", "LIMITS", "HEARD", "OVER", "ID", "VERSION",
    ]);
    for node in &list.items {
        let me = if node.me { "*" } else { "" };
        table.row([
            format!("{}{me}", node.name),
            node.state.clone(),
            used(node, |r| r.cpu_milli, show_cpu),
            used(node, |r| r.memory_bytes, show_bytes),
            node.tasks.to_string(),
            if node.enforces_limits { "enforced" } else { "none" }.to_owned(),
            heard(node),
            node.over.clone().unwrap_or_default(),
            node.id.short(),
            node.version.clone(),
        ]);
    }
    table
}

/// What is taken of what there is.
fn used(
    node: &NodeView,
    of: impl Fn(&gossip_core::resources::Resources) -> u64,
    show: impl Fn(u64) -> String,
) -> String {
    let all = of(&node.capacity);
    let taken = node.free.map(|free| show(all.saturating_sub(of(&free))));
    format!("{}/{}", taken.as_deref().unwrap_or("-"), show(all))
}

fn heard(node: &NodeView) -> String {
    match node.heard_ms {
        _ if node.me => "now".to_owned(),
        None => "never".to_owned(),
        Some(0..1000) => "now".to_owned(),
        Some(millis) => times::show(millis / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_a_line_and_what_was_not_heard_is_not_guessed() {
        let capacity = json!({"cpu_milli": 4000, "memory_bytes": 1_u64 << 30});
        let node = |name: &str, me: bool, free: serde_json::Value, heard: Option<u64>| {
            json!({
                "id": "0a".repeat(32), "name": name, "me": me, "state": "ready",
                "capacity": capacity, "free": free, "tasks": 1, "heard_ms": heard,
                "addresses": [], "version": "0.1.0", "enforces_limits": me, "rank": 0,
            })
        };
        let free = json!({"cpu_milli": 3500, "memory_bytes": 1_u64 << 29});
        let mut nodes_json =
            json!([node("h1", true, free, None), node("h2", false, json!(null), Some(42_000))]);
        nodes_json[1]["over"] = json!("quic");
        let view = json!({"peer": "h1", "heard": 1, "known": 2, "silent": []});
        let list = json!({"items": nodes_json, "as_of": 0, "view": view});
        let text = nodes(&serde_json::from_value(list).expect("a listing")).print(None);
        let words: Vec<Vec<&str>> =
            text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        let id = "0a0a0a0a0a0a";
        let first =
            ["h1*", "ready", "0.5/4", "512MiB/1GiB", "1", "enforced", "now", "-", id, "0.1.0"];
        let second = ["h2", "ready", "-/4", "-/1GiB", "1", "none", "42s", "quic", id, "0.1.0"];
        assert_eq!(words, [first.to_vec(), second.to_vec()]);
    }
}
