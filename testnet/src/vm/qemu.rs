//! One QEMU: started, listened to, and gone before this returns.
//!
//!     report port ─▶ its standard output     console ─▶ its standard error
//!
//! QEMU's own words come on standard error too, beside the kernel's. Every phase
//! has a deadline, so a guest that hangs is killed; if this process is killed,
//! the kernel kills QEMU (a parent-death signal, which `setpriv` sets). The
//! disk's changes go to an unlinked file. So nothing outlives a run.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::base::Base;
use super::report::{Heard, Seen};
use super::tool::program;
use super::{Accelerator, Close, Event, Guest, VmError};

/// The machine the guest is in.
const QEMU: &str = "qemu-system-x86_64";
/// From power to the first command: 8 s on an idle machine without KVM.
const BOOTING: Duration = Duration::from_secs(180);
/// Beyond a command's own limit: killing it, and cleaning its cgroup.
const CLEANING: Duration = Duration::from_secs(40);
/// From one command to the next, and from the last to power off.
const ENDING: Duration = Duration::from_secs(60);
/// After so long without a word the caller is told that it goes on.
const QUIET: Duration = Duration::from_secs(5);
/// Lines waiting to be looked at; a full queue holds the guest back.
const QUEUE: usize = 1024;
/// The kernel's command line. `panic=-1` with `-no-reboot` ends QEMU at a panic.
const APPEND: &str = "console=ttyS0 panic=-1 loglevel=5 net.ifnames=0";

/// How long each phase of a run may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    booting: Duration,
    /// One command, with what it takes to end and clean it.
    command: Duration,
    /// From one command to the next, or to the end.
    between: Duration,
}

impl Deadlines {
    /// For commands with this limit.
    pub(super) fn of(limit: Duration) -> Self {
        Self { booting: BOOTING, command: limit + CLEANING, between: ENDING }
    }
}

enum Line {
    Report(String),
    Console(String),
}

/// A QEMU that is killed when it is forgotten.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only for one that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command line, as a shell would take it.
pub(super) fn command(base: &Base, guest: &Guest, initramfs: &Path) -> Command {
    let (accelerator, processor) = match guest.accelerator {
        Accelerator::Tcg => ("tcg,thread=multi", "max"),
        Accelerator::Kvm => ("kvm", "host"),
    };
    let mut command = program("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(super::tool::find(QEMU).unwrap_or_else(|| QEMU.into()))
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "q35"])
        .args(["-accel", accelerator, "-cpu", processor])
        .args(["-m", &guest.memory_mib.to_string(), "-smp", &guest.cpus.to_string()])
        .args(["-chardev", "file,id=console,path=/dev/stderr", "-serial", "chardev:console"])
        .args(["-chardev", "stdio,id=report,signal=off", "-serial", "chardev:report"])
        // The disk's changes go to a file there that has no name.
        .env("TMPDIR", &guest.cache)
        .args(["-device", "virtio-rng-pci", "-append", APPEND, "-kernel"])
        .arg(base.kernel())
        .arg("-initrd")
        .arg(initramfs)
        .arg("-drive")
        .arg(format!(
            "file={},if=virtio,format=raw,snapshot=on,cache=unsafe",
            // A comma is doubled in an option's value.
            base.disk().display().to_string().replace(',', ",,")
        ));
    command
}

/// Runs a guest to its end.
pub(super) fn run(
    mut command: Command,
    heard: &mut Heard,
    deadlines: Deadlines,
    watch: &mut dyn FnMut(Event<'_>),
) -> Result<Close, VmError> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| VmError::Start { program: QEMU.to_owned(), source })?;
    let mut machine = Machine(child);
    let (into, lines) = sync_channel(QUEUE);
    let readers = [
        machine.0.stdout.take().map(|port| read(port, into.clone(), Line::Report)),
        machine.0.stderr.take().map(|port| read(port, into, Line::Console)),
    ];
    let close = listen(&lines, heard, deadlines, watch);
    if close.is_some() {
        drop(machine);
        drop(lines);
    } else {
        let status = machine.0.wait();
        let status =
            status.map_err(|source| VmError::Start { program: QEMU.to_owned(), source })?;
        return Ok(closed(heard, status));
    }
    for reader in readers.into_iter().flatten() {
        // A reader cannot panic: it only reads and sends.
        let _ = reader.join();
    }
    Ok(close.unwrap_or(Close::Done))
}

fn read(
    port: impl Read + Send + 'static,
    into: SyncSender<Line>,
    as_line: fn(String) -> Line,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut port = BufReader::new(port);
        let mut bytes = Vec::new();
        while port.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let line = String::from_utf8_lossy(&bytes).into_owned();
            bytes.clear();
            if into.send(as_line(line)).is_err() {
                break;
            }
        }
    })
}

/// Listens until both ports are closed, which gives `None`, or a deadline has passed.
fn listen(
    lines: &Receiver<Line>,
    heard: &mut Heard,
    deadlines: Deadlines,
    watch: &mut dyn FnMut(Event<'_>),
) -> Option<Close> {
    let mut phase = "booting";
    let mut deadline = Instant::now() + deadlines.booting;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(Close::Hung { phase });
        }
        let line = match lines.recv_timeout(left.min(QUIET)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {
                watch(Event::Quiet);
                continue;
            }
        };
        match line {
            Line::Console(line) => {
                heard.console(&line);
                watch(Event::Console(line.trim_end()));
            }
            Line::Report(line) => match heard.report(&line) {
                Seen::Booted => {
                    (phase, deadline) = ("between commands", Instant::now() + deadlines.between);
                    watch(Event::Booted { kernel: &heard.kernel });
                }
                Seen::Started(number) => {
                    (phase, deadline) = ("running a command", Instant::now() + deadlines.command);
                    watch(Event::Started { number });
                }
                Seen::Output(number) => watch(Event::Output { number, line: line.trim_end() }),
                Seen::Ended(number) => {
                    (phase, deadline) = ("ending", Instant::now() + deadlines.between);
                    watch(Event::Ended { number, run: &heard.runs[number] });
                }
                Seen::Nothing => {}
            },
        }
    }
}

fn closed(heard: &Heard, status: ExitStatus) -> Close {
    if let Some(line) = &heard.panic {
        return Close::Panicked { line: line.clone() };
    }
    if let Some(why) = &heard.broken {
        return Close::Broken { why: why.clone() };
    }
    if heard.done {
        return Close::Done;
    }
    Close::Died { status, last: heard.last.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_script(text: &str, deadlines: Deadlines) -> (Heard, Close) {
        let mut heard = Heard::new("n", 1);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", text]);
        let close = run(command, &mut heard, deadlines, &mut |_| {}).expect("it ran");
        (heard, close)
    }

    fn patient() -> Deadlines {
        Deadlines::of(Duration::from_secs(1))
    }

    #[test]
    fn a_guest_that_says_done_is_done_and_one_that_does_not_died() {
        let (heard, close) = run_script(
            "echo vm-n: booted 1.0 6.1; echo vm-n: start 0; echo hi; echo; \
             echo vm-n: end 0 0 10 0 0; echo vm-n: done",
            patient(),
        );
        assert!(matches!(close, Close::Done), "{close:?}");
        assert_eq!(heard.runs[0].output, "hi\n");
        let (_, close) = run_script("echo no such machine >&2; exit 1", patient());
        assert!(
            matches!(&close, Close::Died { status, last }
                if status.code() == Some(1) && last == "no such machine"),
            "{close:?}"
        );
    }

    #[test]
    fn a_panic_wins_over_everything_else() {
        let (_, close) = run_script("echo Kernel panic: x >&2; echo vm-n: done", patient());
        assert!(matches!(close, Close::Panicked { .. }), "{close:?}");
    }

    #[test]
    fn a_guest_that_hangs_is_killed_and_the_phase_is_told() {
        let short = Duration::from_millis(50);
        let (_, close) = run_script("exec sleep 1000", Deadlines { booting: short, ..patient() });
        assert!(matches!(close, Close::Hung { phase: "booting" }), "{close:?}");
        let script = "echo vm-n: start 0; echo word; exec sleep 1000";
        let (heard, close) = run_script(script, Deadlines { command: short, ..patient() });
        assert!(matches!(close, Close::Hung { phase: "running a command" }), "{close:?}");
        assert_eq!(heard.runs[0].output, "word\n");
    }
}
