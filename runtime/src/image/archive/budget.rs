//! What the documents of all archives that are read at once may have of the memory.
//!
//! Documents are kept until an archive ends, since what says which of them count may come
//! last. One archive's are bounded; so are those of all together, however many are read.
//!
//! Must never: wait. Two archives that each wait for what the other has would wait for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::image::ImageError;

/// Bytes of documents of all archives at once. Those of an honest one come to kilobytes.
const DOCUMENTS_OF_ALL_BYTES: usize = 64 << 20;

/// The memory of one store for documents.
#[derive(Debug)]
pub(in crate::image) struct Budget(AtomicUsize);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicUsize::new(DOCUMENTS_OF_ALL_BYTES))
    }
}

/// What one archive has of it, given back when this goes.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Nothing yet.
    pub(super) fn of(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Bytes taken so far.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes so much more.
    ///
    /// # Errors
    ///
    /// If others have it.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), ImageError> {
        let rest = |free: usize| free.checked_sub(bytes);
        let taken = self.budget.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        taken.map_err(|_free| ImageError::Busy)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives so much back.
    pub(super) fn give(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_archives_together_have_no_more_than_there_is_and_give_it_back() {
        let budget = Arc::new(Budget::default());
        let share = || Share::of(Arc::clone(&budget));
        let (mut one, mut other) = (share(), share());
        one.take(DOCUMENTS_OF_ALL_BYTES - 10).expect("it is free");
        other.take(10).expect("the rest");
        assert!(matches!(other.take(1), Err(ImageError::Busy)));
        other.give(20);
        assert_eq!(other.bytes(), 0, "no more than it had");
        one.take(10).expect("what was given back");
        drop(one);
        other.take(DOCUMENTS_OF_ALL_BYTES).expect("all of it");
    }
}
