//! Registries that give something else than they promised. Of what they gave nothing stays.

use runtime::image::{Digest, ImageError, Platform, RegistryError};
use runtime::unpack::Bounds;
use serde_json::{Value, json};

use super::image::{Image, Layer, OCI_INDEX, OCI_MANIFEST, manifest, noise};
use super::shelf::Shelf;
use super::stage::{Stage, options, registry};
use super::stub::{Manner, Reply, Request, Stub};

/// What a pull comes to when answers for paths with `part` in them go through `bend`.
async fn bent(
    image: &Image,
    part: &str,
    bend: impl Fn(Reply) -> Reply + Send + Sync + 'static,
) -> ImageError {
    let shelf = Shelf::of("latest", image);
    let part = part.to_owned();
    let stub = Stub::start(move |request: &Request| {
        let reply = shelf.answer(request);
        if request.path.contains(&part) { bend(reply) } else { reply }
    });
    Stage::new().refused(&format!("{}/app", stub.host()), &options()).await
}

/// What the pull of an image with this manifest comes to.
async fn with_manifest(image: &Image, media_type: &str, bytes: Vec<u8>) -> ImageError {
    let shelf = Shelf::of("honest", image);
    shelf.put_manifest("latest", media_type, &bytes);
    let stub = Stub::start(move |request| shelf.answer(request));
    Stage::new().refused(&format!("{}/app", stub.host()), &options()).await
}

#[tokio::test]
async fn a_manifest_that_is_not_the_one_with_that_digest_is_refused() {
    let image = Image::usual();
    let other = Image::marked(Vec::new(), "other");
    let shelf = Shelf::of("latest", &image);
    let lie = other.manifest.clone();
    let stub = Stub::start(move |request| {
        let reply = shelf.answer(request);
        if request.path.contains("/manifests/sha256:") {
            return Reply::new(200, lie.clone()).with("Content-Type", OCI_MANIFEST);
        }
        reply
    });
    let name = format!("{}/app@{}", stub.host(), image.digest());
    let error = Stage::new().refused(&name, &options()).await;
    let ImageError::Mismatch { wanted, found, .. } = error else { panic!("{error:?}") };
    assert_eq!((wanted, found), (image.digest(), other.digest()));
    // By tag, its own header convicts it.
    let error = bent(&image, "/manifests/", |mut reply| {
        reply.body.push(b' ');
        reply
    });
    assert!(matches!(error.await, ImageError::Mismatch { .. }));
}

#[tokio::test]
async fn a_config_with_other_bytes_is_refused() {
    let image = Image::usual();
    let id = image.id().to_string();
    let error = bent(&image, &id, |mut reply| {
        reply.body[0] = b' ';
        reply
    });
    assert!(matches!(error.await, ImageError::Mismatch { .. }));
    let error = bent(&image, &id, |mut reply| {
        reply.body.push(b' ');
        reply
    });
    assert!(matches!(registry(error.await), RegistryError::TooLong { .. }));
}

#[tokio::test]
async fn a_layer_with_other_bytes_is_refused() {
    let image = Image::usual();
    let digest = image.layers[0].digest().to_string();
    // In the middle of what is packed, and in the comment that no unpacker looks at.
    for at in [100_000, 4] {
        let error = bent(&image, &digest, move |mut reply| {
            reply.body[at] ^= 1;
            reply
        });
        let error = error.await;
        let refused = matches!(error, ImageError::Mismatch { .. } | ImageError::Layer { .. });
        assert!(refused, "{error:?}");
    }
    // The very same files, packed in another way into as many bytes.
    let plain = Image::new(vec![Layer::plain("f", b"x")]);
    let other = Layer::plain("f", b"y").packed;
    let digest = plain.layers[0].digest().to_string();
    let error = bent(&plain, &digest, move |mut reply| {
        reply.body = other.clone();
        reply
    });
    assert!(matches!(error.await, ImageError::Mismatch { .. }));
}

#[tokio::test]
async fn a_layer_of_another_length_is_refused() {
    let image = Image::usual();
    let digest = image.layers[0].digest().to_string();
    for manner in [Manner::Whole, Manner::Chunks] {
        let error = bent(&image, &digest, move |mut reply| {
            reply.body.push(0);
            reply.manner(manner)
        });
        assert!(matches!(registry(error.await), RegistryError::Nonsense { .. }));
    }
    let error = bent(&image, &digest, |mut reply| {
        reply.body.pop();
        reply
    });
    assert!(matches!(registry(error.await), RegistryError::Nonsense { .. }));
    // In chunks a shorter one looks like one that broke off, each time.
    let error = bent(&image, &digest, |mut reply| {
        reply.headers.clear();
        reply.status = 200;
        reply.body.truncate(1000);
        reply.manner(Manner::Chunks)
    });
    let error = registry(error.await);
    assert!(matches!(error, RegistryError::Broke { .. }), "{error:?}");
}

#[tokio::test]
async fn a_layer_that_unpacks_to_something_else_than_the_config_says_is_refused() {
    let honest = Image::usual();
    let here = Platform::here();
    let config = json!({
        "os": here.os(),
        "architecture": here.architecture(),
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"a"), Digest::of(b"b")] },
    });
    let image = Image::of(honest.layers, config.to_string().into_bytes());
    let error = bent(&image, "nothing", |reply| reply).await;
    let ImageError::Mismatch { wanted, .. } = error else { panic!("{error:?}") };
    assert!([Digest::of(b"a"), Digest::of(b"b")].contains(&wanted));
}

#[tokio::test]
async fn a_manifest_of_absurd_length_is_not_read() {
    let image = Image::usual();
    let endless = |reply: Reply| {
        Reply { headers: Vec::new(), ..reply }
            .with("Content-Length", "999999999999")
            .manner(Manner::Endless)
    };
    let chunks = |reply: Reply| {
        Reply { body: vec![b' '; 5 << 20], headers: Vec::new(), ..reply }.manner(Manner::Chunks)
    };
    for error in [
        bent(&image, "/manifests/", endless).await,
        bent(&image, "/manifests/", chunks).await,
        bent(&image, &image.id().to_string(), endless).await,
    ] {
        let error = registry(error);
        assert!(matches!(error, RegistryError::TooLong { .. }), "{error:?}");
    }
    // Heads have their bound, too.
    let head = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(2 << 20));
    let stub = Stub::start(move |_| Reply::new(200, head.clone()).manner(Manner::Raw));
    let name = format!("{}/app", stub.host());
    let error = registry(Stage::new().refused(&name, &options()).await);
    assert!(matches!(error, RegistryError::NotARegistry { .. }), "{error:?}");
}

#[tokio::test]
async fn documents_that_are_something_else_than_they_say_are_refused() {
    let image = Image::usual();
    let honest = image.manifest.clone();
    let docker_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let old = json!({ "schemaVersion": 1, "fsLayers": [], "history": [] });
    let fewer = manifest(&image.config, vec![image.layers[0].descriptor()]);
    let bytes = |value: Value| value.to_string().into_bytes();
    for (media_type, manifest) in [
        (OCI_INDEX, honest.clone()),
        ("application/vnd.oci.empty.v1+json", honest),
        (docker_1, bytes(old.clone())),
        ("application/json", bytes(old)),
        (OCI_MANIFEST, bytes(fewer)),
        (OCI_MANIFEST, b"{".to_vec()),
        (OCI_MANIFEST, Vec::new()),
        (OCI_MANIFEST, b"[".repeat(100_000)),
    ] {
        let error = with_manifest(&image, media_type, manifest).await;
        assert!(matches!(error, ImageError::Document { .. }), "{media_type}: {error:?}");
    }
}

#[tokio::test]
async fn indexes_without_end_are_not_followed() {
    let image = Image::usual();
    let shelf = Shelf::of("honest", &image);
    let mut inner = (OCI_MANIFEST, image.manifest);
    for _ in 0..20 {
        let (digest, size) = (Digest::of(&inner.1), inner.1.len());
        let entry = json!({ "mediaType": inner.0, "digest": digest, "size": size });
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] });
        inner = (OCI_INDEX, index.to_string().into_bytes());
        shelf.put_manifest("latest", OCI_INDEX, &inner.1);
    }
    let stub = Stub::start(move |request| shelf.answer(request));
    let error = Stage::new().refused(&format!("{}/app", stub.host()), &options()).await;
    assert!(matches!(error, ImageError::Document { .. }), "{error:?}");
    assert!(stub.seen().len() < 10);
}

#[tokio::test]
async fn other_places_that_a_manifest_names_are_never_asked() {
    let image = Image::usual();
    let elsewhere = Stub::start(|_| Reply::new(401, "").with("WWW-Authenticate", "Basic"));
    let mut layers: Vec<Value> = image.layers.iter().map(Layer::descriptor).collect();
    for layer in &mut layers {
        layer["urls"] = json!([format!("http://{}/layer", elsewhere.host())]);
    }
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    layers[1]["mediaType"] = json!(foreign);
    let shelf = Shelf::new();
    shelf.put_blob(&image.config);
    shelf.put_blob(&image.layers[0].packed);
    let manifest = manifest(&image.config, layers).to_string().into_bytes();
    shelf.put_manifest("latest", OCI_MANIFEST, &manifest);
    let stub = Stub::start(move |request| shelf.answer(request));
    let error = Stage::new().refused(&format!("{}/app", stub.host()), &options()).await;
    assert!(matches!(registry(error), RegistryError::NotFound { .. }));
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn a_bomb_ends_at_the_bound() {
    let image = Image::new(vec![Layer::gzip("zeros", &vec![0; 8 << 20])]);
    let shelf = Shelf::of("latest", &image);
    let stub = Stub::start(move |request| shelf.answer(request));
    let mut options = options();
    options.bounds = Bounds { bytes: 1 << 20, ..Bounds::default() };
    let error = Stage::new().refused(&format!("{}/app", stub.host()), &options).await;
    assert!(matches!(error, ImageError::Layer { .. }), "{error:?}");
}

#[tokio::test]
async fn one_bad_layer_ends_the_others() {
    let layers: Vec<Layer> = (0..9).map(|seed| Layer::gzip("f", &noise(seed, 1000))).collect();
    let image = Image::new(layers);
    let first = image.layers[0].digest().to_string();
    let last = image.layers[8].digest().to_string();
    let shelf = Shelf::of("latest", &image);
    let stub = Stub::start(move |request| {
        let reply = shelf.answer(request);
        match &request.path {
            path if path.contains(&first) => Reply::new(404, ""),
            // All that are under way beside it wait for ever.
            path if path.contains("/blobs/") && !path.contains(&image.id().to_string()) => {
                reply.manner(Manner::Nothing)
            }
            _ => reply,
        }
    });
    let error = Stage::new().refused(&format!("{}/app", stub.host()), &options()).await;
    assert!(matches!(registry(error), RegistryError::NotFound { .. }));
    assert_eq!(stub.count("GET", &last), 0);
}
