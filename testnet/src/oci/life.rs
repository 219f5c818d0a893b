//! The five operations on a container, and `run`, which is all of them.
//!
//! Each opens the runtime for as long as it needs it, which is never while a hook runs: a
//! hook may ask for the container's state.
//!
//! Invariant: a create that fails leaves nothing; a delete that succeeds leaves nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::{
    Config as RuntimeConfig, ControlError, End, Event, FoundState, Hold, Opened, Recipient,
    Runtime, TaskId,
};
use serde::Serialize;
use tokio::sync::mpsc::Receiver;

use super::config::{Config, Resources};
use super::groups::{self, Groups};
use super::hooks::{self, HookError, Where};
use super::refusal::Refusal;
use super::store::{Record, Store};
use super::translate::{self, Translated};
use crate::complaint::{Complaint, chain};

/// Version of the specification that the printed state complies with.
pub(super) const SPEC: &str = "1.1.0";

/// How long a killed container may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// How long another invocation may hold the runtime before this one gives up; the runtime
/// itself waits two seconds each time.
const TRIES: usize = 10;

/// What a container does, in the specification's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Stopped,
}

/// A container's state, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    oci_version: &'static str,
    id: String,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    bundle: PathBuf,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: std::collections::BTreeMap<String, String>,
}

impl State {
    fn new(id: &TaskId, status: Status, pid: Option<u32>, record: &Record) -> Self {
        let (bundle, annotations) = (record.bundle.clone(), record.annotations.clone());
        Self { oci_version: SPEC, id: id.to_string(), status, pid, bundle, annotations }
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// A root directory with its containers.
#[derive(Debug)]
pub(super) struct Home {
    store: Store,
}

/// The runtime while we have it.
struct Open {
    runtime: Runtime,
    events: Receiver<Event>,
    found: Vec<runtime::Found>,
}

fn system(what: &str, error: &dyn std::error::Error) -> Complaint {
    Complaint::caused(what, error, "look into keeper.log below the root directory, and at --root")
}

fn unsupported(refusal: &Refusal) -> Complaint {
    Complaint::new(
        "this bundle cannot be run",
        refusal,
        "change that field of config.json; nothing was made for it",
    )
}

fn hook_failed(error: &HookError) -> Complaint {
    Complaint::caused("a hook failed", error, "the container is deleted; mend the hook")
}

fn unknown(id: &TaskId) -> Complaint {
    let hint = "name the --root that it was created with";
    Complaint::new(
        format!("there is no container {id}"),
        "nothing of that id is below --root",
        hint,
    )
}

fn wrong_status(id: &TaskId, what: &str, status: Status) -> Complaint {
    Complaint::new(
        format!("cannot {what} {id}"),
        format!("it is {}", format!("{status:?}").to_lowercase()),
        "`oci state` says what it does; create, start, kill, delete is the order",
    )
}

impl Home {
    pub(super) fn at(root: &Path) -> Result<Self, Complaint> {
        let hint = "name another with --root; it takes root";
        let store = Store::open(root);
        let store = store
            .map_err(|error| Complaint::caused("the root directory is of no use", &error, hint))?;
        Ok(Self { store })
    }

    /// Opens the runtime, waiting for whoever has it.
    async fn open(&self) -> Result<Open, Complaint> {
        let program = std::env::current_exe();
        let program = program.map_err(|error| system("there is no keeper to start", &error))?;
        let mut tries = 0;
        loop {
            tries += 1;
            let config = RuntimeConfig { dir: self.store.runtime(), program: program.clone() };
            match Runtime::open(config).await {
                Ok(Opened { runtime, events, found }) => {
                    return Ok(Open { runtime, events, found });
                }
                Err(runtime::OpenError::Busy { .. }) if tries < TRIES => {}
                Err(error) => return Err(system("the runtime cannot be opened", &error)),
            }
        }
    }

    pub(super) async fn create(
        &self,
        id: &TaskId,
        bundle: &Path,
        pid_file: Option<&Path>,
    ) -> Result<u32, Complaint> {
        let (bundle, text) = read_bundle(bundle)?;
        let config = translate::read(&text).map_err(|refusal| unsupported(&refusal))?;
        let translated = translate::translate(id.clone(), &config, &bundle);
        let translated = translated.map_err(|refusal| unsupported(&refusal))?;
        self.store.claim(id.as_str(), &text).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Complaint::new(
                format!("there is a container {id} already"),
                "ids are unique below one --root",
                "delete that one, or choose another id",
            ),
            _ => system("the container cannot be recorded", &error),
        })?;
        let mut record = Record {
            bundle,
            annotations: config.annotations.clone().unwrap_or_default(),
            groups: Groups::default(),
        };
        let made = self.make(id, &config, translated, &mut record, pid_file).await;
        if made.is_err() {
            self.clear(id, &record).await;
        }
        made
    }

    async fn make(
        &self,
        id: &TaskId,
        config: &Config,
        translated: Translated,
        record: &mut Record,
        pid_file: Option<&Path>,
    ) -> Result<u32, Complaint> {
        let Translated { mut launch, rules, warnings } = translated;
        warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        record.groups = groups_of(id, config, rules.as_deref())?;
        if let runtime::Place::Container(container) = &mut launch.place
            && let Some(exact) = &mut container.exact
        {
            exact.groups = record.groups.procs.clone();
        }
        self.store
            .write(id.as_str(), record)
            .map_err(|error| system("the container cannot be recorded", &error))?;
        let open = self.open().await?;
        let launched = open.runtime.launch(launch).await;
        open.runtime.shut_down().await;
        let pid = launched.map_err(|error| {
            let hint = "the reason names the step of the isolator that failed";
            Complaint::new(format!("cannot create {id}"), chain(&error), hint)
        })?;
        self.hooks_of_create(id, config, record, pid).await?;
        if let Some(path) = pid_file {
            // Without a line's end: whoever reads it takes all for the number.
            std::fs::write(path, pid.to_string())
                .map_err(|error| system("the pid file cannot be written", &error))?;
        }
        Ok(pid)
    }

    /// Runs what wants the host's root still there, then lets it enter its own.
    async fn hooks_of_create(
        &self,
        id: &TaskId,
        config: &Config,
        record: &Record,
        pid: u32,
    ) -> Result<(), Complaint> {
        let Some(hooks) = config.hooks.as_ref() else { return Ok(()) };
        let lists = [&hooks.prestart, &hooks.create_runtime, &hooks.create_container];
        if lists.iter().all(|list| list.as_ref().is_none_or(Vec::is_empty)) {
            return Ok(());
        }
        let state = State::new(id, Status::Creating, Some(pid), record).text();
        let inside = Where::Inside { pid };
        hooks::run("prestart", hooks.prestart.as_ref(), Where::Host, &state)
            .and_then(|()| {
                hooks::run("createRuntime", hooks.create_runtime.as_ref(), Where::Host, &state)
            })
            .and_then(|()| {
                hooks::run("createContainer", hooks.create_container.as_ref(), inside, &state)
            })
            .map_err(|error| hook_failed(&error))?;
        self.release(id).await
    }

    async fn release(&self, id: &TaskId) -> Result<(), Complaint> {
        let open = self.open().await?;
        let released = open.runtime.start(id).await;
        open.runtime.shut_down().await;
        released.map(drop).map_err(|error| {
            let hint = "the reason names the step of the isolator that failed";
            Complaint::new(format!("cannot start {id}"), chain(&error), hint)
        })
    }

    pub(super) async fn start(&self, id: &TaskId) -> Result<(), Complaint> {
        let (record, state) = self.look(id).await?;
        let Some(pid) = state.pid.filter(|_| state.status == Status::Created) else {
            return Err(wrong_status(id, "start", state.status));
        };
        let text = self.store.config(id.as_str());
        let text = text.map_err(|error| system("the container's record is gone", &error))?;
        let config = translate::read(&text).map_err(|refusal| unsupported(&refusal))?;
        let hooks = config.hooks.unwrap_or_default();
        let inside = Where::Inside { pid };
        let created = state.text();
        if let Err(error) =
            hooks::run("startContainer", hooks.start_container.as_ref(), inside, &created)
        {
            self.clear(id, &record).await;
            return Err(hook_failed(&error));
        }
        self.release(id).await?;
        let running = State::new(id, Status::Running, Some(pid), &record).text();
        for error in hooks::run_all("poststart", hooks.poststart.as_ref(), &running) {
            // It runs, and what comes after goes on: so says the specification.
            eprintln!("warning: {}", chain(&error));
        }
        Ok(())
    }

    /// A container's state.
    pub(super) async fn state(&self, id: &TaskId) -> Result<State, Complaint> {
        self.look(id).await.map(|(_, state)| state)
    }

    async fn look(&self, id: &TaskId) -> Result<(Record, State), Complaint> {
        let record = self.store.read(id.as_str());
        let record =
            record.map_err(|error| system("the container's record is of no use", &error))?;
        let record = record.ok_or_else(|| unknown(id))?;
        let open = self.open().await?;
        let (status, pid) = status(&open, id).await;
        open.runtime.shut_down().await;
        let state = State::new(id, status, pid, &record);
        Ok((record, state))
    }

    pub(super) async fn kill(
        &self,
        id: &TaskId,
        signal: i32,
        to: Recipient,
    ) -> Result<(), Complaint> {
        let (_, state) = self.look(id).await?;
        if !matches!(state.status, Status::Created | Status::Running) {
            return Err(wrong_status(id, "signal", state.status));
        }
        let open = self.open().await?;
        let told = open.runtime.signal(id, signal, to).await;
        open.runtime.shut_down().await;
        match told {
            Ok(()) => Ok(()),
            Err(ControlError::NotRunning { .. }) => {
                Err(wrong_status(id, "signal", Status::Stopped))
            }
            Err(error) => Err(system("the container cannot be told", &error)),
        }
    }

    /// Deletes what is stopped; with `force` whatever there is, and nothing if there is nothing.
    pub(super) async fn delete(&self, id: &TaskId, force: Force) -> Result<(), Complaint> {
        let (record, state) = match self.look(id).await {
            Err(_) if force == Force::Yes && matches!(self.store.read(id.as_str()), Ok(None)) => {
                // What a create left that was killed half way.
                return self
                    .store
                    .forget(id.as_str())
                    .map_err(|error| system("its record stays", &error));
            }
            looked => looked?,
        };
        if state.status != Status::Stopped && force == Force::No {
            return Err(wrong_status(id, "delete", state.status));
        }
        let text = self.store.config(id.as_str()).unwrap_or_default();
        self.clear(id, &record).await;
        let hooks = translate::read(&text).ok().and_then(|config| config.hooks).unwrap_or_default();
        let stopped = State::new(id, Status::Stopped, None, &record).text();
        for error in hooks::run_all("poststop", hooks.poststop.as_ref(), &stopped) {
            eprintln!("warning: {}", chain(&error));
        }
        Ok(())
    }

    /// Leaves nothing of a container, in whatever state it is. What cannot be removed is
    /// said, and does not keep the rest.
    async fn clear(&self, id: &TaskId, record: &Record) {
        let warn = |what: &str, error: &dyn std::error::Error| {
            eprintln!("warning: {what}: {}", chain(error))
        };
        match self.open().await {
            Ok(mut open) => {
                if let Err(error) = end(&mut open, id).await {
                    warn("it does not end", &error);
                }
                match open.runtime.remove(id).await {
                    Ok(()) | Err(runtime::RemoveError::Unknown { .. }) => {}
                    Err(error) => warn("its task stays", &error),
                }
                if let Err(error) = self.store.forget(id.as_str()) {
                    warn("its record stays", &error);
                }
                if self.store.is_empty() {
                    open.runtime.stop_keeper();
                }
                open.runtime.shut_down().await;
            }
            Err(complaint) => eprintln!("{complaint}"),
        }
        if let Err(error) = record.groups.remove() {
            warn("control groups stay", &error);
        }
    }

    /// Create, start, wait, delete; the exit code of its program.
    pub(super) async fn run(
        &self,
        id: &TaskId,
        bundle: &Path,
        pid_file: Option<&Path>,
    ) -> Result<i32, Complaint> {
        let pid = self.create(id, bundle, pid_file).await?;
        // Taken while it is held, so it is this process and no other.
        let handle = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let handle = handle
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()));
        let started = self.start(id).await;
        if let (Ok(()), Ok(handle)) = (&started, &handle) {
            let mut poll = [rustix::event::PollFd::new(handle, rustix::event::PollFlags::IN)];
            let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, None));
        }
        let code = self.code(id).await;
        let deleted = self.delete(id, Force::Yes).await;
        started?;
        deleted?;
        code
    }

    async fn code(&self, id: &TaskId) -> Result<i32, Complaint> {
        let mut open = self.open().await?;
        let end = end_of(&mut open, id).await;
        open.runtime.shut_down().await;
        end.map(|end| end.exit_code()).map_err(|error| system("its end is not known", &error))
    }
}

/// Whether what runs is deleted too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Force {
    Yes,
    No,
}

fn read_bundle(bundle: &Path) -> Result<(PathBuf, String), Complaint> {
    let hint = "name a directory with a config.json by --bundle";
    let unread = |error: io::Error| Complaint::caused("there is no bundle", &error, hint);
    let bundle = bundle.canonicalize().map_err(unread)?;
    let text = std::fs::read_to_string(bundle.join("config.json")).map_err(unread)?;
    Ok((bundle, text))
}

fn groups_of(
    id: &TaskId,
    config: &Config,
    rules: Option<&[runtime::cgroup::DeviceRule]>,
) -> Result<Groups, Complaint> {
    let none = Resources::default();
    let linux = config.linux.as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path.as_deref());
    let resources = linux.and_then(|linux| linux.resources.as_ref()).unwrap_or(&none);
    if !groups::wanted(path, resources) {
        return Ok(Groups::default());
    }
    groups::make(id.as_str(), path, resources, rules).map_err(|refusal| unsupported(&refusal))
}

async fn status(open: &Open, id: &TaskId) -> (Status, Option<u32>) {
    match open.found.iter().find(|found| found.id == *id).map(|found| &found.state) {
        // Its task was never launched, or is being: whoever creates it is at it.
        None => (Status::Creating, None),
        Some(FoundState::Ended(_)) => (Status::Stopped, None),
        Some(FoundState::Running { pid }) => match open.runtime.hold(id).await {
            Ok(Hold::Held) => (Status::Created, Some(*pid)),
            Ok(Hold::Released) => (Status::Running, Some(*pid)),
            Err(ControlError::NotRunning { .. }) => (Status::Stopped, None),
            Err(_) => (Status::Running, Some(*pid)),
        },
    }
}

/// Ends a container that has not ended.
async fn end(open: &mut Open, id: &TaskId) -> Result<(), io::Error> {
    let lives = |found: &runtime::Found| {
        found.id == *id && matches!(found.state, FoundState::Running { .. })
    };
    if !open.found.iter().any(lives) {
        return Ok(());
    }
    match open.runtime.stop(id, Duration::ZERO).await {
        Ok(()) | Err(ControlError::NotRunning { .. }) => end_of(open, id).await.map(drop),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// How a container ended, or ends soon.
async fn end_of(open: &mut Open, id: &TaskId) -> Result<End, io::Error> {
    let known = open.found.iter().find(|found| found.id == *id);
    if let Some(FoundState::Ended(end)) = known.map(|found| &found.state) {
        return Ok(end.clone());
    }
    let wait = async {
        loop {
            match open.events.recv().await {
                Some(Event::Ended { id: ended, end }) if ended == *id => return Ok(end),
                Some(_) => {}
                None => return Err(io::Error::other("the runtime tells nothing any more")),
            }
        }
    };
    tokio::time::timeout(GONE_WITHIN, wait).await.map_err(io::Error::other)?
}
