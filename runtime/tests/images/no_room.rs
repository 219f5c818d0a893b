//! What a full disk does to a load.

use std::cell::Cell;
use std::io::Read;
use std::rc::Rc;

use runtime::image::{LoadOptions, save};

use crate::full::Disk;
use crate::shapes::{self, Packed, layer, sample, simple, tar};
use crate::shop::Shop;
use crate::stage::Dice;

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
        assert!(error.contains("No space left"), "{error}");
        assert!(taken.get() < archive.len() - noise.len() / 2, "it read on: {}", taken.get());
        assert!(room(&disk) + (64 << 10) >= free, "{} of {free}", room(&disk));
    }
    shop.assert_has(&good);
    // And what is here can still be had.
    let wanted = [good.names[0].clone()];
    save(&shop.images, &wanted, &mut std::io::sink(), &|_| true).unwrap();
}
