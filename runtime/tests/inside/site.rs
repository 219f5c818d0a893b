//! A running task to enter, and what came of entering it.

use std::collections::BTreeMap;
use std::path::Path;

use runtime::{End, Exec, ExecError, Piece, Session, Streams, Typed};
use tokio::time::timeout;

use crate::image::{Image, containers};
use crate::stage::{PATIENCE, Stage, id, script};

/// The name of the task.
pub(crate) const TASK: &str = "task";

/// What the task does: nothing, for long, and says that it is there.
pub(crate) const IDLE: &str = "echo up; exec sleep 1000";

/// What scripts here call beside what an image has; it has their libraries.
const MORE: [&str; 6] = ["mv", "chmod", "setsid", "stty", "tty", "yes"];

pub(crate) struct Site {
    pub(crate) stage: Stage,
    pub(crate) image: Option<Image>,
    pub(crate) pid: u32,
}

/// What a session came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) end: End,
}

impl Site {
    /// A plain process.
    pub(crate) async fn process(text: &str) -> Self {
        let stage = Stage::set().await;
        let mut launch = script(TASK, text);
        launch.env.insert("OF".into(), "the task".into());
        let pid = stage.launch(launch).await.expect("started");
        stage.says(TASK, "up").await;
        Self { stage, image: None, pid }
    }

    /// A container, where one can be made.
    pub(crate) async fn container(
        text: &str,
        change: impl FnOnce(&mut runtime::Container),
    ) -> Option<Self> {
        if !containers() {
            return None;
        }
        let stage = Stage::set().await;
        let image = Image::of(&stage);
        for name in MORE {
            let found = ["/bin", "/usr/bin"].map(|place| Path::new(place).join(name));
            let found = found.into_iter().find(|path| path.exists()).expect("a program");
            std::fs::copy(found, image.path("bin").join(name)).expect("copied");
        }
        let mut launch = image.script(TASK, text, change);
        launch.env.insert("OF".into(), "the task".into());
        launch.directory = Some("/home".into());
        let pid = stage.launch(launch).await.expect("started");
        stage.says(TASK, "up").await;
        Some(Self { stage, image: Some(image), pid })
    }

    /// Both, as far as they can be made.
    pub(crate) async fn all() -> Vec<Self> {
        let process = Self::process(IDLE).await;
        [process].into_iter().chain(Self::container(IDLE, |_| {}).await).collect()
    }

    /// Whether a process that enters shows as the task's: by a control group, or by the
    /// process namespace of a container.
    pub(crate) fn is_told_apart(&self) -> bool {
        self.image.is_some() || self.stage.state(TASK).contains("\"slot\":\"")
    }

    pub(crate) async fn open(&self, exec: Exec) -> Result<Session, ExecError> {
        timeout(PATIENCE, self.stage.runtime.exec(&id(TASK), exec)).await.expect("in time")
    }

    pub(crate) async fn begin(&self, exec: Exec) -> Session {
        self.open(exec).await.expect("a session")
    }

    pub(crate) async fn run(&self, exec: Exec) -> Told {
        collect(self.begin(exec).await).await
    }

    /// What a shell inside says to a script, with its standard input closed.
    pub(crate) async fn sh(&self, text: &str) -> Told {
        self.run(shell(text)).await
    }

    /// The same, of one that must end well.
    pub(crate) async fn says(&self, text: &str) -> String {
        let told = self.sh(text).await;
        assert_eq!(told.end, End::Exited { code: 0 }, "{told:?}");
        told.out
    }

    pub(crate) async fn copy_out(&self, path: &str) -> (Vec<u8>, Told) {
        let session = self.stage.runtime.copy_out(&id(TASK), Path::new(path), None).await;
        gather(session.expect("a session")).await
    }

    pub(crate) async fn copy_in(&self, path: &str, archive: &[u8]) -> Told {
        let session = self.stage.runtime.copy_in(&id(TASK), Path::new(path)).await;
        let Session { input, output } = session.expect("a session");
        let feed = async {
            for piece in archive.chunks(30_000) {
                if input.send(Typed::Bytes(piece.to_vec())).await.is_err() {
                    return;
                }
            }
            let _ = input.send(Typed::End).await;
        };
        let session = Session { input: input.clone(), output };
        tokio::join!(feed, collect(session)).1
    }
}

pub(crate) fn exec<A: Into<String>>(argv: impl IntoIterator<Item = A>) -> Exec {
    Exec {
        argv: argv.into_iter().map(Into::into).collect(),
        env: BTreeMap::new(),
        directory: None,
        user: None,
        streams: Streams::Logged,
    }
}

pub(crate) fn shell(text: &str) -> Exec {
    exec(["sh", "-c", text])
}

/// Everything that comes, until the end.
pub(crate) async fn gather(session: Session) -> (Vec<u8>, Told) {
    let Session { input, mut output } = session;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let end = loop {
        match timeout(PATIENCE, output.next()).await.expect("in time").expect("an end") {
            Piece::Stdout(bytes) => out.extend(bytes),
            Piece::Stderr(bytes) => err.extend(bytes),
            Piece::Ended(end) => break end,
        }
    };
    assert_eq!(output.next().await, None);
    drop(input);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let told = Told { out: text(&out), err: text(&err), end };
    (out, told)
}

pub(crate) async fn collect(session: Session) -> Told {
    gather(session).await.1
}
