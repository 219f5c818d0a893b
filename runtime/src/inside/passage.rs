//! Carries bytes between a session's connection and the process inside: one `poll`,
//! one piece at a time in either direction.
//!
//! Whoever does not read holds the other side up and nobody else. The connection's
//! end hangs the process up; the task's end kills it, and whatever it made.
//!
//! Invariant: all output is passed on, in order, before the end is told; but nothing that
//! runs or is unreaped waits for somebody to read it. A container does not end before the
//! last process in it is reaped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process_group, pidfd_open, waitpid,
};

use super::errand::Began;
use super::rest;
use super::wire::{PIECE_BYTES, Word};
use crate::frame::Inbox;
use crate::launch::End;
use crate::log::LogStream;
use crate::order::{self, Typed};
use crate::supervisor::input::Input;

/// Between SIGHUP and SIGKILL for a program whose user has left.
const HANG_UP_GRACE: Duration = Duration::from_secs(3);

/// Most that a process can have written and left in a pipe (`fs.pipe-max-size`): what
/// comes after that is somebody else's, who may never stop.
const REST_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Passage<'a> {
    agent: &'a OwnedFd,
    inbox: &'a mut Inbox,
    pid: Pid,
    child: OwnedFd,
    task: OwnedFd,
    input: Input,
    outputs: Vec<(LogStream, OwnedFd)>,
    /// What the connection has not taken yet of a frame.
    waiting: Vec<u8>,
    piece: Vec<u8>,
    /// When the grace of a hang-up is over.
    kill_at: Option<Instant>,
    /// The task has ended, and all that is ours in it was killed.
    is_killed: bool,
    /// How the process ended, once it is reaped: then its number is not its own.
    end: Option<End>,
    /// How much more is read once the process is over.
    rest: usize,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Agent,
    /// The agent's end is closed.
    Left,
    Output(usize),
    Input,
    Child,
    Task,
    Signals,
}

impl<'a> Passage<'a> {
    /// Between a connection that does not block and what began.
    pub(crate) fn new(agent: &'a OwnedFd, inbox: &'a mut Inbox, began: Began) -> io::Result<Self> {
        let Began { pid, ours, task } = began;
        // Our unreaped child, so the number is its own.
        let child = pidfd_open(pid, PidfdFlags::empty())?;
        let waiting = Word::Began.frame()?;
        Ok(Self {
            agent,
            inbox,
            pid,
            child,
            task,
            input: ours.input,
            outputs: ours.outputs,
            waiting,
            piece: vec![0; PIECE_BYTES],
            kill_at: None,
            is_killed: false,
            end: None,
            rest: REST_BYTES,
        })
    }

    /// Returns when the process has ended and all is told, or nobody is left to be told.
    /// `signalled` is called when there is something at `signals`; true hangs up.
    pub(crate) fn run(mut self, signals: BorrowedFd<'_>, mut signalled: impl FnMut() -> bool) {
        // What came with the order.
        self.hear_rest();
        loop {
            let ready = self.wait(signals);
            // All that was written before the end has been read.
            if self.end.is_some() && ready.is_empty() && self.waiting.is_empty() {
                break;
            }
            for source in ready {
                match source {
                    Source::Agent => self.serve_agent(),
                    Source::Left => self.hang_up(),
                    Source::Output(at) => self.read(at),
                    Source::Input => self.input.turn(),
                    Source::Child => self.reap(),
                    Source::Task => {
                        self.is_killed = true;
                        self.kill_all();
                    }
                    Source::Signals if signalled() => self.hang_up(),
                    Source::Signals => {}
                }
            }
            self.hear_rest();
            match self.kill_at {
                Some(_) if self.end.is_some() => break,
                Some(at) if at <= Instant::now() => self.kill(),
                _ => {}
            }
        }
        self.kill_all();
        if let Some(end) = self.end.take().filter(|_| self.kill_at.is_none()) {
            self.tell(&Word::Ended(end));
        }
    }

    fn wait(&self, signals: BorrowedFd<'_>) -> Vec<Source> {
        let is_over = self.end.is_some();
        let (is, takes) = (PollFlags::IN, PollFlags::OUT);
        let mut watch = vec![(Source::Signals, signals, is)];
        if self.kill_at.is_none() {
            // Its end is always told; more only if there is a place for it.
            let hears = if self.input.has_room() { is } else { PollFlags::empty() };
            let says = if self.waiting.is_empty() { PollFlags::empty() } else { takes };
            watch.push((Source::Agent, self.agent.as_fd(), hears | says));
        }
        if self.waiting.is_empty() {
            let outputs = self.outputs.iter().enumerate();
            watch.extend(outputs.map(|(at, (_, fd))| (Source::Output(at), fd.as_fd(), is)));
        }
        watch.extend(self.input.blocked_on().map(|fd| (Source::Input, fd, takes)));
        if !is_over {
            watch.push((Source::Child, self.child.as_fd(), is));
        }
        if !self.is_killed {
            watch.push((Source::Task, self.task.as_fd(), is));
        }
        let polled = watch.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags));
        let mut polled: Vec<_> = polled.collect();
        let left = self.kill_at.map(|at| at.saturating_duration_since(Instant::now()));
        // Once it is over, what is there is all there will be.
        let drained = is_over && self.waiting.is_empty();
        let timeout = if drained { Some(Duration::ZERO) } else { left };
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        if poll(&mut polled, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = polled.iter().zip(&watch).filter(|(fd, _)| !fd.revents().is_empty());
        let source = |(fd, watch): (&PollFd<'_>, &(Source, BorrowedFd<'_>, PollFlags))| {
            let is_closed = fd.revents().intersects(PollFlags::HUP | PollFlags::ERR);
            if matches!(watch.0, Source::Agent) && is_closed { Source::Left } else { watch.0 }
        };
        let ready: Vec<_> = ready.map(source).collect();
        // Then only output keeps from the end.
        let more = ready.iter().any(|source| matches!(source, Source::Output(_) | Source::Left));
        if drained && (!more || self.rest == 0) { Vec::new() } else { ready }
    }

    fn serve_agent(&mut self) {
        self.flush();
        if !self.input.has_room() {
            return;
        }
        match order::hear(self.agent, self.inbox, RecvFlags::DONTWAIT) {
            Ok(true) | Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(false) | Err(_) => self.hang_up(),
        }
    }

    /// Takes what was typed, as far as there is room.
    fn hear_rest(&mut self) {
        while self.input.has_room() && self.kill_at.is_none() {
            match self.inbox.take() {
                Ok(None) => return,
                Ok(Some(body)) => match Typed::read(&body) {
                    Some(Typed::Signal(number)) => self.signal(number),
                    Some(typed) => self.input.take(typed),
                    None => return self.hang_up(),
                },
                Err(_) => return self.hang_up(),
            }
        }
    }

    fn signal(&self, number: i32) {
        if let Some(signal) = Signal::from_named_raw(number) {
            self.signal_group(signal);
        }
    }

    fn signal_group(&self, signal: Signal) {
        if self.end.is_none() {
            // It leads its group, and is not reaped: the number is its own.
            let _ = kill_process_group(self.pid, signal);
        }
    }

    fn read(&mut self, at: usize) {
        let Some((stream, fd)) = self.outputs.get(at) else { return };
        if !self.waiting.is_empty() {
            return;
        }
        match rustix::io::read(fd, &mut self.piece[..]) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal's end is EIO.
            Ok(0) | Err(_) => {
                self.outputs.remove(at);
            }
            Ok(length) => {
                if self.end.is_some() {
                    self.rest = self.rest.saturating_sub(length);
                }
                let bytes = self.piece.get(..length).unwrap_or_default().to_vec();
                let word = match stream {
                    LogStream::Stdout => Word::Stdout(bytes),
                    LogStream::Stderr => Word::Stderr(bytes),
                };
                match word.frame() {
                    Ok(frame) => self.waiting = frame,
                    Err(_) => self.hang_up(),
                }
                self.flush();
            }
        }
    }

    /// Sends what the connection takes now.
    fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(self.agent, &self.waiting, flags) {
                Ok(length) => {
                    self.waiting.drain(..length);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.hang_up(),
            }
        }
    }

    /// Its user has left.
    fn hang_up(&mut self) {
        if self.kill_at.is_some() {
            return;
        }
        self.kill_at = Some(Instant::now() + HANG_UP_GRACE);
        self.signal_group(Signal::HUP);
        self.signal_group(Signal::CONT);
        self.waiting.clear();
        self.outputs.clear();
        self.input = Input::default();
    }

    fn kill(&self) {
        self.signal_group(Signal::KILL);
    }

    /// Takes the end of the process, which has come.
    fn reap(&mut self) {
        if self.end.is_some() {
            return;
        }
        if self.kill_at.is_some() {
            // Nobody is there for what it left in its group.
            self.kill();
        }
        let status = rustix::io::retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty()));
        self.end = Some(status.ok().flatten().map_or_else(lost, |(_, status)| end(status)));
    }

    /// Ends the process and all that it left to us. Does not wait for who reads.
    fn kill_all(&mut self) {
        self.kill();
        let killed = rest::kill(Some(self.pid));
        self.end = self.end.take().or_else(|| killed.main.map(end));
    }

    /// Says the last word, for as long as somebody may hear it.
    fn tell(&mut self, word: &Word) {
        let Ok(frame) = word.frame() else { return };
        self.waiting = frame;
        self.flush();
        while !self.waiting.is_empty() && self.kill_at.is_none() {
            let mut agent = [PollFd::new(self.agent, PollFlags::OUT)];
            let _ = poll(&mut agent, None);
            self.flush();
        }
    }
}

fn end(status: WaitStatus) -> End {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => End::Exited { code },
        (None, Some(signal)) => End::Signalled { signal },
        (None, None) => End::Lost { reason: format!("status {:#x}", status.as_raw()) },
    }
}

fn lost() -> End {
    End::Lost { reason: "its exit status could not be had".to_owned() }
}
