//! `cp`: files out of a task and into it, in Docker's ways.
//!
//! ```text
//! TASK:PATH ──archive──▶ unpacked here        packed here ──archive──▶ TASK:PATH
//! ```
//!
//! What is at the destination decides the name, so each end is looked at first: into
//! a directory that is there, with its own name; as that name where nothing is; the
//! contents alone of a source that ends in `/.`. Links are copied as links.
//!
//! Invariant: what comes out of a task is unpacked by the runtime's applier, which
//! writes nothing outside of the directory it is given, whatever the task says.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use clap::Args;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use runtime::unpack::{self, Bounds, Digest, Form, Options, Owners, UnpackError};
use tokio::io::{AsyncReadExt as _, ReadHalf};
use tokio::sync::mpsc;

use crate::agent::chain;
use crate::api::types::Complaint;
use crate::cli::client::Client;
use crate::cli::errors::{Failed, without_number};
use crate::cli::inside::{Session, broken};
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::session::{Frame, Opening, PIECE_BYTES, receive, send};

/// Pieces that wait between the network and the disk.
const PIECES: usize = 16;

/// The flags of `cp`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CpArgs {
    /// TASK:PATH, a path here, or - for a tar archive
    #[arg(value_name = "FROM", value_parser = end, allow_hyphen_values = true)]
    from: End,
    /// TASK:PATH, a path here, or - for a tar archive
    #[arg(value_name = "TO", value_parser = end, allow_hyphen_values = true)]
    to: End,
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Task { task: String, path: String },
    Here(PathBuf),
    Stream,
}

/// As Docker reads it: a path here begins with a dot or a slash, or has no colon.
fn end(text: &str) -> Result<End, String> {
    if text == "-" {
        return Ok(End::Stream);
    }
    match text.split_once(':') {
        Some((task, path)) if !text.starts_with(['.', '/']) && !task.contains('/') => {
            if task.is_empty() || path.is_empty() {
                return Err(format!("{text:?} lacks a task or a path; write TASK:PATH"));
            }
            Ok(End::Task { task: task.to_owned(), path: path.to_owned() })
        }
        _ if text.is_empty() => Err("a path is missing".to_owned()),
        _ => Ok(End::Here(text.into())),
    }
}

/// `starling cp`.
pub(crate) async fn run(args: CpArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let mut progress = Progress::new(out);
    let done = match (args.from, args.to) {
        (End::Task { task, path }, End::Stream) => to_stream(client, &task, path).await,
        (End::Task { task, path }, End::Here(to)) => {
            from_task(client, &task, path, &to, &mut progress).await
        }
        (End::Stream, End::Task { task, path }) => from_stream(client, &task, path).await,
        (End::Here(from), End::Task { task, path }) => {
            to_task(client, &from, &task, path, &mut progress).await
        }
        (End::Task { .. }, End::Task { .. }) => {
            Err(usage("both ends are tasks", "copy to a path here first, or through -"))
        }
        _ => Err(usage("neither end is a task", "starling cp TASK:PATH .   or cp FILE TASK:PATH")),
    };
    progress.clear();
    if let Some(note) = done? {
        out.note(&note);
    }
    Ok(0)
}

fn usage(what: &str, hint: &str) -> Failed {
    Complaint::new("usage", what).hint(hint).into()
}

fn cannot(what: impl Into<String>, why: impl ToString) -> Failed {
    Complaint::new("copy", what).because(why).into()
}

/// What the task's side says when it cannot copy, or not all.
fn refused(exit: i32, said: &str) -> Failed {
    if exit == runtime::COPIED_IN_PART {
        return in_part(said);
    }
    let complaint = Complaint::new("copy", "the task's side could not copy").because(said);
    let lacks_path = said.ends_with(&without_number(&io::Error::from(rustix::io::Errno::NOENT)));
    if lacks_path { complaint.hint(PATHS).into() } else { complaint.into() }
}

const PATHS: &str = "paths begin at a container's root, and at the scratch directory of a process";

fn in_part(said: impl ToString) -> Failed {
    Complaint::new("copied_in_part", "not all of it was copied").because(said).into()
}

/// A task's side of a source or destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Nothing,
}

async fn look(client: &Client, task: &str, path: &str) -> Result<Kind, Failed> {
    let session = Session::open(client, task, Opening::Look { path: path.to_owned() }).await?;
    let (mut from, _to) = session.halves();
    let mut word = Vec::new();
    hear(&mut from, |bytes| {
        word.extend(bytes);
        Ok(())
    })
    .await?;
    match word.as_slice() {
        b"directory" => Ok(Kind::Directory),
        b"file" => Ok(Kind::File),
        b"nothing" => Ok(Kind::Nothing),
        _ => Err(broken(io::ErrorKind::InvalidData.into())),
    }
}

/// Takes what a copying session says, to its end.
async fn hear(
    from: &mut ReadHalf<TokioIo<Upgraded>>,
    mut take: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> Result<Note, Failed> {
    let mut said = String::new();
    loop {
        match receive(from).await.map_err(broken)? {
            Some(Frame::Stdout(bytes)) => take(bytes)?,
            Some(Frame::Stderr(bytes)) => said += &String::from_utf8_lossy(&bytes),
            Some(Frame::Exit(0)) => return Ok(note(said)),
            Some(Frame::Exit(exit)) => return Err(refused(exit, &said)),
            Some(Frame::Failed(complaint)) => return Err((*complaint).into()),
            Some(_) => {}
            None => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// What is said of a copy that went well.
type Note = Option<String>;

fn note(said: String) -> Note {
    (!said.is_empty()).then_some(said)
}

async fn to_stream(client: &Client, task: &str, path: String) -> Result<Note, Failed> {
    let opening = Opening::CopyOut { path, name: None };
    let (mut from, _to) = Session::open(client, task, opening).await?.halves();
    let note = hear(&mut from, |bytes| io::stdout().write_all(&bytes)).await?;
    io::stdout().flush()?;
    Ok(note)
}

/// The name that a path ends with; none for one that ends in `/.` or is a root.
fn name(path: &str) -> Option<&str> {
    let is_contents = path == "." || path.ends_with("/.");
    let name = path.trim_end_matches('/').rsplit('/').next();
    name.filter(|name| !is_contents && !name.is_empty() && *name != "..")
}

/// Where an archive goes, and what its first entry is called.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    directory: String,
    name: String,
    /// Whether that directory is to be made.
    fresh: bool,
}

/// Docker's rules, for either direction.
fn place(source: Kind, from: &str, to: &str, there: Kind) -> Result<Place, Complaint> {
    let refused = |why: &str| Complaint::new("copy", "this cannot be copied so").because(why);
    let at = |directory: &str, name: &str, fresh| {
        Ok(Place { directory: directory.to_owned(), name: name.to_owned(), fresh })
    };
    let plain = to.trim_end_matches('/');
    let (parent, last) = match plain.rsplit_once('/') {
        Some(("", last)) => ("/", last),
        Some((parent, last)) => (parent, last),
        None => (".", plain),
    };
    match (source, there, name(from)) {
        (Kind::Nothing, ..) => Err(refused(&format!("{from} is not there"))),
        (Kind::Directory, Kind::File, _) => {
            Err(refused(&format!("{from} is a directory, and {to} is a file")))
        }
        (_, Kind::Directory, Some(name)) => at(to, name, false),
        (_, Kind::Directory, None) => at(to, ".", false),
        (Kind::Directory, Kind::Nothing, None) => at(to, ".", true),
        (Kind::File, Kind::Nothing, _) if to.ends_with('/') => {
            Err(refused(&format!("the directory {to} is not there")).hint("make it first"))
        }
        _ if last.is_empty() || last == ".." => Err(refused(&format!("{to} names no file"))),
        _ => at(parent, last, false),
    }
}

fn kind_here(path: &Path) -> Kind {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Kind::Directory,
        Ok(_) => Kind::File,
        // A link that leads nowhere can be copied all the same.
        Err(_) if path.is_symlink() => Kind::File,
        Err(_) => Kind::Nothing,
    }
}

fn text(path: &Path) -> Result<&str, Failed> {
    path.to_str().ok_or_else(|| cannot("this cannot be copied", "the path is not UTF-8"))
}

async fn from_task(
    client: &Client,
    task: &str,
    path: String,
    to: &Path,
    progress: &mut Progress,
) -> Result<Note, Failed> {
    let source = look(client, task, &path).await?;
    // A link that leads nowhere: only the copy itself can tell.
    let source = if source == Kind::Nothing { Kind::File } else { source };
    let Place { directory, name, fresh } = place(source, &path, text(to)?, kind_here(to))?;
    let opening = Opening::CopyOut { path, name: Some(name) };
    let (mut from, _to) = Session::open(client, task, opening).await?.halves();
    if fresh {
        std::fs::create_dir(&directory)
            .map_err(|error| cannot(format!("no {directory}"), error))?;
    }
    let into = File::open(&directory)
        .map_err(|error| cannot(format!("nothing can be copied into {directory}"), error))?;
    let (pieces, queue) = mpsc::channel(PIECES);
    let unpacking = tokio::task::spawn_blocking(move || {
        let options = Options {
            bounds: Bounds::default(),
            form: Form::Rootfs,
            owners: Owners::Mine,
            digest: Digest::Skip,
        };
        unpack::unpack(Queue { queue, piece: Vec::new(), at: 0 }, into.as_fd(), &options)
    });
    let heard = feed(&mut from, pieces, progress).await;
    let unpacked = unpacking.await.map_err(|error| cannot("it was not unpacked", error))?;
    match (heard, unpacked) {
        // The disk's failure ends the feeding, so it comes first.
        (_, Err(error)) if !is_cut(&error) => {
            Err(cannot("it cannot be unpacked here", chain(&error)))
        }
        (Err(failed), _) => Err(failed),
        (Ok(_), Err(error)) => Err(cannot("it cannot be unpacked here", chain(&error))),
        (Ok(note), Ok(_)) => Ok(note),
    }
}

/// Whether an archive ended before its end, because the task's side failed.
fn is_cut(error: &UnpackError) -> bool {
    matches!(error, UnpackError::CutOff { .. })
}

async fn feed(
    from: &mut ReadHalf<TokioIo<Upgraded>>,
    pieces: mpsc::Sender<Vec<u8>>,
    progress: &mut Progress,
) -> Result<Note, Failed> {
    let mut said = String::new();
    loop {
        match receive(from).await.map_err(broken)? {
            Some(Frame::Stdout(bytes)) => {
                progress.add(bytes.len());
                if pieces.send(bytes).await.is_err() {
                    // Who unpacks has failed, and says why.
                    return Ok(None);
                }
            }
            Some(Frame::Stderr(bytes)) => said += &String::from_utf8_lossy(&bytes),
            Some(Frame::Exit(0)) => return Ok(note(said)),
            Some(Frame::Exit(exit)) => return Err(refused(exit, &said)),
            Some(Frame::Failed(complaint)) => return Err((*complaint).into()),
            Some(_) => {}
            None => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// Pieces as a reader, for a thread that may wait.
struct Queue {
    queue: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Queue {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.piece.len() {
            match self.queue.blocking_recv() {
                Some(piece) => (self.piece, self.at) = (piece, 0),
                None => return Ok(0),
            }
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let length = rest.len().min(into.len());
        into.iter_mut().zip(rest).for_each(|(slot, byte)| *slot = *byte);
        self.at += length;
        Ok(length)
    }
}

/// The other way: what is packed, as pieces.
struct Pieces(mpsc::Sender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..bytes.len().min(PIECE_BYTES)).unwrap_or_default();
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(piece.to_vec()).map_err(gone)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn to_task(
    client: &Client,
    from: &Path,
    task: &str,
    path: String,
    progress: &mut Progress,
) -> Result<Note, Failed> {
    let there = look(client, task, &path).await?;
    let Place { directory, name, fresh } = place(kind_here(from), text(from)?, &path, there)?;
    if fresh {
        let why = format!("the directory {directory} is not in the task");
        return Err(Complaint::new("copy", "this cannot be copied so")
            .because(why)
            .hint("leave out the /. at the end of the source: then it is made")
            .into());
    }
    let (pieces, queue) = mpsc::channel(PIECES);
    let from = from.to_owned();
    let packing = tokio::task::spawn_blocking(move || {
        let buffered = io::BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces));
        runtime::pack(&from, Path::new(&name), buffered)
    });
    let sent = fill(client, task, directory, queue, progress).await;
    match packing.await.map_err(|error| cannot("it was not read", error))? {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            // The archive is sound, so what became of it comes first.
            if error.kind() == io::ErrorKind::Other {
                return sent.and(Err(in_part(error)));
            }
            Err(cannot("it cannot be read here", without_number(&error)))
        }
        Ok(note) => sent.map(|_| note),
        Err(_) => sent,
    }
}

async fn from_stream(client: &Client, task: &str, path: String) -> Result<Note, Failed> {
    let (pieces, queue) = mpsc::channel(PIECES);
    let reading = tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(length @ 1..) = stdin.read(&mut piece).await {
            if pieces.send(piece.get(..length).unwrap_or_default().to_vec()).await.is_err() {
                return;
            }
        }
    });
    let sent = fill(client, task, path, queue, &mut Progress::default()).await;
    reading.abort();
    sent
}

/// Sends an archive, and waits until it is unpacked.
async fn fill(
    client: &Client,
    task: &str,
    path: String,
    mut queue: mpsc::Receiver<Vec<u8>>,
    progress: &mut Progress,
) -> Result<Note, Failed> {
    let session = Session::open(client, task, Opening::CopyIn { path }).await?;
    let (mut from, mut to) = session.halves();
    let sending = async {
        while let Some(piece) = queue.recv().await {
            progress.add(piece.len());
            if send(&mut to, Frame::Input(piece)).await.is_err() {
                break;
            }
        }
        // Its end tells what came of it, if this is not heard.
        let _ = send(&mut to, Frame::InputEnd).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        heard = hear(&mut from, |_| Ok(())) => heard,
        () = sending => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_as_docker_does() {
        let task =
            |task: &str, path: &str| Ok(End::Task { task: task.to_owned(), path: path.to_owned() });
        assert_eq!(end("web.2:/etc"), task("web.2", "/etc"));
        assert_eq!(end("team/web:x"), Ok(End::Here("team/web:x".into())));
        assert_eq!(end("./a:b"), Ok(End::Here("./a:b".into())));
        assert_eq!(end("-"), Ok(End::Stream));
        assert!(end("web:").is_err() && end(":x").is_err() && end("").is_err());
    }

    #[test]
    fn names_follow_dockers_rules() {
        use Kind::{Directory, File, Nothing};
        let at = |source, from, to, there| {
            place(source, from, to, there).ok().map(|p| (p.directory, p.name, p.fresh))
        };
        let is = |directory: &str, name: &str, fresh| Some((directory.into(), name.into(), fresh));
        assert_eq!(at(File, "a/f", "d", Directory), is("d", "f", false));
        assert_eq!(at(File, "a/f", "/d/g", Nothing), is("/d", "g", false));
        assert_eq!(at(File, "f", "g", File), is(".", "g", false));
        assert_eq!(at(File, "f", "/g", Nothing), is("/", "g", false));
        assert_eq!(at(File, "f", "g/", Nothing), None);
        assert_eq!(at(Directory, "a/", "d", Directory), is("d", "a", false));
        assert_eq!(at(Directory, "a", "d/e", Nothing), is("d", "e", false));
        assert_eq!(at(Directory, "a/.", "d", Directory), is("d", ".", false));
        assert_eq!(at(Directory, "a/.", "d", Nothing), is("d", ".", true));
        assert_eq!(at(Directory, "/", "d", Directory), is("d", ".", false));
        assert_eq!(at(Directory, "a", "f", File), None);
        assert_eq!(at(Nothing, "a", "f", File), None);
        assert_eq!(at(File, "f", "..", Nothing), None);
    }
}
