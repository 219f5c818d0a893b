//! A disk file that can be opened, repaired and read without being touched.
//!
//! redb repairs a journal while opening it. A journal that turns out corrupt or
//! too new must stay as it was, byte for byte, so it is first opened through
//! this: reads fall through to the file, writes stay in memory and are dropped.
//! Never used for the journal that is written to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

const PAGE: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Overlay {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What the file would be long now.
    length: u64,
    /// Below this, what was never written is still the file's.
    intact: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let state = Mutex::new(State { length, intact: length, pages: BTreeMap::new() });
        Ok(Self { file, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// One page as it would be now.
    fn page(&self, file: &File, number: u64) -> io::Result<Box<[u8]>> {
        if let Some(page) = self.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE as usize].into_boxed_slice();
        let start = number * PAGE;
        let there = self.intact.saturating_sub(start).min(PAGE) as usize;
        file.read_exact_at(&mut page[..there], start)?;
        Ok(page)
    }
}

/// The parts of `offset..offset + length`: page, offset within it, offset within the whole, bytes.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % PAGE) as usize;
        let bytes = (length - done).min(PAGE as usize - within);
        done += bytes;
        Some((at / PAGE, within, done - bytes, bytes))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > state.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, within, at, bytes) in parts(offset, out.len()) {
            let page = state.page(&self.file, number)?;
            out[at..at + bytes].copy_from_slice(&page[within..within + bytes]);
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.state();
        if length < state.length {
            // Cut off here, it must read as zeros should the file grow again.
            let first_gone = length.div_ceil(PAGE);
            state.pages.retain(|number, _| *number < first_gone);
            if !length.is_multiple_of(PAGE) {
                let number = length / PAGE;
                let mut page = state.page(&self.file, number)?;
                page[(length % PAGE) as usize..].fill(0);
                state.pages.insert(number, page);
            }
            state.intact = state.intact.min(length);
        }
        state.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        for (number, within, at, bytes) in parts(offset, data.len()) {
            let mut page = state.page(&self.file, number)?;
            page[within..within + bytes].copy_from_slice(&data[at..at + bytes]);
            state.pages.insert(number, page);
        }
        state.length = state.length.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_read_back_and_the_file_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("f");
        let original: Vec<u8> = (0..10_000).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &original).expect("write");
        let overlay = Overlay::new(File::open(&path).expect("open")).expect("overlay");
        let mut model = original.clone();
        for (offset, data) in [(4000, vec![1; 5000]), (9999, vec![2; 1]), (0, vec![3; 10])] {
            overlay.write(offset as u64, &data).expect("write");
            model[offset..offset + data.len()].copy_from_slice(&data);
        }
        for (length, fill) in [(6000, 0), (20_000, 0)] {
            overlay.set_len(length as u64).expect("set_len");
            model.resize(length, fill);
        }
        let mut all = vec![9; model.len()];
        overlay.read(0, &mut all).expect("read");
        assert!(all == model);
        assert!(overlay.read(19_999, &mut [0; 2]).is_err());
        assert_eq!(std::fs::read(&path).expect("read"), original);
    }
}
