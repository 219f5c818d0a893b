//! Makes a task's standard streams: what it gets, and our ends of them.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};

use super::input::Input;
use crate::launch::Streams;
use crate::log::LogStream;
use crate::sandbox::Ends;

/// Our ends.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) outputs: Vec<(LogStream, OwnedFd)>,
    pub(crate) input: Input,
}

/// Makes the pipes; none where there is a terminal, which the sandbox makes. `null` is
/// an open `/dev/null`.
pub(crate) fn open(streams: Streams, null: &OwnedFd) -> Result<Option<(Ends, Ours)>, Errno> {
    match streams {
        Streams::Logged => {
            let (stdout, stderr, outputs) = outputs()?;
            let ends = Ends { stdin: fcntl_dupfd_cloexec(null, 3)?, stdout, stderr };
            Ok(Some((ends, Ours { outputs, input: Input::default() })))
        }
        Streams::Input => {
            let (stdout, stderr, outputs) = outputs()?;
            let (stdin, typed) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::fs::fcntl_setfl(&typed, OFlags::NONBLOCK)?;
            let ours = Ours { outputs, input: Input::pipe(typed) };
            Ok(Some((Ends { stdin, stdout, stderr }, ours)))
        }
        Streams::Terminal { .. } => Ok(None),
    }
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
