//! `image`: what containers run from, in the whole cluster.
//!
//! Lists, where they are, and what they say; taking in is in `transfer`, giving out in `save`.

pub(super) mod ensure;
pub(super) mod gauge;
mod inspect;
mod remove;
pub(super) mod save;
pub(super) mod transfer;

use clap::{Args, Subcommand};
use gossip_core::moment::WallTime;
use gossip_core::resources::show_bytes;
use runtime::image::{Origin, Reference};

use crate::api::image_types::{ImageDetail, ImageList, ImagePlace, ImageView};
use crate::cli::client::{Client, segment};
use crate::cli::errors::Failed;
use crate::cli::output::{Format, Output};
use crate::cli::table::Table;
use crate::cli::times;
pub(crate) use remove::{PruneArgs, RmArgs};
pub(crate) use save::SaveArgs;
pub(crate) use transfer::{ImportArgs, LoadArgs, PullArgs, PushArgs};

/// What can be done with images.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List the images of the cluster
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  starling image ls\n  starling image ls nginx\n  \
        starling image ls --json | jq -r '.items[].names[]'"
    )]
    Ls(LsArgs),
    /// Take in an archive of `docker save`, an OCI layout, or a directory of one
    #[command(after_help = "Every node can run it then: those that need it fetch it.\n\n\
        Examples:\n  starling image load app.tar\n  docker save app | starling image load\n  \
        starling --peer bay image load ./oci-layout")]
    Load(LoadArgs),
    /// Pull an image from its registry
    #[command(after_help = "Examples:\n  starling image pull nginx:1.27\n  \
        starling image pull registry.local:5000/app")]
    Pull(PullArgs),
    /// Push an image to the registry that its name leads to
    #[command(after_help = "Examples:\n  starling image push registry.local:5000/app:2\n  \
        starling image tag app registry.local:5000/app:2")]
    Push(PushArgs),
    /// Write images as one archive, which `docker load` takes too
    #[command(after_help = "Examples:\n  starling image save -o app.tar app:2\n  \
        starling image save app:2 | ssh other-host docker load")]
    Save(SaveArgs),
    /// Make an image of an archive of plain files
    #[command(after_help = "Examples:\n  starling image import root.tar.gz base:1\n  \
        tar c -C root . | starling image import - base:1")]
    Import(ImportArgs),
    /// Give an image one more name
    #[command(after_help = "Examples:\n  starling image tag app app:stable\n  \
        starling image tag 3ab1f0 registry.local:5000/app:2")]
    Tag(TagArgs),
    /// Remove images, or names of theirs, on all nodes
    #[command(after_help = "Examples:\n  starling image rm app:1\n  \
        starling image rm -f 3ab1f0")]
    Rm(RmArgs),
    /// Show which nodes have an image
    #[command(after_help = "Examples:\n  starling image where app\n  \
        starling image where app --json | jq '.image.nodes[].name'")]
    Where(NamedArgs),
    /// Show what images say of themselves, as JSON like Docker's
    ///
    /// Prints an array of what `docker image inspect` would print. With --json it prints
    /// Starling's own document instead, one line for each image: its layers, its nodes, its
    /// whole config.
    #[command(after_help = "Examples:\n  starling image inspect app\n  \
        starling image inspect app | jq '.[0].Config.Env'\n  \
        starling image inspect --json app | jq '.image.nodes[].name'")]
    Inspect(InspectArgs),
    /// Look whether the images of a node are what they were when they came
    #[command(
        after_help = "All their files are read. What is damaged is not run any more, and replaced by the \
        next\nload, pull or fetch of its image.\n\nExamples:\n  starling image verify app:1\n  \
        starling --peer bay image verify"
    )]
    Verify(VerifyArgs),
    /// Remove images that nothing runs from and that have no name
    #[command(after_help = "Examples:\n  starling image prune\n  \
        starling image prune -a --unused 7d")]
    Prune(PruneArgs),
}

/// The flags of `image ls`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LsArgs {
    /// Only those with this in their names
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Docker's word for images without a name, which are listed anyway
    #[arg(short, long, hide = true)]
    all: bool,
}

/// One image.
#[derive(Args, Clone, Debug)]
pub(crate) struct NamedArgs {
    /// A name, an id, or the beginning of an id
    #[arg(value_name = "IMAGE")]
    name: String,
}

/// The words of `image verify`.
#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyArgs {
    /// A name, an id, or the beginning of an id; without it, all of the node
    #[arg(value_name = "IMAGE")]
    name: Option<String>,
}

/// Some images.
#[derive(Args, Clone, Debug)]
pub(crate) struct InspectArgs {
    /// Names, ids, or beginnings of ids
    #[arg(value_name = "IMAGE", required = true)]
    names: Vec<String>,
}

/// The words of `image tag`.
#[derive(Args, Clone, Debug)]
pub(crate) struct TagArgs {
    /// A name, an id, or the beginning of an id
    #[arg(value_name = "IMAGE")]
    name: String,
    /// One more name for it
    #[arg(value_name = "NAME")]
    to: String,
}

/// `starling image …`.
pub(crate) async fn run(
    command: ImageCommand,
    client: &mut Client,
    out: Output,
) -> Result<u8, Failed> {
    match command {
        ImageCommand::Ls(args) => ls(&args, client, out).await,
        ImageCommand::Load(args) => transfer::load(args, client, out).await,
        ImageCommand::Pull(args) => transfer::pull(args, client, out).await,
        ImageCommand::Push(args) => transfer::push(args, client, out).await,
        ImageCommand::Save(args) => save::save(args, client, out).await,
        ImageCommand::Import(args) => transfer::import(args, client, out).await,
        ImageCommand::Tag(args) => tag(&args, client, out).await,
        ImageCommand::Rm(args) => remove::rm(args, client, out).await,
        ImageCommand::Where(args) => places(&args.name, client, out).await,
        ImageCommand::Inspect(args) => inspect::run(&args.names, client, out).await,
        ImageCommand::Verify(args) => transfer::verify(args.name.as_deref(), client, out).await,
        ImageCommand::Prune(args) => remove::prune(&args, client, out).await,
    }
}

/// A name as one word of a query.
fn query(name: &str) -> String {
    segment(name)
}

async fn ls(args: &LsArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let answer = client.get("/v1/images").await?;
    let mut list: ImageList = answer.parse()?;
    if let Some(part) = &args.name {
        list.items.retain(|view| view.names.iter().any(|name| name.familiar().contains(part)));
    }
    if out.format == Format::Json {
        // Without a name as the agent said it, which may be newer than this program.
        match args.name {
            None => out.json(answer.bytes())?,
            Some(_) => out.json(&serde_json::to_vec(&list).unwrap_or_default())?,
        }
        return Ok(0);
    }
    if out.format == Format::Quiet {
        list.items.iter().try_for_each(|view| out.line(&view.id.short()))?;
    } else {
        out.table(&table(&list.items, list.as_of))?;
    }
    unheard(&list.unheard, out);
    Ok(0)
}

/// A line for each name, as people look for names.
fn table(items: &[ImageView], now: WallTime) -> Table {
    let mut table = Table::new(["NAME", "ID", "CAME", "SIZE", "NODES"]);
    for view in items {
        let nodes: Vec<_> = view.nodes.iter().map(|place| place.name.as_str()).collect();
        let names: Vec<_> = view.names.iter().map(Reference::familiar).collect();
        let names = if names.is_empty() { vec![String::new()] } else { names };
        for name in names {
            table.row([
                name,
                view.id.short(),
                times::age(now, WallTime(view.came_ms)),
                show_bytes(view.bytes),
                nodes.join(","),
            ]);
        }
    }
    table
}

/// Says whose images are not known.
fn unheard(unheard: &[(String, String)], out: Output) {
    for (node, why) in unheard {
        out.note(&format!("the images of {node} are not known: {why}"));
    }
}

async fn places(name: &str, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let answer = client.get(&format!("/v1/images/inspect?name={}", query(name))).await?;
    if out.format == Format::Json {
        out.json(answer.bytes())?;
        return Ok(0);
    }
    let detail: ImageDetail = answer.parse()?;
    let image = &detail.image;
    if out.format == Format::Quiet {
        image.nodes.iter().try_for_each(|place| out.line(&place.name))?;
        return Ok(0);
    }
    let mut table = Table::new(["NODE", "LAYERS", "SIZE", "STATE"]);
    for place in &image.nodes {
        let came = match place.origin {
            Origin::Asked => "loaded",
            Origin::Needed => "fetched",
        };
        table.row([
            place.name.clone(),
            image.layers.len().to_string(),
            show_bytes(image.bytes),
            state(came, place),
        ]);
    }
    out.table(&table)?;
    unheard(&detail.unheard, out);
    Ok(0)
}

/// How an image came to a place, and what is to be known of it there.
fn state(came: &str, place: &ImagePlace) -> String {
    let in_use = place.in_use.then_some("in use");
    let damaged = (!place.damaged.is_empty()).then_some("damaged");
    [Some(came), in_use, damaged].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

async fn tag(args: &TagArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let (name, to) = (query(&args.name), query(&args.to));
    let answer = client.post_empty(&format!("/v1/images/tag?name={name}&to={to}")).await?;
    match out.format {
        Format::Json => out.json(answer.bytes())?,
        Format::Human | Format::Quiet => {}
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_image_has_a_line_for_each_of_its_names() {
        let id = |c: &str| format!("sha256:{}", c.repeat(32));
        let place = |name: &str| {
            json!({"node": "0a".repeat(32), "name": name, "origin": "asked", "came_ms": 0,
                "in_use": false})
        };
        let image = |c: &str, names: serde_json::Value, nodes: &[&str]| {
            let nodes: Vec<_> = nodes.iter().map(|name| place(name)).collect();
            json!({"id": id(c), "names": names, "bytes": 3 << 20, "layers": [],
                "platform": "linux/amd64", "came_ms": 60_000, "nodes": nodes})
        };
        let items = json!([
            image("3a", json!(["docker.io/library/app:1", "h:5000/app:1"]), &["h1", "h2"]),
            image("3b", json!([]), &["h1"]),
        ]);
        let items: Vec<ImageView> = serde_json::from_value(items).expect("views");
        let text = table(&items, WallTime(90_000)).print(None);
        let lines: Vec<Vec<_>> =
            text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        let (a, b) = (&"3a".repeat(6), &"3b".repeat(6));
        assert_eq!(lines[0], ["app:1", a, "30s", "3MiB", "h1,h2"]);
        assert_eq!(lines[1], ["h:5000/app:1", a, "30s", "3MiB", "h1,h2"]);
        assert_eq!(lines[2], ["-", b, "30s", "3MiB", "h1"]);
    }
}
