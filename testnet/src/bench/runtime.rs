//! What a start costs: ours by the runtime's interface, against the machine itself
//! and against the programs that people use.
//!
//! In every round each contestant runs in turn, and a figure is the median of the
//! rounds' medians, so that what else the machine did in one of them weighs the
//! same on all. A peer that is not installed is said to be so, never guessed.

mod census;
mod ours;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use self::census::Census;
use self::ours::{Kind, Ours};
use super::figures::{self, Figure, Must};
use super::peers::{self, Peer, Spawner};
use super::place::Place;
use super::{Measured, ROUNDS_MIN};

/// Samples of one after the other, and of eight at once, in a round.
const EACH: [(Peer, u32, u32); 6] = [
    (Peer::Floor, 60, 0),
    (Peer::Spawned, 60, 0),
    (Peer::Bare, 30, 80),
    (Peer::Bubblewrap, 20, 0),
    (Peer::Crun, 12, 40),
    (Peer::Runc, 5, 0),
];
const OURS_EACH: u32 = 30;
const OURS_AT_ONCE: u32 = 160;
const AT_ONCE: u32 = 8;

/// Runs before the samples of a round, of every contestant: they warm up what the others'
/// runs had thrown out of the caches, and outlast what those left to be torn down.
const WARM_UP: u32 = 8;

/// How long an idle runtime is watched.
const IDLE: Duration = Duration::from_secs(5);

/// What starting a crowd may take, and stopping it.
const CROWD_SECONDS: f64 = 4.0;

/// How long what is being torn down may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) rounds: u32,
    /// No-op processes in all.
    pub(crate) tasks: u32,
    /// Containers that sleep at once.
    pub(crate) crowd: u32,
    pub(crate) install_peers: bool,
    /// What the keeper is; this program if none is given.
    pub(crate) keeper: Option<PathBuf>,
}

/// Samples of one contestant: a vector for each round.
type Rounds = Vec<Vec<f64>>;

#[derive(Debug, Default)]
struct Samples {
    each_ms: BTreeMap<Peer, Rounds>,
    rate: BTreeMap<Peer, Rounds>,
    xargs: Rounds,
    ours_each_ms: BTreeMap<&'static str, Rounds>,
    ours_rate: BTreeMap<&'static str, Rounds>,
    /// Why containers of ours could not be run.
    broken: Option<String>,
}

/// Measures.
pub(crate) fn run(options: &Options) -> io::Result<Measured> {
    if options.install_peers {
        peers::install(&peers::PACKAGES)?;
    }
    let place = Place::make("runtime")?;
    let keeper = options.keeper.clone().map_or_else(std::env::current_exe, Ok)?;
    let mut spawner = Spawner::start(place.path())?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let root = place.path().join("root");
    let dir = place.path().join("runtime");
    let before = Census::take(&dir, &root);
    let mut figures = tokio.block_on(async {
        let mut ours = Ours::open(place.path(), &root, &keeper).await?;
        let measured = measure(options, &mut spawner, &mut ours).await;
        ours.close().await;
        measured
    })?;
    figures.push(left(&dir, &root, &before));
    let rounds = options.rounds.max(ROUNDS_MIN);
    let setting = format!("static true, overlay root, {AT_ONCE} in flight where said");
    let text = format!("bench runtime: {setting} ({rounds} rounds)\n{}", figures::table(&figures));
    let holds = figures.iter().all(|figure| figure.holds() != Some(false));
    let json = figures::json("runtime", &setting, rounds, &figures);
    Ok(Measured { name: "runtime", text, json, holds })
}

async fn measure(
    options: &Options,
    spawner: &mut Spawner,
    ours: &mut Ours,
) -> io::Result<Vec<Figure>> {
    let mut samples = Samples::default();
    let rounds = options.rounds.max(ROUNDS_MIN);
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        peers_round(&mut samples, spawner)?;
        ours_round(&mut samples, ours).await?;
        let tasks = (options.tasks / rounds).max(1);
        samples.xargs.push(vec![rate(tasks, spawner.xargs(tasks)?.total_ns)]);
        let took = ours.many(Kind::Process, tasks, AT_ONCE).await?;
        samples.ours_rate.entry("processes").or_default().push(vec![rate(tasks, took)]);
    }
    let mut figures = starts(&samples);
    figures.extend(rates(&samples, options.tasks));
    let kinds = [(Kind::Process, "process"), (Kind::Container, "container")];
    for (kind, name) in kinds {
        let (kib, idle) = match &samples.broken {
            Some(why) if kind == Kind::Container => (Err(why.clone()), Err(why.clone())),
            _ => rest(ours, kind).await?,
        };
        figures.push(
            figure(&format!("supervisor of a {name}, private"), "KiB", kib)
                .must(Must::AtMost(100.0)),
        );
        let what = format!("keeper and 8 {name} supervisors, idle, work in 5 s");
        figures.push(figure(&what, "us", idle).must(Must::AtMost(0.0)));
    }
    figures.extend(crowd(options.crowd, ours, samples.broken).await?);
    Ok(figures)
}

fn peers_round(samples: &mut Samples, spawner: &mut Spawner) -> io::Result<()> {
    for (peer, one_by_one, at_once) in EACH {
        if !peer.is_installed() {
            continue;
        }
        spawner.run(peer, WARM_UP, 1)?;
        let each = spawner.run(peer, one_by_one, 1)?.each_ns;
        samples.each_ms.entry(peer).or_default().push(milliseconds(&each));
        if at_once > 0 {
            let took = spawner.run(peer, at_once, AT_ONCE)?.total_ns;
            samples.rate.entry(peer).or_default().push(vec![rate(at_once, took)]);
        }
    }
    Ok(())
}

async fn ours_round(samples: &mut Samples, ours: &mut Ours) -> io::Result<()> {
    for (kind, name) in [(Kind::Process, "process"), (Kind::Container, "container")] {
        if kind == Kind::Container && samples.broken.is_some() {
            continue;
        }
        if let Err(error) = ours.each(kind, WARM_UP).await {
            if kind == Kind::Process {
                return Err(error);
            }
            samples.broken = Some(error.to_string());
            continue;
        }
        let each = ours.each(kind, OURS_EACH).await?;
        samples.ours_each_ms.entry(name).or_default().push(milliseconds(&each));
        if kind == Kind::Container {
            let took = ours.many(kind, OURS_AT_ONCE, AT_ONCE).await?;
            let made = vec![rate(OURS_AT_ONCE, took)];
            samples.ours_rate.entry(name).or_default().push(made);
        }
    }
    Ok(())
}

fn starts(samples: &Samples) -> Vec<Figure> {
    let median_of = |peer: Peer| samples.each_ms.get(&peer).and_then(|it| median(it));
    let mut figures: Vec<_> = Peer::ALL
        .iter()
        .map(|peer| {
            let p90 = samples.each_ms.get(peer).and_then(|it| p90(it));
            let figure = Figure::new(peer.name(), "ms", median_of(*peer)).with_p90(p90);
            if peer.is_installed() { figure } else { figure.note("not installed") }
        })
        .collect();
    let ours = |name: &str| {
        let rounds = samples.ours_each_ms.get(name);
        let value = rounds.and_then(|it| median(it));
        let figure = Figure::new(format!("ours: {name}, start to end"), "ms", value);
        let figure = figure.with_p90(rounds.and_then(|it| p90(it)));
        figure.note(samples.broken.clone().filter(|_| value.is_none()).unwrap_or_default())
    };
    let held =
        |name: &str, peer: Peer, must| ours(name).against(peer.name(), median_of(peer)).must(must);
    figures.push(held("process", Peer::Floor, Must::RatioAtMost(1.25)));
    figures.push(held("container", Peer::Crun, Must::RatioAtMost(0.30)));
    figures.push(held("container", Peer::Runc, Must::RatioAtMost(0.10)));
    figures.push(held("container", Peer::Bare, Must::RatioAtMost(1.0)));
    figures.push(held("container", Peer::Bubblewrap, Must::RatioAtMost(1.0)));
    figures
}

fn rates(samples: &Samples, tasks: u32) -> Vec<Figure> {
    let peer = |peer: Peer| samples.rate.get(&peer).and_then(|it| median(it));
    let ours = |name: &str| samples.ours_rate.get(name).and_then(|it| median(it));
    let xargs = median(&samples.xargs);
    let broken = samples.broken.clone().unwrap_or_default();
    vec![
        Figure::new("bare clone3 program, 8 at once", "per s", peer(Peer::Bare)),
        Figure::new("crun, 8 at once", "per s", peer(Peer::Crun)),
        Figure::new("ours: containers, 8 at once", "per s", ours("container"))
            .note(broken)
            .against("crun", peer(Peer::Crun))
            .must(Must::RatioAtLeast(3.5)),
        Figure::new("xargs -P8", "per s", xargs),
        Figure::new(format!("ours: {tasks} processes, 8 at once"), "per s", ours("processes"))
            .against("xargs -P8", xargs)
            .must(Must::RatioAtLeast(0.9)),
    ]
}

type Outcome = Result<f64, String>;

/// Memory of the largest supervisor in KiB, and work of all in microseconds.
async fn rest(ours: &mut Ours, kind: Kind) -> io::Result<(Outcome, Outcome)> {
    let ids = ours.crowd(kind, AT_ONCE, AT_ONCE).await?;
    sleep(Duration::from_millis(300));
    let all = census::keepers(ours.dir());
    let mut kib = 0;
    for pid in census::supervisors(ours.dir()) {
        kib = kib.max(census::private_kib(pid)?);
    }
    let began = census::work_ns(&all);
    sleep(IDLE);
    let work_ns = census::work_ns(&all).saturating_sub(began);
    ours.disperse(&ids).await?;
    for id in &ids {
        ours.remove(id).await?;
    }
    Ok((Ok(kib as f64), Ok(work_ns as f64 / 1000.0)))
}

async fn crowd(count: u32, ours: &mut Ours, broken: Option<String>) -> io::Result<Vec<Figure>> {
    let start = format!("{count} sleeping containers: start");
    let stop = format!("{count} sleeping containers: stop");
    let must = Must::Below(CROWD_SECONDS);
    if let Some(why) = broken {
        let none = |what: &str| figure(what, "s", Err(why.clone())).must(must);
        return Ok(vec![none(&start), none(&stop)]);
    }
    let began = Instant::now();
    let ids = ours.crowd(Kind::Container, count, 2 * AT_ONCE).await?;
    let started = began.elapsed().as_secs_f64();
    let began = Instant::now();
    ours.disperse(&ids).await?;
    let stopped = began.elapsed().as_secs_f64();
    for id in &ids {
        ours.remove(id).await?;
    }
    Ok(vec![
        figure(&start, "s", Ok(started)).must(must),
        figure(&stop, "s", Ok(stopped)).must(must),
    ])
}

/// What of all this is there when the runtime is closed and its keeper told to leave.
fn left(dir: &Path, root: &Path, before: &Census) -> Figure {
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let (count, words) = Census::take(dir, root).beyond(before);
        if count == 0 || Instant::now() > until {
            let left = figure("left behind by all of it", "things", Ok(count as f64));
            return left.must(Must::AtMost(0.0)).note(words);
        }
        sleep(Duration::from_millis(50));
    }
}

fn figure(what: &str, unit: &'static str, value: Outcome) -> Figure {
    match value {
        Ok(value) => Figure::new(format!("ours: {what}"), unit, Some(value)),
        Err(why) => Figure::new(format!("ours: {what}"), unit, None).note(why),
    }
}

fn milliseconds(each_ns: &[u64]) -> Vec<f64> {
    each_ns.iter().map(|ns| *ns as f64 / 1e6).collect()
}

fn rate(count: u32, took_ns: u64) -> f64 {
    f64::from(count) * 1e9 / took_ns as f64
}

fn at(mut values: Vec<f64>, percent: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) * percent / 100).copied()
}

/// The median of the rounds' medians.
fn median(rounds: &[Vec<f64>]) -> Option<f64> {
    at(rounds.iter().filter_map(|round| at(round.clone(), 50)).collect(), 50)
}

fn p90(rounds: &[Vec<f64>]) -> Option<f64> {
    at(rounds.concat(), 90)
}
