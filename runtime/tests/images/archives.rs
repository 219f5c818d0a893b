//! Sound archives, in every shape and order.

use runtime::image::{Digest, LoadOptions, pack_layout};
use serde_json::json;

use crate::shapes::{
    self, INDEX, MANIFEST, Packed, Part, Sample, blob_part, blobs, descriptor, file, layer, layout,
    link, sample, simple, tar, zstd,
};
use crate::shop::{Shop, write_out};
use crate::stage::Dice;
use crate::tarball::gzip;

#[test]
fn one_image_in_any_shape_and_packing_is_the_same_image() {
    let sample = simple();
    for (shape, parts) in shapes::all(&sample) {
        let archive = tar(&parts);
        for (packing, pack) in
            [("plain", shapes::plain as fn(&[u8]) -> Vec<u8>), ("gzip", gzip), ("zstd", zstd)]
        {
            let shop = Shop::new();
            let loaded = shop.load(&pack(&archive)).unwrap();
            let [one] = loaded.as_slice() else { panic!("{shape} {packing}: {loaded:?}") };
            assert_eq!(one.info.id, sample.id(), "{shape} {packing}");
            assert!(!one.known);
            let names: Vec<String> = one.names.iter().map(ToString::to_string).collect();
            assert_eq!(names, sample.names, "{shape} {packing}");
            assert_eq!(one.info.names, one.names);
            assert_eq!(one.info.platform, "linux/amd64");
            shop.assert_has(&sample);
        }
    }
}

#[test]
fn parts_may_come_in_any_order() {
    let (one, other) = (simple(), sample(&["x:2", "y:3"], vec![layer("a", "one")]));
    let mut dice = Dice(3);
    for mut parts in [
        shapes::docker_old(&[&one, &other]),
        shapes::docker_new(&[&one, &other]),
        shapes::podman(&[&one, &other]),
        shapes::oci(&[&one, &other], Packed::Gzip),
        shapes::buildkit(&one, Packed::Zstd),
    ] {
        for turn in 0..6 {
            match turn {
                0 => parts.reverse(),
                _ => {
                    for at in (1..parts.len()).rev() {
                        parts.swap(at, dice.roll(at + 1));
                    }
                }
            }
            let shop = Shop::new();
            shop.load(&tar(&parts)).unwrap();
            shop.assert_has(&one);
        }
    }
}

#[test]
fn images_of_one_archive_share_their_layers() {
    let base = layer("base", "shared");
    let one = sample(&["one:1"], vec![base.clone(), layer("a", "x")]);
    let two = sample(&["two:1", "two:latest"], vec![base.clone(), layer("b", "y")]);
    let three = sample(&[], vec![base]);
    let all = [&one, &two, &three];
    for parts in [
        shapes::docker_old(&all),
        shapes::docker_new(&all),
        shapes::podman(&all),
        shapes::oci(&all, Packed::Gzip),
    ] {
        let shop = Shop::new();
        let loaded = shop.load(&tar(&parts)).unwrap();
        assert_eq!(loaded.len(), 3);
        for sample in all {
            shop.assert_has(sample);
        }
        let names = |sample: &Sample| shop.images.get(&sample.id()).unwrap().names.len();
        assert_eq!((names(&one), names(&two), names(&three)), (1, 2, 0));
    }
}

#[test]
fn a_layer_that_an_image_has_twice_is_sound() {
    let again = layer("a", "x");
    let sample = sample(&["twice:1"], vec![again.clone(), layer("b", "y"), again]);
    for (shape, parts) in shapes::all(&sample) {
        let shop = Shop::new();
        let loaded = shop.load(&tar(&parts));
        assert!(loaded.is_ok(), "{shape}: {loaded:?}");
        shop.assert_has(&sample);
    }
}

#[test]
fn a_second_load_reads_no_layer_twice_and_moves_names() {
    let shop = Shop::new();
    let (one, other) = (simple(), sample(&["docker.io/library/app:1"], vec![layer("a", "one")]));
    for packed in [Packed::Plain, Packed::Gzip, Packed::Zstd] {
        shop.load(&tar(&shapes::oci(&[&one], packed))).unwrap();
        let again = shop.load(&tar(&shapes::oci(&[&one], packed))).unwrap();
        assert!(again.iter().all(|loaded| loaded.known), "{packed:?}");
    }
    shop.load(&tar(&shapes::docker_old(&[&other]))).unwrap();
    let names = |sample: &Sample| shop.images.get(&sample.id()).unwrap().names.len();
    assert_eq!((names(&one), names(&other)), (0, 1));
    shop.assert_has(&one);
}

#[test]
fn what_is_no_image_beside_one_is_passed_over() {
    let sample = simple();
    let chart = gzip(b"no archive at all");
    let stray = layer("stray", "of nobody");
    for (shape, parts) in shapes::all(&sample) {
        let extra = vec![
            file("README", "read me"),
            file("empty", ""),
            file("pipe.json", "{ not json"),
            file("chart.tgz", chart.clone()),
            file("stray.tar", stray.clone()),
            blob_part(&stray),
            file("sbom.xz", b"\xfd7zXZ\0".to_vec()),
            file("long.json", format!("[{}]", " ".repeat(9 << 20))),
            link("out", "../../etc/passwd"),
            link("nowhere", "missing"),
        ];
        let shop = Shop::new();
        let loaded = shop.load(&tar(&[extra, parts].concat()));
        assert_eq!(loaded.map(|loaded| loaded.len()).unwrap(), 1, "{shape}");
        assert!(!shop.images.has_layer(&Digest::of(&stray)), "{shape}");
        let files = format!("{:?}", shop.stock());
        assert!(!files.contains(&Digest::of(&stray).hex()), "{files}");
    }
}

#[test]
fn a_name_may_be_given_to_one_image_and_not_to_two() {
    let (one, other) = (sample(&[], vec![layer("a", "one")]), simple());
    let options = LoadOptions { names: vec!["mine:7".parse().unwrap()], ..LoadOptions::default() };
    let shop = Shop::new();
    let loaded = shop.load_with(tar(&shapes::podman(&[&one])).as_slice(), &options).unwrap();
    assert_eq!(loaded[0].info.names, options.names);
    let both = tar(&shapes::podman(&[&one, &other]));
    let error = shop.refused_with(both.as_slice(), &options);
    assert!(error.contains("2 images"), "{error}");
}

#[test]
fn names_in_lists_are_taken_as_their_tools_mean_them() {
    let sample = sample(&[], vec![layer("a", "one")]);
    let (manifest, parts) = blobs(&sample, Packed::Gzip);
    for (key, value, name) in [
        ("org.opencontainers.image.ref.name", "latest", None),
        ("org.opencontainers.image.ref.name", "localhost/x:1", Some("localhost/x:1")),
        ("io.containerd.image.name", "docker.io/library/x:1", Some("docker.io/library/x:1")),
        ("something.else", "docker.io/library/x:1", None),
    ] {
        let mut entry = descriptor(MANIFEST, &manifest);
        entry["annotations"] = json!({ key: value });
        let shop = Shop::new();
        let loaded = shop.load(&tar(&[parts.clone(), layout(&[entry])].concat())).unwrap();
        let names: Vec<String> = loaded[0].names.iter().map(ToString::to_string).collect();
        assert_eq!(names, name.into_iter().collect::<Vec<_>>(), "{key} {value}");
    }
    // Docker writes no name in two ways.
    for tags in [json!(null), json!(["<none>:<none>"]), json!([])] {
        let mut parts = shapes::docker_old(&[&sample]);
        change_list(&mut parts, |rows| rows[0]["RepoTags"] = tags.clone());
        assert!(Shop::new().load(&tar(&parts)).unwrap()[0].names.is_empty(), "{tags}");
    }
}

/// Changes the list that `docker save` writes.
pub(crate) fn change_list(parts: &mut [Part], change: impl Fn(&mut serde_json::Value)) {
    for part in parts {
        if let Part::File(name, content) = part
            && name == "manifest.json"
        {
            let mut rows = serde_json::from_slice(content).unwrap();
            change(&mut rows);
            *content = rows.to_string().into_bytes();
        }
    }
}

/// Several manifests of one image, each for another platform.
#[test]
fn of_several_platforms_this_machines_is_taken() {
    let here = runtime::image::Platform::here();
    let (own, other) = (simple(), sample(&[], vec![layer("a", "other")]));
    let ((own_text, own_parts), (other_text, other_parts)) =
        (blobs(&own, Packed::Gzip), blobs(&other, Packed::Gzip));
    let entry = |text: &[u8], architecture: &str, name: bool| {
        let mut entry = descriptor(MANIFEST, text);
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        if name {
            entry["annotations"] = json!({ "io.containerd.image.name": "docker.io/library/m:1" });
        }
        entry
    };
    for name in [true, false] {
        let flat = layout(&[
            entry(&other_text, "s390x", name),
            entry(&own_text, here.architecture(), name),
        ]);
        let shop = Shop::new();
        let parts = [flat, own_parts.clone(), other_parts.clone()].concat();
        let loaded = shop.load(&tar(&parts)).unwrap();
        assert_eq!(loaded.len(), 1);
        shop.assert_has(&own);
        assert!(shop.images.get(&other.id()).is_none());
    }
    // One alone was put there on purpose.
    let alone = layout(&[entry(&other_text, "s390x", true)]);
    let shop = Shop::new();
    shop.load(&tar(&[alone, other_parts.clone()].concat())).unwrap();
    shop.assert_has(&other);
    // In an index, it is not for us.
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [entry(&other_text, "s390x", false)] });
    let index = index.to_string();
    let list = layout(&[descriptor(INDEX, index.as_bytes())]);
    let parts = [list, vec![blob_part(index.as_bytes())], other_parts].concat();
    let error = shop.refused(&tar(&parts));
    assert!(error.contains("it has linux/s390x"), "{error}");
}

#[test]
fn a_directory_is_loaded_like_its_archive() {
    let sample = simple();
    for (shape, parts) in shapes::all(&sample) {
        let dir = tempfile::tempdir().unwrap();
        write_out(&parts, dir.path());
        let mut archive = Vec::new();
        pack_layout(dir.path(), &mut archive).unwrap();
        let shop = Shop::new();
        let loaded = shop.load(&archive);
        assert!(loaded.is_ok(), "{shape}: {loaded:?}");
        shop.assert_has(&sample);
    }
}

#[test]
fn nothing_but_the_image_goes_out_of_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    std::fs::write(dir.path().join("secret"), "secret words").unwrap();
    write_out(&shapes::oci(&[&simple()], Packed::Gzip), &layout);
    std::fs::write(layout.join("private"), "secret words").unwrap();
    std::os::unix::fs::symlink("../../../secret", layout.join("blobs/sha256/link")).unwrap();
    let mut archive = Vec::new();
    pack_layout(&layout, &mut archive).unwrap();
    let has = |text: &[u8]| archive.windows(text.len()).any(|part| part == text);
    assert!(has(b"imageLayoutVersion") && !has(b"secret words"));
    Shop::new().load(&archive).unwrap();
    for none in [dir.path().to_owned(), dir.path().join("missing"), dir.path().join("secret")] {
        assert!(pack_layout(&none, &mut Vec::new()).is_err(), "{}", none.display());
    }
}
