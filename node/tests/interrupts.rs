//! What Ctrl-C leaves of a job in the foreground, however hurried it is: nothing that runs.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use support::{Host, until};

#[test]
fn a_second_interrupt_at_once_leaves_no_job_behind() {
    let host = Host::new("h1");
    host.up();
    for round in 0..5 {
        let name = format!("hurry-{round}");
        let words = ["run", "--rm", "--name", &name, "--exec", "--", "sleep", "1000"];
        let mut command = host.command(&words);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let child = child.expect("it runs");
        until("its task runs", || host.running(&name) == 1);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, Signal::INT).expect("it runs still");
        // What comes later than the end of the process is as good.
        let _ = kill_process(pid, Signal::INT);
        let told: support::Told = child.wait_with_output().expect("it ends").into();
        assert_eq!(told.code, 130, "{told:?}");
        let jobs = host.run(&["jobs", "-a"]).ok();
        assert!(!jobs.contains(&name), "{jobs}");
    }
}
