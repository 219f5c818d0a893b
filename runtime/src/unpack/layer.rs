//! Unpacking one layer of an image so that its archive can be written again.
//!
//! ```text
//! PART/tree     its files
//! PART/recipe   all else that was in the archive
//! PART/aside    files that the archive itself replaced, where there are any
//! ```
//!
//! One thread reads, unpacks and sums up; another makes the files. Either alone keeps a
//! processor busy, and of files that are made much of the time is the kernel's.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::archive::Archive;
use super::error::UnpackError;
use super::recipe::{Recorder, Replay};
use super::room::Room;
use super::stream::Stream;
use super::tree::Tree;
use super::walk::DIRECTORY;
use super::{Digest, Options, Unpacked, apply_all};

/// Bytes handed over at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Pieces between the threads: what one does while the other waits for the disk.
const PIECES: usize = 16;

const TREE: &str = "tree";
const RECIPE: &str = "recipe";
const ASIDE: &str = "aside";

/// A layer that was unpacked.
#[derive(Debug)]
pub(crate) struct Layer {
    /// What was made.
    pub(crate) unpacked: Unpacked,
    /// Bytes of the archive, not packed.
    pub(crate) bytes: u64,
    /// The sum of them; none if they are what was read.
    pub(crate) sum: Option<[u8; 32]>,
    /// Whether an entry replaced another: then the archive must be [written again](again)
    /// and compared, before it can be relied on.
    pub(crate) replaced: bool,
}

/// Unpacks a layer into an empty directory, reading its source to the end. Nothing is
/// flushed to the disk.
///
/// # Errors
///
/// The first thing wrong with the archive or the machine; the directory is then to be removed.
pub(crate) fn unpack_layer(
    from: impl Read,
    part: BorrowedFd,
    options: &Options,
) -> Result<Layer, UnpackError> {
    let into = |action| move |error: Errno| UnpackError::Into { action, source: error.into() };
    let room = Room::of(part);
    let room = room.map_err(|source| UnpackError::Into { action: "look at its disk", source })?;
    room.look(None)?;
    rustix::fs::mkdirat(part, TREE, Mode::RWXU).map_err(into("make its tree"))?;
    let dir = rustix::fs::openat(part, TREE, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
    let dir = dir.map_err(into("open its tree"))?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755)).map_err(into("open its tree to all"))?;
    let mut tree = Tree::new(dir.as_fd()).map_err(into("open its tree"))?;
    rustix::fs::mkdirat(part, ASIDE, Mode::RWXU).map_err(into("make a place aside"))?;
    let aside = rustix::fs::openat(part, ASIDE, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
    tree.keep_replaced(aside.map_err(into("make a place aside"))?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let recipe = rustix::fs::openat(part, RECIPE, flags, Mode::RUSR | Mode::WUSR);
    let recipe = File::from(recipe.map_err(into("make its recipe"))?);
    let recorder = Recorder::new(recipe).map_err(|source| UnpackError::Recipe { source })?;
    let options = options.within_limits();
    let (done, replaced, bytes, sum) = in_two_threads(from, (tree, recorder, room), &options)?;
    if !replaced {
        rustix::fs::unlinkat(part, ASIDE, AtFlags::REMOVEDIR)
            .map_err(into("remove the place aside"))?;
    }
    Ok(Layer { unpacked: done, bytes, sum, replaced })
}

/// The archive of a layer, as it was.
pub(crate) fn again(layer: BorrowedFd) -> io::Result<Replay> {
    let open = |name, flags| rustix::fs::openat(layer, name, flags, Mode::empty());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let aside = match open(ASIDE, DIRECTORY | OFlags::NOFOLLOW) {
        Err(Errno::NOENT) => None,
        opened => Some(opened?),
    };
    let tree: OwnedFd = open(TREE, DIRECTORY | OFlags::NOFOLLOW)?;
    Replay::new(File::from(open(RECIPE, flags)?), tree, aside)
}

/// What a layer is written to.
type Ground = (Tree, Recorder, Room);

type Made = (Unpacked, bool, u64, Option<[u8; 32]>);

fn in_two_threads(from: impl Read, ground: Ground, options: &Options) -> Result<Made, UnpackError> {
    let (to, pieces) = sync_channel(PIECES);
    // As many as can be under way, so that giving one back never waits.
    let (back, emptied) = sync_channel(PIECES + 2);
    let pipe = Pipe { pieces, back, piece: Vec::new(), length: 0, at: 0, ended: false };
    std::thread::scope(|scope| {
        let applier = std::thread::Builder::new().name("layer".to_owned());
        let applier = applier.spawn_scoped(scope, move || apply(pipe, ground, options));
        let applier =
            applier.map_err(|source| UnpackError::Into { action: "start a thread", source })?;
        let read = feed(from, &to, &emptied, options);
        drop(to);
        let applied = applier.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Whoever failed first made the other fail.
        match (read, applied) {
            (Err(Fed::Stopped), Err(error)) | (Err(Fed::Failed(error)), _) => Err(error),
            (Ok(_), Err(error)) => Err(error),
            (Err(Fed::Stopped), Ok(_)) => {
                Err(UnpackError::Read { source: io::ErrorKind::BrokenPipe.into() })
            }
            (Ok(sum), Ok((done, replaced, bytes))) => Ok((done, replaced, bytes, sum)),
        }
    })
}

/// Why no more was handed over.
enum Fed {
    /// The other thread has ended.
    Stopped,
    Failed(UnpackError),
}

impl From<UnpackError> for Fed {
    fn from(error: UnpackError) -> Self {
        Self::Failed(error)
    }
}

/// Hands over all that there is, and an empty piece at the end.
fn feed(
    from: impl Read,
    to: &SyncSender<(Vec<u8>, usize)>,
    emptied: &Receiver<Vec<u8>>,
    options: &Options,
) -> Result<Option<[u8; 32]>, Fed> {
    let mut stream = Stream::open(from, &options.bounds, Digest::Skip)?;
    stream.sum_if_packed();
    loop {
        stream.check_time()?;
        let mut piece = emptied.try_recv().unwrap_or_else(|_| vec![0; PIECE_BYTES]);
        let mut filled = 0;
        while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match stream.read_content(rest)? {
                0 => break,
                read => filled += read,
            }
        }
        to.send((piece, filled)).map_err(|_gone| Fed::Stopped)?;
        if filled == 0 {
            return Ok(stream.finish()?);
        }
    }
}

fn apply(
    pipe: Pipe,
    (tree, recorder, room): Ground,
    options: &Options,
) -> Result<(Unpacked, bool, u64), UnpackError> {
    let mut stream = Stream::plain(pipe, &options.bounds);
    stream.record(recorder);
    stream.keep_room(room);
    let mut archive = Archive::new(stream, &options.bounds);
    let (done, replaced) = apply_all(&mut archive, tree, options)?;
    let recipe = |source| UnpackError::Recipe { source };
    let recorder = archive.take_recorder().ok_or_else(|| recipe(io::ErrorKind::Other.into()))?;
    let bytes = recorder.finish().map_err(recipe)?;
    if bytes != archive.at() {
        return Err(recipe(io::Error::other("it does not add up")));
    }
    Ok((done, replaced, bytes))
}

/// The end from which pieces are read.
#[derive(Debug)]
struct Pipe {
    pieces: Receiver<(Vec<u8>, usize)>,
    back: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    length: usize,
    at: usize,
    ended: bool,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.length && !self.ended {
            // Without the empty piece at its end the other thread has failed.
            let next = self.pieces.recv().map_err(|_gone| io::ErrorKind::BrokenPipe)?;
            let empty = std::mem::replace(&mut self.piece, next.0);
            (self.length, self.at, self.ended) = (next.1, 0, next.1 == 0);
            if !empty.is_empty() {
                let _ = self.back.try_send(empty);
            }
        }
        let rest = self.piece.get(self.at..self.length).unwrap_or_default();
        let length = rest.len().min(into.len());
        into.get_mut(..length)
            .unwrap_or_default()
            .copy_from_slice(rest.get(..length).unwrap_or_default());
        self.at += length;
        Ok(length)
    }
}
