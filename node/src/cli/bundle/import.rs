//! `bundle import`: loads a bundle's images, then submits its jobs.
//!
//! What can be known to be wrong is refused before anything is sent; of a file that turns out
//! broken while it is sent nothing stays and nothing starts. Each job is submitted with a key
//! that follows from what it is, so that importing again, after whatever went wrong, brings
//! what lacks and nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read as _};
use std::path::PathBuf;

use clap::Args;
use gossip_core::id::{ClusterId, JobId};
use gossip_core::spec::JobSpec;
use runtime::image::ImageInfo;
use serde::Serialize;
use starling_core::view::{JobState, JobView, Listing};

use super::entry::END;
use super::head::{BundledImage, BundledJob, renaming};
use super::{Bundle, bad_bundle, jobs, left_behind, shown, summary};
use crate::agent::vet;
use crate::agent::words::{Fault, Reader};
use crate::api::types::{Accepted, Complaint, JobDetail, Submission};
use crate::cli::client::{Client, Patience, segment};
use crate::cli::errors::{Failed, without_number};
use crate::cli::image::transfer::{copy, upload};
use crate::cli::output::{Format, Output};
use crate::cli::run::{job_path, warn_if_alone};
use crate::cli::stop::first;

/// The flags of `bundle import`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ImportArgs {
    /// A bundle; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only these of its jobs
    #[arg(long, value_name = "JOB")]
    only: Vec<String>,
    /// Call a job otherwise here
    #[arg(long, value_name = "OLD=NEW", value_parser = renaming)]
    rename: Vec<(String, String)>,
    /// Load its images and submit nothing
    #[arg(long, conflicts_with_all = ["only", "rename", "again"])]
    images_only: bool,
    /// Start what was imported before, and is over or stopped, once more
    #[arg(long)]
    again: bool,
}

/// `starling bundle import`.
pub(super) async fn run(args: ImportArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let bundle = Bundle::open(&args.file)?;
    let chosen = if args.images_only { Vec::new() } else { chosen(&args, &bundle)? };
    let known = Known::ask(&chosen, client).await?;
    known.check()?;
    if out.format == Format::Human {
        out.note(&summary(&bundle.head));
        if !chosen.is_empty() {
            jobs(&chosen).print(None).lines().for_each(|line| out.note(line));
        }
    }
    left_behind(&chosen, out);
    let cluster = bundle.head.cluster;
    let images = load(bundle, &shown(&args.file), client, out).await?;
    let mut told = Told { images, jobs: Vec::new() };
    let mut exit = 0;
    for job in chosen {
        let name = job.spec.name.clone();
        match submit(job, &cluster, args.again, &known, client).await {
            Ok(submitted) => {
                if out.format != Format::Json {
                    out.line(&submitted.state.sentence(&name, out.format))?;
                }
                if let Some(accepted) = &submitted.accepted {
                    exit = first(exit, warn_if_alone(accepted, out));
                }
                told.jobs.push(submitted);
            }
            Err(failed) if failed.code() == Some("unreachable") => return Err(failed),
            Err(failed) => exit = first(exit, failed.report(out.format.failures())),
        }
    }
    if out.format == Format::Json {
        let text = serde_json::to_vec(&told).map_err(|error| {
            Failed::from(Complaint::new("output", "the answer cannot be written").because(error))
        })?;
        out.json(&text)?;
    }
    Ok(exit)
}

/// The jobs that are to be submitted, as they are to be called here.
fn chosen(args: &ImportArgs, bundle: &Bundle) -> Result<Vec<BundledJob>, Failed> {
    let renamed: BTreeMap<_, _> = args.rename.iter().cloned().collect();
    let jobs = bundle.head.chosen(&args.only, &renamed).map_err(|odd| {
        let has: Vec<_> = bundle.head.jobs.iter().map(|job| job.spec.name.as_str()).collect();
        let has = if has.is_empty() { "no jobs".to_owned() } else { has.join(", ") };
        Complaint::new("no_such_job", format!("the bundle has no job {}", odd.join(", ")))
            .because(format!("it has {has}"))
    })?;
    let mut names = BTreeSet::new();
    for BundledJob { spec, .. } in &jobs {
        if !names.insert(spec.name.as_str()) {
            let what = format!("two jobs of the bundle would be called {}", spec.name);
            return Err(Complaint::new("usage", what)
                .hint("--rename OLD=NEW   to a free name")
                .into());
        }
        let refused = |fault: Fault| {
            let because = fault.complaint("bad_job", Reader::Fields).because(&spec.name);
            bad_bundle(&shown(&args.file)).because(because.why.join(": "))
        };
        vet(spec).map_err(refused)?;
    }
    Ok(jobs)
}

/// What is in the cluster before.
struct Known {
    ids: BTreeSet<JobId>,
    /// Live jobs that are what the bundle would start, by name.
    same: BTreeMap<String, JobId>,
    /// Live jobs that are something else, by the names that the bundle wants.
    taken: BTreeMap<String, JobId>,
}

impl Known {
    async fn ask(jobs: &[BundledJob], client: &mut Client) -> Result<Self, Failed> {
        let listing: Listing<JobView> = client.get("/v1/jobs?all=true").await?.parse()?;
        let (mut same, mut taken) = (BTreeMap::new(), BTreeMap::new());
        for BundledJob { spec, .. } in jobs {
            let namesake = |view: &&JobView| {
                let live = matches!(view.state, JobState::Pending | JobState::Running);
                live && view.name == spec.name && view.namespace == spec.namespace
            };
            for view in listing.items.iter().filter(namesake) {
                let jobs = match is_same(spec, &view.id, client).await? {
                    Some(true) => &mut same,
                    Some(false) => &mut taken,
                    None => continue,
                };
                jobs.insert(spec.name.clone(), view.id);
            }
        }
        Ok(Self { ids: listing.items.iter().map(|view| view.id).collect(), same, taken })
    }

    fn check(&self) -> Result<(), Complaint> {
        let Some((first, _)) = self.taken.first_key_value() else { return Ok(()) };
        let mut complaint = Complaint::new("name_taken", "nothing was imported");
        for (name, id) in &self.taken {
            complaint =
                complaint.because(format!("another live job is called {name}: {}", id.short()));
        }
        Err(complaint.hint(format!(
            "--rename {first}={first}-2   calls it otherwise here\n--only JOB   leaves others out"
        )))
    }
}

/// Whether a job here is what the bundle would start; none if it went meanwhile.
async fn is_same(spec: &JobSpec, id: &JobId, client: &mut Client) -> Result<Option<bool>, Failed> {
    let answer = match client.get(&job_path(&id.to_string())).await {
        Ok(answer) => answer,
        Err(failed) if failed.code() == Some("no_such_job") => return Ok(None),
        Err(failed) => return Err(failed),
    };
    let there = answer.parse::<JobDetail>()?.spec;
    Ok(Some(there.is_some_and(|there| JobSpec { owner: String::new(), ..there } == *spec)))
}

/// Sends the whole file, where it has images. Answers those.
async fn load(
    bundle: Bundle,
    shown: &str,
    client: &mut Client,
    out: Output,
) -> Result<Vec<ImageInfo>, Failed> {
    let Bundle { head, begin: (begin, _), mut rest } = bundle;
    if head.images.is_empty() {
        let mut end = Vec::new();
        let read = (&mut rest).take(END.len() as u64).read_to_end(&mut end);
        read.map_err(|error| bad_bundle(shown).because(without_number(&error)))?;
        if end != END {
            let why = "it says that it has no images, and its archive goes on or is cut off";
            return Err(bad_bundle(shown).because(why).into());
        }
        return Ok(Vec::new());
    }
    let of = rest.size();
    let send = |to: &mut _| copy(Cursor::new(begin).chain(rest), to);
    let done = upload("/v1/images/load", of, send, client, out).await?;
    for image in &head.images {
        let Some(loaded) = done.images.iter().find(|loaded| loaded.id == image.id) else {
            let why = format!("it lacks the image {}, which it says it has", image.id.short());
            return Err(bad_bundle(shown).because(why).into());
        };
        name(image, loaded, client, out).await?;
    }
    Ok(done.images)
}

/// Gives an image the names that its archive does not say.
async fn name(
    image: &BundledImage,
    loaded: &ImageInfo,
    client: &mut Client,
    out: Output,
) -> Result<(), Failed> {
    for name in image.names.iter().filter(|name| !loaded.names.contains(name)) {
        let (id, to) = (segment(&image.id.to_string()), segment(&name.to_string()));
        match client.post_empty(&format!("/v1/images/tag?name={id}&to={to}")).await {
            Ok(_) => {}
            Err(failed) if failed.code() == Some("unreachable") => return Err(failed),
            // No job needs it: they mean the id.
            Err(_) => out.warn(&format!(
                "warning: the image {} is not called {}",
                image.id.short(),
                name.familiar()
            )),
        }
    }
    Ok(())
}

async fn submit(
    job: BundledJob,
    cluster: &ClusterId,
    again: bool,
    known: &Known,
    client: &mut Client,
) -> Result<Submitted, Failed> {
    let name = job.spec.name.clone();
    if let Some(job) = known.same.get(&name) {
        return Ok(Submitted { name, job: *job, state: State::There, accepted: None });
    }
    let done = |accepted: Accepted, state| Submitted {
        name: accepted.name.clone(),
        job: accepted.job,
        state,
        accepted: Some(accepted),
    };
    let unwritten =
        |error| Failed::from(Complaint::new("bad_request", "this cannot be asked").because(error));
    let key = job.key(cluster).map_err(unwritten)?;
    let mut submission = Submission { spec: job.spec, key };
    let first = post(&submission, client).await;
    let is_over = match &first {
        Ok(accepted) if known.ids.contains(&accepted.job) => {
            let view: JobDetail =
                client.get(&job_path(&accepted.job.to_string())).await?.parse()?;
            !matches!(view.view.state, JobState::Pending | JobState::Running)
        }
        Ok(accepted) => return Ok(done(accepted.clone(), State::Started)),
        Err(failed) => failed.code() == Some("stopped_before"),
    };
    if is_over && again {
        submission.key = format!("{}-{:032x}", submission.key, rand::random::<u128>());
        return Ok(done(post(&submission, client).await?, State::Started));
    }
    match first {
        Ok(accepted) if is_over => Ok(done(accepted, State::Over)),
        Ok(accepted) => Ok(done(accepted, State::There)),
        Err(_) if is_over => {
            Err(Complaint::new("stopped_before", format!("{name} is not started"))
                .because("it was imported before, and stopped since")
                .hint("--again   starts it once more")
                .into())
        }
        Err(failed) => Err(failed),
    }
}

async fn post(submission: &Submission, client: &mut Client) -> Result<Accepted, Failed> {
    client.post("/v1/jobs", submission, Patience::Ordinary).await?.parse()
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// It was submitted.
    Started,
    /// It is here already, and wanted.
    There,
    /// It was imported before, and is over.
    Over,
}

impl State {
    fn sentence(self, name: &str, format: Format) -> String {
        match self {
            _ if format == Format::Quiet => name.to_owned(),
            Self::Started => format!("submitted {name}"),
            Self::There => format!("{name} is here already"),
            Self::Over => {
                format!("{name} was imported before, and is over; --again starts it anew")
            }
        }
    }
}

/// The answer as JSON.
#[derive(Serialize)]
struct Told {
    images: Vec<ImageInfo>,
    jobs: Vec<Submitted>,
}

#[derive(Serialize)]
struct Submitted {
    name: String,
    job: JobId,
    state: State,
    /// How safe that is; nothing was asked for where it was here already.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<Accepted>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_job_is_one_line() {
        for state in [State::Started, State::There, State::Over] {
            let line = state.sentence("web", Format::Human);
            assert!(line.contains("web") && !line.contains('\n'), "{line}");
            assert_eq!(state.sentence("web", Format::Quiet), "web");
        }
    }
}
