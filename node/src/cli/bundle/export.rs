//! `bundle export`: asks for jobs and their images, and writes what it is told.
//!
//! All is known before a byte is written: what lacks is named, and the file is not begun. It
//! gets its name when it is whole and on the disk.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Args;
use gossip_core::id::ContentHash;
use gossip_core::resources::show_bytes;
use runtime::image::{Digest, Reference};
use starling_core::view::{JobState, JobView, Listing};

use super::entry::{self, END};
use super::head::{self, BundledImage, BundledJob, Head, images, images_mut};
use super::{counted, left_behind};
use crate::agent::wall_now;
use crate::api::image_types::{ImageDetail, ImageView};
use crate::api::types::{Complaint, JobDetail, Status};
use crate::cli::client::{Client, segment};
use crate::cli::errors::Failed;
use crate::cli::image::gauge::Gauge;
use crate::cli::image::save::Target;
use crate::cli::output::{Format, Output};
use crate::cli::run::job_path;

/// The flags of `bundle export`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExportArgs {
    /// Write it here; - is standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// All jobs that are wanted now
    #[arg(long, conflicts_with = "jobs")]
    all: bool,
    /// An image that no job of it needs, too
    #[arg(long, value_name = "IMAGE")]
    image: Vec<String>,
    /// Names, ids, or beginnings of ids
    #[arg(value_name = "JOB", required_unless_present_any = ["all", "image"])]
    jobs: Vec<String>,
}

/// `starling bundle export`.
pub(super) async fn run(args: ExportArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let path = (args.output != Path::new("-")).then_some(args.output);
    check_output(path.as_deref(), out)?;
    let status: Status = client.get("/v1/status").await?.parse()?;
    let mut found = Found::default();
    let names = if args.all { live(client).await? } else { args.jobs };
    let jobs = jobs(&names, client, &mut found).await?;
    for name in &args.image {
        found.named(name, None, client).await?;
    }
    let (images, queries) = found.all()?;
    let head = Head::new(wall_now(), status.cluster, jobs, images);
    head.check().map_err(|bad| cannot().because(bad))?;
    let text = serde_json::to_vec(&head).map_err(|error| cannot().because(error))?;
    if text.len() > head::BYTES_MAX {
        let most = show_bytes(u64::try_from(head::BYTES_MAX).unwrap_or(u64::MAX));
        return Err(cannot()
            .because(format!("what it says of its jobs takes more than {most}"))
            .hint("export them in several bundles")
            .into());
    }
    let bytes =
        write(&entry::written(head::NAME, &text), &queries, path.clone(), client, out).await?;
    tell(&head, path.as_deref(), &text, bytes, out)
}

fn cannot() -> Complaint {
    Complaint::new("bundle", "this cannot be a bundle")
}

fn check_output(path: Option<&Path>, out: Output) -> Result<(), Complaint> {
    if path.is_some() {
        return Ok(());
    }
    if io::stdout().is_terminal() {
        return Err(Complaint::new("usage", "a bundle is not for a terminal")
            .hint("starling bundle export -o FILE JOB   or > FILE, or | something"));
    }
    if out.format == Format::Json {
        return Err(Complaint::new("usage", "standard output cannot be a bundle and JSON")
            .hint("write the bundle with -o FILE, or leave out --json"));
    }
    Ok(())
}

/// The ids of all jobs that are wanted and not over.
async fn live(client: &mut Client) -> Result<Vec<String>, Failed> {
    let listing: Listing<JobView> = client.get("/v1/jobs").await?.parse()?;
    let live = |view: &&JobView| matches!(view.state, JobState::Pending | JobState::Running);
    let ids: Vec<_> = listing.items.iter().filter(live).map(|view| view.id.to_string()).collect();
    if ids.is_empty() {
        return Err(Complaint::new("no_such_job", "there is no job to export")
            .because("none is wanted now")
            .hint("starling bundle export -o FILE JOB   takes one that is over, too")
            .into());
    }
    Ok(ids)
}

/// The jobs, each once, with their images found and pinned.
async fn jobs(
    names: &[String],
    client: &mut Client,
    found: &mut Found,
) -> Result<Vec<BundledJob>, Failed> {
    let mut jobs: Vec<BundledJob> = Vec::new();
    for name in names {
        let detail: JobDetail = client.get(&job_path(name)).await?.parse()?;
        let id = detail.view.id;
        if jobs.iter().any(|job| job.id == id) {
            continue;
        }
        let Some(spec) = detail.spec else {
            return Err(Complaint::new("bundle", format!("what {name} is is not known here yet"))
                .hint("ask another member with --peer, or again in a moment")
                .into());
        };
        let mut job = BundledJob::of(id, spec);
        for image in images_mut(&mut job.spec) {
            let pinned = head::digest(image);
            let digest = found.named(&image.name, pinned, client).await?;
            // One that was submitted before images were pinned means what its name means now.
            image.id = digest.map(|id| ContentHash::new(*id.as_bytes()));
        }
        jobs.push(job);
    }
    for job in &jobs {
        found.needed_by(&job.spec.name, images(&job.spec).map(|image| image.name.as_str()));
    }
    Ok(jobs)
}

/// Images that were asked for.
#[derive(Default)]
struct Found {
    images: BTreeMap<Digest, BundledImage>,
    /// What to ask for so that they have their names in the archive.
    queries: Vec<String>,
    /// Names of those that nobody has, and who needs them.
    missing: BTreeMap<String, Vec<String>>,
}

impl Found {
    /// Finds an image: that of the id, where one is given, whatever the name means now.
    async fn named(
        &mut self,
        name: &str,
        pinned: Option<Digest>,
        client: &mut Client,
    ) -> Result<Option<Digest>, Failed> {
        let by_name = look(name, client).await?;
        let view = match pinned {
            Some(id) if by_name.as_ref().is_none_or(|view| view.id != id) => {
                look(&id.to_string(), client).await?
            }
            _ => by_name.clone(),
        };
        let Some(view) = view else {
            self.missing.entry(name.to_owned()).or_default();
            return Ok(pinned);
        };
        let means_it = by_name.is_some_and(|by_name| by_name.id == view.id);
        let reference: Option<Reference> = name.parse().ok();
        let reference = reference.filter(|name| means_it && name.digest().is_none());
        let (id, bytes) = (view.id, view.bytes);
        let image = self.images.entry(id).or_insert(BundledImage { id, names: Vec::new(), bytes });
        let names = reference.filter(|name| view.names.contains(name));
        self.queries.push(if names.is_some() { name.to_owned() } else { id.to_string() });
        image.names.extend(names);
        image.names.sort();
        image.names.dedup();
        Ok(Some(id))
    }

    fn needed_by<'a>(&mut self, job: &str, names: impl Iterator<Item = &'a str>) {
        for name in names {
            if let Some(jobs) = self.missing.get_mut(name) {
                jobs.push(job.to_owned());
            }
        }
    }

    fn all(mut self) -> Result<(Vec<BundledImage>, Vec<String>), Complaint> {
        if self.missing.is_empty() {
            self.queries.sort();
            self.queries.dedup();
            return Ok((self.images.into_values().collect(), self.queries));
        }
        let mut complaint =
            Complaint::new("no_such_image", "nobody has all images that the bundle needs");
        for (image, jobs) in self.missing {
            complaint = complaint.because(match jobs.as_slice() {
                [] => format!("{image} is nowhere"),
                jobs => format!("{image}, which {} runs from, is nowhere", jobs.join(", ")),
            });
        }
        Err(complaint.hint("starling image pull NAME, starling image load FILE   bring one here"))
    }
}

async fn look(text: &str, client: &mut Client) -> Result<Option<ImageView>, Failed> {
    match client.get(&format!("/v1/images/inspect?name={}", segment(text))).await {
        Ok(answer) => Ok(Some(answer.parse::<ImageDetail>()?.image)),
        Err(failed) if failed.code() == Some("no_such_image") => Ok(None),
        Err(failed) => Err(failed),
    }
}

/// Writes the head, and behind it the images as they come. Answers how much that is.
async fn write(
    begin: &[u8],
    queries: &[String],
    path: Option<PathBuf>,
    client: &mut Client,
    out: Output,
) -> Result<u64, Failed> {
    let names: Vec<_> = queries.iter().map(|name| format!("name={}", segment(name))).collect();
    let mut images = match names.is_empty() {
        true => None,
        false => Some(client.download(&format!("/v1/images/save?{}", names.join("&"))).await?),
    };
    let mut gauge = Gauge::new(out);
    let mut target = Target::open(path)?;
    target.write(begin)?;
    let mut written = length(begin);
    match &mut images {
        None => {
            target.write(&END)?;
            written += length(&END);
        }
        Some(images) => {
            while let Some(piece) = images.next().await? {
                target.write(&piece)?;
                written += length(&piece);
                gauge.show(Some((written, None)));
            }
        }
    }
    target.finish()?;
    Ok(written)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Says what is in it, on stderr where the bundle itself is on stdout.
fn tell(
    head: &Head,
    path: Option<&Path>,
    text: &[u8],
    bytes: u64,
    out: Output,
) -> Result<u8, Failed> {
    let Some(path) = path else {
        left_behind(&head.jobs, out);
        return Ok(0);
    };
    let shown = path.display().to_string();
    match out.format {
        Format::Json => {
            let head: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
            let told = serde_json::json!({"file": shown, "bytes": bytes, "bundle": head});
            out.json(told.to_string().as_bytes())?;
        }
        Format::Quiet => out.line(&shown)?,
        Format::Human => {
            let (jobs, images) =
                (counted(head.jobs.len(), "job"), counted(head.images.len(), "image"));
            out.line(&format!("wrote {jobs} and {images} to {shown}, {}", show_bytes(bytes)))?;
            left_behind(&head.jobs, out);
        }
    }
    Ok(0)
}
