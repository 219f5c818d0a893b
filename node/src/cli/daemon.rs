//! Starts the agent as a daemon, and waits until it is ready or says why not.
//!
//!     up ──spawn──▶ agent-start      stdin   the token, if it joins
//!                                    stdout  one line: ready, or why not
//!                                    stderr  DATA/agent.log
//!
//! The token goes through a pipe, never through arguments or the environment,
//! which other users can read. The child makes itself a session of its own and
//! gives its stdio away before it becomes an agent, so nothing ties it to the
//! terminal that started it. A daemon that is slow to get ready is left alone:
//! it may be replaying a long journal.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use gossip_core::invite::TOKEN_LENGTH_MAX;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::agent::{Options, Purpose};
use crate::api::types::{Complaint, Failure};
use crate::cli::paths::Places;

/// How long a start may take: a join asks several hosts, each with a few seconds of patience.
const READY_TIME_MAX: Duration = Duration::from_secs(30);

/// The longest ready line.
const READY_BYTES_MAX: usize = 64 * 1024;

/// How long a child that gave its pipe away may take to be gone.
const EXIT_TIME_MAX: Duration = Duration::from_secs(2);

/// How much of the log's end is read for the last lines of an agent that said nothing.
const LOG_TAIL_BYTES: u64 = 2048;
const LOG_TAIL_LINES: usize = 3;

/// Starts a daemon with these options and waits until it is ready.
pub(crate) fn start(options: &Options, places: &Places) -> Result<(), Complaint> {
    let failed = |what: &str, error: io::Error| {
        Complaint::new("start", format!("the agent cannot be started: {what}")).because(error)
    };
    // Tasks under other users pass through here to their directories; nobody lists it.
    DirBuilder::new().recursive(true).mode(0o711).create(&options.data).map_err(|error| {
        failed("its data directory cannot be made", error)
            .hint("choose another with --data DIR, or use sudo")
    })?;
    let log = open_log(&places.log()).map_err(|error| {
        failed("its log cannot be opened", error).hint("use sudo, or --data DIR")
    })?;
    let program = std::env::current_exe().map_err(|error| failed("where is it?", error))?;
    let mut child = Command::new(program)
        .args(arguments(options))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| failed("no new process", error))?;
    if let (Some(mut stdin), Purpose::Join(token)) = (child.stdin.take(), &options.purpose) {
        // A child that is gone already is noticed below, with its reason.
        let _gone = stdin.write_all(token.as_bytes());
    }
    let Some(ready) = child.stdout.take() else {
        return Err(Complaint::new("start", "the agent cannot be started: no pipe"));
    };
    match read_ready(ready, Instant::now() + READY_TIME_MAX) {
        Ok(line) if !line.is_empty() => judge(&line),
        Ok(_nothing) => Err(silent_end(exit_of(&mut child), places)),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let late = format!("it is not ready after {} seconds", READY_TIME_MAX.as_secs());
            Err(Complaint::new("timeout", "the agent takes long to start; it goes on trying")
                .because(late)
                .hint(format!("starling status   or see {}", places.log().display())))
        }
        Err(error) => Err(failed("it cannot be heard", error)),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn arguments(options: &Options) -> Vec<std::ffi::OsString> {
    let purpose = match options.purpose {
        Purpose::Resume => "resume",
        Purpose::Found => "found",
        Purpose::Join(_) => "join",
    };
    let mut args = vec!["agent-start".into(), "--purpose".into(), purpose.into()];
    let mut flag = |name: &str, value: std::ffi::OsString| args.extend([name.into(), value]);
    flag("--data", options.data.clone().into());
    flag("--socket", options.socket.clone().into());
    flag("--name", options.name.clone().into());
    for address in &options.listen {
        flag("--listen", address.to_string().into());
    }
    if let Some(address) = options.operator_listen {
        flag("--operator-listen", address.to_string().into());
    }
    if let Some(milli) = options.capacity_cpu_milli {
        flag("--cpus", format!("{milli}m").into());
    }
    if let Some(bytes) = options.capacity_memory {
        flag("--memory", bytes.to_string().into());
    }
    if let Some(rate) = options.image_rate {
        flag("--image-rate", rate.to_string().into());
    }
    if options.trust_jobs {
        args.push("--trust-jobs=true".into());
    }
    if options.anew {
        args.push("--new".into());
    }
    args
}

/// Reads the ready line; empty if the pipe was closed without one.
fn read_ready(pipe: impl AsFd, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    while line.len() < READY_BYTES_MAX && !line.contains(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait =
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut waited = [PollFd::new(&pipe, PollFlags::IN)];
        match poll(&mut waited, Some(&wait)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match rustix::io::read(&pipe, &mut chunk)? {
            0 => break,
            n => line.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(line)
}

fn judge(line: &[u8]) -> Result<(), Complaint> {
    if let Ok(failure) = serde_json::from_slice::<Failure>(line) {
        return Err(failure.error);
    }
    let said: Result<serde_json::Value, _> = serde_json::from_slice(line);
    match said {
        Ok(said) if said["ready"] == true => Ok(()),
        _ => {
            Err(Complaint::new("start", "the agent said something that this program does not know")
                .because(String::from_utf8_lossy(line).trim()))
        }
    }
}

fn exit_of(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + EXIT_TIME_MAX;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(status) => return status,
            Err(_not_ours) => return None,
        }
    }
}

fn silent_end(status: Option<ExitStatus>, places: &Places) -> Complaint {
    let mut complaint = Complaint::new("start", "the agent ended before it was ready");
    if let Some(status) = status {
        complaint = complaint.because(status);
    }
    for line in last_lines(&places.log()).unwrap_or_default() {
        complaint = complaint.because(line);
    }
    complaint.hint(format!("see {}", places.log().display()))
}

fn last_lines(path: &Path) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
    let text = String::from_utf8_lossy(&tail);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    Ok(lines.iter().rev().take(LOG_TAIL_LINES).rev().map(|line| (*line).to_owned()).collect())
}

/// In the child: cuts every tie to whoever started it; answers its ready pipe and the token.
pub(crate) fn detach() -> io::Result<(OwnedFd, String)> {
    // Refused only to the leader of a process group, which has its own session already.
    let _leader = rustix::process::setsid();
    let mut token = String::new();
    let limit = u64::try_from(TOKEN_LENGTH_MAX).unwrap_or(u64::MAX) * 2;
    io::stdin().lock().take(limit).read_to_string(&mut token)?;
    let ready = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    let nothing = OpenOptions::new().read(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok((ready, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> io::Result<Vec<u8>> {
        let (read, write) = rustix::pipe::pipe().expect("pipe");
        rustix::io::write(&write, text.as_bytes()).expect("writes");
        let open = text.is_empty().then_some(write);
        let heard = read_ready(&read, Instant::now() + Duration::from_millis(20));
        drop(open);
        heard
    }

    #[test]
    fn the_first_line_decides_and_silence_is_waited_for_only_so_long() {
        assert_eq!(heard("{\"ready\":true}\n").expect("line"), b"{\"ready\":true}\n");
        assert_eq!(heard("cut").expect("end"), b"cut");
        assert_eq!(heard("").expect_err("late").kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_ready_line_is_a_yes_or_a_complaint() {
        assert_eq!(judge(b"{\"ready\":true}\n"), Ok(()));
        let told = judge(b"{\"error\":{\"code\":\"used_up\",\"message\":\"m\"}}\n");
        assert_eq!(told.expect_err("failure").code, "used_up");
        assert_eq!(judge(b"hello\n").expect_err("nonsense").code, "start");
    }

    #[test]
    fn a_token_is_never_an_argument() {
        let places = Places::choose(
            Some(Path::new("/d")),
            None,
            &crate::cli::paths::Surroundings::default(),
        );
        let settings = crate::cli::settings::Settings::default();
        let options =
            settings.options(&places.expect("places"), Purpose::Join("sl1-secret".into()));
        let args = arguments(&options);
        assert!(args.iter().all(|arg| !arg.to_string_lossy().contains("secret")), "{args:?}");
        assert!(args.windows(2).any(|pair| pair[0] == "--listen" && pair[1] == "0.0.0.0:7827"));
    }
}
