//! The lists of layers that are here: made when somebody first asks for one, and kept.
//!
//! ```text
//! asked ──▶ kept on the disk? ── no ──▶ a thread cuts ──▶ told as it is made ──▶ kept
//! ```
//!
//! Must never: cut a layer twice at once, or more than a few layers at once, however many ask.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;

use super::list::{ENTRY_BYTES, HEAD, ListReader, entry};
use super::{CHUNKS_MAX, Chunk, Cutter};
use crate::image::Digest;

/// Chunks that are told at once: some 4 MB of the layer.
const TOLD_AT_ONCE: usize = 64;

/// A layer's list that is known or being made.
#[derive(Debug)]
pub struct KeptList {
    bytes: u64,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    chunks: Vec<Chunk>,
    end: Option<Result<(), String>>,
}

/// The lists in somebody's hands.
#[derive(Clone, Debug, Default)]
pub struct KeptLists(Arc<Lists>);

#[derive(Debug, Default)]
struct Lists {
    known: Mutex<BTreeMap<Digest, Weak<KeptList>>>,
    /// One cut at a time: it takes a core and the disk.
    turn: Mutex<()>,
}

impl KeptLists {
    /// The list of a layer; `make` is to be run on a thread that may block, where there is one:
    /// nobody else makes this list then.
    pub fn get(&self, diff_id: &Digest, bytes: u64) -> (Arc<KeptList>, Option<Making>) {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, list| list.strong_count() > 0);
        // One that could not be made is tried again.
        let failed = |list: &Arc<KeptList>| matches!(list.lock().end, Some(Err(_)));
        if let Some(list) = known.get(diff_id).and_then(Weak::upgrade).filter(|l| !failed(l)) {
            return (list, None);
        }
        let (state, changed) = (Mutex::default(), watch::channel(0).0);
        let list = Arc::new(KeptList { bytes, state, changed });
        known.insert(*diff_id, Arc::downgrade(&list));
        let making = Making { lists: Arc::clone(&self.0), list: Arc::clone(&list) };
        (list, Some(making))
    }
}

/// The making of a list, which is somebody's to do.
#[derive(Debug)]
pub struct Making {
    lists: Arc<Lists>,
    list: Arc<KeptList>,
}

impl Making {
    /// Reads the list that is kept at that path, or cuts the layer and keeps it there. Blocks.
    /// What fails is told to those who wait.
    pub fn run<R: Read>(self, path: &Path, layer: impl FnOnce() -> io::Result<R>) {
        let made = self.make(path, layer);
        self.list.finish(made.map_err(|error| error.to_string()));
    }

    fn make<R: Read>(&self, path: &Path, layer: impl FnOnce() -> io::Result<R>) -> io::Result<()> {
        if let Some(chunks) = kept(path, self.list.bytes) {
            self.list.tell(&chunks);
            return Ok(());
        }
        let _turn = self.lists.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = Vec::with_capacity(TOLD_AT_ONCE);
        let (mut bytes, mut count) = (0, 0);
        for chunk in Cutter::new(layer()?) {
            // Whoever asked has left: it is made when somebody asks again.
            if Arc::strong_count(&self.list) == 1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let chunk = chunk?;
            bytes += u64::from(chunk.bytes);
            count += 1;
            if count > CHUNKS_MAX {
                return Err(io::Error::other("it has too many chunks"));
            }
            told.push(chunk);
            if told.len() == TOLD_AT_ONCE {
                self.list.tell(&told);
                told.clear();
            }
        }
        if bytes != self.list.bytes {
            return Err(io::Error::other("the layer is not of the length it should be"));
        }
        self.list.tell(&told);
        let chunks = self.list.lock().chunks.clone();
        if let Err(error) = keep(path, &chunks) {
            // It is made again when it is asked for again.
            tracing::warn!(%error, path = %path.display(), "a list of chunks cannot be kept");
        }
        Ok(())
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Whoever waits must not wait for a thread that died.
        self.list.finish(Err("it was not finished".to_owned()));
    }
}

impl KeptList {
    /// Of the layer.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The chunks from one on, as far as they are known, and whether these are the last.
    ///
    /// # Errors
    ///
    /// Why there will be no more of them.
    pub fn from(&self, at: usize) -> Result<(Vec<Chunk>, bool), String> {
        let state = self.lock();
        let chunks = state.chunks.get(at..).unwrap_or_default().to_vec();
        match &state.end {
            None => Ok((chunks, false)),
            Some(Ok(())) => Ok((chunks, true)),
            Some(Err(why)) => Err(why.clone()),
        }
    }

    /// Changes whenever more is known.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, chunks: &[Chunk]) {
        self.lock().chunks.extend_from_slice(chunks);
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn finish(&self, end: Result<(), String>) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some(end);
        }
        drop(state);
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }
}

/// The list that is kept there, if it is whole.
fn kept(path: &Path, bytes: u64) -> Option<Vec<Chunk>> {
    let mut text = Vec::new();
    let most = (HEAD.len() + CHUNKS_MAX * ENTRY_BYTES) as u64;
    File::open(path).ok()?.take(most).read_to_end(&mut text).ok()?;
    let mut reader = ListReader::new(bytes, []);
    let chunks = reader.feed(&text).ok()?;
    reader.is_whole().then_some(chunks)
}

/// Keeps a list. A crash leaves none or all of it, or what is not whole and is made again.
fn keep(path: &Path, chunks: &[Chunk]) -> io::Result<()> {
    let part: PathBuf = path.with_extension("part");
    let mut text = HEAD.to_vec();
    text.extend(chunks.iter().flat_map(entry));
    let mut file = File::create(&part)?;
    file.write_all(&text)?;
    fs::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::super::cut::tests::{cut, noise};
    use super::*;

    #[test]
    fn a_list_is_cut_once_and_then_kept() {
        let home = tempfile::tempdir().expect("dir");
        let path = home.path().join("chunks");
        let layer = noise(1, 10_000_000);
        let id = Digest::of(&layer);
        let lists = KeptLists::default();
        let (list, making) = lists.get(&id, layer.len() as u64);
        let (same, nobody) = lists.get(&id, layer.len() as u64);
        assert!(nobody.is_none(), "one makes it");
        making.expect("this one").run(&path, || Ok(&layer[..]));
        assert_eq!(same.from(0).expect("made"), (cut(&layer), true));
        let (rest, is_last) = same.from(5).expect("made");
        assert!(is_last && rest == cut(&layer)[5..]);
        drop((list, same));
        let (again, making) = lists.get(&id, layer.len() as u64);
        let never = || -> io::Result<&[u8]> { panic!("it is kept") };
        making.expect("nobody holds it").run(&path, never);
        assert_eq!(again.from(0).expect("kept").0, cut(&layer));
    }

    #[test]
    fn a_kept_list_that_is_torn_is_cut_again() {
        let home = tempfile::tempdir().expect("dir");
        let path = home.path().join("chunks");
        let layer = noise(2, 1_000_000);
        let id = Digest::of(&layer);
        keep(&path, &cut(&layer)).expect("kept");
        let whole = fs::read(&path).expect("reads");
        for torn in [&whole[..whole.len() - 1], &whole[..40], b"", &[b'x'; 500]] {
            fs::write(&path, torn).expect("writes");
            let (list, making) = KeptLists::default().get(&id, layer.len() as u64);
            making.expect("this one").run(&path, || Ok(&layer[..]));
            assert_eq!(list.from(0).expect("made").0, cut(&layer));
            assert_eq!(fs::read(&path).expect("reads"), whole);
        }
    }

    #[test]
    fn what_cannot_be_made_is_told_and_tried_again() {
        let home = tempfile::tempdir().expect("dir");
        let path = home.path().join("chunks");
        let layer = noise(3, 100_000);
        let id = Digest::of(&layer);
        let lists = KeptLists::default();
        let (list, making) = lists.get(&id, 100_001);
        making.expect("this one").run(&path, || Ok(&layer[..]));
        assert!(list.from(0).is_err());
        let (dropped, making) = lists.get(&id, 100_000);
        drop(making.expect("once more"));
        assert!(dropped.from(0).is_err());
        let (list, making) = lists.get(&id, 100_000);
        making.expect("once more").run(&path, || Ok(&layer[..]));
        assert!(list.from(0).is_ok());
    }
}
