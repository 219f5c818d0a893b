//! Manifests and indexes as registries and builders write them, and as nobody should.

use super::*;

const SUM: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(kind: &str, more: &str) -> String {
    format!(r#"{{"mediaType":"{kind}","digest":"{SUM}","size":7{more}}}"#)
}

fn manifest_of(config: &str, layers: &[&str]) -> String {
    let layers: Vec<String> = layers.iter().map(|kind| descriptor(kind, "")).collect();
    format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor(config, ""),
        layers.join(",")
    )
}

fn index_of(platforms: &[&str]) -> String {
    let entry = |platform: &&str| {
        let mut parts = platform.split('/');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let (os, arch, variant) = (next(), next(), next());
        let written =
            format!(r#","platform":{{"os":"{os}","architecture":"{arch}","variant":"{variant}"}}"#);
        descriptor(OCI_MANIFEST, if platform.is_empty() { "" } else { &written })
    };
    let entries: Vec<String> = platforms.iter().map(entry).collect();
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
}

fn refused(text: &str, declared: Option<&str>) -> String {
    let cut: String = text.chars().take(100).collect();
    Document::parse(text.as_bytes(), declared).expect_err(&cut).to_string()
}

fn index_in(text: &str) -> Index {
    match Document::parse(text.as_bytes(), None).expect("an index") {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("it is an index"),
    }
}

#[test]
fn layers_of_all_kinds_are_known_and_others_named() {
    let begin = "application/vnd.docker.image.rootfs";
    for (kind, packing, foreign) in [
        ("application/vnd.oci.image.layer.v1.tar", Packing::Plain, false),
        (OCI_LAYER, Packing::Gzip, false),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Packing::Zstd, false),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Packing::Gzip, true),
        (&format!("{begin}.diff.tar"), Packing::Plain, false),
        (&format!("{begin}.diff.tar.gzip"), Packing::Gzip, false),
        (&format!("{begin}.diff.tar.zstd"), Packing::Zstd, false),
        (&format!("{begin}.foreign.diff.tar.gzip"), Packing::Gzip, true),
    ] {
        let text = manifest_of(OCI_CONFIG, &[kind]);
        let Document::Manifest(manifest) = Document::parse(text.as_bytes(), None).expect(kind)
        else {
            panic!("{kind} is no index")
        };
        let layer = manifest.layers.first().expect("a layer");
        assert_eq!((layer.packing(), layer.is_foreign()), (Ok(packing), foreign), "{kind}");
        assert_eq!((layer.size, layer.digest.to_string()), (7, SUM.to_owned()));
    }
    for kind in ["", "application/vnd.oci.image.layer.v1.tar+encrypted", "text/html\\u001b[2J"] {
        let error = refused(&manifest_of(OCI_CONFIG, &[kind]), None);
        assert!(error.contains("cannot be unpacked") && !error.contains('\u{1b}'), "{error}");
    }
    let chart = "application/vnd.cncf.helm.config.v1+json";
    let error = refused(&manifest_of(chart, &[OCI_LAYER]), None);
    assert!(error.contains(chart), "{error}");
}

#[test]
fn the_entry_for_this_machine_is_chosen() {
    let amd = |level| Platform::new("linux", "amd64", level);
    let arm = |variant| Platform::new("linux", "arm", variant);
    let all = [
        "unknown/unknown",
        "linux/arm/v5",
        "linux/arm/v7",
        "linux/arm/v6",
        "linux/386",
        "linux/arm64/v8",
        "linux/amd64",
        "linux/amd64/v3",
        "linux/riscv64",
        "windows/amd64",
    ];
    for (here, entries, chosen) in [
        (amd(""), &all[..], "linux/amd64"),
        (amd("v2"), &all, "linux/amd64"),
        (amd("v4"), &all, "linux/amd64/v3"),
        (arm("v7"), &all, "linux/arm/v7"),
        (arm("v6"), &all, "linux/arm/v6"),
        (Platform::new("linux", "aarch64", ""), &all, "linux/arm64"),
        (Platform::new("linux", "riscv64", ""), &all, "linux/riscv64"),
        (
            Platform::new("linux", "riscv64", ""),
            &["linux/riscv64/rva20u64"],
            "linux/riscv64/rva20u64",
        ),
        // Other tools' words.
        (amd(""), &["linux/x86_64"], "linux/amd64"),
        (arm("v7"), &["linux/armhf"], "linux/arm/v7"),
        // One that says nothing is better than none, and no better than one that fits.
        (amd(""), &["linux/arm64", ""], ""),
        (amd(""), &["", "linux/amd64"], "linux/amd64"),
    ] {
        let index = index_in(&index_of(entries));
        let entry = index.choose(&here).expect("one");
        let platform = entry.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        assert_eq!(platform, chosen, "{here} of {entries:?}");
    }
}

#[test]
fn an_index_without_this_platform_says_which_it_has() {
    let here = Platform::new("linux", "amd64", "");
    let has = ["linux/arm64/v8", "linux/s390x", "unknown/unknown", "linux/amd64/v2", "linux/s390x"];
    let error = index_in(&index_of(&has)).choose(&here).expect_err("none").to_string();
    let list = "nothing for linux/amd64; it has linux/arm64, linux/s390x, linux/amd64/v2";
    assert!(error.ends_with(list), "{error}");
    let error = index_in(&index_of(&["unknown/unknown"])).choose(&here).expect_err("none");
    assert!(error.to_string().contains("nothing at all"), "{error}");
    let note = descriptor(
        OCI_MANIFEST,
        r#","platform":{"os":"linux","architecture":"amd64"},
            "annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#,
    );
    let chart = descriptor("application/vnd.cncf.helm.chart", "");
    let signature = descriptor(OCI_MANIFEST, r#","artifactType":"application/x.signature""#);
    let all = [note, chart, signature].join(",");
    let index = index_in(&format!(r#"{{"schemaVersion":2,"manifests":[{all}]}}"#));
    index.choose(&here).expect_err("none is an image");
}

#[test]
fn a_machine_finds_its_own_platform() {
    let here = Platform::here();
    let plain = Platform::new("linux", here.architecture(), "");
    assert!(here.rank(&plain).is_some(), "{here}");
    assert!(here.rank(&here.clone()).is_some(), "{here}");
}

#[test]
fn names_are_taken_from_annotations_and_a_lone_word_is_none() {
    let named = |annotations: &str| {
        let entry = descriptor(OCI_MANIFEST, &format!(r#","annotations":{{{annotations}}}"#));
        let index = index_in(&format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#));
        let entry = index.entries.into_iter().next().expect("an entry");
        entry.names.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let both = r#""io.containerd.image.name":"docker.io/library/a:1",
        "org.opencontainers.image.ref.name":"1""#;
    assert_eq!(named(both), ["docker.io/library/a:1"]);
    let reference = |name: &str| named(&format!(r#""org.opencontainers.image.ref.name":"{name}""#));
    assert_eq!(reference("localhost/x:2"), ["localhost/x:2"]);
    assert_eq!(reference("x:2"), ["docker.io/library/x:2"]);
    // Proven by nothing.
    let proven = format!("x@{SUM}");
    for none in ["latest", "", "Bad/Name", "\\u0000/", &proven] {
        assert!(reference(none).is_empty(), "{none}");
    }
}

#[test]
fn a_document_is_one_thing_and_the_one_it_is_said_to_be() {
    let manifest = manifest_of(OCI_CONFIG, &[OCI_LAYER]);
    let index = index_of(&["linux/amd64"]);
    for (text, declared) in [
        (&manifest, None),
        (&manifest, Some(OCI_MANIFEST)),
        (&manifest, Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8")),
        (&manifest, Some("application/json")),
        (&index, Some(DOCKER_LIST)),
        (&index, Some("text/plain")),
    ] {
        Document::parse(text.as_bytes(), declared).expect("sound");
    }
    for (text, declared) in [(&manifest, OCI_INDEX), (&index, DOCKER_MANIFEST)] {
        let error = refused(text, Some(declared));
        assert!(error.contains("said to be"), "{error}");
    }
    let own = manifest.replacen('{', &format!(r#"{{"mediaType":"{OCI_INDEX}","#), 1);
    assert!(refused(&own, None).contains("said to be"));
    let both = manifest.replacen('{', r#"{"manifests":[],"#, 1);
    assert!(refused(&both, None).contains("at once"));
    let error = refused(&manifest, Some("application/vnd.something"));
    assert!(error.contains("application/vnd.something"), "{error}");
}

#[test]
fn documents_of_schema_1_are_refused_and_told_why() {
    let one = r#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[{"blobSum":"x"}]}"#;
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for (text, declared) in [(one, None), (one, Some(signed)), ("{}", Some(signed))] {
        let error = refused(text, declared);
        assert!(error.contains("schema 1") && error.contains("push the image again"), "{error}");
    }
}

#[test]
fn documents_that_cannot_be_are_refused_with_a_reason() {
    let deep = "[".repeat(1 << 20);
    let many = vec![OCI_LAYER; 128];
    let sized = |size: &str| {
        manifest_of(OCI_CONFIG, &[OCI_LAYER]).replace("\"size\":7", &format!("\"size\":{size}"))
    };
    for (text, reason) in [
        (String::new(), "not the JSON"),
        ("{".to_owned(), "not the JSON"),
        ("{}".to_owned(), "neither"),
        (r#"{"schemaVersion":3}"#.to_owned(), "version"),
        (r#"{"schemaVersion":2,"layers":[]}"#.to_owned(), "lacks"),
        (format!(r#"{{"layers":{deep}"#), "not the JSON"),
        (format!(r#"{{"what":{deep}"#), "not the JSON"),
        (manifest_of(OCI_CONFIG, &many), "128 layers"),
        (index_of(&["linux/amd64"; 2049]), "2049 entries"),
        (index_of(&["lin ux/amd64"]), "lin ux"),
        (sized("-1"), "-1 bytes"),
        (sized("1e30"), "not the JSON"),
        (sized("18446744073709551615"), "not the JSON"),
        (manifest_of(OCI_CONFIG, &[OCI_LAYER]).replace("sha256", "sha512"), "sha512"),
        (r#"{"schemaVersion":2,"layers":[],"layers":[]}"#.to_owned(), "not the JSON"),
        (format!(r#"{{"x":"{}"}}"#, "y".repeat(5 << 20)), "are allowed"),
    ] {
        let error = refused(&text, None);
        assert!(error.contains(reason) && error.len() < 1000, "{error}");
    }
}

#[test]
fn a_machine_is_strange_to_what_it_cannot_run_and_to_nothing_that_does_not_say() {
    let here = Platform::new("linux", "x86_64", "v2");
    let strange = |text: &str| Platform::said(text).map(|said| here.is_strange_to(&said));
    for (text, expected) in [
        ("linux/amd64", Some(false)),
        ("linux/amd64/v2", Some(false)),
        ("linux/amd64/v3", Some(true)),
        ("linux/386", Some(false)),
        ("linux/arm64", Some(true)),
        ("linux/arm/v7", Some(true)),
        ("windows/amd64", Some(true)),
        ("linux/", None),
        ("/amd64", None),
        ("", None),
    ] {
        assert_eq!(strange(text), expected, "{text}");
    }
    assert!(
        !Platform::new("linux", "arm64", "").is_strange_to(&Platform::new("linux", "arm", "v7"))
    );
}
