//! `testnet exec HOST -- CMD`: this process becomes CMD, on that host's network.
//!
//! Only the network is the host's: files, processes and cgroups are this
//! machine's, as they are for the agent.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use testnet::complaint::Complaint;
use testnet::fabric::{Fabric, agent, netns};

use super::{Report, host, open};
use crate::cli::Exec;

pub(crate) fn run(dir: &Path, args: &Exec) -> Result<Report, Complaint> {
    let fabric = open(dir)?;
    let host = host(&fabric, &args.host)?;
    if let Some(name) = &host.namespace {
        netns::enter(name).map_err(|error| {
            Complaint::caused(
                format!("cannot run anything on {}", host.name),
                &error,
                "run this as the user who brought the fabric up",
            )
        })?;
    }
    let [program, arguments @ ..] = &args.command[..] else {
        return Err(Complaint::new("no command", "CMD is empty", "testnet exec h1 -- CMD"));
    };
    let mut command = Command::new(program);
    agent::clean(&mut command);
    if let Some(path) = path_with(&fabric) {
        command.env("PATH", path);
    }
    let failure = command.args(arguments).env("STARLING_SOCKET", &host.socket).exec();
    Err(Complaint::caused(
        format!("cannot run {}", program.display()),
        &failure,
        "is it installed, and spelled right?",
    ))
}

/// The search path, the fabric's own `starling` first.
fn path_with(fabric: &Fabric) -> Option<OsString> {
    let first = fabric.starling.as_deref()?.parent()?.to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths([first].into_iter().chain(env::split_paths(&path))).ok()
}
