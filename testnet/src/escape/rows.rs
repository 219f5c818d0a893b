//! The table of rows; what each does is in the file of its kind.

mod bombs;
mod copies;
mod files;
mod images;
mod kernel;
mod noise;
mod process;

use super::cell::Told;
use super::{Row, Scope};

const fn row(
    id: &'static str,
    name: &'static str,
    scope: Scope,
    play: fn(&mut super::Ground) -> std::io::Result<Vec<String>>,
) -> Row {
    Row { id, name, scope, play }
}

/// All of them, in the order of their numbers.
pub const ROWS: &[Row] = &[
    row(
        "E1",
        "overwrite the runtime's program through /proc",
        Scope::All,
        files::overwrite_program,
    ),
    row(
        "E1b",
        "the same with the host's ids, and with our reaper as first process",
        Scope::Ours,
        files::overwrite_as_host,
    ),
    row(
        "E2",
        "swap a mount's target for a link while it is mounted on",
        Scope::All,
        files::swapped_target,
    ),
    row("E3", "start in a leaked directory of the host", Scope::All, files::leaked_directory),
    row(
        "E3b",
        "a tree of the host that was left attached above the root",
        Scope::All,
        files::left_attached,
    ),
    row(
        "E4",
        "an image whose /dev/null leads to a kernel parameter",
        Scope::All,
        files::linked_null,
    ),
    row(
        "E4b",
        "change the host's devices through the container's",
        Scope::All,
        files::host_devices,
    ),
    row("E5", "an image whose console and terminals are links", Scope::Ours, files::linked_console),
    row(
        "E6",
        "an image whose /proc is a link, and mounts over /proc",
        Scope::All,
        files::false_proc,
    ),
    row("E7", "an image whose /dev leads to the host", Scope::All, files::linked_dev),
    row("E8", "a cgroup of one's own, with a release agent", Scope::All, kernel::release_agent),
    row(
        "E9",
        "writable cgroups, inherited and ambient capabilities",
        Scope::All,
        kernel::capabilities,
    ),
    row("E10", "an abstract socket of the host", Scope::All, kernel::abstract_socket),
    row("E11", "the kernel's keyrings", Scope::All, kernel::keyring),
    row("E12", "typing into a terminal of the host", Scope::All, kernel::terminal),
    row("E13", "processes of another container", Scope::All, kernel::neighbour),
    row(
        "E14",
        "namespaces of one's own, and what the kernel opens to their owners",
        Scope::All,
        kernel::namespaces,
    ),
    row(
        "E15",
        "system calls that a container has no business making",
        Scope::All,
        kernel::forbidden_calls,
    ),
    row("E16", "sockets that lead out of the network namespace", Scope::All, kernel::sockets),
    row("E17", "archives that write outside of their root", Scope::Ours, images::traversal),
    row("E18", "archives with hostile whiteouts", Scope::Ours, images::whiteouts),
    row(
        "E19",
        "archives with devices, setuid programs, FIFOs and overlay's own attributes",
        Scope::Ours,
        images::special_files,
    ),
    row("E20", "user names and numbers that turn into root", Scope::Ours, images::users),
    row(
        "E21",
        "an image or an environment that changes the sandbox",
        Scope::Ours,
        images::environment,
    ),
    row("E22", "a hostile registry", Scope::Nobody("the runtime talks to no registry"), nothing),
    row("E23", "copying in and out, and logs replaced by links", Scope::Ours, copies::copies),
    row(
        "E24",
        "checkpoint and restore",
        Scope::Nobody("there is no checkpoint and no restore"),
        nothing,
    ),
    row("E25a", "a fork bomb", Scope::All, bombs::forks),
    row("E25b", "a memory bomb", Scope::All, bombs::memory),
    row("E25c", "a descriptor bomb", Scope::All, bombs::descriptors),
    row("E25d", "filling /dev/shm", Scope::All, bombs::shm),
    row("E25e", "filling a small file system with names", Scope::All, bombs::inodes),
    row("E25f", "a flood of output", Scope::OursSlowly, bombs::log),
    row("E25g", "a first process deaf to signals", Scope::All, bombs::deaf),
    row("E25h", "a storm of zombies", Scope::All, bombs::zombies),
    row("E25i", "a daemon that leaves its parent", Scope::All, bombs::daemon),
    row("E25j", "noisy neighbours of a container, and of the agent", Scope::All, noise::noise),
    row(
        "E26",
        "a plain process after the agent's own files and processes",
        Scope::Ours,
        process::pries,
    ),
];

fn nothing(_: &mut super::Ground) -> std::io::Result<Vec<String>> {
    Ok(Vec::new())
}

/// That a payload ran, for rows that say nothing if it did not.
fn ran(told: &Told) -> Vec<String> {
    match &told.refused {
        Some(reason) => vec![format!("the payload did not run: {reason}")],
        None if told.lines.is_empty() => {
            vec![format!("the payload said nothing, and ended with {}", told.end)]
        }
        None => Vec::new(),
    }
}
