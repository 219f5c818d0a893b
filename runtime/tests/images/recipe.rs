//! Layers written again, byte by byte, however odd they are; or refused, and nothing stays.

use std::io::Read as _;

use runtime::image::{Digest, ImageError, Images, LayerReader, Origin, Staged};
use runtime::unpack::UnpackError;

use crate::seeded::archive;
use crate::shelf::{Shelf, again, config, stage};
use crate::stage::Dice;
use crate::tarball::{Tarball, gzip, head};

/// Archives from seeds, of every run.
const ARCHIVES: u64 = 400;
/// Layers that one image may have.
const LAYERS: usize = 100;

fn unpacked(packed: &[u8]) -> Vec<u8> {
    if !packed.starts_with(b"\x1f\x8b") {
        return packed.to_vec();
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(packed).read_to_end(&mut plain).unwrap();
    plain
}

/// Has an image made of these, so that they can be read.
fn commit(images: &Images, staged: Vec<Staged>) {
    let layers: Vec<Digest> = staged.iter().map(Staged::diff_id).collect();
    for part in layers.chunks(LAYERS) {
        let staged = part.iter().map(|layer| staged_again(images, layer)).collect();
        images.commit(&config(part, ""), None, staged, &[], Origin::Asked).unwrap();
    }
}

/// What is staged by its name alone.
fn staged_again(images: &Images, layer: &Digest) -> Staged {
    let bounds = crate::shelf::bounds();
    let staged =
        images.stage(&mut std::io::empty(), "known", Some(layer), &bounds, &crate::shelf::go_on);
    let staged = staged.unwrap();
    assert_eq!(staged.packed_bytes(), 0, "its source was read");
    staged
}

/// The whole again, and from places within.
fn assert_same(images: &Images, packed: &[u8], dice: &mut Dice) {
    let plain = unpacked(packed);
    let layer = Digest::of(&plain);
    assert!(again(images, &layer) == plain, "{layer} is another now");
    let mut reader = images.read_layer(&layer).unwrap();
    assert_eq!(LayerReader::bytes(&reader), plain.len() as u64);
    for _ in 0..8 {
        let at = dice.roll(plain.len() + 1);
        reader.seek(at as u64).unwrap();
        let mut some = vec![0; dice.roll(3_000)];
        let read = reader.read(&mut some).unwrap();
        assert_eq!(some[..read], plain[at..at + read], "from {at}");
        assert!(read == some.len() || at + read == plain.len());
    }
    assert!(reader.seek(plain.len() as u64 + 1).is_err());
}

#[test]
fn layers_of_hundreds_of_seeds_are_the_same_again() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let host = shelf.dir.path().join("host").to_str().unwrap().to_owned();
    let mut dice = Dice(5);
    let (mut sound, mut staged) = (Vec::new(), Vec::new());
    let mut replaced = 0;
    for seed in 0..ARCHIVES {
        let packed = archive(&mut Dice(seed), &host);
        match stage(&images, &packed) {
            Ok(layer) => {
                sound.push(packed);
                staged.push(layer);
            }
            Err(ImageError::Layer { source: UnpackError::Replaced, .. }) => replaced += 1,
            Err(ImageError::Layer { .. }) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    // A generator whose archives all fail proves nothing.
    assert!(sound.len() > 20, "only {} were unpacked", sound.len());
    println!("{} were unpacked, {replaced} could not be written again", sound.len());
    commit(&images, staged);
    for packed in &sound {
        assert_same(&images, packed, &mut dice);
    }
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

fn honest() -> Tarball {
    Tarball::new()
        .dir("etc")
        .file("etc/passwd", "root:x:0:0::/:/bin/sh\n")
        .file("etc/empty", "")
        .symlink("lib", "usr/lib")
        .dir("usr/lib")
        .file("lib/through-a-link", vec![b'l'; 70_000])
        .hard_link("etc/again", "etc/passwd")
        .file("etc/.wh.gone", "")
        .file("usr/.wh..wh..opq", "")
        .file(".wh..wh.plnk/1.2", "a note with content")
        .file("d".repeat(90) + "/" + &"f".repeat(200), "a long name")
        .pax(&[("path", b"etc/by-pax"), ("mtime", b"12.5")])
        .file("etc/x", vec![7; 1_000])
        .add(head("tty", b'3'), b"")
        .add(head("pipe", b'6'), b"")
        .add(head("secret", b'0').mode(0), b"that its owner may not read")
}

#[test]
fn odd_layers_are_the_same_again() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let whole = honest().end();
    let cut = whole[..whole.len() - 1024].to_vec();
    let trailing = [whole.clone(), b"bytes behind the end, of no block".to_vec()].concat();
    // A file that looks packed is a file; an archive within a file, that too.
    let within = Tarball::new().file("a.tar.gz", gzip(&whole)).file("b.zst", zstd(&whole)).end();
    let big = (0..2_000).fold(Tarball::new(), |tar, n| {
        // Frames of a recipe end in the midst of these.
        tar.raw(&head("c", b'g'), &vec![b'#'; 700]).file(format!("f{n}"), vec![b'x'; n])
    });
    let replaced = Tarball::new()
        .file("f", "the first")
        .hard_link("g", "f")
        .file("f", "the second, longer")
        .file("f", "the third")
        .file("h", "one")
        .symlink("h", "f")
        .file("e", "")
        .dir("e")
        .hard_link("g", "f")
        .end();
    let plain =
        [Vec::new(), vec![0; 1024], whole.clone(), cut, trailing, within, big.end(), replaced];
    let mut packed: Vec<Vec<u8>> = plain.to_vec();
    packed.push(gzip(&Tarball::new().file("gzip", "1").end()));
    let two = Tarball::new().file("two", vec![b'2'; 9_000]).end();
    packed.push([gzip(&two[..4_000]), gzip(&two[4_000..])].concat());
    let staged: Vec<Staged> = packed.iter().map(|packed| stage(&images, packed).unwrap()).collect();
    for (staged, packed) in staged.iter().zip(&packed) {
        assert_eq!(staged.diff_id(), Digest::of(&unpacked(packed)));
        assert_eq!(staged.packed(), Digest::of(packed));
        assert_eq!(staged.packed_bytes(), packed.len() as u64);
        assert_eq!(staged.bytes(), unpacked(packed).len() as u64);
    }
    commit(&images, staged);
    for packed in &packed {
        assert_same(&images, packed, &mut Dice(9));
    }
    assert_eq!(images.layer_of(&Digest::of(&packed[8])), Some(Digest::of(&unpacked(&packed[8]))));
}

#[test]
fn zstd_is_read_in_frames_and_past_what_is_to_be_skipped() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let whole = honest().end();
    let skipped = |first: u8| [&[first, 0x2a, 0x4d, 0x18, 3, 0, 0, 0], &b"any"[..]].concat();
    let (front, back) = whole.split_at(10_000);
    for packed in [
        zstd(&whole),
        [zstd(front), zstd(back)].concat(),
        [skipped(0x50), zstd(front), skipped(0x5f), zstd(back), skipped(0x53)].concat(),
    ] {
        let staged = stage(&images, &packed).unwrap();
        assert_eq!(staged.diff_id(), Digest::of(&whole));
        assert_eq!(staged.packed(), Digest::of(&packed));
    }
    for cut in [5, 20, zstd(&whole).len() - 1] {
        let error = stage(&images, &zstd(&whole)[..cut]).unwrap_err();
        assert!(matches!(error, ImageError::Layer { .. }), "{cut}: {error:?}");
    }
    let error = stage(&images, &[zstd(&whole), b"no frame".to_vec()].concat()).unwrap_err();
    assert!(matches!(error, ImageError::Layer { .. }), "{error:?}");
    // A window beyond what one archive may have of our memory, as `zstd --long=31` wants.
    let mut packer = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    packer.window_log(28).unwrap();
    std::io::Write::write_all(&mut packer, &whole).unwrap();
    let error = stage(&images, &packer.finish().unwrap()).unwrap_err();
    assert!(matches!(error, ImageError::Layer { .. }), "{error:?}");
    let bomb = zstd(&vec![0; 300 << 20]);
    let error = stage(&images, &bomb).unwrap_err();
    let ImageError::Layer { source: UnpackError::Bomb { .. }, .. } = error else {
        panic!("{error:?}")
    };
    drop(images);
    assert_eq!(shelf.count("parts"), 0);
}

#[test]
fn a_layer_that_replaces_what_it_filled_is_refused() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let files = Tarball::new().dir("d").file("d/f", "content").file("d", "a file now").end();
    let link = Tarball::new().file("d/f", "content").dir("e").symlink("d", "e").end();
    for tar in [files, link] {
        let error = stage(&images, &tar).unwrap_err();
        let ImageError::Layer { source: UnpackError::Replaced, .. } = error else {
            panic!("{error:?}")
        };
    }
    // What had nothing in it may go.
    let empty = Tarball::new().file("d/f", "").file("d", "a file now").end();
    let staged = stage(&images, &empty).unwrap();
    commit(&images, vec![staged]);
    assert_same(&images, &empty, &mut Dice(1));
    assert_eq!(shelf.count("parts"), 0);
}

#[test]
fn a_changed_tree_is_damage_and_said() {
    let shelf = Shelf::new();
    let images = shelf.open();
    let tar = Tarball::new().file("a", "1").file("b", "22").file("c", "333").end();
    let staged = stage(&images, &tar).unwrap();
    let layer = staged.diff_id();
    commit(&images, vec![staged]);
    let tree = shelf.path().join("layers").join(layer.hex()).join("tree");
    drop(images);
    // Each time it is found by a process that knows nothing of it yet.
    let unmarked = || {
        let _ = std::fs::remove_file(tree.parent().unwrap().join("damaged"));
        shelf.open()
    };
    let error = || {
        let mut all = Vec::new();
        unmarked().read_layer(&layer).unwrap().read_to_end(&mut all).unwrap_err().to_string()
    };
    std::fs::write(tree.join("b"), "longer").unwrap();
    assert!(error().contains("damaged: b: was a file of 2 bytes"), "{}", error());
    std::fs::remove_file(tree.join("b")).unwrap();
    assert!(error().contains("damaged: b"), "{}", error());
    std::os::unix::fs::symlink("/etc/passwd", tree.join("b")).unwrap();
    assert!(error().contains("damaged: b"), "{}", error());
    // What lies before it can be read, and what lies behind it.
    let mut reader = unmarked().read_layer(&layer).unwrap();
    let mut front = vec![0; 1024];
    assert_eq!(reader.read(&mut front).unwrap(), 1024);
    reader.seek(5 * 512).unwrap();
    let mut last = [0; 3];
    assert_eq!(reader.read(&mut last).unwrap(), 3);
    assert_eq!(&last, b"333");
    // Any byte of the recipe itself.
    std::fs::remove_file(tree.join("b")).unwrap();
    std::fs::write(tree.join("b"), "22").unwrap();
    let recipe = tree.parent().unwrap().join("recipe");
    let sound = std::fs::read(&recipe).unwrap();
    for at in 0..sound.len() {
        let mut bad = sound.clone();
        bad[at] ^= 0x41;
        std::fs::write(&recipe, &bad).unwrap();
        let mut all = Vec::new();
        let read = unmarked().read_layer(&layer).map(|mut reader| reader.read_to_end(&mut all));
        assert!(!matches!(read, Ok(Ok(_))) || all == tar, "byte {at} is not missed");
    }
    for length in 0..sound.len() {
        std::fs::write(&recipe, &sound[..length]).unwrap();
        let read =
            unmarked().read_layer(&layer).map(|mut reader| reader.read_to_end(&mut Vec::new()));
        assert!(!matches!(read, Ok(Ok(_))), "{length} bytes are enough");
    }
}
