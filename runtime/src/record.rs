//! What a task's directory says, as both sides of a crash read it.
//!
//! ```text
//! state          lines that are only ever added; see `Line`
//! control.sock   where its supervisor takes commands, once somebody knocked
//! log.N          its output              see `log`
//! scratch/       where it starts         the task's own; see `shipped`
//! ```
//!
//! The directory is prepared under another name and becomes the task's by one
//! rename that replaces nothing: that is the claim. Whoever makes it owns the
//! launch, be it the supervisor that is about to start the program or an agent that
//! gives up a launch nobody answered. That is why none runs twice.
//!
//! Directories are used again (see `spare`), so a state may lie in a file that held an
//! older one: the text ends at the first zero byte. After a crash of the host pages of
//! the older one may be back; a claim names its task and an end its launch, so that
//! none is taken for another's.
//!
//! Only whole lines count. Nothing here is synced: what must survive the host is in
//! its user's own journal, and a task whose last lines a crash of the host took is
//! lost, as all tasks of that boot are. The room for the end is reserved before the
//! task starts, so that a full disk takes no end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::cgroup::Usage;
use crate::launch::{End, Launch, TaskId};
use crate::proc::ProcessMark;

/// Version of the state file.
const VERSION: u32 = 3;

/// How a file of that version begins.
const VERSION_LINE: &[u8] = b"{\"version\":3}\n";

/// Longest state read: a launch is bounded by its message.
const STATE_BYTES: u64 = 8 << 20;

/// Room kept for what follows the launch: a mark, and an end whose reason has all
/// its bytes escaped to six.
const RESERVED: u64 = 8 << 10;

/// How an end's line begins.
const END_LINE: &[u8] = br#"{"end":"#;
const LAUNCH_LINE: &[u8] = br#"{"launch":"#;

pub(crate) const STATE: &str = "state";

/// Of a task's directory: others may pass through, nobody may look.
pub(crate) const PASSAGE: Mode = Mode::from_raw_mode(0o711);
pub(crate) const SCRATCH: &str = "scratch";

/// A line of the state file, behind the first, which names the version.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Claim(Claim),
    /// As it was ordered.
    Launch {
        nonce: String,
        launch: Box<Launch>,
    },
    /// The main process, once it runs.
    Task(ProcessMark),
    End(EndRecord),
}

#[derive(Debug, Serialize, Deserialize)]
struct Version {
    version: u32,
}

/// Who owns a launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// Of which task; version 2 did not say.
    #[serde(default)]
    pub(crate) id: Option<TaskId>,
    /// Tells this launch from an earlier one of the same id.
    pub(crate) nonce: String,
    /// The boot in which it was claimed.
    pub(crate) boot: String,
    /// Who runs it; nobody, if an agent gave it up.
    pub(crate) supervisor: Option<ProcessMark>,
    /// The control group of all its processes.
    pub(crate) slot: Option<String>,
    /// Where its counters stood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) baseline: Option<Usage>,
}

#[derive(Debug, Serialize, Deserialize)]
struct EndRecord {
    end: End,
    unix_ns: u64,
    /// Of the launch that ended; version 2 did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
}

/// A state that is being written.
#[derive(Debug)]
pub(crate) struct StateFile {
    file: File,
    /// Where its text ends.
    at: u64,
    nonce: Option<String>,
}

/// All that a state says, but for the launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) claim: Claim,
    pub(crate) task: Option<ProcessMark>,
    pub(crate) end: Option<End>,
}

/// A task's record that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A later version of this program wrote it.
    #[error("the state has version {version}, and this program knows up to {VERSION}; upgrade it")]
    Newer {
        /// Its version.
        version: u32,
    },
    /// It says nothing sound.
    #[error("the state cannot be understood")]
    Garbled {
        /// Where it went wrong.
        source: serde_json::Error,
    },
    /// It says nothing at all.
    #[error("the state is not there")]
    Absent,
    /// The file system failed.
    #[error("cannot use the state")]
    Io(#[from] io::Error),
}

impl StateFile {
    /// A new one, with room for what must not be lost.
    pub(crate) fn make(dir: impl AsFd) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, STATE, flags, Mode::RUSR | Mode::WUSR)?;
        reserve(&file, 0)?;
        Ok(Self { file: file.into(), at: 0, nonce: None })
    }

    /// One that was [wiped](wipe): its room is still there.
    pub(crate) fn again(dir: impl AsFd) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(dir, STATE, flags, Mode::empty())?;
        Ok(Self { file: file.into(), at: 0, nonce: None })
    }

    /// Writes a claim, with the launch it is for: the body of an
    /// [`Order::Launch`](crate::order::Order) as it came.
    pub(crate) fn claim(&mut self, claim: &Claim, launch: &[u8]) -> io::Result<()> {
        if !launch.starts_with(LAUNCH_LINE) || launch.iter().any(|byte| matches!(byte, 0 | b'\n')) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the launch is not one line"));
        }
        let mut text = head(claim)?;
        text.extend_from_slice(launch);
        text.push(b'\n');
        // What was reserved is as good as used.
        if text.len() as u64 > RESERVED / 4 {
            reserve(&self.file, text.len() as u64)?;
        }
        self.nonce = Some(claim.nonce.clone());
        self.add(&text)
    }

    /// Names the task's process.
    pub(crate) fn add_task(&mut self, task: ProcessMark) -> io::Result<()> {
        self.add(&line(&Line::Task(task))?)
    }

    /// Records how the task ended.
    pub(crate) fn add_end(&mut self, end: &End) -> io::Result<()> {
        let nonce = self.nonce.clone();
        let end = EndRecord { end: end.clone(), unix_ns: unix_ns(), nonce };
        self.add(&line(&Line::End(end))?)
    }

    /// Adds whole lines, or nothing.
    fn add(&mut self, text: &[u8]) -> io::Result<()> {
        let length = self.file.write_at(text, self.at)?;
        if length == text.len() {
            self.at += length as u64;
            return Ok(());
        }
        // A torn line would spoil the next one.
        self.file.set_len(self.at)?;
        Err(Errno::NOSPC.into())
    }
}

fn reserve(file: impl AsFd, from: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, from, RESERVED) {
        // Some file systems cannot; there a full disk may take an end.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn head(claim: &Claim) -> io::Result<Vec<u8>> {
    let mut text = line(&Version { version: VERSION })?;
    text.extend(line(&Line::Claim(claim.clone()))?);
    Ok(text)
}

fn line<T: Serialize>(body: &T) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(body)?;
    text.push(b'\n');
    Ok(text)
}

/// Takes all that a state says out of its file, and leaves the room for the next one.
/// False if the file is not as they usually are.
pub(crate) fn wipe(dir: impl AsFd) -> io::Result<bool> {
    let file = StateFile::again(dir)?.file;
    let length = file.metadata()?.len();
    let mut first = [0; VERSION_LINE.len()];
    let read = file.read_at(&mut first, 0)?;
    // An older one does not name its task, so it could come back as the next one's.
    if length > RESERVED || first.get(..read) != Some(VERSION_LINE) {
        return Ok(false);
    }
    // Where the file system can, zeros are its own knowledge and stand before the
    // directory has another name: no crash of the host brings the old text back.
    let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    if rustix::fs::fallocate(&file, flags, 0, RESERVED).is_ok() {
        return Ok(true);
    }
    let zeros = vec![0; usize::try_from(length).unwrap_or_default()];
    Ok(file.write_at(&zeros, 0)? == zeros.len())
}

/// Records an end beside whatever is there. The first end stands.
pub(crate) fn conclude(dir: BorrowedFd<'_>, end: &End) -> Result<(), RecordError> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, STATE, flags, Mode::RUSR | Mode::WUSR);
    let file = File::from(file.map_err(io::Error::from)?);
    let text = text(&file)?;
    let nonce = parse(&text).ok().map(|state| state.claim.nonce);
    // Whatever is behind was not written for this.
    file.set_len(text.len() as u64)?;
    let mut state = StateFile { file, at: text.len() as u64, nonce };
    if !text.is_empty() && !text.ends_with(b"\n") {
        // Torn by a crash of the host: what follows must not be taken for its rest.
        state.add(b"\n")?;
    }
    state.add_end(end)?;
    Ok(())
}

/// Makes the record of a launch that was given up, in an empty directory.
pub(crate) fn make_void(
    dir: BorrowedFd<'_>,
    id: &TaskId,
    nonce: &str,
    boot: &str,
    end: &End,
) -> io::Result<()> {
    let (id, nonce, boot) = (Some(id.clone()), nonce.to_owned(), boot.to_owned());
    let claim = Claim { id, nonce, boot, supervisor: None, slot: None, baseline: None };
    let mut state = StateFile::make(dir)?;
    state.add(&head(&claim)?)?;
    state.nonce = Some(claim.nonce);
    state.add_end(end)
}

fn open(dir: BorrowedFd<'_>) -> Result<File, RecordError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(dir, STATE, flags, Mode::empty()) {
        Ok(file) => Ok(File::from(file)),
        Err(Errno::NOENT) => Err(RecordError::Absent),
        Err(error) => Err(RecordError::Io(error.into())),
    }
}

/// All that it says, up to where it ends.
fn text(file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(STATE_BYTES).read_to_end(&mut text)?;
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    text.truncate(end);
    Ok(text)
}

fn whole_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"))
}

/// What a task's state says.
pub(crate) fn read(dir: BorrowedFd<'_>) -> Result<State, RecordError> {
    parse(&text(&open(dir)?)?)
}

fn parse(text: &[u8]) -> Result<State, RecordError> {
    let garbled = |source| RecordError::Garbled { source };
    let mut lines = whole_lines(text);
    let first = lines.next().ok_or(RecordError::Absent)?;
    let Version { version } = serde_json::from_slice(first).map_err(garbled)?;
    if version > VERSION {
        return Err(RecordError::Newer { version });
    }
    let (mut claim, mut task, mut ends) = (None, None, Vec::new());
    for line in lines.filter(|line| !line.starts_with(LAUNCH_LINE)) {
        match serde_json::from_slice(line) {
            Ok(Line::Claim(found)) => claim = claim.or(Some(found)),
            Ok(Line::Task(found)) => task = task.or(Some(found)),
            Ok(Line::End(found)) => ends.push(found),
            Ok(Line::Launch { .. }) => {}
            // Only a crash of the host tears lines, and then an end may follow.
            Err(_) if claim.is_some() => {}
            Err(source) => return Err(garbled(source)),
        }
    }
    let claim: Claim = claim.ok_or(RecordError::Absent)?;
    let is_its = |end: &EndRecord| end.nonce.as_ref().is_none_or(|nonce| *nonce == claim.nonce);
    let end = ends.into_iter().find(is_its).map(|found| found.end);
    Ok(State { claim, task, end })
}

/// The main process of a task that runs, with a handle to exactly that one: a number that
/// came round again is none.
pub(crate) fn main_process(
    dir: BorrowedFd<'_>,
    boot: &str,
) -> Result<Option<(ProcessMark, OwnedFd)>, RecordError> {
    let state = read(dir)?;
    let mark = state.task.filter(|_| state.end.is_none() && state.claim.boot == boot);
    let Some(mark) = mark else { return Ok(None) };
    Ok(mark.open()?.map(|handle| (mark, handle)))
}

/// The launch of a task, as it was ordered.
pub(crate) fn read_launch(dir: BorrowedFd<'_>) -> Result<Launch, RecordError> {
    let text = text(&open(dir)?)?;
    let line = whole_lines(&text).find(|line| line.starts_with(LAUNCH_LINE));
    match serde_json::from_slice(line.ok_or(RecordError::Absent)?) {
        Ok(Line::Launch { launch, .. }) => Ok(*launch),
        Ok(_) => Err(RecordError::Absent),
        Err(source) => Err(RecordError::Garbled { source }),
    }
}

/// Whether the task has ended, or its directory is being removed.
pub(crate) fn is_over(dir: BorrowedFd<'_>) -> bool {
    let Ok(file) = open(dir) else { return true };
    let last = || -> io::Result<bool> {
        let mut text = [0; RESERVED as usize];
        let mut length = file.read_at(&mut text, 0)?;
        if length == text.len() {
            let from = file.metadata()?.len().saturating_sub(RESERVED);
            length = file.read_at(&mut text, from)?;
        }
        let text = text.get(..length).unwrap_or_default();
        let mut lines = text.split_inclusive(|byte| *byte == b'\n').rev();
        Ok(lines.any(|line| line.starts_with(END_LINE) && line.ends_with(b"\n")))
    };
    last().unwrap_or(false)
}

/// The name of a directory that is being made for a task, or removed.
pub(crate) fn unfinished(kind: &str, id: &TaskId) -> String {
    format!(".{kind}-{id}")
}

/// Now, as logs and records tell it.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::launch::TaskId;
    use crate::order::Order;

    fn order() -> (Launch, Vec<u8>) {
        let id: TaskId = "a".parse().expect("an id");
        let launch = Launch::new(id, ["true", "with\na line"]);
        let order = Order::Launch { nonce: "n".into(), launch: Box::new(launch.clone()) };
        (launch, serde_json::to_vec(&order).expect("text"))
    }

    fn sample() -> Claim {
        let (id, supervisor) = ("a".parse().ok(), Some(ProcessMark { pid: 1, start: 2 }));
        Claim { id, nonce: "n".into(), boot: "b".into(), supervisor, slot: None, baseline: None }
    }

    fn begin(dir: &Path) -> (File, StateFile) {
        let handle = File::open(dir).expect("a handle");
        let mut state = StateFile::make(&handle).expect("made");
        state.claim(&sample(), &order().1).expect("claimed");
        (handle, state)
    }

    #[test]
    fn what_was_added_is_read_and_the_first_end_stands() {
        let dir = tempfile::tempdir().expect("a directory");
        let (handle, mut state) = begin(dir.path());
        let read = || super::read(handle.as_fd()).expect("read");
        assert_eq!(read(), State { claim: sample(), task: None, end: None });
        assert_eq!(read_launch(handle.as_fd()).expect("a launch"), order().0);
        let mark = ProcessMark { pid: 7, start: 8 };
        state.add_task(mark).expect("added");
        assert!(!is_over(handle.as_fd()));
        let (first, second) = (End::Exited { code: 3 }, End::Lost { reason: "late".into() });
        state.add_end(&first).expect("added");
        conclude(handle.as_fd(), &second).expect("kept");
        assert_eq!(read(), State { claim: sample(), task: Some(mark), end: Some(first) });
        assert!(is_over(handle.as_fd()));
    }

    #[test]
    fn a_torn_line_does_not_count_and_spoils_nothing_after_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (handle, mut state) = begin(dir.path());
        state.add_end(&End::Exited { code: 3 }).expect("added");
        let whole = std::fs::read(dir.path().join(STATE)).expect("read");
        std::fs::write(dir.path().join(STATE), &whole[..whole.len() - 2]).expect("torn");
        assert_eq!(read(handle.as_fd()).expect("read").end, None);
        assert!(!is_over(handle.as_fd()));
        let end = End::Lost { reason: "reboot".into() };
        conclude(handle.as_fd(), &end).expect("concluded");
        assert_eq!(read(handle.as_fd()).expect("read").end, Some(end));
    }

    #[test]
    fn a_newer_state_is_refused_and_an_empty_or_zeroed_one_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let handle = File::open(dir.path()).expect("a handle");
        let read = |text: &[u8]| {
            std::fs::write(dir.path().join(STATE), text).expect("written");
            super::read(handle.as_fd())
        };
        let newer = read(b"{\"version\":4,\"more\":[7]}\n???\n");
        assert!(matches!(newer, Err(RecordError::Newer { version: 4 })), "{newer:?}");
        let empty = read(b"{\"version\":2}");
        assert!(matches!(empty, Err(RecordError::Absent)), "{empty:?}");
        let zeroed = read(&[&[0; 64][..], b"\n"].concat());
        assert!(matches!(zeroed, Err(RecordError::Absent)), "{zeroed:?}");
    }

    #[test]
    fn a_file_that_held_another_state_holds_the_next_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let (handle, mut state) = begin(dir.path());
        let old = End::Exited { code: 3 };
        state.add_end(&old).expect("added");
        let held = std::fs::read(dir.path().join(STATE)).expect("read");
        assert!(wipe(&handle).expect("wiped"));
        let empty = read(handle.as_fd());
        assert!(matches!(empty, Err(RecordError::Absent)), "{empty:?}");
        let mut state = StateFile::again(&handle).expect("opened");
        let next = Claim { nonce: "m".into(), ..sample() };
        let text = String::from_utf8(order().1).expect("text").replace("\"n\"", "\"m\"");
        state.claim(&next, text.as_bytes()).expect("claimed");
        let unended = State { claim: next.clone(), task: None, end: None };
        assert_eq!(read(handle.as_fd()).expect("read"), unended);
        // The old one's last page is back, as a crash of the host can leave it.
        let path = dir.path().join(STATE);
        let mut text = std::fs::read(&path).expect("read");
        text.retain(|byte| *byte != 0);
        let end = held.split_inclusive(|byte| *byte == b'\n').next_back().expect("a line");
        std::fs::write(&path, [&text, end].concat()).expect("written");
        assert_eq!(read(handle.as_fd()).expect("read"), unended);
        let lost = End::Lost { reason: "reboot".into() };
        conclude(handle.as_fd(), &lost).expect("concluded");
        assert_eq!(read(handle.as_fd()).expect("read").end, Some(lost));
    }
}
