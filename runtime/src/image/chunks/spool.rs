//! A layer on its way: the chunks that came, read in order by whoever unpacks it while the
//! rest still comes, and by other machines that lack it too.
//!
//! Must never: give a byte to anybody that is not of a chunk whose digest was found.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::list::{ENTRY_BYTES, HEAD, ListReader, entry};
use super::{CHUNK_BYTES_MAX, CHUNKS_MAX, Chunk, Ranges};
use crate::image::{Digest, ImageError};
use crate::unpack::Room;

/// What the list's file begins with: the layer's length, then the list's own head.
const LENGTH_BYTES: usize = 8;

/// Bytes of a chunk's number in `here`.
const NUMBER_BYTES: usize = 4;

/// What became of a chunk that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is here, wherever in the layer it stands.
    Here,
    /// Its bytes do not have its digest, or there is no such chunk.
    Bad,
}

/// A layer's spool, in the hands of the one fetch that fills it. Dropped, it stays on the disk
/// for a later fetch, and whoever reads it is told that it broke off.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    dir: PathBuf,
    list: Mutex<File>,
    here: Mutex<File>,
    room: Room,
    _lock: File,
}

/// What may be read of a spool, by anybody.
#[derive(Clone, Debug)]
pub struct SpoolView(Arc<Shared>);

/// The layer's archive in order, as it comes. Blocks.
#[derive(Debug)]
pub struct SpoolReader {
    shared: Arc<Shared>,
    at: u64,
}

#[derive(Debug)]
struct Shared {
    bytes: u64,
    data: File,
    state: Mutex<State>,
    came: Condvar,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    list: Vec<Chunk>,
    /// Where each chunk begins, and where the list as it is known ends.
    starts: Vec<u64>,
    here: Vec<bool>,
    ranges: Ranges,
    /// Where a content first stands in the layer.
    first: HashMap<Digest, u32>,
    /// Where it stands again.
    again: BTreeMap<u32, Vec<u32>>,
    closed: bool,
}

/// The length of the layer whose spool is in that directory.
pub(super) fn length(dir: &Path) -> Option<u64> {
    let mut bytes = [0; LENGTH_BYTES];
    File::open(dir.join("list")).and_then(|mut list| list.read_exact(&mut bytes)).ok()?;
    Some(u64::from_le_bytes(bytes))
}

impl Spool {
    /// Opens what is in a locked directory, or begins it anew if it is of another length or
    /// cannot be read.
    pub(super) fn open(dir: &Path, lock: File, bytes: u64) -> io::Result<Self> {
        let known = if length(dir) == Some(bytes) { read_list(dir, bytes)? } else { Vec::new() };
        let [list_path, here_path, data_path] = ["list", "here", "data"].map(|n| dir.join(n));
        let came = if known.is_empty() { Vec::new() } else { read_here(&here_path, known.len())? };
        // Written anew: without what was torn at its end, and each chunk once.
        let mut list = Vec::with_capacity(LENGTH_BYTES + HEAD.len() + known.len() * ENTRY_BYTES);
        list.extend_from_slice(&bytes.to_le_bytes());
        list.extend_from_slice(HEAD);
        list.extend(known.iter().flat_map(entry));
        fs::write(&list_path, list)?;
        fs::write(&here_path, [])?;
        let data = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(data_path)?;
        data.set_len(bytes)?;
        let append = |path: &Path| OpenOptions::new().append(true).open(path);
        let shared = Shared {
            bytes,
            data,
            state: Mutex::default(),
            came: Condvar::new(),
            changed: watch::channel(0).0,
        };
        let spool = Self {
            shared: Arc::new(shared),
            dir: dir.to_owned(),
            list: Mutex::new(append(&list_path)?),
            here: Mutex::new(append(&here_path)?),
            room: Room::of(lock.as_fd())?,
            _lock: lock,
        };
        spool.learn(&known)?;
        let mut piece = Vec::new();
        for index in came {
            if spool.shared.chunk(index, &mut piece)? {
                spool.put(index, &piece)?;
            }
        }
        Ok(spool)
    }

    /// Of the whole layer.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes
    }

    /// The layer's list, as far as it is known.
    pub fn list(&self) -> Vec<Chunk> {
        self.shared.lock().list.clone()
    }

    /// Adds to the list. Blocks.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn extend(&self, chunks: &[Chunk]) -> io::Result<()> {
        let entries: Vec<u8> = chunks.iter().flat_map(entry).collect();
        self.list.lock().unwrap_or_else(PoisonError::into_inner).write_all(&entries)?;
        self.learn(chunks)
    }

    fn learn(&self, chunks: &[Chunk]) -> io::Result<()> {
        let mut copies = Vec::new();
        let mut state = self.shared.lock();
        for chunk in chunks {
            let index = u32::try_from(state.list.len()).map_err(io::Error::other)?;
            let start = state.end();
            state.list.push(*chunk);
            state.starts.push(start);
            state.here.push(false);
            match state.first.get(&chunk.digest).copied() {
                // One digest and two lengths: only in a list that lies.
                Some(first) if state.bytes_of(first) == Some(chunk.bytes) => {
                    state.again.entry(first).or_default().push(index);
                    copies.extend(state.is_here(first).then_some((first, index)));
                }
                Some(_) => {}
                None => {
                    state.first.insert(chunk.digest, index);
                }
            }
        }
        drop(state);
        let mut piece = Vec::new();
        for (first, index) in copies {
            if self.shared.chunk(first, &mut piece)? {
                self.shared.place(index, &piece)?;
            }
        }
        self.shared.tell();
        Ok(())
    }

    /// Whether a chunk is here.
    pub fn is_here(&self, index: u32) -> bool {
        self.shared.lock().is_here(index)
    }

    /// For a chunk that stands in the layer before: where it first does. It comes with that.
    pub fn twin(&self, index: u32) -> Option<u32> {
        let state = self.shared.lock();
        let chunk = state.list.get(index as usize)?;
        let first = state.first.get(&chunk.digest).copied()?;
        (first != index && state.bytes_of(first) == Some(chunk.bytes)).then_some(first)
    }

    /// Where a content first stands in the layer, if it does and is not here yet.
    pub fn lacks(&self, digest: &Digest) -> Option<u32> {
        let state = self.shared.lock();
        state.first.get(digest).copied().filter(|first| !state.is_here(*first))
    }

    /// Takes a chunk's bytes, if they are its. Blocks.
    ///
    /// # Errors
    ///
    /// If they cannot be written, or the disk is to keep what room it has left.
    pub fn put(&self, index: u32, bytes: &[u8]) -> io::Result<Put> {
        let chunk = Chunk::of(bytes);
        let places = {
            let state = self.shared.lock();
            if state.list.get(index as usize) != Some(&chunk) {
                return Ok(Put::Bad);
            }
            if state.is_here(index) {
                return Ok(Put::Here);
            }
            let first = state.first.get(&chunk.digest).copied().unwrap_or(index);
            let again = state.again.get(&first).into_iter().flatten();
            let mut places: Vec<u32> =
                again.copied().chain([first, index]).filter(|at| !state.is_here(*at)).collect();
            places.sort_unstable();
            places.dedup();
            places.retain(|at| state.bytes_of(*at) == Some(chunk.bytes));
            places
        };
        for at in places {
            self.room.spend(bytes.len() as u64)?;
            self.shared.place(at, bytes)?;
        }
        let number = index.to_le_bytes();
        self.here.lock().unwrap_or_else(PoisonError::into_inner).write_all(&number)?;
        self.shared.tell();
        Ok(Put::Here)
    }

    /// Whether all of the layer is here.
    pub fn is_whole(&self) -> bool {
        let state = self.shared.lock();
        state.end() == self.shared.bytes && state.here.iter().all(|here| *here)
    }

    /// Reads it from its first byte.
    pub fn reader(&self) -> SpoolReader {
        SpoolReader { shared: Arc::clone(&self.shared), at: 0 }
    }

    /// For others who lack it.
    pub fn view(&self) -> SpoolView {
        SpoolView(Arc::clone(&self.shared))
    }

    /// Tells whoever reads it that no more comes.
    pub fn close(&self) {
        self.shared.close();
    }

    /// What its disk said, in the words of the store.
    pub fn failure(&self, source: io::Error) -> ImageError {
        ImageError::spool(self.dir.clone(), source)
    }

    /// Forgets all of it: it is unpacked, or was a lie. Blocks.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        self.shared.close();
        fs::remove_dir_all(&self.dir)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl SpoolView {
    /// Which bytes are here.
    pub fn ranges(&self) -> Ranges {
        self.0.lock().ranges.clone()
    }

    /// Of the whole layer.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Fills a buffer with the bytes from one on, if all of them are here. Blocks.
    ///
    /// # Errors
    ///
    /// If they are not here, or cannot be read.
    pub fn read_at(&self, into: &mut [u8], from: u64) -> io::Result<()> {
        let to = from.saturating_add(into.len() as u64);
        if !self.0.lock().ranges.covers(from, to) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.0.data.read_exact_at(into, from)
    }

    /// Changes whenever something came, and ends when the fetch does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Whether the fetch is over: nothing more comes.
    pub fn is_closed(&self) -> bool {
        self.0.lock().closed
    }
}

impl Read for SpoolReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.shared.bytes || into.is_empty() {
            return Ok(0);
        }
        let mut state = self.shared.lock();
        let to = loop {
            if let Some(to) = state.ranges.end_from(self.at) {
                break to;
            }
            if state.closed {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            state = self.shared.came.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        let there = usize::try_from(to - self.at).unwrap_or(usize::MAX).min(into.len());
        let read = self.shared.data.read_at(into.get_mut(..there).unwrap_or_default(), self.at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.came.notify_all();
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn close(&self) {
        self.lock().closed = true;
        self.tell();
    }

    /// What the file has where a chunk stands, whatever that is; whether there is such a chunk.
    fn chunk(&self, index: u32, into: &mut Vec<u8>) -> io::Result<bool> {
        let Some((start, bytes)) = self.lock().stretch(index) else { return Ok(false) };
        into.resize(bytes.min(CHUNK_BYTES_MAX) as usize, 0);
        self.data.read_exact_at(into, start).map(|()| true)
    }

    /// Writes a chunk's bytes where it stands.
    fn place(&self, index: u32, bytes: &[u8]) -> io::Result<()> {
        let Some((start, _)) = self.lock().stretch(index) else { return Ok(()) };
        self.data.write_all_at(bytes, start)?;
        let mut state = self.lock();
        if let Some(here) = state.here.get_mut(index as usize) {
            *here = true;
        }
        state.ranges.insert(start, start + bytes.len() as u64);
        Ok(())
    }
}

impl State {
    fn end(&self) -> u64 {
        let last = self.starts.last().zip(self.list.last());
        last.map_or(0, |(start, chunk)| start.saturating_add(chunk.bytes.into()))
    }

    fn stretch(&self, index: u32) -> Option<(u64, u32)> {
        let start = self.starts.get(index as usize)?;
        Some((*start, self.list.get(index as usize)?.bytes))
    }

    fn bytes_of(&self, index: u32) -> Option<u32> {
        self.list.get(index as usize).map(|chunk| chunk.bytes)
    }

    fn is_here(&self, index: u32) -> bool {
        self.here.get(index as usize).copied().unwrap_or(false)
    }
}

/// The list as far as it can be read; a torn end is left out.
fn read_list(dir: &Path, bytes: u64) -> io::Result<Vec<Chunk>> {
    let most = (LENGTH_BYTES + HEAD.len() + CHUNKS_MAX * ENTRY_BYTES) as u64;
    let mut text = Vec::new();
    File::open(dir.join("list"))?.take(most).read_to_end(&mut text)?;
    let list = text.get(LENGTH_BYTES..).unwrap_or_default();
    Ok(ListReader::new(bytes, []).feed(list).unwrap_or_default())
}

/// The chunks that came, as far as it is known.
fn read_here(path: &Path, chunks: usize) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    match File::open(path) {
        Ok(here) => here.take((chunks * NUMBER_BYTES) as u64).read_to_end(&mut numbers)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let whole = numbers.as_chunks::<NUMBER_BYTES>().0.iter();
    Ok(whole.map(|number| u32::from_le_bytes(*number)).collect())
}

#[cfg(test)]
mod tests;
