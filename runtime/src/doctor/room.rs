//! What is counted, and how much of it the agent may have.

use super::{Finding, Host};

/// Open files of an agent with a few hundred tasks: up to three each, its peers'
/// connections, its journal.
const OPEN_FILES_MIN: u64 = 1024;

/// Processes: what two tasks without a limit of their own may have, at 2048 each.
const PROCESSES_MIN: u64 = 4096;

/// inotify instances and watches: the kernel's smallest usual setting. One of each is
/// taken by every log that somebody follows.
const INSTANCES_MIN: u64 = 128;
const WATCHES_MIN: u64 = 8192;

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    let ground = &host.ground;
    if let Some((soft, hard)) = host.room.open_files {
        const NAME: &str = "open files";
        found.push(if soft >= OPEN_FILES_MIN {
            Finding::ok(NAME, format!("up to {}", number(soft)))
        } else if hard >= OPEN_FILES_MIN {
            let what = format!("up to {soft}, enough for a few dozen tasks");
            Finding::warn(
                NAME,
                what,
                format!("ulimit -n {}   before starling up", hard.min(65_536)),
            )
        } else {
            let what = format!("up to {hard}, enough for a few dozen tasks");
            let line = format!("{}  -  nofile  65536", ground.user);
            let fix =
                ground.as_root_in_shell(&format!("echo '{line}' >> /etc/security/limits.conf"));
            Finding::warn(NAME, what, format!("{fix}   then log in again"))
        });
    }
    if let Some((most, from)) = &host.room.processes {
        const NAME: &str = "processes";
        found.push(if *most >= PROCESSES_MIN {
            Finding::ok(NAME, format!("up to {} ({from})", number(*most)))
        } else {
            let what = format!("all tasks together may have {most} ({from})");
            Finding::warn(NAME, what, more_processes(from, host))
        });
    }
    for (name, key, value, least) in [
        ("inotify", "fs.inotify.max_user_instances", host.room.inotify_instances, INSTANCES_MIN),
        ("inotify", "fs.inotify.max_user_watches", host.room.inotify_watches, WATCHES_MIN),
    ] {
        if let Some(value) = value.filter(|value| *value < least) {
            let what =
                format!("{key} is {value}: following many logs at once falls back to polling");
            let wanted = least * 4;
            found.push(Finding::warn(
                name,
                what,
                ground.as_root(&format!("sysctl -w {key}={wanted}")),
            ));
        }
    }
    if let (Some(instances), Some(watches)) =
        (host.room.inotify_instances, host.room.inotify_watches)
        && instances >= INSTANCES_MIN
        && watches >= WATCHES_MIN
    {
        let what = format!("{} instances, {} watches", number(instances), number(watches));
        found.push(Finding::ok("inotify", what));
    }
    found
}

fn number(value: u64) -> String {
    // Beyond this nobody counts; the kernel itself stops earlier.
    if value >= 1 << 40 { "as many as there is room for".to_owned() } else { value.to_string() }
}

fn more_processes(from: &str, host: &Host) -> String {
    let ground = &host.ground;
    match from {
        "kernel.pid_max" => ground.as_root("sysctl -w kernel.pid_max=4194304"),
        "kernel.threads-max" => ground.as_root("sysctl -w kernel.threads-max=65536"),
        "ulimit -u" => {
            let line = format!("{}  -  nproc  65536", ground.user);
            let fix =
                ground.as_root_in_shell(&format!("echo '{line}' >> /etc/security/limits.conf"));
            format!("{fix}   then log in again")
        }
        // The file of a group, which says the same to everybody.
        file => ground.as_root_in_shell(&format!("echo max > {file}")),
    }
}
