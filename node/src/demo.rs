//! `starling demo`: a cluster of three agents on this machine, and what it survives.
//!
//!     up, join ─▶ a service and pi ─▶ SIGKILL a host ─▶ healed ─▶ the host returns
//!              ─▶ pause an agent: two copies ─▶ go on: one copy ─▶ pi
//!
//! Everything goes through the public doors: `up`, `invite`, `join` as a user
//! types them, and the HTTP API. What runs is counted in the process table,
//! not in what an agent says of itself. The exit status says whether all of it
//! held; whatever happens, nothing is left behind.

mod pi;
mod process;
mod stage;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gossip_core::resources::{Resources, show_bytes, show_cpu};
use starling_core::view::JobState;

use crate::api::types::Complaint;
use crate::cli::errors::Failed;
use stage::Stage;
use watch::Narrator;

pub(crate) use pi::slice as pi_slice;

/// Copies of the service.
const COPIES: u32 = 3;

/// Tasks of the array, each about a second of CPU.
const SLICES: u32 = 30;

/// A heal that takes longer than this has failed (the figure is 10 s).
const HEAL_MAX: Duration = Duration::from_secs(10);

/// Every other step of the demo ends within this or has failed.
const STEP_MAX: Duration = Duration::from_secs(30);

/// An agent is paused for this long after its copies were replaced.
const PAUSED_AFTER: Duration = Duration::from_millis(500);

/// The most memory that each agent of the demo offers.
const MEMORY_MAX: u64 = 1 << 30;

/// Runs the whole demo.
pub(crate) async fn run() -> Result<(), Failed> {
    let began = Instant::now();
    let mut stage = Stage::build()?;
    let told = tokio::select! {
        told = play(&mut stage, began) => told,
        _ = tokio::signal::ctrl_c() => {
            Err(Complaint::new("interrupted", "the demo was interrupted").into())
        }
    };
    say(began, "cleaning up");
    let clean = stage.strike().await;
    told.and(clean)?;
    say(began, &format!("all of it held, in {:.0} s", began.elapsed().as_secs_f64()));
    Ok(())
}

fn say(began: Instant, text: &str) {
    println!("{:6.1}s  {text}", began.elapsed().as_secs_f64());
}

fn failed(message: impl Into<String>) -> Failed {
    let complaint = Complaint::new("demo", message.into());
    complaint.hint("run it again; if it fails twice, report it with what it printed").into()
}

/// An equal part of this machine for each of three hosts.
fn capacity() -> Resources {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    Resources { cpu_milli: cores * 1000 / 3, memory_bytes: MEMORY_MAX }
}

async fn play(stage: &mut Stage, began: Instant) -> Result<(), Failed> {
    let each = capacity();
    say(
        began,
        &format!(
            "three hosts on this machine, each offering {} CPU and {}",
            show_cpu(each.cpu_milli),
            show_bytes(each.memory_bytes),
        ),
    );
    found(stage, each, began).await?;
    let narrator = Narrator::start(stage.door(0), began);
    let service = submit_service(stage, each, began).await?;
    let pi = submit_pi(stage, each, began).await?;
    let mut slices = pi::Sum::follow(stage.door(0), &pi);
    let killed = kill_one(stage, &mut slices, began).await?;
    finish_pi(stage, &pi, &mut slices, began).await?;
    bring_back(stage, killed, began).await?;
    pause_one(stage, killed, &service, began).await?;
    report_pi(stage, &pi, slices, began).await?;
    drop(narrator);
    Ok(())
}

async fn found(stage: &mut Stage, each: Resources, began: Instant) -> Result<(), Failed> {
    stage.up(0, each).await?;
    let token = stage.invite(0, 2).await?;
    stage.join(1, each, &token).await?;
    stage.join(2, each, &token).await?;
    for host in 0..3 {
        stage
            .until(STEP_MAX, "three hosts know each other", async |stage| {
                Ok(stage.ready_nodes(host).await? == 3)
            })
            .await?;
    }
    say(began, "h1 founded a cluster, h2 and h3 joined it with a token");
    Ok(())
}

async fn submit_service(
    stage: &mut Stage,
    each: Resources,
    began: Instant,
) -> Result<String, Failed> {
    let argv = stage.service_command();
    let ask = Resources { cpu_milli: each.cpu_milli / 20, memory_bytes: 16 << 20 };
    stage.submit(0, "web", stage::Kind::Service(COPIES), ask, argv).await?;
    stage
        .until(STEP_MAX, "three copies of the service run", async |stage| {
            Ok(stage.service_copies() == (1..=COPIES).map(|index| (index, 1)).collect())
        })
        .await?;
    say(began, &format!("service web: {COPIES} of {COPIES} copies run (counted as processes)"));
    Ok("web".to_owned())
}

async fn submit_pi(stage: &mut Stage, each: Resources, began: Instant) -> Result<String, Failed> {
    let argv = stage.pi_command();
    let ask = Resources { cpu_milli: each.cpu_milli / 5, memory_bytes: 16 << 20 };
    stage.submit(0, "pi", stage::Kind::Array(SLICES), ask, argv).await?;
    say(began, &format!("array pi: {SLICES} tasks of about a second of CPU each"));
    Ok("pi".to_owned())
}

/// Kills a host, not the one asked, that runs both kinds; answers which.
async fn kill_one(
    stage: &mut Stage,
    slices: &mut pi::Sum,
    began: Instant,
) -> Result<usize, Failed> {
    let mut victim = None;
    stage
        .until(STEP_MAX, "some pi tasks are done and a host runs both kinds", async |stage| {
            victim = stage.host_with_both(&[1, 2]).filter(|_| slices.poll() >= 3);
            Ok(victim.is_some())
        })
        .await?;
    let victim = victim.ok_or_else(|| failed("no host ran both kinds"))?;
    let done = slices.poll();
    let left = SLICES - done;
    if left * 3 < SLICES {
        return Err(failed(format!("only {left} of {SLICES} pi tasks were left to kill")));
    }
    let dead = Instant::now();
    let count = stage.kill(victim)?;
    say(
        began,
        &format!(
            "SIGKILL of all {count} processes of {}: agent, keeper, supervisors, tasks ({left} of {SLICES} pi tasks unfinished)",
            stage.name(victim),
        ),
    );
    let wanted: BTreeMap<u32, u32> = (1..=COPIES).map(|index| (index, 1)).collect();
    stage
        .until(STEP_MAX, "the dead host's copies run elsewhere", async |stage| {
            Ok(stage.service_copies() == wanted)
        })
        .await?;
    let service = dead.elapsed();
    stage
        .until(
            STEP_MAX,
            "the dead host's pi tasks run elsewhere or wait for room there",
            async |stage| stage.nothing_left_on(0, victim, "pi").await,
        )
        .await?;
    let both = dead.elapsed();
    say(
        began,
        &format!(
            "healed: service after {:.1} s, pi after {:.1} s (must be under {} s)",
            service.as_secs_f64(),
            both.as_secs_f64(),
            HEAL_MAX.as_secs(),
        ),
    );
    if both.max(service) > HEAL_MAX {
        return Err(failed("healing took too long"));
    }
    Ok(victim)
}

async fn finish_pi(
    stage: &mut Stage,
    pi: &str,
    slices: &mut pi::Sum,
    began: Instant,
) -> Result<(), Failed> {
    let mut told = 0;
    let until = Instant::now() + STEP_MAX * 2;
    loop {
        let view = stage.job(0, pi).await?;
        if view.succeeded >= told + 6 && view.succeeded < SLICES {
            told = view.succeeded;
            say(
                began,
                &format!("pi: {} of {SLICES} done, {} running", view.succeeded, view.running),
            );
        }
        match view.state {
            JobState::Succeeded => break,
            JobState::Pending | JobState::Running if Instant::now() < until => {}
            state => return Err(failed(format!("pi is {}", state.as_str()))),
        }
        slices.poll();
        tokio::time::sleep(stage::LOOK_EVERY).await;
    }
    say(began, &format!("pi: all {SLICES} tasks succeeded"));
    Ok(())
}

async fn bring_back(stage: &mut Stage, host: usize, began: Instant) -> Result<(), Failed> {
    stage.up(host, capacity()).await?;
    stage
        .until(
            STEP_MAX,
            "the dead host is back",
            async |stage| Ok(stage.ready_nodes(0).await? == 3),
        )
        .await?;
    let wanted: BTreeMap<u32, u32> = (1..=COPIES).map(|index| (index, 1)).collect();
    stage
        .until(STEP_MAX, "it gave up what others run now", async |stage| {
            Ok(stage.service_copies() == wanted && stage.claims(0, "web").await? == wanted)
        })
        .await?;
    say(
        began,
        &format!("{} was started again and claims nothing that others run", stage.name(host)),
    );
    Ok(())
}

async fn pause_one(
    stage: &mut Stage,
    killed: usize,
    service: &str,
    began: Instant,
) -> Result<(), Failed> {
    let paused = 3 - killed; // Of hosts 1 and 2, the other one.
    let held: BTreeSet<u32> = stage.indices_on(0, paused, service).await?;
    if held.is_empty() {
        return Err(failed(format!("{} runs no copy to pause", stage.name(paused))));
    }
    stage.pause(paused).await?;
    say(
        began,
        &format!(
            "SIGSTOP of {}'s agent; its {} of web run on",
            stage.name(paused),
            plural(held.len(), "copy", "copies"),
        ),
    );
    let doubled: BTreeMap<u32, u32> =
        (1..=COPIES).map(|index| (index, if held.contains(&index) { 2 } else { 1 })).collect();
    stage
        .until(STEP_MAX, "the silent host's copies run a second time elsewhere", async |stage| {
            Ok(stage.service_copies() == doubled)
        })
        .await?;
    say(began, &format!("two copies are seen: {}", show_copies(&doubled)));
    tokio::time::sleep(PAUSED_AFTER).await;
    stage.resume(paused)?;
    let resumed = Instant::now();
    let wanted: BTreeMap<u32, u32> = (1..=COPIES).map(|index| (index, 1)).collect();
    stage
        .until(STEP_MAX, "exactly one copy of each is kept", async |stage| {
            Ok(stage.service_copies() == wanted && stage.claims(0, "web").await? == wanted)
        })
        .await?;
    say(
        began,
        &format!(
            "SIGCONT: one copy of each is left after {:.1} s",
            resumed.elapsed().as_secs_f64(),
        ),
    );
    Ok(())
}

fn plural(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

fn show_copies(copies: &BTreeMap<u32, u32>) -> String {
    let each: Vec<_> = copies.iter().map(|(index, n)| format!("web.{index} x{n}")).collect();
    each.join(", ")
}

async fn report_pi(
    stage: &mut Stage,
    pi: &str,
    mut slices: pi::Sum,
    began: Instant,
) -> Result<(), Failed> {
    slices.poll();
    for index in slices.missing(SLICES) {
        // Its output was still on the killed host, which is back with its disk.
        let text = stage.logs(0, &format!("{pi}.{index}")).await?;
        slices.read(&text);
    }
    let missing = slices.missing(SLICES);
    if !missing.is_empty() {
        return Err(failed(format!("the output of pi tasks {missing:?} is gone")));
    }
    let result = slices.result().ok_or_else(|| failed("pi tasks printed no result"))?;
    say(
        began,
        &format!(
            "pi = {:.6}, error {:+.6} (standard error {:.6}, {} points)",
            result.pi,
            result.pi - std::f64::consts::PI,
            result.sigma,
            result.points,
        ),
    );
    if (result.pi - std::f64::consts::PI).abs() > 6.0 * result.sigma {
        return Err(failed("that is not pi"));
    }
    Ok(())
}
