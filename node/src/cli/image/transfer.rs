//! `image load`, `import`, `pull` and `push`: archives from here to an agent, and images between
//! an agent and a registry.
//!
//! What is sent is read in a thread as it is wanted; nothing of it is held but a few pieces.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::{Stream, stream};
use runtime::image::{ImageInfo, Reference};
use tokio::sync::mpsc;

use super::gauge::Gauge;
use super::query;
use crate::api::image_types::ImageItem;
use crate::api::types::Complaint;
use crate::cli::client::{Client, parse};
use crate::cli::errors::{Failed, without_number};
use crate::cli::lines::Lines;
use crate::cli::output::{Format, Output};

/// How much is read at once.
pub(in crate::cli) const PIECE_BYTES: usize = 256 * 1024;

/// Pieces that wait for the connection.
const PIECES: usize = 8;

/// How often a bar moves while nothing is said.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The flags of `image load`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// An archive, or a directory with an OCI layout; - or nothing is standard input
    #[arg(value_name = "FILE|DIR")]
    file: Option<PathBuf>,
    /// Docker's way to name it
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    input: Option<PathBuf>,
}

/// The words of `image import`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ImportArgs {
    /// An archive of plain files; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What to call the image
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Say something of it, like 'CMD ["/bin/sh"]', ENV, USER or WORKDIR
    #[arg(short, long, value_name = "LINE")]
    change: Vec<String>,
}

/// The words of `image pull`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PullArgs {
    /// Like nginx:1.27 or ghcr.io/owner/app:2.1
    #[arg(value_name = "NAME")]
    name: String,
}

/// The words of `image push`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PushArgs {
    /// Like ghcr.io/owner/app:2.1
    #[arg(value_name = "NAME")]
    name: String,
}

/// `starling image load`.
pub(super) async fn load(args: LoadArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let source = Source::open(args.file.or(args.input).as_deref())?;
    send("/v1/images/load", source, client, out).await?.tell("loaded", out)
}

/// `starling image import`.
pub(super) async fn import(
    args: ImportArgs,
    client: &mut Client,
    out: Output,
) -> Result<u8, Failed> {
    let source = Source::open(Some(&args.file))?;
    if let Source::Directory(_) = source {
        return Err(Complaint::new("usage", "this is a directory, and no archive")
            .hint(format!("tar c -C {} . | starling image import - NAME", args.file.display()))
            .into());
    }
    let name = args.name.iter().map(|name| format!("name={}", query(name)));
    let changes = args.change.iter().map(|line| format!("change={}", query(line)));
    let words: Vec<_> = name.chain(changes).collect();
    let path = format!("/v1/images/import?{}", words.join("&"));
    send(&path, source, client, out).await?.tell("imported", out)
}

/// `starling image pull`.
pub(super) async fn pull(args: PullArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let path = format!("/v1/images/pull?name={}", query(&args.name));
    let lines = client.watch(&path).await?;
    watched(lines, None, out).await?.tell("pulled", out)
}

/// `starling image push`.
pub(super) async fn push(args: PushArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    let path = format!("/v1/images/push?name={}", query(&args.name));
    let lines = client.watch(&path).await?;
    watched(lines, None, out).await?.tell("pushed", out)
}

/// `starling image verify`. Exits with 1 if something is damaged.
pub(super) async fn verify(
    name: Option<&str>,
    client: &mut Client,
    out: Output,
) -> Result<u8, Failed> {
    let name = name.map_or(String::new(), |name| format!("?name={}", query(name)));
    let lines = client.watch(&format!("/v1/images/verify{name}")).await?;
    let done = watched(lines, None, out).await?;
    let is_sound = |image: &ImageInfo| image.damaged.is_empty();
    let (sound, damaged): (Vec<_>, Vec<_>) = done.images.iter().partition(|image| is_sound(image));
    if out.format == Format::Json {
        out.json(&done.line)?;
    } else {
        if out.format == Format::Human {
            sound.iter().try_for_each(|image| tell(image, "sound:", &done.node, out))?;
        }
        damaged.iter().try_for_each(|image| tell(image, "DAMAGED:", &done.node, out))?;
    }
    if !damaged.is_empty() {
        out.note(
            "hint: starling image load, or pull; where another node has it, it comes from there",
        );
    }
    Ok(u8::from(!damaged.is_empty()))
}

/// One of these tells what images a directory has.
const LISTS: [&str; 2] = ["index.json", "manifest.json"];

/// Where an archive comes from.
enum Source {
    File(File, u64),
    Stream,
    Directory(PathBuf),
}

impl Source {
    fn open(path: Option<&Path>) -> Result<Self, Failed> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            if io::stdin().is_terminal() {
                return Err(Complaint::new("usage", "there is no archive to read")
                    .because("standard input is a terminal")
                    .hint("starling image load FILE   or docker save app | starling image load")
                    .into());
            }
            return Ok(Self::Stream);
        };
        let failed = |error: io::Error| {
            let what = format!("{} cannot be read", path.display());
            Failed::from(Complaint::new("no_such_file", what).because(without_number(&error)))
        };
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.is_dir() {
            if !LISTS.iter().any(|list| path.join(list).is_file()) {
                let what = format!("{} is a directory without an image", path.display());
                return Err(Complaint::new("bad_image", what)
                    .because("it has no index.json, as an OCI layout has, and no manifest.json")
                    .hint(
                        "tar c -C DIR . | starling image import - NAME   for a directory of files",
                    )
                    .into());
            }
            return Ok(Self::Directory(path.to_owned()));
        }
        Ok(Self::File(file, found.len()))
    }

    /// How much it is, where that is known before.
    fn bytes(&self) -> Option<u64> {
        match self {
            // A pipe by name has no length.
            Self::File(_, bytes) => Some(*bytes).filter(|bytes| *bytes > 0),
            Self::Stream | Self::Directory(_) => None,
        }
    }

    /// Writes all of it. Blocks.
    fn send(self, to: &mut Pieces) -> io::Result<()> {
        match self {
            Self::File(file, _) => copy(file, to),
            Self::Stream => copy(io::stdin().lock(), to),
            Self::Directory(path) => crate::agent::sources::pack_directory(&path, to),
        }
    }
}

/// Passes all on that there is. Blocks.
pub(in crate::cli) fn copy(mut from: impl Read, to: &mut Pieces) -> io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        (&mut from).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(());
        }
        to.pass(Bytes::from(piece))?;
    }
}

/// What is read, on its way into a request.
pub(in crate::cli) struct Pieces {
    to: mpsc::Sender<io::Result<Bytes>>,
    sent: Arc<AtomicU64>,
}

impl Pieces {
    fn pass(&mut self, piece: Bytes) -> io::Result<()> {
        let length = piece.len() as u64;
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.to.blocking_send(Ok(piece)).map_err(gone)?;
        self.sent.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..bytes.len().min(PIECE_BYTES)).unwrap_or_default();
        self.pass(Bytes::copy_from_slice(piece))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends an archive, and shows how far it is.
async fn send(
    path: &str,
    source: Source,
    client: &mut Client,
    out: Output,
) -> Result<Done, Failed> {
    let of = source.bytes();
    upload(path, of, |to| source.send(to), client, out).await
}

/// Sends what a thread writes, `of` bytes where that is known before, and shows how far it is.
pub(in crate::cli) async fn upload(
    path: &str,
    of: Option<u64>,
    write: impl FnOnce(&mut Pieces) -> io::Result<()> + Send + 'static,
    client: &mut Client,
    out: Output,
) -> Result<Done, Failed> {
    let sent = Arc::new(AtomicU64::new(0));
    let (to, from) = mpsc::channel(PIECES);
    let mut pieces = Pieces { to, sent: Arc::clone(&sent) };
    let mut reading = tokio::task::spawn_blocking(move || {
        let written = write(&mut pieces);
        if let Err(error) = &written {
            // What is sent must not look whole; who receives it may have left.
            let _ = pieces.to.blocking_send(Err(error.kind().into()));
        }
        written
    });
    let lines = client.upload(path, body(from)).await?;
    let watched = watched(lines, Some((sent, of)), out);
    tokio::pin!(watched);
    let mut is_read = false;
    loop {
        tokio::select! {
            done = &mut watched => return done,
            read = &mut reading, if !is_read => {
                is_read = true;
                if let Ok(Err(error)) = read
                    && error.kind() != io::ErrorKind::BrokenPipe
                {
                    let complaint = Complaint::new("broken", "the archive cannot be read");
                    return Err(complaint.because(without_number(&error)).into());
                }
            }
        }
    }
}

fn body(from: mpsc::Receiver<io::Result<Bytes>>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold(from, |mut from| async move { from.recv().await.map(|piece| (piece, from)) })
}

/// What came of it.
pub(in crate::cli) struct Done {
    pub(in crate::cli) images: Vec<ImageInfo>,
    pub(in crate::cli) node: String,
    /// The agent's word, as it came.
    line: Bytes,
}

impl Done {
    fn tell(&self, done: &str, out: Output) -> Result<u8, Failed> {
        if out.format == Format::Json {
            out.json(&self.line)?;
        } else {
            self.images.iter().try_for_each(|image| tell(image, done, &self.node, out))?;
        }
        Ok(0)
    }
}

/// Shows how far it is, to its end. What was sent is a better measure than what the agent
/// says, where something is sent.
async fn watched(
    mut lines: Lines,
    sent: Option<(Arc<AtomicU64>, Option<u64>)>,
    out: Output,
) -> Result<Done, Failed> {
    let mut gauge = Gauge::new(out);
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        let line = tokio::select! {
            line = lines.next() => line?,
            _now = look.tick() => {
                let sent = sent.as_ref();
                gauge.show(sent.map(|(sent, of)| (sent.load(Ordering::Relaxed), *of)));
                continue;
            }
        };
        let Some(line) = line else { return Err(left().into()) };
        match parse(&line)? {
            ImageItem::Progress(progress) => gauge.layer(&progress),
            ImageItem::Failed { error } => return Err(error.into()),
            ImageItem::Done { images, node, warnings } => {
                warnings.iter().for_each(|warning| out.warn(&format!("warning: {warning}")));
                return Ok(Done { images, node, line });
            }
            // Only `ensure` is answered so.
            ImageItem::Meant { .. } => {}
        }
    }
}

/// An answer ended before its last line.
pub(super) fn left() -> Complaint {
    Complaint::new("broken", "the agent left before it was done")
        .because("nothing of it stays there")
        .hint("starling status   whether it is back")
}

fn tell(image: &ImageInfo, done: &str, node: &str, out: Output) -> Result<(), Failed> {
    let names: Vec<_> = image.names.iter().map(Reference::familiar).collect();
    let id = image.id.short();
    if out.format == Format::Quiet {
        return out.line(names.first().unwrap_or(&id));
    }
    let name = if names.is_empty() { id.clone() } else { names.join(", ") };
    out.line(&format!("{done} {name} ({id}) on {node}"))
}
