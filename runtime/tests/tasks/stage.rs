//! One runtime in a directory of its own, and ways to look at it from outside.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use runtime::{
    Config, End, Event, Found, Launch, LaunchError, LogRecord, LogRequest, LogStream, Opened,
    Runtime, TaskId,
};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// No single step of a test takes longer on the slowest machine: one that is emulated
/// on cores which are busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct Stage {
    pub(crate) runtime: Runtime,
    events: Receiver<Event>,
    seen: VecDeque<Event>,
    /// Outlives the runtime.
    dir: Option<TempDir>,
    /// The tasks started here, which a test that gives up leaves running: the number and a
    /// handle to whoever had it when we heard of it.
    started: Mutex<Vec<(i32, OwnedFd)>>,
}

pub(crate) fn id(text: &str) -> TaskId {
    text.parse().expect("a task id")
}

/// A shell script as a launch.
pub(crate) fn script(name: &str, text: &str) -> Launch {
    Launch::new(id(name), ["/bin/sh", "-c", text])
}

impl Stage {
    pub(crate) async fn set() -> Self {
        Self::open(unused()).await.0
    }

    pub(crate) async fn open(dir: TempDir) -> (Self, Vec<Found>) {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_keeper-for-tests"));
        let config = Config { dir: dir.path().to_owned(), program };
        let Opened { runtime, found, events } = Runtime::open(config).await.expect("opened");
        let (seen, started) = (VecDeque::new(), Mutex::default());
        (Self { runtime, events, seen, dir: Some(dir), started }, found)
    }

    /// The agent dies, as far as its tasks can tell.
    pub(crate) fn close(mut self) -> TempDir {
        self.dir.take().expect("a directory")
    }

    /// The agent comes back.
    pub(crate) async fn reopen(dir: TempDir) -> (Self, Vec<Found>) {
        Self::open(dir).await
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.as_ref().expect("a directory").path()
    }

    pub(crate) fn file(&self, task: &str, name: &str) -> PathBuf {
        self.path().join("tasks").join(task).join(name)
    }

    /// What is on record of a task.
    pub(crate) fn state(&self, task: &str) -> String {
        fs::read_to_string(self.file(task, "state")).expect("a state")
    }

    /// The tasks that have a directory.
    pub(crate) fn directories(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path().join("tasks")).expect("listed").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.starts_with('.')).collect()
    }

    pub(crate) async fn launch(&self, launch: Launch) -> Result<u32, LaunchError> {
        let launched = timeout(PATIENCE, self.runtime.launch(launch)).await;
        let pid = launched.expect("a launch in time")?;
        let process = Pid::from_raw(pid.cast_signed()).expect("a pid");
        // One that has ended already needs no end.
        if let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) {
            let started = (process.as_raw_nonzero().get(), handle);
            self.started.lock().expect("not poisoned").push(started);
        }
        Ok(pid)
    }

    pub(crate) async fn start(&self, name: &str, text: &str) -> u32 {
        self.launch(script(name, text)).await.expect("started")
    }

    /// The next event of this task.
    pub(crate) async fn event(&mut self, task: &str) -> Event {
        let of = |event: &Event| match event {
            Event::Started { id, .. } | Event::Ended { id, .. } => id.as_str() == task,
        };
        if let Some(at) = self.seen.iter().position(of) {
            return self.seen.remove(at).expect("seen");
        }
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await;
            let event = event.expect("an event in time").expect("a live runtime");
            if of(&event) {
                return event;
            }
            self.seen.push_back(event);
        }
    }

    /// How this task ends.
    pub(crate) async fn end(&mut self, task: &str) -> End {
        loop {
            if let Event::Ended { end, .. } = self.event(task).await {
                return end;
            }
        }
    }

    /// The next event of any task.
    pub(crate) async fn any_event(&mut self) -> Event {
        let event = timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event in time").expect("a live runtime")
    }

    /// The next end of any task.
    pub(crate) async fn any_end(&mut self) -> (TaskId, End) {
        loop {
            if let Event::Ended { id, end } = self.any_event().await {
                return (id, end);
            }
        }
    }

    /// Everything the task writes until its end.
    pub(crate) async fn output(&self, task: &str) -> Vec<(LogStream, Vec<u8>)> {
        let request = LogRequest { follow: true, tail: None };
        let mut reader = self.runtime.logs(&id(task), request).await.expect("a log");
        let mut output = Vec::new();
        while let Some(record) =
            timeout(PATIENCE, reader.next()).await.expect("in time").expect("read")
        {
            if let LogRecord::Output { stream, bytes, .. } = record {
                output.push((stream, bytes));
            }
        }
        output
    }

    /// Everything the task writes to one stream until its end, as text.
    pub(crate) async fn text(&self, task: &str, wanted: LogStream) -> String {
        let output = self.output(task).await;
        let bytes = output.into_iter().filter(|(stream, _)| *stream == wanted);
        String::from_utf8(bytes.flat_map(|(_, bytes)| bytes).collect()).expect("text")
    }

    /// Waits until the task has said a word on standard output; returns all it said.
    pub(crate) async fn says(&self, task: &str, word: &str) -> String {
        let request = LogRequest { follow: true, tail: None };
        let mut reader = self.runtime.logs(&id(task), request).await.expect("a log");
        let mut said = String::new();
        while !said.contains(word) {
            let record = timeout(PATIENCE, reader.next()).await.expect("in time").expect("read");
            match record.unwrap_or_else(|| panic!("{task} never said {word:?} but {said:?}")) {
                LogRecord::Output { bytes, .. } => said += &String::from_utf8_lossy(&bytes),
                LogRecord::Missing { .. } => {}
            }
        }
        said
    }

    /// The keeper of this directory, if it lives.
    pub(crate) fn keeper(&self) -> Option<i32> {
        helpers(self.path(), "starling-keeper").first().copied()
    }

    /// The supervisors of this directory that have a task.
    pub(crate) fn supervisors(&self) -> Vec<i32> {
        helpers(self.path(), "starling-superv")
    }

    /// The supervisors of this directory that wait.
    pub(crate) fn waiting(&self) -> Vec<i32> {
        helpers(self.path(), "starling-waits")
    }

    /// The control groups of this directory's tasks, in whichever hierarchy.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        let slots = trees(self.path()).into_iter().flat_map(|tree| fs::read_dir(tree).ok());
        slots.flatten().flatten().map(|slot| slot.path()).filter(|slot| slot.is_dir()).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Tasks outlive their agents, so a test must end its own, however it ends itself.
        // Those of an agent that died on purpose are its successor's.
        if self.dir.is_some() {
            let started = std::mem::take(self.started.get_mut().expect("not poisoned"));
            for (_, process) in started.iter().filter(|(pid, _)| is_of(self.path(), *pid)) {
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
        }
        self.runtime.stop_keeper();
        // Where a test killed the keeper, no other agent comes to tidy up.
        if self.dir.is_some() && self.keeper().is_none() {
            for group in self.groups().into_iter().chain(trees(self.path())) {
                let _ = fs::remove_dir(group);
            }
        }
    }
}

/// Whether a process is a task of a runtime's directory, or left behind by one. A short task
/// may be over when its test hears of it, and its number somebody else's on a busy machine.
fn is_of(dir: &Path, pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
    let Some(parent) = parent else { return false };
    let dir = dir.canonicalize().expect("a path").display().to_string();
    let words = fs::read_to_string(format!("/proc/{parent}/cmdline")).unwrap_or_default();
    parent == "1" || words.split('\0').any(|word| word == dir)
}

/// The processes of that name which a runtime's directory has.
pub(crate) fn helpers(dir: &Path, name: &str) -> Vec<i32> {
    let dir = dir.canonicalize().expect("a path").display().to_string();
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is = |pid: &i32| {
        let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("comm").trim() == name && read("cmdline").split('\0').any(|word| word == dir)
    };
    pids.filter(is).collect()
}

/// Has the next keeper of a directory look often whether it has an agent.
pub(crate) fn look_often(dir: &Path) {
    fs::write(dir.join("look-every-ms"), "20").expect("written");
}

/// A new directory. Its number names its groups, and comes round again: one whose last
/// owner was killed, and left some, is passed over.
fn unused() -> TempDir {
    let mut used = Vec::new();
    loop {
        let dir = tempfile::Builder::new().prefix("starling-runtime-").tempdir();
        let dir = dir.expect("a directory");
        if trees(dir.path()).is_empty() {
            return dir;
        }
        used.push(dir);
    }
}

/// Below this the groups of a runtime are not looked for: it is deeper than any host
/// puts its services.
const DEPTH: u32 = 5;

/// What the control groups of a runtime's directory are below, in whichever hierarchy.
pub(crate) fn trees(dir: &Path) -> Vec<PathBuf> {
    let Ok(stat) = fs::metadata(dir) else { return Vec::new() };
    let name = format!("starling-{:x}-{:x}", stat.dev(), stat.ino());
    let mut found = Vec::new();
    let mut left = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((dir, depth)) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            } else if entry.file_name().to_str() == Some(&name) {
                found.push(entry.path());
            } else if depth < DEPTH {
                left.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

/// Whether a process lives; one that is dead and unreaped does not.
pub(crate) fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Looks for a condition that has no event, until a deadline.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn kill(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a pid");
    kill_process(pid, signal).expect("killed");
}

/// The numbers in a text.
pub(crate) fn numbers(text: &str) -> Vec<i32> {
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}
