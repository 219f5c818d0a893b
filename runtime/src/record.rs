//! The files of a task's directory, as both sides of a crash read them.
//!
//! ```text
//! launch.json   the request             written by the agent, before it asks
//! state.json    who runs it             claimed once; a second line names the process
//! stop.json     the order to stop       written by the agent
//! end.json      how it ended            written once, durable
//! log.N         its output              see `log`
//! scratch/      where it starts         the task's own
//! ```
//!
//! `state.json` is first created exclusively: whoever creates it owns the launch,
//! be it the supervisor that is about to start the program or an agent that
//! gives up a launch it finds half done. That is why none runs twice.
//!
//! Each file carries a version; a newer one is refused, never guessed at.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::launch::{End, Launch};
use crate::proc::ProcessMark;

/// Version of all files here.
const VERSION: u32 = 1;

/// Longest record read: a launch with its arguments, each byte of them escaped.
const RECORD_BYTES: u64 = 8 << 20;

pub(crate) const LAUNCH: &str = "launch.json";
pub(crate) const STATE: &str = "state.json";
pub(crate) const STOP: &str = "stop.json";
pub(crate) const END: &str = "end.json";
pub(crate) const SCRATCH: &str = "scratch";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LaunchRecord {
    /// Tells this launch from an earlier one of the same id.
    pub(crate) nonce: String,
    /// The boot in which it was asked for.
    pub(crate) boot: String,
    pub(crate) launch: Launch,
}

/// The first line of `state.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StateRecord {
    pub(crate) nonce: String,
    pub(crate) boot: String,
    pub(crate) claim: Claim,
}

/// Who owns a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Claim {
    /// An agent gave it up: it must never start.
    Void,
    /// A supervisor runs it, or is about to.
    Supervised { supervisor: ProcessMark },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StopRecord {
    pub(crate) grace_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EndRecord {
    pub(crate) end: End,
    pub(crate) unix_ns: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    body: T,
}

/// A file of a task's directory that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A later version of this program wrote it.
    #[error("{name} has version {version}, and this program knows up to {VERSION}; upgrade it")]
    Newer {
        /// The file.
        name: String,
        /// Its version.
        version: u32,
    },
    /// It holds no record.
    #[error("{name} cannot be understood")]
    Garbled {
        /// The file.
        name: String,
        /// Where it went wrong.
        source: serde_json::Error,
    },
    /// The file system failed.
    #[error("cannot use {name}")]
    Io {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
}

impl RecordError {
    fn io(name: &str, source: impl Into<io::Error>) -> Self {
        Self::Io { name: name.to_owned(), source: source.into() }
    }
}

/// Reads a record; none if there is no such file.
pub(crate) fn read<T: DeserializeOwned>(
    dir: BorrowedFd<'_>,
    name: &str,
) -> Result<Option<T>, RecordError> {
    let text = read_text(dir, name).map_err(|error| RecordError::io(name, error))?;
    text.map(|text| parse(name, &text)).transpose()
}

fn read_text(dir: BorrowedFd<'_>, name: &str) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    file.take(RECORD_BYTES).read_to_end(&mut text)?;
    Ok(Some(text))
}

fn parse<T: DeserializeOwned>(name: &str, text: &[u8]) -> Result<T, RecordError> {
    let garbled = |source| RecordError::Garbled { name: name.to_owned(), source };
    // The version first: the body of a newer one may look like anything.
    let Envelope { version, body } =
        serde_json::from_slice::<Envelope<serde_json::Value>>(text).map_err(garbled)?;
    if version > VERSION {
        return Err(RecordError::Newer { name: name.to_owned(), version });
    }
    serde_json::from_value(body).map_err(garbled)
}

/// Who runs a task, and the task's process once it exists.
pub(crate) fn read_state(
    dir: BorrowedFd<'_>,
) -> Result<Option<(StateRecord, Option<ProcessMark>)>, RecordError> {
    let text = read_text(dir, STATE).map_err(|error| RecordError::io(STATE, error))?;
    let Some(text) = text else { return Ok(None) };
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let state = parse(STATE, lines.next().unwrap_or_default())?;
    // The second line counts when it is whole.
    let task = lines.next().filter(|line| line.ends_with(b"\n"));
    Ok(Some((state, task.map(|line| parse(STATE, line)).transpose()?)))
}

/// Adds the task's process to its state: a line behind the claim, since making a
/// file anew is the dearest step of a launch.
pub(crate) fn add_task(dir: BorrowedFd<'_>, task: ProcessMark) -> Result<(), RecordError> {
    let failed = |source| RecordError::Garbled { name: STATE.to_owned(), source };
    let mut line =
        serde_json::to_vec(&Envelope { version: VERSION, body: task }).map_err(failed)?;
    line.push(b'\n');
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, STATE, flags, Mode::empty()).map(File::from);
    file.map_err(io::Error::from)
        .and_then(|mut file| file.write_all(&line))
        .map_err(|error| RecordError::io(STATE, error))
}

/// What becomes of a record already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    Replaced,
    Kept,
}

/// What a record survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survives {
    /// Every crash but the host's.
    Processes,
    /// The host's too.
    Host,
}

/// Writes a record in one step. False if one was there and is kept.
pub(crate) fn write<T: Serialize>(
    dir: BorrowedFd<'_>,
    name: &str,
    body: &T,
    existing: Existing,
    survives: Survives,
) -> Result<bool, RecordError> {
    let mut text = serde_json::to_vec(&Envelope { version: VERSION, body })
        .map_err(|source| RecordError::Garbled { name: name.to_owned(), source })?;
    text.push(b'\n');
    write_text(dir, name, &text, existing, survives).map_err(|error| RecordError::io(name, error))
}

fn write_text(
    dir: BorrowedFd<'_>,
    name: &str,
    text: &[u8],
    existing: Existing,
    survives: Survives,
) -> io::Result<bool> {
    let unfinished = format!(".{name}.{}", rustix::thread::gettid().as_raw_nonzero());
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file =
        File::from(rustix::fs::openat(dir, unfinished.as_str(), flags, Mode::RUSR | Mode::WUSR)?);
    let renamed = file.write_all(text).and_then(|()| {
        let flags = match existing {
            Existing::Replaced => RenameFlags::empty(),
            Existing::Kept => RenameFlags::NOREPLACE,
        };
        Ok(rustix::fs::renameat_with(dir, unfinished.as_str(), dir, name, flags)?)
    });
    if let Err(error) = renamed {
        // Nothing better can be done with a second failure than to report the first.
        let _ = rustix::fs::unlinkat(dir, unfinished.as_str(), AtFlags::empty());
        let kept = existing == Existing::Kept && error.kind() == io::ErrorKind::AlreadyExists;
        return if kept { Ok(false) } else { Err(error) };
    }
    if survives == Survives::Host {
        // After the rename: a torn record can then only be seen after a reboot,
        // and a reboot ends the task anyway; one journal commit serves both.
        file.sync_all()?;
        rustix::fs::fsync(dir)?;
    }
    Ok(true)
}

/// Records how a task ended, durably. The first end stands.
pub(crate) fn write_end(dir: BorrowedFd<'_>, end: &End) -> Result<(), RecordError> {
    let record = EndRecord { end: end.clone(), unix_ns: unix_ns() };
    match write(dir, END, &record, Existing::Kept, Survives::Host) {
        // The disk may be full, and an end must not be lost to that: the launch,
        // which is not needed any more, gives its room.
        Err(RecordError::Io { .. }) => reuse_launch(dir, &record),
        written => written.map(drop),
    }
}

fn reuse_launch(dir: BorrowedFd<'_>, record: &EndRecord) -> Result<(), RecordError> {
    let garbled = |source| RecordError::Garbled { name: END.to_owned(), source };
    let text = serde_json::to_vec(&Envelope { version: VERSION, body: record }).map_err(garbled)?;
    let reuse = || -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(rustix::fs::openat(dir, LAUNCH, flags, Mode::empty())?);
        file.write_all(&text)?;
        file.set_len(text.len() as u64)?;
        rustix::fs::renameat_with(dir, LAUNCH, dir, END, RenameFlags::NOREPLACE)?;
        file.sync_all()?;
        Ok(rustix::fs::fsync(dir)?)
    };
    reuse().map_err(|error| RecordError::io(END, error))
}

/// How a task ended, if it has.
pub(crate) fn read_end(dir: BorrowedFd<'_>) -> Result<Option<End>, RecordError> {
    Ok(read::<EndRecord>(dir, END)?.map(|record| record.end))
}

/// Whether the end is recorded, readable or not.
pub(crate) fn has_end(dir: BorrowedFd<'_>) -> bool {
    rustix::fs::statat(dir, END, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Whether the task's directory is whole: it is made with its launch, and
/// emptied only when it is removed.
pub(crate) fn has_launch(dir: BorrowedFd<'_>) -> bool {
    rustix::fs::statat(dir, LAUNCH, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Takes a launch that nobody owns yet out of the world. False if it is owned.
pub(crate) fn void(dir: BorrowedFd<'_>, boot: &str) -> Result<bool, RecordError> {
    let state = StateRecord { nonce: String::new(), boot: boot.to_owned(), claim: Claim::Void };
    write(dir, STATE, &state, Existing::Kept, Survives::Processes)
}

/// Now, as logs and records tell it.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_first_end_stands() {
        let dir = tempfile::tempdir().expect("a directory");
        let handle = File::open(dir.path()).expect("a handle");
        let (first, second) = (End::Exited { code: 3 }, End::Lost { reason: "late".into() });
        write_end(handle.as_fd(), &first).expect("written");
        write_end(handle.as_fd(), &second).expect("kept");
        assert_eq!(read_end(handle.as_fd()).expect("read"), Some(first));
        let names: Vec<_> = std::fs::read_dir(dir.path()).expect("listed").collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn an_end_finds_room_on_a_full_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        let handle = File::open(dir.path()).expect("a handle");
        std::fs::write(dir.path().join(LAUNCH), "x".repeat(4096)).expect("written");
        let record = EndRecord { end: End::Signalled { signal: 9 }, unix_ns: 1 };
        reuse_launch(handle.as_fd(), &record).expect("written");
        assert_eq!(read_end(handle.as_fd()).expect("read"), Some(record.end));
    }

    #[test]
    fn the_task_is_a_second_line_of_the_claim_and_counts_when_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let handle = File::open(dir.path()).expect("a handle");
        let mark = ProcessMark { pid: 7, start: 8 };
        assert!(void(handle.as_fd(), "boot").expect("claimed"));
        assert!(!void(handle.as_fd(), "boot").expect("kept"));
        let task = || read_state(handle.as_fd()).expect("read").expect("a state").1;
        assert_eq!(task(), None);
        add_task(handle.as_fd(), mark).expect("added");
        assert_eq!(task(), Some(mark));
        let whole = std::fs::read(dir.path().join(STATE)).expect("read");
        std::fs::write(dir.path().join(STATE), &whole[..whole.len() - 1]).expect("torn");
        assert_eq!(task(), None);
    }

    #[test]
    fn a_newer_record_is_refused_and_a_torn_one_is_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let handle = File::open(dir.path()).expect("a handle");
        std::fs::write(dir.path().join(END), br#"{"version":2,"body":[7]}"#).expect("written");
        let newer = read_end(handle.as_fd());
        assert!(matches!(newer, Err(RecordError::Newer { version: 2, .. })), "{newer:?}");
        std::fs::write(dir.path().join(END), br#"{"version":1,"bo"#).expect("written");
        let torn = read_end(handle.as_fd());
        assert!(matches!(torn, Err(RecordError::Garbled { .. })), "{torn:?}");
    }
}
