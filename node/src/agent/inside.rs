//! The task's node's end of a session: frames in, calls of the runtime out.
//!
//! ```text
//! Exec ─▶ Runtime::exec ──┐
//! Copy ─▶ Runtime::copy_* ┼─▶ pieces ─▶ frames      frames ─▶ pieces ─▶ it
//! Attach ─▶ its log, and its standard input
//! ```
//!
//! Invariant: when the user's end leaves, what was started for it is ended; the
//! task itself never is.

use std::path::Path;
use std::time::Duration;

use runtime::{
    Attached, ControlError, Exec, LogRecord, LogRequest, LogStream, Piece, Recipient, Runtime,
    Session, SessionInput, SessionOutput, StartFault, TaskId, Typed,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::info;

use super::words;
use crate::api::types::Complaint;
use crate::session::{Frame, Opening, Size, receive, send};

/// How long the user's end may take to say what it wants.
const OPEN_FOR: Duration = Duration::from_secs(10);

/// What is said to whoever attaches to a task that reads nothing.
const NO_INPUT: &str = "note: its standard input is not open, so only what it writes is shown; \
                        `run -i` keeps it open\n";

/// Serves one session to its end.
pub(crate) async fn serve(
    runtime: &Runtime,
    task: &TaskId,
    whom: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
) {
    let (mut from, mut to) = tokio::io::split(stream);
    let Ok(Ok(Some(Frame::Open(opening)))) =
        tokio::time::timeout(OPEN_FOR, receive(&mut from)).await
    else {
        return;
    };
    // For whoever asks later who was inside.
    info!(%task, whom, what = what(&opening), "a session begins");
    let opened = match opening {
        Opening::Attach { terminal, output } => {
            attach(runtime, task, terminal, output, &mut from, &mut to).await
        }
        opening => match open(runtime, task, opening).await {
            Ok(session) => pass(session, &mut from, &mut to).await,
            Err(complaint) => Err(complaint),
        },
    };
    if let Err(complaint) = opened {
        // The user's end may have left.
        let _ = send(&mut to, Frame::Failed(Box::new(complaint))).await;
    }
}

fn what(opening: &Opening) -> String {
    match opening {
        Opening::Exec { argv, .. } => format!("exec {}", argv.first().map_or("", String::as_str)),
        Opening::Attach { .. } => "attach".to_owned(),
        Opening::CopyOut { path, .. } => format!("copy out {path}"),
        Opening::Look { path } => format!("look at {path}"),
        Opening::CopyIn { path } => format!("copy in {path}"),
    }
}

async fn open(runtime: &Runtime, task: &TaskId, opening: Opening) -> Result<Session, Complaint> {
    let opened = match opening {
        Opening::Exec { argv, env, directory, user, input, terminal } => {
            let streams = match terminal {
                Some(Size { rows, columns }) => runtime::Streams::Terminal { rows, columns },
                None if input => runtime::Streams::Input,
                None => runtime::Streams::Logged,
            };
            let directory = directory.map(Into::into);
            runtime.exec(task, Exec { argv, env, directory, user, streams }).await
        }
        Opening::CopyOut { path, name } => runtime.copy_out(task, Path::new(&path), name).await,
        Opening::Look { path } => runtime.look_at(task, Path::new(&path)).await,
        Opening::CopyIn { path } => runtime.copy_in(task, Path::new(&path)).await,
        Opening::Attach { .. } => {
            return Err(Complaint::new("internal", "not a session of its own"));
        }
    };
    opened.map_err(|error| failed(&error))
}

/// What keeps a program from running, for who asked: the code tells their command's
/// exit code.
fn not_started(fault: StartFault, reason: String) -> Complaint {
    let reason = words::without_step(&reason);
    let complaint = |code, what| Complaint::new(code, what).because(reason);
    match fault {
        StartFault::NotFound => {
            complaint("no_such_program", "there is no such program in the task")
                .hint(words::NOT_FOUND)
        }
        StartFault::NotExecutable | StartFault::UnknownFormat => {
            complaint("not_executable", "the task's system cannot execute that")
                .hint(words::NOT_EXECUTABLE)
        }
        StartFault::User => complaint("no_such_user", "the task has no such user")
            .hint("a number needs no name; a plain process has no users but its own"),
        StartFault::Directory => complaint("no_such_directory", "the task has no such directory")
            .hint("--workdir is a directory of the task: of the container, or of its node"),
        _ => Complaint::new("inside", "it did not start").because(reason),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Complaint {
    Complaint::new("inside", "it could not be done inside the task").because(words::refusal(error))
}

/// Passes frames and pieces until what runs there ends or the user's end leaves.
async fn pass(
    session: Session,
    from: &mut (impl AsyncRead + Unpin + Send),
    to: &mut (impl AsyncWrite + Unpin + Send),
) -> Result<(), Complaint> {
    let Session { input, mut output } = session;
    if send(to, Frame::Opened).await.is_err() {
        return Ok(());
    }
    tokio::select! {
        told = tell(&mut output, to) => told,
        () = hear(from, input) => Ok(()),
    }
}

async fn tell(
    output: &mut SessionOutput,
    to: &mut (impl AsyncWrite + Unpin + Send),
) -> Result<(), Complaint> {
    loop {
        let frame = match output.next().await {
            Some(Piece::Stdout(bytes)) => Frame::Stdout(bytes),
            Some(Piece::Stderr(bytes)) => Frame::Stderr(bytes),
            Some(Piece::Ended(runtime::End::NotStarted { fault, reason })) => {
                return Err(not_started(fault, reason));
            }
            Some(Piece::Ended(end)) => {
                // The user's end may have left.
                let _ = send(to, Frame::Exit(end.exit_code())).await;
                return Ok(());
            }
            None => {
                return Err(Complaint::new("inside", "what ran inside the task was lost")
                    .because("its end was not told")
                    .hint("starling ps   whether the task still runs"));
            }
        };
        if send(to, frame).await.is_err() {
            return Ok(());
        }
    }
}

/// Passes what is typed on; returns when the user's end left.
async fn hear(from: &mut (impl AsyncRead + Unpin + Send), input: SessionInput) {
    while let Ok(Some(frame)) = receive(from).await {
        let typed = match frame {
            Frame::Input(bytes) => Typed::Bytes(bytes),
            Frame::InputEnd => Typed::End,
            Frame::Resize(Size { rows, columns }) => Typed::Resize { rows, columns },
            Frame::Signal(number) => Typed::Signal(number),
            _ => continue,
        };
        if input.send(typed).await.is_err() {
            // It has ended, which its output tells.
            return std::future::pending().await;
        }
    }
}

/// Connects with the task itself: its standard input, and its log from now on.
async fn attach(
    runtime: &Runtime,
    task: &TaskId,
    terminal: Option<Size>,
    output: bool,
    from: &mut (impl AsyncRead + Unpin + Send),
    to: &mut (impl AsyncWrite + Unpin + Send),
) -> Result<(), Complaint> {
    let request = LogRequest { follow: true, tail: Some(0) };
    let mut log = runtime.logs(task, request).await.map_err(|error| failed(&error))?;
    let mut input = match runtime.attach(task).await {
        Ok(input) => Some(input),
        // As with Docker: what it writes can be seen all the same.
        Err(ControlError::Refused { .. }) if output => None,
        Err(error) => return Err(failed(&error)),
    };
    if let (Some(input), Some(Size { rows, columns })) = (&mut input, terminal) {
        // A task without a terminal has no size.
        let _ = input.resize(rows, columns).await;
    }
    if input.is_none() && send(to, Frame::Unread).await.is_err() {
        return Ok(());
    }
    if send(to, Frame::Opened).await.is_err() {
        return Ok(());
    }
    if input.is_none() && send(to, Frame::Stderr(NO_INPUT.into())).await.is_err() {
        return Ok(());
    }
    let telling = async {
        loop {
            match log.next().await {
                Ok(Some(LogRecord::Output { stream, bytes, .. })) if output => {
                    let frame = match stream {
                        LogStream::Stdout => Frame::Stdout(bytes),
                        LogStream::Stderr => Frame::Stderr(bytes),
                    };
                    if send(to, frame).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return Err(failed(&error)),
            }
        }
        let end = runtime.end(task).await.map_err(|error| failed(&error))?;
        // The user's end may have left.
        let _ = send(to, Frame::Exit(end.map_or(0, |end| end.exit_code()))).await;
        Ok(())
    };
    tokio::select! {
        told = telling => told,
        () = type_in(runtime, task, from, input) => Ok(()),
    }
}

/// Passes what is typed on to the task itself; returns when the user's end left.
async fn type_in(
    runtime: &Runtime,
    task: &TaskId,
    from: &mut (impl AsyncRead + Unpin + Send),
    mut input: Option<Attached>,
) {
    while let Ok(Some(frame)) = receive(from).await {
        let done = match (frame, input.as_mut()) {
            (Frame::Input(bytes), Some(input)) => input.write(&bytes).await,
            (Frame::Resize(Size { rows, columns }), Some(input)) => {
                input.resize(rows, columns).await
            }
            (Frame::InputEnd, Some(_)) => match input.take() {
                Some(input) => input.close().await,
                None => Ok(()),
            },
            (Frame::Signal(number), _) => {
                // One that has ended is told of by its log.
                let _ = runtime.signal(task, number, Recipient::Main).await;
                Ok(())
            }
            _ => Ok(()),
        };
        if done.is_err() {
            // It has ended, which its log tells.
            return std::future::pending().await;
        }
    }
}
