//! Makes a task's standard streams: what it gets, and our ends of them.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use super::input::{Input, resize};
use crate::container::Ids;
use crate::launch::{Launch, Place, Streams};
use crate::log::LogStream;
use crate::sandbox::{self, Ends};

/// Our ends.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) outputs: Vec<(LogStream, OwnedFd)>,
    pub(crate) input: Input,
}

/// Makes the streams of a launch; `null` is an open `/dev/null`. Whoever has the host's ids
/// gets another, through which the host's node cannot be given away.
pub(crate) fn open(launch: &Launch, null: &OwnedFd) -> Result<(Ends, Ours), Errno> {
    let sealed = match &launch.place {
        Place::Container(container) if container.ids == Ids::Host => Some(sandbox::sealed_null()?),
        _ => None,
    };
    let null = sealed.as_ref().unwrap_or(null);
    let nothing = || fcntl_dupfd_cloexec(null, 3);
    match (launch.streams, &launch.place) {
        (Streams::Of { pid }, _) => {
            let ends = ends_of(pid)?;
            Ok((ends, Ours { outputs: Vec::new(), input: Input::default() }))
        }
        (Streams::Logged, _) => {
            let (stdout, stderr, outputs) = outputs()?;
            let ends = Ends { stdin: nothing()?, stdout, stderr };
            Ok((ends, Ours { outputs, input: Input::default() }))
        }
        (Streams::Input, _) => {
            let (stdout, stderr, outputs) = outputs()?;
            let (stdin, typed) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::fs::fcntl_setfl(&typed, OFlags::NONBLOCK)?;
            Ok((Ends { stdin, stdout, stderr }, Ours { outputs, input: Input::pipe(typed) }))
        }
        (Streams::Terminal { rows, columns }, Place::Process(_)) => {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let terminal = openpt(flags)?;
            unlockpt(&terminal)?;
            resize(&terminal, rows, columns);
            let stdin = ioctl_tiocgptpeer(&terminal, flags)?;
            if let Some(user) = launch.user() {
                let (uid, gid) =
                    (rustix::fs::Uid::from_raw(user.uid), rustix::fs::Gid::from_raw(user.gid));
                rustix::fs::fchown(&stdin, Some(uid), Some(gid))?;
            }
            let stdout = fcntl_dupfd_cloexec(&stdin, 3)?;
            let stderr = fcntl_dupfd_cloexec(&stdin, 3)?;
            Ok((Ends { stdin, stdout, stderr }, of_terminal(terminal)?))
        }
        // Made in the container's own file systems, by the sandbox.
        (Streams::Terminal { .. }, Place::Container(_)) => {
            let ends = Ends { stdin: nothing()?, stdout: nothing()?, stderr: nothing()? };
            Ok((ends, Ours { outputs: Vec::new(), input: Input::default() }))
        }
    }
}

/// The standard streams of a process that lives. The kernel gives them to who may trace
/// it; whoever ordered the launch could do the same.
fn ends_of(pid: u32) -> Result<Ends, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let stream = |number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty());
    Ok(Ends { stdin: stream(0)?, stdout: stream(1)?, stderr: stream(2)? })
}

/// Our ends of a terminal.
pub(crate) fn of_terminal(terminal: OwnedFd) -> Result<Ours, Errno> {
    rustix::fs::fcntl_setfl(&terminal, OFlags::NONBLOCK)?;
    let input = Input::terminal(fcntl_dupfd_cloexec(&terminal, 3)?);
    Ok(Ours { outputs: vec![(LogStream::Stdout, terminal)], input })
}

type Outputs = (OwnedFd, OwnedFd, Vec<(LogStream, OwnedFd)>);

fn outputs() -> Result<Outputs, Errno> {
    let (out, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (err, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    for pipe in [&out, &err] {
        rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK)?;
    }
    Ok((stdout, stderr, vec![(LogStream::Stdout, out), (LogStream::Stderr, err)]))
}
