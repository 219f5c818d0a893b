//! The least program that starts a container: `bare ROOT PROGRAM`.
//!
//! clone3 into every namespace with one range of ids, a private mount tree,
//! proc, pivot_root, exec, wait. No cgroup, no filter, no masks: whoever is
//! slower than this and safer has no excuse, whoever is faster found a shortcut.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::process::{Pid, WaitOptions, chdir, pivot_root, waitpid};
use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};
use testnet::sys::raw::{self, Side};

/// Every namespace that a container of ours has.
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// The container's ids on the host.
const MAP: &str = "0 100000 65536";

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [root, program] = &words[..] else {
        eprintln!("usage: bare ROOT PROGRAM");
        return ExitCode::from(2);
    };
    match run(root, program) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(root: &str, program: &str) -> io::Result<ExitCode> {
    let (mut mapped, mut map) = io::pipe()?;
    match raw::clone_with(NAMESPACES as u64)? {
        Side::Child => {
            drop(map);
            let _ = mapped.read(&mut [0]);
            let error = enter(root, program);
            eprintln!("bare: inside: {error}");
            raw::exit_now(127)
        }
        Side::Parent(pid) => {
            fs::write(format!("/proc/{pid}/uid_map"), MAP)?;
            fs::write(format!("/proc/{pid}/gid_map"), MAP)?;
            map.write_all(b"x")?;
            drop(mapped);
            let status = waitpid(Pid::from_raw(pid), WaitOptions::empty())?;
            let code = status.and_then(|(_, status)| status.exit_status()).unwrap_or(1);
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
    }
}

fn enter(root: &str, program: &str) -> io::Error {
    let inside = || -> io::Result<()> {
        set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount_bind(root, root)?;
        chdir(root)?;
        let harmless = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "proc", "proc", harmless, None)?;
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        Ok(chdir("/")?)
    };
    match inside() {
        Ok(()) => Command::new(program).exec(),
        Err(error) => error,
    }
}
