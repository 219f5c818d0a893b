//! Our side: tasks by the runtime's own interface, as the agent uses it.
//!
//! This is the one place where `testnet` calls the runtime: a start of some
//! hundred microseconds cannot be seen through a command line.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtime::{Config, Container, End, Event, Launch, Place, Root, Runtime, TaskId};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use crate::bench::peers::{MEMORY_BYTES, PIDS};

/// How long an end may take to be told before something is wrong.
const END_WITHIN: Duration = Duration::from_secs(60);

/// What kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Among the host's processes, with limits.
    Process,
    /// In a default container, with limits.
    Container,
}

/// A runtime in a directory of its own.
#[derive(Debug)]
pub(crate) struct Ours {
    runtime: Runtime,
    events: Receiver<Event>,
    dir: PathBuf,
    root: PathBuf,
    next: u32,
    /// Ends that came while another was waited for.
    ended: HashMap<TaskId, (End, Instant)>,
}

impl Ours {
    /// Opens one; `program` is what the keeper is.
    pub(crate) async fn open(dir: &Path, root: &Path, program: &Path) -> io::Result<Self> {
        let dir = dir.join("runtime");
        let config = Config { dir: dir.clone(), program: program.to_owned() };
        let opened = Runtime::open(config).await.map_err(io::Error::other)?;
        Ok(Self {
            runtime: opened.runtime,
            events: opened.events,
            dir,
            root: root.to_owned(),
            next: 0,
            ended: HashMap::new(),
        })
    }

    /// Where it works.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn make(&mut self, kind: Kind, program: &str) -> io::Result<Launch> {
        self.next += 1;
        let id: TaskId = format!("t{}", self.next).parse().map_err(io::Error::other)?;
        let (argv, place) = match kind {
            Kind::Process => {
                let path = self.root.join(program).display().to_string();
                (path, Place::Process(runtime::Process::default()))
            }
            Kind::Container => {
                let container = Container::new(Root::Directory(self.root.clone()));
                (format!("/{program}"), Place::Container(Box::new(container)))
            }
        };
        let mut launch = Launch { place, ..Launch::new(id, [argv]) };
        launch.limits.memory_max = Some(MEMORY_BYTES);
        launch.limits.pids_max = Some(PIDS.into());
        launch.env = BTreeMap::from([("PATH".to_owned(), "/".to_owned())]);
        Ok(launch)
    }

    /// From the call to the end that is told, for one no-op after the other.
    pub(crate) async fn each(&mut self, kind: Kind, runs: u32) -> io::Result<Vec<u64>> {
        let mut each_ns = Vec::with_capacity(runs as usize);
        for _ in 0..runs {
            let launch = self.make(kind, "noop")?;
            let id = launch.id.clone();
            let began = Instant::now();
            self.runtime.launch(launch).await.map_err(io::Error::other)?;
            let ended = self.end_of(&id).await?;
            each_ns.push(nanoseconds(ended - began));
            self.remove(&id).await?;
        }
        Ok(each_ns)
    }

    /// How long so many no-ops take with `at_once` in flight, each removed at its end.
    pub(crate) async fn many(&mut self, kind: Kind, runs: u32, at_once: u32) -> io::Result<u64> {
        let began = Instant::now();
        let mut flying: JoinSet<io::Result<()>> = JoinSet::new();
        let (mut left, mut running, mut done) = (runs, 0, 0);
        while done < runs {
            while left > 0 && running < at_once {
                let launch = self.make(kind, "noop")?;
                let runtime = self.runtime.clone();
                flying.spawn(async move {
                    runtime.launch(launch).await.map(drop).map_err(io::Error::other)
                });
                left -= 1;
                running += 1;
            }
            tokio::select! {
                Some(launched) = flying.join_next() => launched.map_err(io::Error::other)??,
                event = self.events.recv() => {
                    if let Event::Ended { id, end } = event.ok_or_else(gone)? {
                        check(&end)?;
                        running -= 1;
                        done += 1;
                        let runtime = self.runtime.clone();
                        flying.spawn(async move {
                            runtime.remove(&id).await.map_err(io::Error::other)
                        });
                    }
                }
            }
        }
        while let Some(last) = flying.join_next().await {
            last.map_err(io::Error::other)??;
        }
        Ok(nanoseconds(began.elapsed()))
    }

    /// Starts so many that sleep, `at_once` in flight.
    pub(crate) async fn crowd(
        &mut self,
        kind: Kind,
        count: u32,
        at_once: u32,
    ) -> io::Result<Vec<TaskId>> {
        let mut flying = JoinSet::new();
        let mut ids = Vec::new();
        for _ in 0..count {
            if flying.len() >= at_once as usize
                && let Some(launched) = flying.join_next().await
            {
                launched.map_err(io::Error::other)??;
            }
            let launch = self.make(kind, "sleeper")?;
            ids.push(launch.id.clone());
            let runtime = self.runtime.clone();
            flying.spawn(async move {
                runtime.launch(launch).await.map(drop).map_err(io::Error::other)
            });
        }
        while let Some(launched) = flying.join_next().await {
            launched.map_err(io::Error::other)??;
        }
        Ok(ids)
    }

    /// Ends them all at once, and waits until the last end is told.
    pub(crate) async fn disperse(&mut self, ids: &[TaskId]) -> io::Result<()> {
        let mut flying = JoinSet::new();
        for id in ids {
            let (runtime, id) = (self.runtime.clone(), id.clone());
            flying.spawn(async move {
                runtime.stop(&id, Duration::ZERO).await.map_err(io::Error::other)
            });
        }
        for id in ids {
            self.end_of(id).await?;
        }
        while let Some(stopped) = flying.join_next().await {
            stopped.map_err(io::Error::other)??;
        }
        Ok(())
    }

    /// Removes an ended task.
    pub(crate) async fn remove(&self, id: &TaskId) -> io::Result<()> {
        self.runtime.remove(id).await.map_err(io::Error::other)
    }

    /// Gives everything back; the keeper leaves by itself.
    pub(crate) async fn close(self) {
        self.runtime.stop_keeper();
        self.runtime.shut_down().await;
    }

    async fn end_of(&mut self, id: &TaskId) -> io::Result<Instant> {
        loop {
            if let Some((end, at)) = self.ended.remove(id) {
                check(&end)?;
                return Ok(at);
            }
            let event = tokio::time::timeout(END_WITHIN, self.events.recv()).await;
            let event = event.map_err(|_late| io::Error::other(format!("{id} does not end")))?;
            if let Event::Ended { id, end } = event.ok_or_else(gone)? {
                self.ended.insert(id, (end, Instant::now()));
            }
        }
    }
}

fn check(end: &End) -> io::Result<()> {
    match end {
        End::Exited { code: 0 } | End::Signalled { .. } => Ok(()),
        end => Err(io::Error::other(format!("a task ended with {end:?}"))),
    }
}

fn gone() -> io::Error {
    io::Error::other("the runtime tells nothing any more")
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
