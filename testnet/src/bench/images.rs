//! What an image costs: to load it, to pull it, to run from it.
//!
//! In every round each contestant runs in turn, from nothing of the image to all of it, and a
//! figure is the median of the rounds. The floor of a load is what the machine itself takes
//! for the same bytes: the layers unpacked by tar, the archive summed, the disk synced.
//! Podman and a registry come from the distribution; so does Docker's engine, where it runs.

mod links;
mod peers;
mod sample;

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use self::peers::{Docker, Podman, Registry};
use self::sample::{NAME, Sample, run as run_it};
use super::cluster::{Cluster, HOSTS};
use super::figures::{self, Figure, Must};
use super::place::Place;
use super::{Measured, ROUNDS_MIN, percentile};

/// Runs from an image that is there, in a round.
const RUNS: u32 = 10;

/// Fewer of Docker's, which take a quarter of a second each.
const DOCKER_RUNS: u32 = 3;

/// The host that is loaded and pulled at. Host 0 offers too little to run anything.
const HOST: usize = 1;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) rounds: u32,
    pub(crate) install_peers: bool,
    /// The agent's binary.
    pub(crate) starling: PathBuf,
    /// Where packages are kept between runs.
    pub(crate) kept: PathBuf,
}

#[derive(Debug, Default)]
struct Samples {
    unpack: Vec<Duration>,
    load: Vec<Duration>,
    podman_load: Vec<Duration>,
    pull: Vec<Duration>,
    podman_pull: Vec<Duration>,
    run: Vec<Duration>,
    docker_run: Vec<Duration>,
}

/// The contestants.
struct Stage {
    sample: Sample,
    cluster: Cluster,
    podman: Option<Podman>,
    registry: Option<Registry>,
    docker: Option<Docker>,
    /// Goes last, when nobody has anything mounted there.
    place: Place,
}

/// Measures.
pub(crate) fn run(options: &Options) -> io::Result<Measured> {
    if options.install_peers {
        super::peers::install(&peers::PACKAGES)?;
    }
    let place = Place::make("images")?;
    let dir = place.path();
    eprintln!("making an image from packages");
    let sample = Sample::large(dir, &options.kept)?;
    let stage = Stage {
        sample,
        cluster: Cluster::start(&options.starling)?,
        podman: Podman::new(dir)?,
        registry: Registry::start(dir)?,
        docker: Docker::start(dir)?,
        place,
    };
    let rounds = options.rounds.max(ROUNDS_MIN);
    let mut samples = Samples::default();
    stage.fill_registry()?;
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        stage.load_round(&mut samples)?;
        stage.pull_round(&mut samples)?;
    }
    stage.run_rounds(rounds, &mut samples)?;
    let mut figures = stage.figures(samples);
    let Stage { sample, cluster, place, .. } = stage;
    drop(cluster);
    figures.extend(links::figures(options, place.path(), &sample)?);
    let megabytes = sample.bytes / 1_000_000;
    let setting = format!(
        "an image of {megabytes} MB in {} layers from Debian packages; {HOSTS} agents on loopback",
        sample.layers.len()
    );
    let text = format!("bench images: {setting} ({rounds} rounds)\n{}", figures::table(&figures));
    let holds = figures.iter().all(|figure| figure.holds() != Some(false));
    let json = figures::json("images", &setting, rounds, &figures);
    Ok(Measured { name: "images", text, json, holds })
}

impl Stage {
    /// From nothing of the image to all of it on the disk.
    fn load_round(&self, samples: &mut Samples) -> io::Result<()> {
        let archive = self.sample.archive.display().to_string();
        samples.unpack.push(self.floor()?);
        self.forget()?;
        settle()?;
        samples.load.push(self.ours(&["image", "load", &archive])?);
        if let Some(podman) = &self.podman {
            run_it(&mut podman.command(&["rmi", "--all", "--force"]))?;
            settle()?;
            samples.podman_load.push(timed(&mut podman.fetching(&["load", "-q", "-i", &archive]))?);
        }
        Ok(())
    }

    fn pull_round(&self, samples: &mut Samples) -> io::Result<()> {
        let Some(registry) = &self.registry else { return Ok(()) };
        let name = registry.name(NAME);
        self.forget()?;
        settle()?;
        samples.pull.push(self.ours(&["image", "pull", &name])?);
        if let Some(podman) = &self.podman {
            run_it(&mut podman.command(&["rmi", "--all", "--force"]))?;
            settle()?;
            let words = ["pull", "-q", "--tls-verify=false", &name];
            samples.podman_pull.push(timed(&mut podman.fetching(&words))?);
        }
        Ok(())
    }

    /// Runs from the image while it is there.
    fn run_rounds(&self, rounds: u32, samples: &mut Samples) -> io::Result<()> {
        let archive = self.sample.archive.display().to_string();
        self.forget()?;
        self.cluster.run(HOST, &["image", "load", &archive])?;
        let docker = self.docker.as_ref().filter(|docker| docker.broken.is_none());
        if let Some(docker) = docker {
            run_it(&mut docker.command(&["load", "-q", "-i", &archive]))?;
        }
        let ours = || {
            let words = ["-q", "run", "--network", "none", NAME, "true"];
            timed(&mut self.cluster.command(HOST, &words))
        };
        // Each other host fetches it once.
        for _ in 0..HOSTS * 2 {
            ours()?;
        }
        for _ in 0..rounds {
            for _ in 0..RUNS {
                samples.run.push(ours()?);
            }
            for _ in 0..docker.map_or(0, |_| DOCKER_RUNS) {
                let Some(docker) = docker else { break };
                let words = ["run", "--rm", "--network", "none", NAME, "true"];
                samples.docker_run.push(timed(&mut docker.command(&words))?);
            }
        }
        Ok(())
    }

    /// The layers unpacked, the archive summed, the disk synced: each by the machine's tools.
    fn floor(&self) -> io::Result<Duration> {
        let into = self.place.path().join("floor");
        fs::create_dir(&into)?;
        // As the store's own directory is, which costs whoever has just removed files less.
        runtime::move_apart(fs::File::open(&into)?.as_fd());
        settle()?;
        let began = Instant::now();
        for (at, layer) in self.sample.layers.iter().enumerate() {
            let tree = into.join(at.to_string());
            fs::create_dir(&tree)?;
            run_it(Command::new("tar").arg("-xf").arg(layer).arg("-C").arg(tree))?;
        }
        run_it(Command::new("sha256sum").arg(&self.sample.archive))?;
        settle()?;
        let took = began.elapsed();
        fs::remove_dir_all(&into)?;
        Ok(took)
    }

    fn ours(&self, words: &[&str]) -> io::Result<Duration> {
        timed(&mut self.cluster.command(HOST, words))
    }

    /// Removes the image everywhere in the cluster.
    fn forget(&self) -> io::Result<()> {
        self.cluster.run(HOST, &["image", "prune", "--all"]).map(drop)
    }

    /// Puts the image into the registry: by ours, which is then pulled by both.
    fn fill_registry(&self) -> io::Result<()> {
        let Some(registry) = &self.registry else { return Ok(()) };
        let archive = self.sample.archive.display().to_string();
        let name = registry.name(NAME);
        self.cluster.run(HOST, &["image", "load", &archive])?;
        self.cluster.run(HOST, &["image", "tag", NAME, &name])?;
        self.cluster.run(HOST, &["image", "push", &name]).map(drop)
    }

    fn figures(&self, mut samples: Samples) -> Vec<Figure> {
        let floor = median(&mut samples.unpack);
        let load = median(&mut samples.load);
        let run = median(&mut samples.run);
        let no_docker = match &self.docker {
            Some(Docker { broken: Some(why), .. }) => why.clone(),
            _ => "Docker's engine is not installed".to_owned(),
        };
        let docker = Figure::new("run IMAGE true, it is there", "ms", run)
            .against("docker run", median(&mut samples.docker_run));
        let docker = if samples.docker_run.is_empty() { docker.note(no_docker) } else { docker };
        vec![
            Figure::new("load from an archive", "ms", load)
                .against("tar x + sha256sum + sync", floor)
                .must(Must::RatioAtMost(1.3)),
            Figure::new("the same", "ms", load)
                .against("podman load", median(&mut samples.podman_load))
                .must(Must::RatioAtMost(1.0)),
            Figure::new("pull from a registry here", "ms", median(&mut samples.pull))
                .against("podman pull", median(&mut samples.podman_pull))
                .must(Must::RatioAtMost(1.0)),
            docker.with_p90(some(percentile(&mut samples.run, 90))).must(Must::RatioAtMost(0.1)),
        ]
    }
}

/// What others left to be written is written before anybody's time begins.
fn settle() -> io::Result<()> {
    run_it(&mut Command::new("sync"))
}

/// The whole of a command, from its start to its exit; what waited for the disk before it
/// does not count.
fn timed(command: &mut Command) -> io::Result<Duration> {
    let began = Instant::now();
    let done = command.stdin(Stdio::null()).output()?;
    let took = began.elapsed();
    if done.status.success() {
        return Ok(took);
    }
    let told = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("{command:?} ended with {}: {}", done.status, told.trim())))
}

fn median(samples: &mut [Duration]) -> Option<f64> {
    some(percentile(samples, 50))
}

fn some(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
}

/// Where packages are kept between runs.
pub(crate) fn kept(results: &Path) -> PathBuf {
    results.join("packages")
}
