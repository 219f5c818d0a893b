//! Archives that say what is not so: of digests, sizes, numbers and places.

use runtime::image::Digest;
use serde_json::{Value, json};

use crate::archives::change_list;
use crate::shapes::{
    self, CONFIG, INDEX, MANIFEST, Packed, Part, Sample, blob, blob_part, config_of, descriptor,
    file, layer, layout, link, once, sample, simple, tar,
};
use crate::shop::Shop;
use crate::tarball::gzip;

/// A layout whose manifest was changed before it got its digest.
fn with_manifest(sample: &Sample, change: impl Fn(&mut Value)) -> Vec<u8> {
    let (manifest, parts) = shapes::blobs(sample, Packed::Gzip);
    let mut changed: Value = serde_json::from_slice(&manifest).unwrap();
    change(&mut changed);
    let changed = changed.to_string();
    let list = layout(&[descriptor(MANIFEST, changed.as_bytes())]);
    tar(&once([list, vec![blob_part(changed.as_bytes())], parts].concat()))
}

/// A layout whose list leads to these bytes.
fn leading_to(kind: &str, document: &[u8], parts: Vec<Part>) -> Vec<u8> {
    let list = layout(&[descriptor(kind, document)]);
    tar(&once([list, vec![blob_part(document)], parts].concat()))
}

fn assert_refused(archive: &[u8], reason: &str) {
    let error = Shop::new().refused(archive);
    assert!(error.contains(reason), "{error}");
    assert!(error.len() < 1500 && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn a_blob_that_is_not_what_it_is_called_is_refused() {
    let sample = simple();
    for (shape, parts) in shapes::all(&sample) {
        for at in 0..parts.len() {
            let mut parts = parts.clone();
            let Part::File(name, content) = &mut parts[at] else { continue };
            let named = name.len() > 60 && !name.contains("VERSION") && !name.ends_with("/json");
            let last = content.len() - 1;
            if !named {
                continue;
            }
            // Within a document, or behind the end of an archive.
            if content[0] == b'{' {
                content.push(b' ')
            } else {
                content[last] ^= 1
            }
            let name = name.clone();
            let error = Shop::new().refused(&tar(&parts));
            let fits = error.contains("what was promised") || error.contains("cannot be unpacked");
            assert!(fits, "{shape}, {name}: {error}");
        }
    }
}

#[test]
fn sizes_and_numbers_that_do_not_agree_are_refused() {
    let sample = simple();
    let size = |at: &'static str| {
        with_manifest(&sample, move |manifest| {
            let of = manifest.pointer_mut(at).unwrap();
            of["size"] = json!(of["size"].as_u64().unwrap() + 1);
        })
    };
    assert_refused(&size("/config"), "by its list");
    assert_refused(&size("/layers/1"), "by its manifest");
    let fewer = with_manifest(&sample, |manifest| {
        manifest["layers"].as_array_mut().unwrap().pop();
    });
    assert_refused(&fewer, "2 layers by its config and 1 by its manifest");
    let swapped =
        with_manifest(&sample, |manifest| manifest["layers"].as_array_mut().unwrap().reverse());
    assert_refused(&swapped, "what was promised");
    let mut parts = shapes::docker_old(&[&sample]);
    change_list(&mut parts, |rows| rows[0]["Layers"].as_array_mut().unwrap().reverse());
    assert_refused(&tar(&parts), "what was promised");
    change_list(&mut parts, |rows| rows[0]["Layers"] = Value::Null);
    assert_refused(&tar(&parts), "2 layers by its config and 0 by its manifest");
}

#[test]
fn a_list_proves_no_digest_of_a_name() {
    let mut parts = shapes::docker_old(&[&simple()]);
    let name = format!("app@sha256:{}", "1".repeat(64));
    change_list(&mut parts, |rows| rows[0]["RepoTags"] = json!([name]));
    assert_refused(&tar(&parts), "no tag");
}

#[test]
fn what_is_missing_is_named() {
    let sample = simple();
    for (shape, parts) in shapes::all(&sample) {
        for at in 0..parts.len() {
            let name = parts[at].name().to_owned();
            let mut parts = parts.clone();
            parts.remove(at);
            let shop = Shop::new();
            let before = shop.stock();
            match shop.load(&tar(&parts)) {
                // Not all that tools write is needed.
                Ok(loaded) => assert_eq!(loaded[0].info.id, sample.id(), "{shape} without {name}"),
                Err(error) => {
                    let error = error.to_string();
                    let known = ["lacks", "no image", "before 1.10"];
                    assert!(known.iter().any(|word| error.contains(word)), "{error}");
                    assert_eq!(shop.stock(), before);
                }
            }
        }
        let list = |part: &Part| ["manifest.json", "index.json"].contains(&part.name());
        let listless: Vec<Part> = parts.into_iter().filter(|part| !list(part)).collect();
        let reason = if shape == "old docker" { "before 1.10" } else { "it has no image" };
        assert_refused(&tar(&listless), reason);
    }
    assert_refused(&tar(&[]), "it has no image");
    assert_refused(&layer("a", "a root"), "imported, not loaded");
    assert_refused(b"", "cut off");
    assert_refused(b"{}", "cut off");
    assert_refused(&[7; 2048], "not a tar header");
    assert_refused(b"\xfd7zXZ\0 and more", "xz");
}

#[test]
fn two_files_or_images_of_one_name_are_refused() {
    let (one, other) = (simple(), sample(&["app:1"], vec![layer("z", "other")]));
    for parts in [
        shapes::docker_old(&[&one, &other]),
        shapes::docker_new(&[&one, &other]),
        shapes::oci(&[&one, &other], Packed::Gzip),
    ] {
        assert_refused(&tar(&parts), "two images called docker.io/library/app:1");
    }
    for (shape, parts) in shapes::all(&one) {
        for at in 0..parts.len() {
            let mut parts = parts.clone();
            parts.push(parts[at].clone());
            let error = Shop::new().refused(&tar(&parts));
            assert!(error.contains("two files called"), "{shape}: {error}");
        }
        // In other words for the same name, and as another kind.
        let name = format!("./{}", parts[0].name());
        let again = [parts.clone(), vec![link(name, "x")]].concat();
        assert_refused(&tar(&again), "two files called");
    }
}

#[test]
fn links_lead_to_nothing_that_the_name_does_not_promise() {
    let (one, other) = (simple(), sample(&[], vec![layer("z", "other"), layer("y", "more")]));
    let (manifest, parts) = shapes::blobs(&one, Packed::Plain);
    let (other_manifest, other_parts) = shapes::blobs(&other, Packed::Plain);
    let list = layout(&[descriptor(MANIFEST, &manifest)]);
    let hex = |bytes: &[u8]| Digest::of(bytes).hex();
    // Whatever of the image is replaced by a link to its counterpart in another one.
    for (mine, theirs) in parts.iter().zip(&other_parts) {
        let (Part::File(name, _), Part::File(_, content)) = (mine, theirs) else { panic!() };
        let rest = parts.iter().filter(|part| part.name() != name).cloned();
        let mut changed: Vec<Part> = list.iter().cloned().chain(rest).collect();
        changed.extend(other_parts.iter().cloned());
        changed.push(link(name.clone(), hex(content)));
        let error = Shop::new().refused(&tar(&changed));
        let fits = error.contains("promised") || error.contains("bytes, and");
        assert!(fits, "{name}: {error}");
    }
    drop(other_manifest);
    let first = blob(&Digest::of(&one.layers[0]));
    for target in ["../../../../etc/passwd", "/etc/passwd", "missing", "../../a", "."] {
        let rest = parts.iter().filter(|part| part.name() != first).cloned();
        let mut changed: Vec<Part> = list.iter().cloned().chain(rest).collect();
        changed.extend([link(first.clone(), target), link("a", "b"), link("b", "a")]);
        Shop::new().refused(&tar(&changed));
        changed.retain(|part| part.name() != first);
        changed.push(Part::HardLink(first.clone(), target.to_owned()));
        Shop::new().refused(&tar(&changed));
    }
    for name in ["../outside", "a/../../b", "blobs/../x"] {
        let parts = [shapes::podman(&[&one]), vec![file(name, "x")]].concat();
        assert_refused(&tar(&parts), "'..' in its name");
    }
}

#[test]
fn media_types_may_lie_of_packing_and_of_nothing_else() {
    let sample = simple();
    let typed = |at: &'static str, kind: &'static str| {
        with_manifest(&sample, move |manifest| {
            manifest.pointer_mut(at).unwrap()["mediaType"] = json!(kind);
        })
    };
    let layer = "application/vnd.oci.image.layer.v1.tar";
    for honest_enough in [layer, "application/vnd.oci.image.layer.v1.tar+zstd"] {
        let shop = Shop::new();
        shop.load(&typed("/layers/0", honest_enough)).unwrap();
        shop.assert_has(&sample);
    }
    assert_refused(
        &typed("/layers/0", "application/vnd.oci.image.layer.v1.tar+encrypted"),
        "encrypted",
    );
    assert_refused(&typed("/layers/0", "text/html\u{1b}[2J"), "cannot be unpacked");
    assert_refused(&typed("/config", "application/vnd.cncf.helm.config.v1+json"), "no container");
    let (manifest, parts) = shapes::blobs(&sample, Packed::Gzip);
    assert_refused(&leading_to(INDEX, &manifest, parts.clone()), "said to be");
    let list = layout(&[descriptor("application/vnd.cncf.helm.chart", &manifest)]);
    assert_refused(&tar(&[list, parts.clone()].concat()), "helm");
    let own = with_manifest(&sample, |manifest| manifest["mediaType"] = json!(INDEX));
    assert_refused(&own, "said to be");
    let both = with_manifest(&sample, |manifest| manifest["manifests"] = json!([]));
    assert_refused(&both, "at once");
    let old = json!({ "schemaVersion": 1, "fsLayers": [], "history": [] }).to_string();
    assert_refused(&leading_to(MANIFEST, old.as_bytes(), parts), "schema 1");
}

#[test]
fn foreign_layers_are_not_fetched_from_where_they_say() {
    let sample = simple();
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let change = |manifest: &mut Value| {
        let layer = &mut manifest["layers"][0];
        layer["mediaType"] = json!(foreign);
        layer["urls"] = json!(["http://127.0.0.1:1/layer", "file:///etc/passwd"]);
    };
    // In the archive, it is a layer like others.
    Shop::new().load(&with_manifest(&sample, change)).unwrap();
    let lacking = with_manifest(&sample, |manifest| {
        change(manifest);
        manifest["layers"][0]["digest"] = json!(Digest::of(b"elsewhere").to_string());
    });
    assert_refused(&lacking, "only at its maker's");
}

#[test]
fn documents_of_absurd_length_depth_and_number_are_refused() {
    let sample = simple();
    let (_, parts) = shapes::blobs(&sample, Packed::Gzip);
    let deep = format!("{{\"manifests\":{}", "[".repeat(1 << 20));
    assert_refused(&leading_to(MANIFEST, deep.as_bytes(), parts.clone()), "not the JSON");
    let long = with_manifest(&sample, |manifest| manifest["x"] = json!("y".repeat(5 << 20)));
    assert_refused(&long, "longer than a document may be");
    let layers = vec![layer("a", "x"); 128];
    let mut many = sample.clone();
    many.config = config_of(&layers).to_string().into_bytes();
    assert_refused(&tar(&shapes::oci(&[&many], Packed::Plain)), "128 layers");
    let listed = with_manifest(&sample, |manifest| {
        let layer = manifest["layers"][0].clone();
        manifest["layers"] = json!(vec![layer; 15_000]);
    });
    assert_refused(&listed, "15000 layers");
    let mut rows = shapes::docker_old(&[&sample]);
    change_list(&mut rows, |rows| *rows = json!(vec![rows[0].clone(); 1001]));
    assert_refused(&tar(&rows), "1000 images");
    change_list(&mut rows, |rows| *rows = json!([{ "Config": "../../etc/passwd" }]));
    assert_refused(&tar(&rows), "lacks");
    change_list(&mut rows, |rows| *rows = json!([{ "Config": 1 }]));
    assert_refused(&tar(&rows), "not the JSON");
    change_list(&mut rows, |rows| *rows = json!({ "schemaVersion": 2 }));
    assert_refused(&tar(&rows), "skopeo's dir:");
    // One long config, and a thousand rows that name it.
    let mut padded = config_of(&sample.layers);
    padded["x"] = json!("y".repeat(3 << 20));
    let padded = Sample { config: padded.to_string().into_bytes(), ..sample.clone() };
    let mut rows = shapes::docker_old(&[&padded]);
    Shop::new().load(&tar(&rows)).unwrap();
    change_list(&mut rows, |rows| *rows = json!(vec![rows[0].clone(); 1000]));
    assert_refused(&tar(&rows), "over and over");
    let tags: Vec<String> = (0..5000).map(|number| format!("a:{number}")).collect();
    change_list(&mut rows, |rows| {
        *rows = json!([rows[0]]);
        rows[0]["RepoTags"] = json!(tags);
    });
    assert_refused(&tar(&rows), "4096 names");
    let mut named = shapes::docker_old(&[&sample]);
    change_list(&mut named, |rows| rows[0]["RepoTags"] = json!(["Bad Name\u{1b}[2J"]));
    assert_refused(&tar(&named), "no name of an image");
}

#[test]
fn indexes_within_indexes_end() {
    let sample = simple();
    let (mut text, parts) = shapes::blobs(&sample, Packed::Gzip);
    let mut kind = MANIFEST;
    let mut all = parts;
    for depth in 0..8 {
        let shop = Shop::new();
        let archive = leading_to(kind, &text, all.clone());
        if depth <= 4 {
            shop.load(&archive).unwrap();
        } else {
            let error = shop.refused(&archive);
            assert!(error.contains("deep"), "{depth}: {error}");
        }
        all.push(blob_part(&text));
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(kind, &text)] });
        (text, kind) = (index.to_string().into_bytes(), INDEX);
    }
}

#[test]
fn configs_that_cannot_be_are_refused() {
    let good = simple();
    for (config, reason) in [
        (json!({}), "no layers"),
        (json!({ "rootfs": { "type": "base", "diff_ids": [] } }), "base"),
        (json!({ "rootfs": { "type": "layers", "diff_ids": ["sha512:00", "md5:1"] } }), "sha512"),
        (json!([]), "not the JSON"),
    ] {
        let bent = Sample { config: config.to_string().into_bytes(), ..good.clone() };
        for (_, parts) in shapes::all(&bent) {
            assert_refused(&tar(&parts), reason);
        }
    }
    let none = sample(&["empty:1"], Vec::new());
    for (_, parts) in shapes::all(&none) {
        assert_refused(&tar(&parts), "no layers");
    }
    let packed = gzip(b"{}");
    let listed = descriptor(CONFIG, &packed);
    let archive = with_manifest(&good, |manifest| manifest["config"] = listed.clone());
    assert_refused(&archive, "lacks");
}
