//! A disk that is full at any moment of a load: it is said, and nothing of it stays.

use std::fs::File;

use runtime::image::{Digest, ImageError, Images, Origin, Staged};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::shelf::{config, name, open, stage};
use crate::stage::is_root;
use crate::tarball::Tarball;

/// Of the small disk.
const BYTES: usize = 2 << 20;
/// The room left grows by so much from try to try.
const STEP: usize = 12 << 10;

pub(crate) struct Disk(pub(crate) tempfile::TempDir);

impl Disk {
    pub(crate) fn new() -> Option<Self> {
        Self::of(c"size=2m")
    }

    /// One of that size, as tmpfs is told it.
    pub(crate) fn of(size: &std::ffi::CStr) -> Option<Self> {
        if !is_root() {
            eprintln!("SKIPPED: only root mounts a small disk");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        match mount("none", dir.path(), "tmpfs", MountFlags::empty(), size) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("SKIPPED: no small disk to be had: {error}");
                None
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn load(images: &Images, tars: &[Vec<u8>]) -> Result<Digest, ImageError> {
    let staged: Result<Vec<Staged>, _> = tars.iter().map(|tar| stage(images, tar)).collect();
    let staged = staged?;
    let layers: Vec<Digest> = staged.iter().map(Staged::diff_id).collect();
    let names = [name("app")];
    images.commit(&config(&layers, ""), None, staged, &names, Origin::Asked).map(|info| info.id)
}

#[test]
fn a_full_disk_is_said_and_costs_nothing_that_was_there() {
    let Some(disk) = Disk::new() else { return };
    let path = disk.0.path().join("images");
    let images = open(&path);
    let old = load(&images, &[Tarball::new().file("old", "").end()]).unwrap();
    let count = |below: &str| std::fs::read_dir(path.join(below)).unwrap().count();
    let files =
        |n: u8| (0..20).fold(Tarball::new(), |tar, f| tar.file(format!("f{f}"), vec![n; 9_000]));
    let tars = [files(1).end(), files(2).end()];
    let fill = File::create(disk.0.path().join("fill")).unwrap();
    let mut refused = 0;
    for room in (0..).map(|step| step * STEP) {
        fill.set_len(0).unwrap();
        let used = rustix::fs::fstatvfs(&fill).map(|stat| stat.f_blocks - stat.f_bfree).unwrap();
        let left = (BYTES - usize::try_from(used).unwrap() * 4096).saturating_sub(room);
        rustix::fs::fallocate(&fill, rustix::fs::FallocateFlags::empty(), 0, left as u64).unwrap();
        match load(&images, &tars) {
            Ok(id) => {
                assert_eq!(images.find("app").unwrap().id, id);
                break;
            }
            Err(error) => {
                assert!(error.is_full(), "{error:?}");
                refused += 1;
            }
        }
        assert_eq!(images.find("app").unwrap().id, old);
        assert_eq!((count("layers"), count("images"), count("parts")), (1, 1, 0));
        assert!(std::fs::read_dir(&path).unwrap().count() <= 6, "something was left");
    }
    // Twice 180 KB: many moments at which it was full.
    assert!(refused > 20, "only {refused} were refused");
    // With no room at all a removal works, and makes some.
    fill.set_len(0).unwrap();
    let room = rustix::fs::fstatvfs(&fill).map(|stat| stat.f_bfree * 4096).unwrap();
    rustix::fs::fallocate(&fill, rustix::fs::FallocateFlags::empty(), 0, room).unwrap();
    let removed = images.remove(&old.to_string(), false).unwrap();
    assert_eq!(removed.images, [old]);
    drop(images);
    assert_eq!(open(&path).list().len(), 1);
}

#[test]
fn an_image_is_removed_from_a_disk_that_is_full_to_its_last_byte() {
    let Some(disk) = Disk::new() else { return };
    let path = disk.0.path().join("images");
    let images = open(&path);
    let content = vec![7; 256 << 10];
    let id = load(&images, &[Tarball::new().file("a", &content).end()]).unwrap();
    let mut fill = File::create(disk.0.path().join("fill")).unwrap();
    while std::io::Write::write(&mut fill, &[1]).is_ok() {}
    let removed = images.remove("app", false).unwrap();
    assert_eq!(removed.images, [id]);
    let room = rustix::fs::statvfs(disk.0.path()).unwrap();
    assert!(room.f_bavail * room.f_frsize >= content.len() as u64, "its bytes are free");
    drop(images);
    let images = open(&path);
    assert!(images.list().is_empty() && images.named(&name("app")).is_none());
}
