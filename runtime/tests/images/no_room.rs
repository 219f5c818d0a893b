//! What a full disk does to a load.

use std::cell::Cell;
use std::io::Read;
use std::path::PathBuf;
use std::rc::Rc;

use runtime::image::chunks::{Chunk, SpoolError, Spools};
use runtime::image::{Digest, ImageError, LoadOptions, import, save};

use crate::full::Disk;
use crate::shapes::{self, Packed, layer, sample, simple, tar};
use crate::shop::Shop;
use crate::stage::Dice;
use crate::tarball::{Tarball, gzip};

fn room(disk: &Disk) -> u64 {
    let stat = rustix::fs::statvfs(disk.0.path()).unwrap();
    stat.f_bfree * stat.f_frsize
}

/// Counts what is taken.
struct Counted<'a>(&'a [u8], Rc<Cell<usize>>);

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(into)?;
        self.1.set(self.1.get() + read);
        Ok(read)
    }
}

#[test]
fn a_full_disk_ends_a_load_at_once_and_gives_back_what_it_took() {
    let Some(disk) = Disk::new() else { return };
    let shop = Shop::within(tempfile::tempdir_in(disk.0.path()).unwrap());
    let good = simple();
    shop.load(&tar(&shapes::podman(&[&good]))).unwrap();
    let mut dice = Dice(5);
    let noise: String = (0..6 << 20).map(|_| char::from(b'a' + dice.roll(26) as u8)).collect();
    let big = sample(&["big:1"], vec![layer("small", "x"), layer("a", &noise), layer("b", &noise)]);
    let free = room(&disk);
    for parts in [shapes::docker_old(&[&big]), shapes::oci(&[&big], Packed::Plain)] {
        let archive = tar(&parts);
        let taken = Rc::new(Cell::new(0));
        let source = Counted(&archive, Rc::clone(&taken));
        let error = shop.refused_with(source, &LoadOptions::default());
        assert!(error.contains("the disk has"), "{error}");
        assert!(taken.get() < archive.len() - noise.len() / 2, "it read on: {}", taken.get());
        assert!(room(&disk) + (64 << 10) >= free, "{} of {free}", room(&disk));
    }
    shop.assert_has(&good);
    // And what is here can still be had.
    let wanted = [good.names[0].clone()];
    save(&shop.images, &wanted, &mut std::io::sink(), &|_| true).unwrap();
}

/// Sees how little room there ever was while something is read.
struct Watching<'a> {
    from: &'a [u8],
    disk: PathBuf,
    least: Rc<Cell<u64>>,
}

impl Read for Watching<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let stat = rustix::fs::statvfs(&self.disk)?;
        self.least.set(self.least.get().min(stat.f_bavail * stat.f_frsize));
        self.from.read(into)
    }
}

/// Bytes that no packer makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut dice = Dice(7);
    (0..bytes).map(|_| dice.roll(256) as u8).collect()
}

#[test]
fn some_room_is_left_whatever_is_taken_in_and_what_is_here_is_unharmed() {
    let Some(disk) = Disk::of(c"size=64m") else { return };
    let shop = Shop::within(tempfile::tempdir_in(disk.0.path()).unwrap());
    let good = simple();
    shop.load(&tar(&shapes::podman(&[&good]))).unwrap();
    let stat = rustix::fs::statvfs(disk.0.path()).unwrap();
    let kept = stat.f_blocks * stat.f_frsize / 100;
    let free = room(&disk);
    // Of packed layers nobody knows how large they are: it is found out on the way. Small
    // files take many times their part of the archive.
    let big = vec![0; 80 << 20];
    let many = (0..30_000).fold(Tarball::new(), |tar, n| tar.file(format!("f{n}"), "x"));
    for archive in [gzip(&Tarball::new().file("a", big).end()), gzip(&many.end())] {
        let least = Rc::new(Cell::new(u64::MAX));
        let mut from =
            Watching { from: &archive, disk: disk.0.path().to_owned(), least: Rc::clone(&least) };
        let (changes, options) = Default::default();
        let error = import(&shop.images, &mut from, None, &changes, &options, &|_| true);
        let Err(ImageError::NoRoom(no)) = error else { panic!("{error:?}") };
        assert!(no.needed.is_none() && no.free < kept, "{no:?}");
        assert!(room(&disk) + (64 << 10) >= free, "{} of {free}", room(&disk));
        assert!(least.get() > kept / 2, "{} was left once", least.get());
    }
    // Of others it is known, and they are not even begun.
    let plain = sample(&["big:1"], vec![Tarball::new().file("a", vec![1; 80 << 20]).end()]);
    let archive = tar(&shapes::docker_old(&[&plain]));
    let taken = Rc::new(Cell::new(0));
    let error = shop.refused_with(Counted(&archive, Rc::clone(&taken)), &LoadOptions::default());
    assert!(error.contains("80.0 MiB are needed"), "{error}");
    assert!(taken.get() < 8 << 20, "{} were read", taken.get());
    shop.assert_has(&good);
}

#[test]
fn a_spool_is_begun_only_if_the_layer_fits_and_ends_where_room_does() {
    let Some(disk) = Disk::of(c"size=16m") else { return };
    let spools = Spools::open(&disk.0.path().join("spools")).unwrap();
    let layer = Digest::of(b"a layer");
    // Once as it comes and once unpacked.
    let Err(SpoolError::NoRoom(no)) = spools.begin(&layer, 9 << 20) else { panic!("it fits") };
    assert_eq!(no.needed, Some(18 << 20));
    assert_eq!(std::fs::read_dir(disk.0.path().join("spools")).unwrap().count(), 0);
    let spool = spools.begin(&layer, 7 << 20).unwrap();
    let fill = std::fs::File::create(disk.0.path().join("fill")).unwrap();
    let most = room(&disk) - (4 << 20);
    rustix::fs::fallocate(&fill, rustix::fs::FallocateFlags::empty(), 0, most).unwrap();
    let pieces: Vec<Vec<u8>> = noise(7 << 20).chunks(64 << 10).map(<[u8]>::to_vec).collect();
    let chunks: Vec<Chunk> = pieces.iter().map(|piece| Chunk::of(piece)).collect();
    spool.extend(&chunks).unwrap();
    let put = (0..).zip(&pieces).map(|(at, piece)| spool.put(at, piece));
    let error = put.map(Result::err).find_map(|error| error).unwrap();
    let error = spool.failure(error);
    assert!(matches!(error, ImageError::NoRoom(_)), "{error:?}");
    assert!(room(&disk) > 0);
}
