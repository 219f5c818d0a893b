//! `testnet up N`: a fabric, an agent on every host, one cluster.
//!
//!     record ─▶ namespaces ─▶ switch ─▶ up on h1 ─▶ invite ─▶ join on the others
//!
//! If any step fails, what was built is taken away again (unless --keep).
//! Must never build on a directory that holds anything already.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::SystemTime;

use serde_json::{Value, json};
use testnet::complaint::{Complaint, FAILED};
use testnet::fabric::agent::{Agent, AgentError};
use testnet::fabric::link::{Change, Faults};
use testnet::fabric::{Fabric, Ground, Host, Plan, Segments, netns, switch};

use super::{Report, down, ls, record_complaint, table};
use crate::cli::Up;

/// Agents that join at the same time: more only wait for the same processors.
const JOINING_MAX: usize = 8;

pub(crate) fn run(dir: &Path, args: &Up) -> Result<Report, Complaint> {
    let ground = ground(args)?;
    let starling = match &args.starling {
        Some(path) => path.canonicalize().map_err(|error| no_binary(path, &error))?,
        None => build()?,
    };
    let fabric = Fabric::create(Plan {
        dir: dir.to_owned(),
        hosts: args.hosts,
        ground,
        segments: if args.bulk { Segments::Many } else { Segments::One },
        seed: args.seed.unwrap_or_else(fresh_seed),
        baseline: args.faults.change().applied_to(Faults::default()),
        starling: Some(starling),
    })
    .map_err(record_complaint)?;
    match raise(&fabric) {
        Ok(()) => Ok(report(&fabric)),
        Err(complaint) if args.keep => Err(complaint),
        Err(complaint) => {
            // The first failure is the one to tell.
            let _ = down::sweep(&fabric);
            Err(complaint)
        }
    }
}

fn raise(fabric: &Fabric) -> Result<(), Complaint> {
    if fabric.ground == Ground::Netns {
        netns::build(fabric)
            .map_err(|error| Complaint::caused("cannot build the network", &error, hint(&error)))?;
        let testnet =
            env::current_exe().map_err(|error| no_binary(Path::new("testnet"), &error))?;
        switch::start(fabric, &testnet).map_err(|error| {
            Complaint::caused(
                "cannot start the switch",
                &error,
                "`testnet up --loopback` needs none",
            )
        })?;
    }
    cluster(fabric).map_err(|error| {
        Complaint::caused(
            "the agents did not form a cluster",
            &error,
            "`testnet up --keep` leaves everything, with what was said in DIR/log",
        )
    })
}

fn cluster(fabric: &Fabric) -> Result<(), AgentError> {
    let Some((first, others)) = fabric.hosts.split_first() else {
        return Ok(());
    };
    let founder = Agent::of(fabric, first)?;
    founder.up()?;
    if others.is_empty() {
        return Ok(());
    }
    let token = founder.invite(others.len())?;
    let join = |host: &Host| Agent::of(fabric, host)?.join(&token);
    for some in others.chunks(JOINING_MAX) {
        thread::scope(|scope| {
            let joining: Vec<_> = some.iter().map(|host| scope.spawn(|| join(host))).collect();
            joining.into_iter().try_for_each(|one| {
                one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
    }
    Ok(())
}

/// Namespaces for root, loopback for anyone else.
fn ground(args: &Up) -> Result<Ground, Complaint> {
    if args.loopback || !rustix::process::geteuid().is_root() {
        if args.faults.change() == Change::default() {
            return Ok(Ground::Loopback);
        }
        return Err(Complaint::new(
            "links cannot be slow or lossy here",
            "hosts on the loopback interface have no switch between them",
            "run as root without --loopback, or leave out --loss, --delay and the like",
        ));
    }
    netns::available()
        .map(|()| Ground::Netns)
        .map_err(|error| Complaint::caused("cannot build a network here", &error, hint(&error)))
}

fn hint(error: &netns::NetnsError) -> &'static str {
    use netns::NetnsError as E;
    match error {
        E::NoIproute { .. } => "install iproute2 (apt-get install iproute2), or use --loopback",
        E::LeftOver { .. } => "`testnet down` sweeps them up",
        E::NotRoot { .. } | E::Incapable { .. } => "run as a full root, or use --loopback",
        E::Ip { .. } | E::Enter { .. } => "`testnet up --loopback` needs no namespaces",
    }
}

/// Builds the agent that ships, and finds it.
pub(super) fn build() -> Result<PathBuf, Complaint> {
    let failed = |why: &dyn ToString| {
        Complaint::new(
            "cannot build starling",
            why.to_string(),
            "give a built one with --starling PATH",
        )
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(cargo)
        .args(["build", "--release", "--quiet", "-p", "starling"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(workspace)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(&format!("cargo does not run: {error}")))?;
    if !output.status.success() {
        return Err(failed(&format!("cargo ended with {}", output.status)));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "starling")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| failed(&"cargo named no binary called starling"))
}

fn no_binary(path: &Path, error: &std::io::Error) -> Complaint {
    Complaint::caused(
        format!("cannot use {}", path.display()),
        error,
        "--starling takes the path of a built agent",
    )
    .with_code(FAILED)
}

/// Different from run to run; printed, so that a run can be repeated.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(1, |since| since.subsec_nanos().into())
}

fn report(fabric: &Fabric) -> Report {
    let (hosts, json) = ls::hosts(fabric);
    let program = fabric.starling.as_deref().unwrap_or(Path::new("starling"));
    let torment = match fabric.ground {
        Ground::Netns => "testnet cut h1 h2, partition, link, pause, kill; mend it: testnet heal",
        Ground::Loopback => "testnet pause h1, kill, restart (links cannot be broken on loopback)",
    };
    let text = format!(
        "{hosts}\nstarling:  {}\ndirectory: {}\nseed:      {}\nlinks:     {}\n\
         break it:  {torment}\nend it:    testnet down\n",
        program.display(),
        fabric.dir.display(),
        fabric.seed,
        table::words(fabric.baseline),
    );
    let json = json!({
        "directory": fabric.dir,
        "ground": fabric.ground,
        "seed": fabric.seed,
        "starling": program,
        "baseline": fabric.baseline,
        "hosts": json,
    });
    Report::new(text, json)
}
