//! Layers whose files change on the disk: found out when they are told, marked, and had again
//! while tasks still run from the old ones.

use std::io::Read as _;
use std::path::PathBuf;

use runtime::image::{Digest, ImageError, ImageInfo, Images, save};

use crate::shelf::{Shelf, again, bounds, go_on, load, stage};
use crate::tarball::Tarball;

fn tar() -> Vec<u8> {
    Tarball::new().file("a", vec![1; 5_000]).file("b", vec![2; 5_000]).end()
}

fn other() -> Vec<u8> {
    Tarball::new().file("c", "sound").end()
}

fn dir(shelf: &Shelf, layer: &Digest) -> PathBuf {
    shelf.path().join("layers").join(layer.hex())
}

/// Of the same length: only its sum tells.
fn flip(shelf: &Shelf, layer: &Digest) {
    let mut bytes = vec![2; 5_000];
    bytes[2_500] ^= 1;
    std::fs::write(dir(shelf, layer).join("tree/b"), bytes).unwrap();
}

fn stored(shelf: &Shelf) -> (Images, ImageInfo, Digest) {
    let images = shelf.open();
    let info = load(&images, &[&other(), &tar()], &["app"]);
    let layer = info.layers[1].diff_id;
    (images, info, layer)
}

fn replaced(shelf: &Shelf) -> usize {
    std::fs::read_dir(shelf.path().join("replaced")).map_or(0, Iterator::count)
}

fn assert_damaged(images: &Images, info: &ImageInfo, layer: &Digest) {
    assert_eq!(images.get(&info.id).unwrap().damaged, [*layer]);
    assert!(!images.has_layer(layer) && images.has_layer(&info.layers[0].diff_id));
    assert_eq!(images.layer_of(layer), None);
    assert_eq!(images.layer_bytes(layer), None);
    for error in [images.hold(&info.id).err(), images.read_layer(layer).err()] {
        assert!(matches!(error, Some(ImageError::Damaged { layer: it }) if it == *layer));
    }
}

#[test]
fn what_was_changed_is_noticed_when_it_is_told_and_heals_with_the_next_load() {
    let shelf = Shelf::new();
    let (images, info, layer) = stored(&shelf);
    flip(&shelf, &layer);
    let mut saved = Vec::new();
    let error = save(&images, &["app".to_owned()], &mut saved, &go_on).unwrap_err();
    assert!(crate::shop::whole(&error).contains("damaged"), "{error:?}");
    assert_damaged(&images, &info, &layer);
    // For good: the next process knows too.
    drop(images);
    let images = shelf.open();
    images.sweep();
    assert_damaged(&images, &info, &layer);
    // Once its layer is brought again, all of it is read and takes the place of the old one.
    let here = images.stage(&mut &*tar(), "a layer", Some(&layer), &bounds(), &go_on).unwrap();
    assert!(here.packed_bytes() > 0, "it was taken for sound");
    drop(here);
    assert_damaged(&images, &info, &layer);
    load(&images, &[&other(), &tar()], &["app"]);
    assert!(images.get(&info.id).unwrap().damaged.is_empty());
    assert!(again(&images, &layer) == tar());
    assert_eq!((replaced(&shelf), shelf.count("parts"), shelf.count("layers")), (0, 0, 2));
    drop(images);
    assert!(again(&shelf.open(), &layer) == tar());
}

#[test]
fn a_task_keeps_the_files_that_it_runs_from_until_it_lets_go() {
    let shelf = Shelf::new();
    let (images, info, layer) = stored(&shelf);
    let held = images.hold(&info.id).unwrap();
    let paths = held.layers().to_vec();
    // As a mount does, it has the directory itself in hand.
    let mounted = std::fs::File::open(&paths[1]).unwrap();
    let in_hand = || {
        let path = format!("/proc/self/fd/{}/b", std::os::fd::AsRawFd::as_raw_fd(&mounted));
        std::fs::read(path).map(|bytes| bytes[2_500])
    };
    flip(&shelf, &layer);
    std::io::copy(&mut images.read_layer(&layer).unwrap(), &mut std::io::sink()).unwrap_err();
    load(&images, &[&other(), &tar()], &["app"]);
    assert_eq!((in_hand().unwrap(), replaced(&shelf)), (3, 1), "the old one is there still");
    assert_eq!(std::fs::read(paths[1].join("b")).unwrap()[2_500], 2, "and the new one");
    assert!(again(&images, &layer) == tar());
    // The agent that comes next does not know which of both it was that a task began with.
    drop(images);
    std::mem::forget(held);
    let images = shelf.open();
    let held = images.hold_layers(&paths);
    images.sweep();
    assert_eq!((in_hand().unwrap(), replaced(&shelf)), (3, 1));
    drop(held);
    assert!(in_hand().is_err());
    assert_eq!((replaced(&shelf), shelf.count("parts")), (0, 0));
    images.hold(&info.id).unwrap();
    assert!(again(&images, &layer) == tar());
}

#[test]
fn what_nobody_runs_from_any_more_goes_with_the_next_start() {
    let shelf = Shelf::new();
    let (images, info, layer) = stored(&shelf);
    let held = images.hold(&info.id).unwrap();
    flip(&shelf, &layer);
    std::io::copy(&mut images.read_layer(&layer).unwrap(), &mut std::io::sink()).unwrap_err();
    load(&images, &[&other(), &tar()], &["app"]);
    std::mem::forget(held);
    drop(images);
    assert_eq!(replaced(&shelf), 1);
    let images = shelf.open();
    images.sweep();
    assert_eq!(replaced(&shelf), 0);
    assert!(again(&images, &layer) == tar());
}

#[test]
fn a_sound_layer_is_not_marked_for_what_was_read_of_the_one_before() {
    let shelf = Shelf::new();
    let (images, info, layer) = stored(&shelf);
    flip(&shelf, &layer);
    let mut late = images.read_layer(&layer).unwrap();
    std::io::copy(&mut images.read_layer(&layer).unwrap(), &mut std::io::sink()).unwrap_err();
    load(&images, &[&other(), &tar()], &["app"]);
    late.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(images.get(&info.id).unwrap().damaged.is_empty());
    drop(late);
    assert_eq!(replaced(&shelf), 0);
}

#[test]
fn whatever_is_missing_or_cut_is_damage_and_comes_again() {
    let shelf = Shelf::new();
    let (images, info, layer) = stored(&shelf);
    let recipe = |bytes: &[u8]| std::fs::write(dir(&shelf, &layer).join("recipe"), bytes);
    let remove = |name: &str| std::fs::remove_file(dir(&shelf, &layer).join(name));
    let harms: [&dyn Fn() -> std::io::Result<()>; 5] = [
        &|| remove("tree/a"),
        &|| std::fs::write(dir(&shelf, &layer).join("tree/a"), "short"),
        &|| remove("recipe"),
        &|| recipe(b""),
        &|| std::fs::remove_dir_all(dir(&shelf, &layer).join("tree")),
    ];
    for (at, harm) in harms.iter().enumerate() {
        harm().unwrap();
        let read = images.read_layer(&layer);
        let read = read.map(|mut reader| reader.read_to_end(&mut Vec::new()));
        assert!(!matches!(read, Ok(Ok(_))), "harm {at} is not missed");
        assert_damaged(&images, &info, &layer);
        load(&images, &[&other(), &tar()], &["app"]);
        assert!(again(&images, &layer) == tar(), "harm {at}");
    }
}

#[test]
fn a_part_that_is_read_alone_is_given_and_marks_nothing() {
    let shelf = Shelf::new();
    let (images, info, layer) = stored(&shelf);
    flip(&shelf, &layer);
    let mut reader = images.read_layer(&layer).unwrap();
    reader.seek(512).unwrap();
    let mut some = vec![0; 100];
    reader.read_exact(&mut some).unwrap();
    assert!(some.iter().all(|byte| *byte == 1));
    let beyond = tar().len() as u64 + 1;
    reader.seek(beyond).unwrap_err();
    assert!(images.get(&info.id).unwrap().damaged.is_empty());
    // An image whose layer is damaged can be removed as any.
    drop(reader);
    std::io::copy(&mut images.read_layer(&layer).unwrap(), &mut std::io::sink()).unwrap_err();
    images.remove("app", false).unwrap();
    assert_eq!(shelf.count("layers"), 0);
    let staged = stage(&images, &tar()).unwrap();
    assert!(staged.packed_bytes() > 0);
}

#[test]
fn what_was_staged_before_it_was_damaged_in_its_place_is_staged_anew() {
    let shelf = Shelf::new();
    let images = shelf.open();
    // Somebody still has in hand what another load has given its place meanwhile.
    let early = stage(&images, &tar()).unwrap();
    let info = load(&images, &[&other(), &tar()], &["app"]);
    let layer = early.diff_id();
    flip(&shelf, &layer);
    assert!(!images.verify_layer(&layer, &go_on).unwrap());
    load(&images, &[&other(), &tar()], &["app"]);
    assert!(images.get(&info.id).unwrap().damaged.is_empty());
    assert!(images.verify_layer(&layer, &go_on).unwrap());
    drop(early);
    assert!(again(&images, &layer) == tar());
    assert_eq!(replaced(&shelf), 0);
}
