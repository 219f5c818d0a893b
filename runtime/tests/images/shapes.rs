//! One image in all the shapes that tools give it.

use std::collections::BTreeSet;

use runtime::image::Digest;
use serde_json::{Value, json};

use crate::tarball::{Tarball, gzip};

/// Something in an archive.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    File(String, Vec<u8>),
    Link(String, String),
    HardLink(String, String),
}

impl Part {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::File(name, _) | Self::Link(name, _) | Self::HardLink(name, _) => name,
        }
    }
}

pub(crate) fn file(name: impl Into<String>, content: impl Into<Vec<u8>>) -> Part {
    Part::File(name.into(), content.into())
}

pub(crate) fn link(name: impl Into<String>, target: impl Into<String>) -> Part {
    Part::Link(name.into(), target.into())
}

pub(crate) fn tar(parts: &[Part]) -> Vec<u8> {
    let add = |tar: Tarball, part: &Part| match part {
        Part::File(name, content) => tar.file(name, content),
        Part::Link(name, target) => tar.symlink(name, target),
        Part::HardLink(name, target) => tar.hard_link(name, target),
    };
    parts.iter().fold(Tarball::new(), add).end()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub(crate) fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

/// How layers are packed, and what that is called at the end of a media type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packed {
    Plain,
    Gzip,
    Zstd,
}

impl Packed {
    pub(crate) fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => plain(bytes),
            Self::Gzip => gzip(bytes),
            Self::Zstd => zstd(bytes),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// An image before it is packed in any way.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) names: Vec<String>,
}

/// A layer with a file of this name in it.
pub(crate) fn layer(name: &str, content: &str) -> Vec<u8> {
    Tarball::new().dir("etc").file(format!("etc/{name}"), content).end()
}

pub(crate) fn config_of(layers: &[Vec<u8>]) -> Value {
    let ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    json!({
        "architecture": "amd64", "os": "linux", "created": "2024-05-01T10:00:00Z",
        "config": { "Cmd": ["/bin/true"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": ids },
    })
}

pub(crate) fn sample(names: &[&str], layers: Vec<Vec<u8>>) -> Sample {
    let config = config_of(&layers).to_string().into_bytes();
    Sample { config, layers, names: names.iter().map(|name| (*name).to_owned()).collect() }
}

/// Two layers and a name.
pub(crate) fn simple() -> Sample {
    sample(&["docker.io/library/app:1"], vec![layer("a", "one"), layer("b", "two")])
}

impl Sample {
    pub(crate) fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    fn tags(&self) -> Value {
        if self.names.is_empty() { Value::Null } else { json!(self.names) }
    }
}

pub(crate) fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub(crate) fn blob_part(content: &[u8]) -> Part {
    file(blob(&Digest::of(content)), content)
}

/// Removes parts of the same name: images of one archive share them.
pub(crate) fn once(parts: Vec<Part>) -> Vec<Part> {
    let mut seen = BTreeSet::new();
    parts.into_iter().filter(|part| seen.insert(part.name().to_owned())).collect()
}

/// As Docker did until version 24: a directory for each layer, links between equal ones, and
/// the list last.
pub(crate) fn docker_old(samples: &[&Sample]) -> Vec<Part> {
    let (mut parts, mut rows) = (Vec::new(), Vec::new());
    let mut places: Vec<(Vec<u8>, String)> = Vec::new();
    for (number, sample) in samples.iter().enumerate() {
        let mut names = Vec::new();
        for (level, layer) in sample.layers.iter().enumerate() {
            let dir = Digest::of(format!("{number} {level}").as_bytes()).hex();
            parts.push(file(format!("{dir}/VERSION"), "1.0"));
            parts.push(file(format!("{dir}/json"), format!("{{\"id\":\"{dir}\"}}")));
            let name = format!("{dir}/layer.tar");
            match places.iter().find(|(other, _)| other == layer) {
                Some((_, place)) => parts.push(link(name.clone(), format!("../{place}"))),
                None => {
                    parts.push(file(name.clone(), layer.clone()));
                    places.push((layer.clone(), name.clone()));
                }
            }
            names.push(name);
        }
        let config = format!("{}.json", sample.id().hex());
        parts.push(file(config.clone(), sample.config.clone()));
        rows.push(json!({ "Config": config, "RepoTags": sample.tags(), "Layers": names }));
    }
    parts.push(file("repositories", "{}"));
    parts.push(file("manifest.json", json!(rows).to_string()));
    once(parts)
}

/// As Podman does: layers by their digests, and Docker's old names as links to them.
pub(crate) fn podman(samples: &[&Sample]) -> Vec<Part> {
    let (mut parts, mut rows) = (Vec::new(), Vec::new());
    for sample in samples {
        let mut names = Vec::new();
        for layer in &sample.layers {
            let hex = Digest::of(layer).hex();
            parts.push(file(format!("{hex}.tar"), layer.clone()));
            parts.push(link(format!("{hex}-/layer.tar"), format!("../{hex}.tar")));
            names.push(format!("{hex}.tar"));
        }
        let config = format!("{}.json", sample.id().hex());
        parts.push(file(config.clone(), sample.config.clone()));
        rows.push(json!({ "Config": config, "RepoTags": sample.tags(), "Layers": names }));
    }
    parts.push(file("manifest.json", json!(rows).to_string()));
    once(parts)
}

pub(crate) fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len() })
}

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The manifest and blobs of an image in a layout.
pub(crate) fn blobs(sample: &Sample, packed: Packed) -> (Vec<u8>, Vec<Part>) {
    let kind = format!("application/vnd.oci.image.layer.v1.tar{}", packed.suffix());
    let layers: Vec<Vec<u8>> = sample.layers.iter().map(|layer| packed.pack(layer)).collect();
    let list: Vec<Value> = layers.iter().map(|layer| descriptor(&kind, layer)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &sample.config), "layers": list,
    });
    let manifest = manifest.to_string().into_bytes();
    let all = [manifest.clone(), sample.config.clone()].into_iter().chain(layers);
    (manifest, all.map(|content| blob_part(&content)).collect())
}

/// The entries of a list for one image: one for each name.
fn entries(sample: &Sample, manifest: &[u8]) -> Vec<Value> {
    let mut plain = descriptor(MANIFEST, manifest);
    if sample.names.is_empty() {
        return vec![plain];
    }
    let named = |name: &String| {
        plain["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rsplit(':').next(),
        });
        plain.clone()
    };
    sample.names.iter().map(named).collect()
}

/// The files by which a layout begins.
pub(crate) fn layout(entries: &[Value]) -> Vec<Part> {
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    vec![file("oci-layout", version.to_string()), file("index.json", index.to_string())]
}

pub(crate) fn oci(samples: &[&Sample], packed: Packed) -> Vec<Part> {
    let (mut parts, mut list) = (Vec::new(), Vec::new());
    for sample in samples {
        let (manifest, more) = blobs(sample, packed);
        list.extend(entries(sample, &manifest));
        parts.extend(more);
    }
    parts.extend(layout(&list));
    once(parts)
}

/// As Docker does since version 25: a layout, and its own list with the same blobs.
pub(crate) fn docker_new(samples: &[&Sample]) -> Vec<Part> {
    let row = |sample: &&Sample| {
        let layers: Vec<String> =
            sample.layers.iter().map(|layer| blob(&Digest::of(layer))).collect();
        json!({ "Config": blob(&sample.id()), "RepoTags": sample.tags(), "Layers": layers })
    };
    let rows: Vec<Value> = samples.iter().map(row).collect();
    let mut parts = oci(samples, Packed::Plain);
    parts.push(file("manifest.json", json!(rows).to_string()));
    parts
}

/// As BuildKit does: a list that leads to a list with a note of how it was built, and here
/// with platforms whose bytes were left out.
pub(crate) fn buildkit(sample: &Sample, packed: Packed) -> Vec<Part> {
    let (manifest, mut parts) = blobs(sample, packed);
    let here = runtime::image::Platform::here();
    let mut own = descriptor(MANIFEST, &manifest);
    own["platform"] = json!({ "os": "linux", "architecture": here.architecture() });
    let mut other = descriptor(MANIFEST, b"not here");
    other["platform"] = json!({ "os": "linux", "architecture": "s390x" });
    let statement = json!({ "_type": "https://in-toto.io/Statement/v0.1" }).to_string();
    let note = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(CONFIG, b"{}"),
        "layers": [descriptor("application/vnd.in-toto+json", statement.as_bytes())],
    });
    let note = note.to_string();
    let mut attestation = descriptor(MANIFEST, note.as_bytes());
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [attestation, other, own],
    });
    let index = index.to_string();
    let mut entry = descriptor(INDEX, index.as_bytes());
    entry["annotations"] = json!({ "io.containerd.image.name": sample.names.first() });
    let documents = [index.as_bytes(), note.as_bytes(), statement.as_bytes(), b"{}"];
    parts.extend(documents.into_iter().map(blob_part));
    parts.extend(layout(&[entry]));
    once(parts)
}

/// One image in every shape.
pub(crate) fn all(sample: &Sample) -> Vec<(&'static str, Vec<Part>)> {
    vec![
        ("old docker", docker_old(&[sample])),
        ("new docker", docker_new(&[sample])),
        ("podman", podman(&[sample])),
        ("oci", oci(&[sample], Packed::Plain)),
        ("oci with gzip", oci(&[sample], Packed::Gzip)),
        ("oci with zstd", oci(&[sample], Packed::Zstd)),
        ("buildkit", buildkit(sample, Packed::Gzip)),
    ]
}
