//! The binary the tests hand to the runtime as the agent's own program.
//!
//! It knows `keeper DIR`; `agent DIR LAUNCH [LAUNCH]`: an agent in a process of its own,
//! which can be killed; and `listen PORT` and `connect PORT`, two ends of a conversation, for
//! images that have no such program. It must never do anything before handing over to the keeper,
//! just as the real binary must not: no threads, no async.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use runtime::{Config, Event, Launch, Opened, Runtime};

/// More than supervisors wait.
const OFTEN: usize = 6;

/// What the agent's task may take to stop by itself.
const GRACE: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next(), arguments.next(), arguments.next()) {
        (Some(word), Some(dir), None, None) if word == "keeper" => keeper(Path::new(&dir)),
        (Some(word), Some(dir), Some(launch), first) if word == "agent" => {
            let first = first.as_ref().map(Path::new);
            told(agent(Path::new(&dir), Path::new(&launch), first))
        }
        (Some(word), Some(port), None, None) if word == "listen" => told(listen(&port)),
        (Some(word), Some(port), None, None) if word == "connect" => told(connect(&port)),
        _ => {
            eprintln!(
                "usage: keeper-for-tests keeper DIR | agent DIR LAUNCH [LAUNCH] | listen|connect PORT"
            );
            ExitCode::FAILURE
        }
    }
}

/// A keeper; one that looks for its agent as often as a file in its directory says.
fn keeper(dir: &Path) -> ExitCode {
    let every = std::fs::read_to_string(dir.join("look-every-ms")).ok();
    match every.and_then(|every| every.parse().ok()).map(Duration::from_millis) {
        Some(every) => runtime::keeper_main_looking_every(dir, every),
        None => runtime::keeper_main(dir),
    }
}

type Done = Result<(), Box<dyn std::error::Error>>;

fn told(done: Done) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Says that it listens, and then what the first to connect says.
fn listen(port: &OsStr) -> Done {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, number(port)?))?;
    println!("ready");
    let mut said = String::new();
    listener.accept()?.0.read_to_string(&mut said)?;
    println!("heard {said}");
    Ok(())
}

fn connect(port: &OsStr) -> Done {
    TcpStream::connect((Ipv4Addr::LOCALHOST, number(port)?))?.write_all(b"hello")?;
    Ok(())
}

fn number(port: &OsStr) -> Result<u16, Box<dyn std::error::Error>> {
    Ok(port.to_str().ok_or("no number")?.parse()?)
}

/// Waits for a byte on its standard input, so that somebody can take hold of it. Then
/// starts the task, stops it, and leaves with its keeper. Fails if a task that started
/// does not end. Another launch is run to its end and removed first, so often that every
/// supervisor has had one.
fn agent(dir: &Path, launch: &Path, first: Option<&Path>) -> Done {
    std::io::stdin().read_exact(&mut [0])?;
    let read = |path: &Path| -> Result<Launch, Box<dyn std::error::Error>> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    };
    let (launch, first) = (read(launch)?, first.map(read).transpose()?);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.block_on(async {
        let program = std::env::current_exe()?;
        let config = Config { dir: dir.to_owned(), program };
        let Opened { runtime, mut events, .. } = Runtime::open(config).await?;
        for launch in first.iter().flat_map(|first| std::iter::repeat_n(first, OFTEN)) {
            // Here, too, somebody may be killed.
            if runtime.launch(launch.clone()).await.is_ok() {
                while !matches!(events.recv().await.ok_or("no end")?, Event::Ended { .. }) {}
            }
            let _ = runtime.remove(&launch.id).await;
        }
        let id = launch.id.clone();
        // Whoever kills the others decides whether it starts.
        if runtime.launch(launch).await.is_ok() {
            // It may have ended by now.
            let _ = runtime.stop(&id, GRACE).await;
            while !matches!(events.recv().await.ok_or("no end")?, Event::Ended { .. }) {}
        }
        runtime.stop_keeper();
        runtime.shut_down().await;
        Ok(())
    })
}
