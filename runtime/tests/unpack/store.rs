//! Roots kept by content, shared, remembered and swept.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use runtime::unpack::{Bounds, ContentId, Kept, Owners, Store, StoreError, Way};

use crate::stage::is_root;
use crate::tarball::{Tarball, gzip};

struct Shelf {
    dir: tempfile::TempDir,
}

impl Shelf {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn store(&self) -> Store {
        let owners = if is_root() { Owners::Keep } else { Owners::Mine };
        Store::open(&self.dir.path().join("roots"), owners).unwrap()
    }

    fn tar(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// What lies in the store, but for its notes.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("roots")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> =
            names.filter(|name| !matches!(name.as_str(), "known" | "boot")).collect();
        names.sort();
        names
    }
}

fn one() -> Vec<u8> {
    Tarball::new().file("bin/true", "elf").end()
}

fn tree(store: &Store, tar: &std::path::Path) -> Kept {
    store.tree(tar, &Bounds::default()).unwrap()
}

#[test]
fn equal_archives_are_one_tree_unpacked_once() {
    let shelf = Shelf::new();
    let store = shelf.store();
    let first = tree(&store, &shelf.tar("a.tar", &one()));
    assert!(matches!(first.way(), Way::Unpacked(done) if done.files == 1));
    assert_eq!(std::fs::read_to_string(first.path().join("bin/true")).unwrap(), "elf");
    assert_eq!(std::fs::metadata(first.path()).unwrap().permissions().mode() & 0o7777, 0o755);
    let second = tree(&store, &shelf.tar("b.tar", &one()));
    assert_eq!((second.way(), second.id()), (&Way::Summed, first.id()));
    // Packed it is another file, with a tree of its own.
    let packed = tree(&store, &shelf.tar("c.tar.gz", &gzip(&one())));
    assert_ne!(packed.id(), first.id());
    assert_eq!(shelf.names().len(), 2);
}

#[test]
fn others_cannot_reach_the_trees() {
    let shelf = Shelf::new();
    drop(shelf.store());
    let path = shelf.dir.path().join("roots");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    drop(shelf.store());
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    if is_root() {
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        let error = Store::open(&path, Owners::Keep).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { owner: 65534, .. }), "{error}");
    }
}

/// Its times need two seconds to settle, so this asks until then.
#[test]
fn an_unchanged_archive_is_remembered_across_a_restart_and_a_changed_one_is_not() {
    let shelf = Shelf::new();
    let tar = shelf.tar("a.tar", &one());
    let store = shelf.store();
    let deadline = Instant::now() + Duration::from_secs(120);
    while *tree(&store, &tar).way() != Way::Remembered {
        assert!(Instant::now() < deadline, "it is read again and again");
        std::thread::yield_now();
    }
    drop(store);
    let store = shelf.store();
    let kept = tree(&store, &tar);
    assert_eq!(kept.way(), &Way::Remembered);
    let id = kept.id();
    drop(kept);

    // Same length, and the old time of change put back.
    let modified = std::fs::metadata(&tar).unwrap().modified().unwrap();
    let mut other = one();
    other[512] = b'E';
    let file = std::fs::File::options().write(true).open(&tar).unwrap();
    std::io::Write::write_all(&mut &file, &other).unwrap();
    file.set_modified(modified).unwrap();
    let kept = tree(&store, &tar);
    assert_ne!(kept.id(), id);
    assert!(std::fs::read_to_string(kept.path().join("bin/true")).unwrap().starts_with('E'));
}

#[test]
fn callers_at_once_get_one_tree() {
    let shelf = Shelf::new();
    let store = shelf.store();
    let mut big = Tarball::new();
    for number in 0..300 {
        big = big.file(format!("{number}"), [7; 1000]);
    }
    let big = big.end();
    let tars: Vec<PathBuf> = (0..8).map(|n| shelf.tar(&format!("{}.tar", n / 4), &big)).collect();
    let kept: Vec<Kept> = std::thread::scope(|scope| {
        let work: Vec<_> = tars.iter().map(|tar| scope.spawn(|| tree(&store, tar))).collect();
        work.into_iter().map(|work| work.join().unwrap()).collect()
    });
    assert!(kept.iter().all(|tree| tree.id() == kept[0].id()));
    let unpacked = kept.iter().filter(|tree| matches!(tree.way(), Way::Unpacked(_))).count();
    assert_eq!(unpacked, 1);
    assert_eq!(shelf.names(), [kept[0].id().to_string()]);
}

#[test]
fn a_bad_archive_leaves_nothing_and_says_which() {
    let shelf = Shelf::new();
    let store = shelf.store();
    let bad = Tarball::new().file("good", "").file("../bad", "").end();
    let tar = shelf.tar("bad.tar", &bad);
    for _ in 0..2 {
        let error = store.tree(&tar, &Bounds::default()).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.to_string().contains("bad.tar") && cause.contains("'..'"), "{cause}");
    }
    assert_eq!(shelf.names(), [""; 0]);
    let error = store.tree(shelf.dir.path(), &Bounds::default()).unwrap_err();
    assert!(matches!(error, StoreError::NotAFile { .. }), "{error}");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        shelf.dir.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let error = store.tree(&shelf.dir.path().join("fifo"), &Bounds::default()).unwrap_err();
    assert!(matches!(error, StoreError::NotAFile { .. }), "{error}");
}

#[test]
fn a_sweep_spares_what_is_named_and_what_is_in_hand() {
    let shelf = Shelf::new();
    let store = shelf.store();
    let archive = |n: u8| Tarball::new().file("f", [n]).end();
    let kept: Vec<Kept> = (0..3).map(|n| tree(&store, &shelf.tar("x.tar", &archive(n)))).collect();
    let ids: Vec<ContentId> = kept.iter().map(Kept::id).collect();
    assert_eq!(store.sweep(&BTreeSet::new()).unwrap(), []);
    let in_hand = kept.into_iter().next();
    let removed = store.sweep(&BTreeSet::from([ids[1]])).unwrap();
    assert_eq!(removed, [ids[2]]);
    drop(in_hand);
    assert_eq!(store.sweep(&BTreeSet::from([ids[1]])).unwrap(), [ids[0]]);
    assert_eq!(shelf.names(), [ids[1].to_string()]);
    // What is gone is unpacked again.
    let again = tree(&store, &shelf.tar("x.tar", &archive(2)));
    assert!(matches!(again.way(), Way::Unpacked(_)));
}

#[test]
fn leftovers_of_a_crash_and_of_an_earlier_boot_are_swept() {
    let shelf = Shelf::new();
    let store = shelf.store();
    let id = tree(&store, &shelf.tar("a.tar", &one())).id();
    let roots = shelf.dir.path().join("roots");
    std::fs::create_dir_all(roots.join("part-99999-0/usr/bin")).unwrap();
    let held = roots.join("part-99999-1");
    std::fs::create_dir_all(&held).unwrap();
    let lock = std::fs::File::open(&held).unwrap();
    lock.lock().unwrap(); // As a process that is still at work.
    drop(shelf.store());
    assert_eq!(shelf.names(), ["part-99999-1".to_owned(), id.to_string()]);
    drop(lock);
    std::fs::write(roots.join("boot"), "another").unwrap();
    std::fs::write(roots.join("known"), "{broken").unwrap();
    drop(shelf.store());
    assert_eq!(shelf.names(), [""; 0]);
}

#[test]
fn a_content_id_reads_back_as_it_prints() {
    let shelf = Shelf::new();
    let id = tree(&shelf.store(), &shelf.tar("a.tar", &one())).id();
    assert_eq!(id.to_string().parse::<ContentId>().unwrap(), id);
    for bad in ["", "sha256-", "sha256-0", &id.to_string().to_uppercase(), &format!("{id}0")] {
        assert!(bad.parse::<ContentId>().is_err(), "{bad}");
    }
}
