//! `runtime plan`: what the isolator would do on this host for a `run`, step by step.
//!
//! The words are `run`'s, and the launch is made by the same code as the
//! agent's. Nothing is started or made. No agent is needed; where one runs, it is asked what
//! a job's image says, and else the plan is of what the job itself says.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use gossip_core::container::RootSpec;
use gossip_core::spec::{JobSpec, Program};
use runtime::image::ImageConfig;
use runtime::{Facts, Place, Plan, PlanFlaw, Problem, Root, plan};
use serde_json::json;

use crate::agent::words::{Fault, Reader};
use crate::agent::{Here, preview};
use crate::api::image_types::ImageDetail;
use crate::api::types::Complaint;
use crate::cli::client::{Client, segment};
use crate::cli::door::Door;
use crate::cli::errors::Failed;
use crate::cli::job::{JobArgs, Outside};
use crate::cli::job_name::made_up;
use crate::cli::output::{Format, Output};
use crate::cli::paths::Places;
use crate::cli::run::bounded_file;

/// The first of a container's ids in a plan; an agent takes a range that is free then,
/// of those from here on.
const IDS_FROM: u32 = 524_288;

/// What a plan calls this host.
const NODE: &str = "this-host";

/// What can be asked of this host's runtime.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum RuntimeCommand {
    /// Print what would be done here for a `run`, without doing it
    #[command(after_help = "Examples:\n  starling runtime plan --exec -- echo hello\n  \
        starling runtime plan --rootfs /srv/alpine --read-only -p 8080:80 -- httpd -f\n  \
        starling runtime plan --read-only -p 8080:80 nginx\n  \
        starling runtime plan --rootfs /srv/alpine --json -- sh | jq -r '.[].step'")]
    Plan(Box<PlanArgs>),
}

/// The words of `run`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    job: JobArgs,
}

/// `starling runtime plan`.
pub(crate) async fn run(args: PlanArgs, places: &Places, out: Output) -> Result<u8, Failed> {
    let spec = args.job.spec(&Outside {
        made_up: &made_up(0),
        variable: &|name| std::env::var(name).ok(),
        file: &bounded_file,
    })?;
    let here = Here::new(NODE.to_owned(), &places.data, true);
    let image = Image::of(&spec, places, out).await?;
    let config = image.as_ref().and_then(|image| image.config.as_ref());
    let launch = match preview(&spec, &here, config).await {
        Some(Ok(mut launch)) => {
            if let (Place::Container(container), Some(image)) = (&mut launch.place, &image) {
                container.root = Root::Layers(image.layers.clone());
            }
            launch
        }
        Some(Err(flaw)) => {
            let why = format!("{}: {}", flaw.word.flag, flaw.what);
            let hint = flaw.hint.as_deref().unwrap_or(flaw.word.hint);
            return Err(refused(why, hint).into());
        }
        None => return Err(refused("groups: there is no task", "starling run --help").into()),
    };
    let plan = plan(&launch, &Facts::probe(), IDS_FROM).map_err(|flaw| complain(&flaw))?;
    match out.format {
        Format::Json => out.json(document(&plan).to_string().as_bytes())?,
        Format::Human | Format::Quiet => {
            plan.to_string().lines().try_for_each(|line| out.line(line))?;
        }
    }
    Ok(0)
}

/// The image of a container, as far as it is known.
struct Image {
    config: Option<ImageConfig>,
    /// Where they lie once they are here, lowest first.
    layers: Vec<PathBuf>,
}

impl Image {
    /// Asks this host's agent, if there is one; none for a job that runs from no image.
    async fn of(spec: &JobSpec, places: &Places, out: Output) -> Result<Option<Self>, Failed> {
        let task = spec.groups.first().and_then(|group| group.tasks.first());
        let Some(Program::Container(container)) = task.map(|task| &task.run) else {
            return Ok(None);
        };
        let RootSpec::Image(image) = &container.root else { return Ok(None) };
        let mut client = Client::new(Door::Unix(places.socket_to_ask().to_owned()));
        let path = format!("/v1/images/inspect?name={}", segment(&image.name));
        match client.get(&path).await {
            Ok(answer) => Self::told(&answer.parse()?, &places.data).map(Some),
            Err(_no_agent_or_no_image) => {
                let name = &image.name;
                out.note(&format!(
                    "note: no agent here knows the image {name}: its own command, user and \
                     environment are left out, and all its layers stand as one"
                ));
                let layers = vec![PathBuf::from(format!("/layers of {name}"))];
                Ok(Some(Self { config: None, layers }))
            }
        }
    }

    fn told(detail: &ImageDetail, data: &Path) -> Result<Self, Failed> {
        let config = ImageConfig::parse(detail.config.to_string().as_bytes());
        let config = config.map_err(|error| refused(error, "starling image ls"))?;
        let stored = data.join("run/images/layers");
        let layers = detail.image.layers.iter();
        let layers = layers.map(|layer| stored.join(layer.diff_id.hex()).join("tree")).collect();
        Ok(Self { config: Some(config), layers })
    }
}

fn document(plan: &Plan) -> serde_json::Value {
    let step = |(number, step): (usize, &runtime::Step)| {
        let who = if step.is_supervisors() { "supervisor" } else { "task" };
        json!({ "number": number, "who": who, "step": step.to_string() })
    };
    (1..).zip(plan.steps()).map(step).collect()
}

fn refused(why: impl ToString, hint: &str) -> Complaint {
    Complaint::new("bad_spec", "this host cannot run that").because(why).hint(hint)
}

fn complain(flaw: &PlanFlaw) -> Complaint {
    let fault = Fault::of(flaw, None);
    match flaw.problem {
        Problem::Machine { .. } if !flaw.field.starts_with("container.network") => {
            let doctor = "starling doctor   what this host can do, and what helps";
            refused(fault.reason(Reader::Flags), doctor)
        }
        _ => Complaint {
            message: "this host cannot run that".to_owned(),
            ..fault.complaint("bad_spec", Reader::Flags)
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flaw_names_its_field_and_where_to_look() {
        let flaw = |problem| PlanFlaw { field: "container.ids".to_owned(), problem };
        let machine = complain(&flaw(Problem::Machine { lacks: "too old" }));
        assert_eq!(machine.why, ["--trust host-ids: this machine cannot do that: too old"]);
        assert!(machine.hint.expect("a hint").starts_with("starling doctor "));
        let empty = complain(&flaw(Problem::Empty));
        assert!(empty.hint.expect("a hint").contains("--trust-jobs"));
    }
}
