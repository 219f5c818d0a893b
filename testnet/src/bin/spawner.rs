//! Starts programs and says how long they took: the floor, and the peers' caller.
//!
//! A process with one thread and little memory, because what a start costs its
//! caller grows with both, and a benchmark is neither small nor alone. It has its
//! own mount namespace, without a half empty cgroup v2 that crun refuses.
//!
//! One JSON request a line, one answer a line; see `Request`.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use rustix::process::{Pid, WaitOptions, wait};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use testnet::sys::raw::{self, Side};

/// What hides from crun 1.8 that this host has two kinds of cgroups.
const HALF_EMPTY: &str = "/sys/fs/cgroup/unified";

/// How a program is started.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum How {
    /// fork(2), execve(2).
    Fork,
    /// posix_spawn(3), which lends the child this process's memory.
    Spawn,
}

/// Runs of one program. In `argv` and `overlay`, `{slot}` stands for which of
/// those at once a run is, `{id}` for the run.
#[derive(Debug, Deserialize)]
struct Request {
    runs: u32,
    at_once: u32,
    argv: Vec<String>,
    how: How,
    /// A directory with `l`, `u`, `w` and `m`: an overlay is mounted on `m` before
    /// each run, and unmounted after it, in its time.
    overlay: Option<String>,
}

#[derive(Debug, Serialize)]
struct Answer {
    each_ns: Vec<u64>,
    total_ns: u64,
}

fn main() -> ExitCode {
    let quiet = |result: io::Result<()>| result.map_err(|error| error.to_string());
    if let Err(error) = quiet(own_mounts()) {
        eprintln!("spawner: no mount namespace of its own: {error}");
        return ExitCode::FAILURE;
    }
    let mut next = 0;
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let answer = serde_json::from_str(&line)
            .map_err(io::Error::from)
            .and_then(|request| serve(&request, &mut next));
        let text = match answer {
            Ok(answer) => serde_json::json!(answer).to_string(),
            Err(error) => serde_json::json!({ "error": error.to_string() }).to_string(),
        };
        let mut out = io::stdout().lock();
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

fn own_mounts() -> io::Result<()> {
    raw::unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    if std::path::Path::new(HALF_EMPTY).exists() {
        unmount(HALF_EMPTY, UnmountFlags::DETACH)?;
    }
    Ok(())
}

#[derive(Debug)]
struct Run {
    slot: u32,
    began: Instant,
}

fn serve(request: &Request, next: &mut u32) -> io::Result<Answer> {
    let began = Instant::now();
    let mut each_ns = Vec::with_capacity(request.runs as usize);
    let mut running: HashMap<Pid, Run> = HashMap::new();
    let mut free: Vec<u32> = (0..request.at_once).collect();
    let (mut left, mut failed) = (request.runs, None);
    while left > 0 || !running.is_empty() {
        if let Some(slot) = free.pop_if(|_| left > 0 && failed.is_none()) {
            left -= 1;
            *next += 1;
            let run = Run { slot, began: Instant::now() };
            running.insert(start(request, slot, *next)?, run);
            continue;
        }
        if running.is_empty() {
            break;
        }
        let Some((pid, status)) = wait(WaitOptions::empty())? else { continue };
        let Some(run) = running.remove(&pid) else { continue };
        if let Some(dir) = &request.overlay {
            let merged = format!("{}/m", fill(dir, run.slot, 0));
            unmount(merged.as_str(), UnmountFlags::DETACH)?;
        }
        each_ns.push(nanoseconds(run.began));
        free.push(run.slot);
        if status.exit_status() != Some(0) {
            failed = Some(io::Error::other(format!("{:?} ended with {status:?}", request.argv)));
        }
    }
    failed.map_or(Ok(Answer { each_ns, total_ns: nanoseconds(began) }), Err)
}

fn start(request: &Request, slot: u32, id: u32) -> io::Result<Pid> {
    if let Some(dir) = &request.overlay {
        let dir = fill(dir, slot, id);
        let options = format!("lowerdir={dir}/l,upperdir={dir}/u,workdir={dir}/w,volatile\0");
        let options =
            std::ffi::CString::from_vec_with_nul(options.into_bytes()).map_err(io::Error::other)?;
        let merged = format!("{dir}/m");
        // What `volatile` leaves behind, and refuses to be mounted with again.
        let _ = std::fs::remove_dir_all(format!("{dir}/w/work/incompat"));
        let flags = MountFlags::empty();
        mount("overlay", merged.as_str(), "overlay", flags, options.as_c_str())?;
    }
    let argv: Vec<_> = request.argv.iter().map(|word| fill(word, slot, id)).collect();
    let program = argv.first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(&argv[1..]);
    let pid = match request.how {
        How::Spawn => {
            // Not /dev/null: crun gives its streams to the container's root, the host's too.
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            i32::try_from(command.spawn()?.id()).ok()
        }
        How::Fork => match raw::clone_plainly(0)? {
            Side::Parent(pid) => Some(pid),
            Side::Child => {
                let _never = command.exec();
                raw::exit_now(127)
            }
        },
    };
    pid.and_then(Pid::from_raw).ok_or(io::ErrorKind::Other.into())
}

fn fill(word: &str, slot: u32, id: u32) -> String {
    word.replace("{slot}", &slot.to_string())
        .replace("{id}", &format!("{}-{id}", std::process::id()))
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
