//! Documents of many archives at once: what they have of the memory is bounded together.

use std::io::Read;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::shapes::{self, simple, tar};
use crate::shop::{Shop, whole};
use crate::tarball::Tarball;

/// Of one document: as much as one may have.
const DOCUMENT_BYTES: usize = 4 << 20;

/// Of each archive: as many as it may have.
const DOCUMENTS: usize = 4;

/// Archives that have all the memory there is for documents.
const ARCHIVES: usize = 4;

/// Stops before its last header until all have come there.
struct Stopping<'a> {
    bytes: &'a [u8],
    left: usize,
    barrier: Option<&'a Barrier>,
    passed: &'a AtomicUsize,
}

impl Read for Stopping<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0
            && let Some(barrier) = self.barrier.take()
        {
            barrier.wait();
            barrier.wait();
            self.passed.fetch_add(1, Ordering::SeqCst);
        }
        let most = if self.left > 0 { into.len().min(self.left) } else { into.len() };
        let read = self.bytes.read(&mut into[..most])?;
        self.left = self.left.saturating_sub(read);
        Ok(read)
    }
}

#[test]
fn many_archives_full_of_documents_are_refused_rather_than_held() {
    let shop = Shop::quick();
    let mut document = vec![b' '; DOCUMENT_BYTES];
    document[0] = b'{';
    let documents = (0..DOCUMENTS)
        .fold(Tarball::new(), |tar, n| tar.file(format!("{n}.json"), document.clone()));
    let archive = documents.file("last.json", "{}").end();
    // All of the documents but the last, which is none too many.
    let left = DOCUMENTS * (512 + DOCUMENT_BYTES);
    let (barrier, passed) = (Barrier::new(ARCHIVES + 1), AtomicUsize::new(0));
    let good = tar(&shapes::podman(&[&simple()]));
    std::thread::scope(|scope| {
        let load = || {
            let barrier = Some(&barrier);
            let from = Stopping { bytes: &archive, left, barrier, passed: &passed };
            shop.load_with(from, &Default::default())
        };
        let loads: Vec<_> = (0..ARCHIVES).map(|_| scope.spawn(load)).collect();
        barrier.wait();
        let error = shop.load(&good).unwrap_err();
        assert!(whole(&error).contains("other archives"), "{error:?}");
        barrier.wait();
        for load in loads {
            let error = load.join().unwrap().unwrap_err();
            assert!(whole(&error).contains("no image"), "{error:?}");
        }
    });
    assert_eq!(passed.load(Ordering::SeqCst), ARCHIVES);
    shop.load(&good).unwrap();
}
