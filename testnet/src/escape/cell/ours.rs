//! Payloads in containers of ours, by the runtime's interface.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::{
    Access, Config, Container, End, Event, Exec, Init, Launch, LogRecord, LogRequest, Mount,
    Network, Piece, Place, Process, Root, Runtime, SessionOutput, TaskId, User,
};
use tokio::sync::mpsc::Receiver;

use super::{Ask, Files, First, Ids, Running, Streams, Told};
use crate::complaint::chain;

/// How long a payload may run, on a machine that emulates its processor.
const END_WITHIN: Duration = Duration::from_secs(300);

/// How long a launch may take before it hangs.
const START_WITHIN: Duration = Duration::from_secs(120);

/// What a payload gets to end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// The host's user that is nobody.
const NOBODY: u32 = 65_534;

/// A runtime of its own.
#[derive(Debug)]
pub struct Ours {
    pub(super) tokio: tokio::runtime::Runtime,
    pub(super) runtime: Runtime,
    events: Receiver<Event>,
    dir: PathBuf,
    program: PathBuf,
    next: u32,
    ended: HashMap<String, End>,
}

impl Ours {
    /// Opens one in this directory; `program keeper DIR` is its keeper.
    pub fn open(dir: &Path, program: &Path) -> io::Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = Config { dir: dir.to_owned(), program: program.to_owned() };
        let opened = tokio.block_on(Runtime::open(config)).map_err(io::Error::other)?;
        Ok(Self {
            tokio,
            runtime: opened.runtime,
            events: opened.events,
            dir: dir.to_owned(),
            program: program.to_owned(),
            next: 0,
            ended: HashMap::new(),
        })
    }

    /// Where it keeps what its tasks must not see.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn start(&mut self, ask: &Ask) -> io::Result<Result<Running, String>> {
        self.next += 1;
        let id = format!("escape-{}-{}", std::process::id(), self.next);
        let launch = launch(ask, id.parse().map_err(io::Error::other)?);
        let started = self.tokio.block_on(async {
            tokio::time::timeout(START_WITHIN, self.runtime.launch(launch)).await
        });
        Ok(match started {
            Ok(Ok(pid)) => Ok(Running { pid, id }),
            Ok(Err(error)) => {
                let name: TaskId = id.parse().map_err(io::Error::other)?;
                // It may not have come so far as to have a directory.
                let _ = self.tokio.block_on(self.runtime.remove(&name));
                Err(chain(&error))
            }
            Err(_late) => {
                return Err(io::Error::other(format!("the launch of {:?} hangs", ask.argv)));
            }
        })
    }

    pub(super) fn wait(&mut self, running: &Running) -> io::Result<Told> {
        let id: TaskId = running.id.parse().map_err(io::Error::other)?;
        let end = self.tokio.block_on(async {
            while !self.ended.contains_key(&running.id) {
                let event = tokio::time::timeout(END_WITHIN, self.events.recv()).await;
                match event {
                    Ok(Some(Event::Ended { id, end })) => {
                        self.ended.insert(id.to_string(), end);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(io::Error::other("the runtime is gone")),
                    Err(_late) => {
                        return Err(io::Error::other(format!("{id} does not end")));
                    }
                }
            }
            Ok(self.ended.remove(&running.id))
        })?;
        let lines = self.so_far(running)?;
        self.tokio.block_on(self.runtime.remove(&id)).map_err(io::Error::other)?;
        Ok(Told { refused: None, lines, end: format!("{end:?}") })
    }

    pub(super) fn so_far(&mut self, running: &Running) -> io::Result<Vec<String>> {
        let id: TaskId = running.id.parse().map_err(io::Error::other)?;
        let text = self.tokio.block_on(async {
            let mut reader =
                self.runtime.logs(&id, LogRequest::default()).await.map_err(io::Error::other)?;
            let mut text = Vec::new();
            while let Some(record) = reader.next().await.map_err(io::Error::other)? {
                if let LogRecord::Output { bytes, .. } = record {
                    text.extend(bytes);
                }
            }
            Ok::<_, io::Error>(text)
        })?;
        // A terminal ends its lines in its own way.
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        Ok(text.lines().map(str::to_owned).collect())
    }

    pub(super) fn exec(
        &mut self,
        running: &Running,
        argv: &[&str],
        directory: Option<&str>,
    ) -> io::Result<Told> {
        let id: TaskId = running.id.parse().map_err(io::Error::other)?;
        let exec = Exec {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            env: BTreeMap::new(),
            directory: directory.map(PathBuf::from),
            user: None,
            streams: runtime::Streams::Logged,
        };
        self.tokio.block_on(async {
            let mut session = match self.runtime.exec(&id, exec).await {
                Ok(session) => session,
                Err(error) => return Ok(refused(chain(&error))),
            };
            let (text, ended) = heard(&mut session.output).await?;
            let end = match ended {
                End::NotStarted { reason, .. } => return Ok(refused(reason)),
                end => end,
            };
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines = text.lines().map(str::to_owned).collect();
            Ok(Told { refused: None, lines, end: format!("{end:?}") })
        })
    }

    pub(super) fn stop(&mut self, running: &Running) -> io::Result<()> {
        let id: TaskId = running.id.parse().map_err(io::Error::other)?;
        // It may have ended by itself just now; if it goes on, the wait for it says so.
        let _ = self.tokio.block_on(self.runtime.stop(&id, GRACE));
        Ok(())
    }

    pub(super) fn close(self) {
        self.runtime.stop_keeper();
        self.tokio.block_on(self.runtime.shut_down());
    }
}

/// Everything that a session says to its end, and that.
pub(super) async fn heard(output: &mut SessionOutput) -> io::Result<(Vec<u8>, End)> {
    let mut text = Vec::new();
    loop {
        match tokio::time::timeout(END_WITHIN, output.next()).await {
            Ok(Some(Piece::Stdout(bytes) | Piece::Stderr(bytes))) => text.extend(bytes),
            Ok(Some(Piece::Ended(end))) => return Ok((text, end)),
            Ok(None) => return Err(io::Error::other("the session was lost")),
            Err(_late) => return Err(io::Error::other("the session does not end")),
        }
    }
}

pub(super) fn refused(reason: String) -> Told {
    Told { refused: Some(reason), ..Told::default() }
}

fn launch(ask: &Ask, id: TaskId) -> Launch {
    let place = match &ask.files {
        Some(files) => Place::Container(Box::new(container(ask, files))),
        None => Place::Process(Process {
            user: Some(User { uid: NOBODY, gid: NOBODY }),
            hidden: ask.hidden.clone(),
            files: None,
        }),
    };
    let mut launch = Launch { place, ..Launch::new(id, ask.argv.iter().cloned()) };
    launch.env = ask.env.clone();
    launch.directory = ask.directory.clone().map(PathBuf::from);
    launch.limits.pids_max = Some(ask.pids.into());
    launch.limits.memory_max = Some(ask.memory);
    if ask.streams == Streams::Terminal {
        launch.streams = runtime::Streams::Terminal { rows: 24, columns: 80 };
    }
    launch
}

fn container(ask: &Ask, files: &Files) -> Container {
    let mut container = Container::new(match files {
        Files::Directory(path) => Root::Directory(path.clone()),
        Files::Tar(path) => Root::Tar(path.clone()),
    });
    container.user.clone_from(&ask.user);
    if ask.host_network {
        container.network = Network::Host;
    }
    if ask.ids == Ids::Host {
        container.ids = runtime::Ids::Host;
    }
    if ask.first == First::Reaper {
        container.init = Init::Reaper;
    }
    let binds = ask.binds.iter().map(|(source, target)| Mount::Bind {
        source: source.clone(),
        target: target.into(),
        access: Access::Write,
    });
    // Small: what fills it must stop.
    let tmpfs = ask.tmpfs.iter().map(|target| Mount::Tmpfs {
        target: target.into(),
        bytes: 8 << 20,
        mode: 0o1777,
    });
    container.mounts = binds.chain(tmpfs).collect();
    container
}
