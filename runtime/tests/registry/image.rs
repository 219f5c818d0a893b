//! Images made by the test: each layer one file.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use runtime::image::{Digest, Platform};
use serde_json::{Value, json};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer, and how it comes.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) plain: Vec<u8>,
    pub(crate) packed: Vec<u8>,
    suffix: &'static str,
}

#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl Layer {
    pub(crate) fn gzip(name: &str, content: &[u8]) -> Self {
        let plain = tar(name, content);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&plain).unwrap();
        Self { packed: encoder.finish().unwrap(), plain, suffix: "+gzip" }
    }

    pub(crate) fn zstd(name: &str, content: &[u8]) -> Self {
        let plain = tar(name, content);
        Self { packed: zstd::encode_all(plain.as_slice(), 1).unwrap(), plain, suffix: "+zstd" }
    }

    pub(crate) fn plain(name: &str, content: &[u8]) -> Self {
        let plain = tar(name, content);
        Self { packed: plain.clone(), plain, suffix: "" }
    }

    pub(crate) fn diff_id(&self) -> Digest {
        Digest::of(&self.plain)
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.packed)
    }

    pub(crate) fn descriptor(&self) -> Value {
        let media_type = format!("{OCI_LAYER}{}", self.suffix);
        json!({ "mediaType": media_type, "digest": self.digest(), "size": self.packed.len() })
    }
}

impl Image {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        Self::marked(layers, "")
    }

    /// One whose config, and so id, is another one.
    pub(crate) fn marked(layers: Vec<Layer>, mark: &str) -> Self {
        let here = Platform::here();
        let diff_ids: Vec<Digest> = layers.iter().map(Layer::diff_id).collect();
        let config = json!({
            "os": here.os(),
            "architecture": here.architecture(),
            "config": { "Cmd": ["/bin/sh"], "Labels": { "mark": mark } },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        Self::of(layers, config.to_string().into_bytes())
    }

    pub(crate) fn of(layers: Vec<Layer>, config: Vec<u8>) -> Self {
        let descriptors = layers.iter().map(Layer::descriptor).collect();
        let manifest = manifest(&config, descriptors).to_string().into_bytes();
        Self { layers, config, manifest }
    }

    /// Two layers of some length that do not pack well.
    pub(crate) fn usual() -> Self {
        let first = Layer::gzip("first", &noise(1, 300_000));
        Self::new(vec![first, Layer::gzip("second", &noise(2, 1000))])
    }

    pub(crate) fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
}

pub(crate) fn manifest(config: &[u8], layers: Vec<Value>) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": OCI_CONFIG, "digest": Digest::of(config), "size": config.len(),
        },
        "layers": layers,
    })
}

/// Bytes that no packer makes shorter, the same ones for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut head = [0; 512];
    let mut put =
        |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "07346545000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u64 = head.iter().map(|byte| u64::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = head.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}
