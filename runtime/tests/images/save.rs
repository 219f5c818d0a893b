//! Images into archives and back.

use std::io::Write;

use runtime::image::{Digest, ImageError, save};
use serde_json::Value;

use crate::shapes::{self, Packed, Sample, layer, sample, simple, tar};
use crate::shop::{Shop, whole};
use crate::tarball::Tarball;

fn saved(shop: &Shop, wanted: &[&str]) -> Vec<u8> {
    let mut archive = Vec::new();
    let wanted: Vec<String> = wanted.iter().map(|text| (*text).to_owned()).collect();
    save(&shop.images, &wanted, &mut archive, &|_| true).unwrap();
    archive
}

/// Names and contents of a plain archive of plain files: what our own reader is not asked.
fn listed(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut rest = archive;
    while rest[0] != 0 {
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8(rest[range].to_vec()).unwrap().trim_end_matches('\0').to_owned()
        };
        let size = usize::from_str_radix(&text(124..136), 8).unwrap();
        assert_eq!(text(136..148), "00000000000", "made at no time");
        files.push((text(0..100), rest[512..512 + size].to_vec()));
        rest = &rest[512 + size.next_multiple_of(512)..];
    }
    assert_eq!(rest, [0; 1024]);
    files
}

fn three() -> [Sample; 3] {
    let base = layer("base", "shared");
    [
        sample(&["one:1", "one:2"], vec![base.clone(), layer("a", &"x".repeat(70_000))]),
        sample(&["host:5000/two:1"], vec![base.clone(), layer("b", "y"), base.clone()]),
        sample(&[], vec![base]),
    ]
}

#[test]
fn what_is_saved_is_loaded_again_as_it_was() {
    let shop = Shop::new();
    let all = three();
    shop.load(&tar(&shapes::oci(&all.each_ref(), Packed::Gzip))).unwrap();
    let id = all[2].id().to_string();
    let archive = saved(&shop, &["one:1", "host:5000/two:1", &id]);
    let other = Shop::new();
    let loaded = other.load(&archive).unwrap();
    assert_eq!(loaded.len(), 3);
    all.iter().for_each(|sample| other.assert_has(sample));
    // Those names that were asked for, and no others.
    let names = |sample: &Sample| {
        let names = other.images.get(&sample.id()).unwrap().names;
        names.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(&all[0]), ["docker.io/library/one:1"]);
    assert_eq!(names(&all[1]), ["host:5000/two:1"]);
    assert!(names(&all[2]).is_empty());
    // Out of the other store, and in another order, it is the same archive.
    assert!(saved(&other, &[&id, "host:5000/two:1", "one:1", "one:1"]) == archive);
}

#[test]
fn an_archive_has_every_blob_once_under_its_digest_and_two_lists_that_agree() {
    let shop = Shop::new();
    let all = three();
    shop.load(&tar(&shapes::docker_old(&all.each_ref()))).unwrap();
    let files = listed(&saved(&shop, &["one:1", "one:2", "host:5000/two:1"]));
    let find = |name: &str| &files.iter().find(|(other, _)| other == name).unwrap().1;
    let mut blobs = 0;
    for (name, content) in &files {
        if let Some(hex) = name.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty()) {
            assert_eq!(Digest::of(content).hex(), hex);
            blobs += 1;
        }
    }
    // Two configs, two manifests, three layers.
    assert_eq!(blobs, 7);
    let rows: Value = serde_json::from_slice(find("manifest.json")).unwrap();
    let index: Value = serde_json::from_slice(find("index.json")).unwrap();
    let mut tags = Vec::new();
    for row in rows.as_array().unwrap() {
        let config: Value = serde_json::from_slice(find(row["Config"].as_str().unwrap())).unwrap();
        let ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        let layers = row["Layers"].as_array().unwrap();
        assert_eq!(ids.len(), layers.len());
        for (id, layer) in ids.iter().zip(layers) {
            let sum = Digest::of(find(layer.as_str().unwrap())).to_string();
            assert_eq!(id.as_str(), Some(sum.as_str()));
        }
        tags.extend(row["RepoTags"].as_array().unwrap().clone());
    }
    let entries = index["manifests"].as_array().unwrap();
    let names: Vec<&Value> =
        entries.iter().map(|entry| &entry["annotations"]["io.containerd.image.name"]).collect();
    tags.sort_by_key(Value::to_string);
    assert_eq!(tags, ["host:5000/two:1", "one:1", "one:2"]);
    assert_eq!(names.len(), 3);
    for entry in entries {
        let name = entry["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
        let manifest: Value = serde_json::from_slice(find(&name)).unwrap();
        assert_eq!(entry["size"], find(&name).len());
        for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
            let name = blob["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
            assert_eq!(blob["size"], find(&name).len());
        }
    }
}

#[test]
fn layers_that_no_tool_of_ours_would_write_come_out_as_they_went_in() {
    let mut trailing = Tarball::new()
        .pax(&[("path", "n".repeat(90).as_bytes()), ("mtime", b"1.25")])
        .file("x", "content")
        .dir("etc")
        .file("etc/.wh.gone", "")
        .symlink("s", "nowhere")
        .end();
    trailing.extend([7; 300]);
    let no_end = Tarball::new().file("a", "b").0;
    let sample = sample(&["odd:1"], vec![trailing, no_end]);
    let shop = Shop::new();
    shop.load(&tar(&shapes::docker_new(&[&sample]))).unwrap();
    let other = Shop::new();
    other.load(&saved(&shop, &["odd:1"])).unwrap();
    other.assert_has(&sample);
}

#[test]
fn a_save_that_cannot_be_written_says_so_and_can_be_called_off() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let shop = Shop::new();
    shop.load(&tar(&shapes::podman(&[&simple()]))).unwrap();
    let wanted = ["app:1".to_owned()];
    let length = saved(&shop, &["app:1"]).len();
    for room in (0..length).step_by(300) {
        let error = save(&shop.images, &wanted, &mut Full(room), &|_| true).unwrap_err();
        assert!(matches!(error, ImageError::Write { .. }), "{room}: {error}");
    }
    let error = save(&shop.images, &wanted, &mut Vec::new(), &|_| false).unwrap_err();
    assert!(matches!(error, ImageError::CalledOff), "{error}");
    for none in [vec![], vec!["missing:1".to_owned()]] {
        let mut to = Vec::new();
        let error = save(&shop.images, &none, &mut to, &|_| true).unwrap_err();
        assert!(to.is_empty() && whole(&error).contains("no image"), "{error}");
    }
}
