//! Archives that are cut off, too much, or made to do harm, and loads that are called off or
//! run beside others.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use runtime::image::{ImageError, LoadOptions, Stage, load};
use runtime::unpack::Bounds;

use crate::shapes::{self, Packed, Part, file, layer, sample, simple, tar, zstd};
use crate::shop::{Shop, whole};
use crate::tarball::{Tarball, gzip, head};

#[test]
fn an_archive_cut_off_anywhere_leaves_nothing() {
    let shop = Shop::new();
    let sample = simple();
    for (shape, parts) in shapes::all(&sample) {
        let archive = tar(&parts);
        for cut in (0..archive.len() - 1024).step_by(509) {
            let error = shop.refused(&archive[..cut]);
            assert!(error.contains("cut off"), "{shape} at {cut}: {error}");
        }
        for packed in [gzip(&archive), zstd(&archive)] {
            for cut in (0..packed.len()).step_by(packed.len() / 20 + 1) {
                shop.refused(&packed[..cut]);
            }
        }
    }
    assert!(shop.images.list().is_empty());
}

#[test]
fn a_source_that_fails_is_told_of() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the cable was cut"))
        }
    }
    let shop = Shop::new();
    let archive = tar(&shapes::docker_old(&[&simple()]));
    for at in (0..archive.len()).step_by(1009) {
        let source = archive[..at].chain(Failing);
        let error = shop.refused_with(source, &LoadOptions::default());
        assert!(error.contains("the cable was cut"), "{at}: {error}");
    }
}

/// Layers that the tests of the applier know well. Here it counts that one of them spoils the
/// image, and nothing else.
#[test]
fn an_image_with_one_hostile_layer_is_refused_whole() {
    let shop = Shop::new();
    let good = simple();
    shop.load(&tar(&shapes::podman(&[&good]))).unwrap();
    let victim = shop.dir.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let outside = shop.dir.path().display().to_string();
    for bad in [
        Tarball::new().file("../../../../victim", "harm").end(),
        Tarball::new().symlink("x", &outside).file("x/victim", "harm").end(),
        Tarball::new().hard_link("x", "../victim").end(),
        Tarball::new().file("etc/.wh...", "").end(),
        Tarball::new().add(head("x", b'S'), b"").end(),
        Tarball::new().pax(&[("size", b"5")]).file("x", "content").end(),
        Tarball::new().file("x", "y").0[..700].to_vec(),
        layer("a", "x")[..1000].to_vec(),
    ] {
        // A sound layer before and one behind, so that something was unpacked already.
        let image = sample(&["bad:1"], vec![layer("new", "1"), bad, layer("new", "2")]);
        for (shape, parts) in shapes::all(&image) {
            let error = shop.refused(&tar(&parts));
            assert!(error.contains("unpacked") || error.contains("cut off"), "{shape}: {error}");
        }
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    shop.assert_has(&good);
    assert_eq!(shop.images.list().len(), 1);
}

/// Zeros are packed a thousandfold.
fn bomb(pack: impl Fn(&mut dyn Read) -> Vec<u8>) -> Vec<u8> {
    let mut header = head("zeros", b'0');
    header.size = 1 << 28;
    pack(&mut header.block().as_slice().chain(std::io::repeat(0).take((1 << 28) + 1024)))
}

fn gzip_of(from: &mut dyn Read) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(from, &mut packer).unwrap();
    packer.flush().unwrap();
    packer.finish().unwrap()
}

#[test]
fn a_bomb_ends_at_its_ratio_within_and_around() {
    let shop = Shop::new();
    let sample = simple();
    for bomb in [bomb(gzip_of), bomb(|from| zstd::encode_all(from, 1).unwrap())] {
        // As a layer of the image.
        let (_, mut parts) = shapes::blobs(&sample, Packed::Gzip);
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": shapes::descriptor(shapes::CONFIG, &sample.config),
            "layers": vec![shapes::descriptor("application/vnd.oci.image.layer.v1.tar", &bomb); 2],
        });
        let manifest = manifest.to_string();
        parts.extend([shapes::blob_part(manifest.as_bytes()), shapes::blob_part(&bomb)]);
        parts.extend(shapes::layout(&[shapes::descriptor(shapes::MANIFEST, manifest.as_bytes())]));
        let error = shop.refused(&tar(&parts));
        assert!(error.contains("times its compressed size"), "{error}");
        // And as the archive.
        let error = shop.refused(&bomb);
        assert!(error.contains("times its compressed size"), "{error}");
    }
}

#[test]
fn the_callers_bounds_hold_for_each_layer() {
    let shop = Shop::new();
    let image = sample(&["big:1"], vec![layer("a", &"x".repeat(100_000))]);
    for (bounds, reason) in [
        (Bounds { bytes: 50_000, ..Bounds::default() }, "50000"),
        (Bounds { entries: 1, ..Bounds::default() }, "entries"),
        (Bounds { file_bytes: 99_999, ..Bounds::default() }, "99999"),
        (Bounds { until: Some(std::time::Instant::now()), ..Bounds::default() }, "longer"),
    ] {
        let options = LoadOptions { bounds, ..LoadOptions::default() };
        for (shape, parts) in shapes::all(&image) {
            let error = shop.refused_with(tar(&parts).as_slice(), &options);
            assert!(error.contains(reason), "{shape}: {error}");
        }
    }
}

#[test]
fn endless_entries_layers_and_names_end() {
    let shop = Shop::new();
    let sample = simple();
    let mut parts: Vec<Part> = (0..257)
        .map(|number| file(format!("{number}.tar"), layer(&format!("f{number}"), "x")))
        .collect();
    parts.extend(shapes::podman(&[&sample]));
    let error = shop.refused(&tar(&parts));
    assert!(error.contains("more than 256 new layers"), "{error}");
    let many: Vec<Part> = (0..50_001).map(|number| file(format!("f{number}"), "")).collect();
    let error = shop.refused(&tar(&many));
    assert!(error.contains("entries"), "{error}");
    let error = shop.refused(&tar(&[file("n".repeat(1100), "")]));
    assert!(error.contains("1024 are allowed"), "{error}");
    let error = shop.refused(&tar(&[file("n/".repeat(20) + "f", "")]));
    assert!(error.contains("directories deep"), "{error}");
}

#[test]
fn a_load_that_is_called_off_leaves_nothing() {
    let shop = Shop::new();
    let image = sample(&["big:1"], vec![layer("a", &"x".repeat(600_000)), layer("b", "y")]);
    for (shape, parts) in shapes::all(&image) {
        let archive = tar(&parts);
        let asked = AtomicUsize::new(0);
        let counting = |_| {
            asked.fetch_add(1, Ordering::Relaxed);
            true
        };
        let other = Shop::new();
        load(&other.images, &mut archive.as_slice(), &LoadOptions::default(), &counting).unwrap();
        let all = asked.load(Ordering::Relaxed);
        let before = shop.stock();
        for stop in (0..all).step_by(all / 7 + 1) {
            asked.store(0, Ordering::Relaxed);
            let until = |_| asked.fetch_add(1, Ordering::Relaxed) < stop;
            let from = &mut archive.as_slice();
            let called_off = load(&shop.images, from, &LoadOptions::default(), &until);
            match called_off {
                Err(error) => assert!(matches!(error, ImageError::CalledOff), "{shape}: {error}"),
                // The last words are only told, and ask for no answer.
                Ok(loaded) => panic!("{shape}, {stop} of {all}: {loaded:?}"),
            }
            assert_eq!(shop.stock(), before, "{shape}");
        }
    }
}

#[test]
fn whoever_watches_hears_of_every_layer_and_of_the_whole() {
    let shop = Shop::new();
    let image = simple();
    let archive = tar(&shapes::oci(&[&image], Packed::Gzip));
    let heard = std::sync::Mutex::new(Vec::new());
    let watcher = |progress| {
        heard.lock().unwrap().push(progress);
        true
    };
    let bytes = archive.len() as u64;
    let options = LoadOptions { bytes: Some(bytes), ..LoadOptions::default() };
    for stage in [Stage::Done, Stage::Known] {
        load(&shop.images, &mut archive.as_slice(), &options, &watcher).unwrap();
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        let layers = heard.iter().filter(|progress| progress.stage == stage);
        assert_eq!(layers.count(), 2, "{stage:?}: {heard:?}");
        let whole: Vec<_> = heard.iter().filter(|progress| progress.layer.is_none()).collect();
        assert!(whole.iter().all(|progress| progress.of == Some(bytes) && progress.bytes <= bytes));
        assert!(whole.windows(2).all(|pair| pair[0].bytes <= pair[1].bytes) && whole.len() > 2);
    }
}

#[test]
fn two_loads_of_one_image_at_once_are_one_image() {
    for (shape, parts) in shapes::all(&simple()) {
        let archive = tar(&parts);
        let shop = Shop::new();
        let all = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| shop.load(&archive))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for loaded in all {
            assert!(loaded.is_ok(), "{shape}: {}", whole(&loaded.unwrap_err()));
        }
        assert_eq!(shop.images.list().len(), 1);
        shop.assert_has(&simple());
    }
}

/// One of two loads of the same layers is spoiled, at the same time.
#[test]
fn a_load_that_fails_takes_nothing_from_one_that_does_not() {
    let good = simple();
    let mut spoiled = shapes::oci(&[&good], Packed::Gzip);
    spoiled.retain(|part| part.name() != shapes::blob(&good.id()));
    let (sound, spoiled) = (tar(&shapes::oci(&[&good], Packed::Gzip)), tar(&spoiled));
    for _ in 0..10 {
        let shop = Shop::new();
        std::thread::scope(|scope| {
            let one = scope.spawn(|| shop.load(&sound));
            let other = scope.spawn(|| shop.load(&spoiled));
            assert!(one.join().unwrap().is_ok());
            assert!(other.join().unwrap().is_err());
        });
        shop.assert_has(&good);
    }
}
