//! Images that come as they should, and no more of them than has to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use runtime::image::{Digest, ImageError, Platform, Progress, SharedWatcher, Stage as Step, pull};
use serde_json::{Value, json};

use super::image::{Image, Layer, OCI_INDEX, OCI_MANIFEST, noise};
use super::shelf::Shelf;
use super::stage::{Stage, bounded, options};
use super::stub::{Manner, Reply, Stub};

#[tokio::test]
async fn an_image_comes_whole_however_it_is_packed() {
    let content = noise(1, 200_000);
    let image = Image::new(vec![
        Layer::gzip("a", &content),
        Layer::zstd("b", &content),
        Layer::plain("c", &content),
    ]);
    let shelf = Shelf::of("1.0", &image);
    let stub = Stub::start(move |request| shelf.answer(request));
    let stage = Stage::new();
    let name = format!("{}/some/app:1.0", stub.host());
    let info = stage.pull(&name).await.unwrap();
    assert_eq!((info.id, info.manifest), (image.id(), Some(image.digest())));
    assert_eq!(info.names.iter().map(ToString::to_string).collect::<Vec<_>>(), [name]);
    assert_eq!(stage.images.manifest_bytes(&info.id).unwrap(), Some(image.manifest.clone()));
    stage.holds(&image);
}

#[tokio::test]
async fn what_is_here_is_not_fetched_again() {
    let shared = Layer::gzip("shared", &noise(1, 50_000));
    let one = Image::new(vec![shared.clone()]);
    // The same layer packed in another way, and twice in one image.
    let again = Layer::zstd("shared", &noise(1, 50_000));
    let new = Layer::gzip("new", b"new");
    let two = Image::marked(vec![again.clone(), new.clone(), again.clone(), new.clone()], "two");
    let shelf = Shelf::of("one", &one);
    shelf.put("two", &two);
    let stub = Stub::start(move |request| shelf.answer(request));
    let stage = Stage::new();
    let name = |tag: &str| format!("{}/app:{tag}", stub.host());
    for _ in 0..2 {
        stage.pull(&name("one")).await.unwrap();
        stage.pull(&name("two")).await.unwrap();
    }
    stage.holds(&two);
    let fetched = |digest: Digest| stub.count("GET", &format!("/blobs/{digest}"));
    assert_eq!(fetched(shared.digest()), 1);
    assert_eq!(fetched(again.digest()), 0);
    assert_eq!(fetched(new.digest()), 1);
    assert_eq!(fetched(one.id()), 1, "its config");
}

#[tokio::test]
async fn three_layers_come_at_once() {
    let layers = (0..6).map(|seed| Layer::gzip("f", &noise(seed, 1000))).collect();
    let image = Image::new(layers);
    let shelf = Shelf::of("latest", &image);
    let config = image.id().to_string();
    let three = Barrier::new(3);
    let stub = Stub::start(move |request| {
        if request.path.contains("/blobs/") && !request.path.contains(&config) {
            // Without three at once nobody gets past this.
            three.wait();
        }
        shelf.answer(request)
    });
    let stage = Stage::new();
    stage.pull(&format!("{}/app", stub.host())).await.unwrap();
    stage.holds(&image);
}

#[tokio::test]
async fn two_pulls_at_once_fetch_each_layer_once() {
    let image = Image::usual();
    let shelf = Shelf::of("latest", &image);
    let stub = Stub::start(move |request| shelf.answer(request));
    let stage = Stage::new();
    let name = format!("{}/app", stub.host());
    let (one, two) = tokio::join!(stage.pull(&name), stage.pull(&name));
    assert_eq!((one.unwrap().id, two.unwrap().id), (image.id(), image.id()));
    for layer in &image.layers {
        assert_eq!(stub.count("GET", &format!("/blobs/{}", layer.digest())), 1);
    }
}

fn entry(image: &Image, platform: Value) -> Value {
    let size = image.manifest.len();
    json!({
        "mediaType": OCI_MANIFEST, "digest": image.digest(), "size": size, "platform": platform,
    })
}

fn index(entries: Vec<Value>) -> Vec<u8> {
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    index.to_string().into_bytes()
}

#[tokio::test]
async fn an_index_gives_what_fits_this_machine_or_says_what_there_is() {
    let image = Image::usual();
    let here = Platform::here();
    let ours = json!({ "os": here.os(), "architecture": here.architecture() });
    let other = Image::marked(Vec::new(), "other");
    let foreign = json!({ "os": "linux", "architecture": "s390x" });
    let shelf = Shelf::of("hidden", &image);
    let fits = index(vec![entry(&other, foreign.clone()), entry(&image, ours)]);
    shelf.put_manifest("fits", OCI_INDEX, &fits);
    let whole = json!({ "mediaType": OCI_INDEX, "digest": Digest::of(&fits), "size": fits.len() });
    shelf.put_manifest("nested", OCI_INDEX, &index(vec![whole]));
    shelf.put_manifest("foreign", OCI_INDEX, &index(vec![entry(&other, foreign)]));
    let stub = Stub::start(move |request| shelf.answer(request));
    let name = |tag: &str| format!("{}/app:{tag}", stub.host());
    let error = Stage::new().refused(&name("foreign"), &options()).await;
    assert!(
        matches!(&error, ImageError::Platform { has, .. } if has == &["linux/s390x"]),
        "{error:?}"
    );
    for tag in ["fits", "nested"] {
        let stage = Stage::new();
        let info = stage.pull(&name(tag)).await.unwrap();
        assert_eq!((info.id, info.manifest), (image.id(), Some(image.digest())), "{tag}");
    }
    // By the digest of the index, which is what other tools show.
    let by_digest = format!("{}/app@{}", stub.host(), Digest::of(&fits));
    assert_eq!(Stage::new().pull(&by_digest).await.unwrap().id, image.id());
    let mut options = options();
    options.platform = Some(Platform::new("linux", "s390x", ""));
    let error = Stage::new().refused(&name("hidden"), &options).await;
    assert!(matches!(error, ImageError::Platform { .. }), "{error:?}");
}

#[tokio::test]
async fn mirrors_are_asked_before_the_registry_in_their_order() {
    let image = Image::usual();
    let shelf = Arc::new(Shelf::of("latest", &image));
    let empty = Stub::start(|request| Shelf::new().answer(request));
    let with_prefix = Arc::clone(&shelf);
    let mirror = Stub::start(move |request| with_prefix.answer(request));
    let origin = Stub::start(move |request| shelf.answer(request));
    // A port where nobody listens any more.
    let gone = Stub::start(|_| Reply::new(500, "")).host();
    let mut options = options();
    let mirrors = vec![gone, empty.host(), format!("{}/cache", mirror.host())];
    options.registry.mirrors.insert(origin.host(), mirrors);
    let stage = Stage::new();
    let name = format!("{}/app", origin.host());
    let info = stage.pull_with(&name, &options).await.unwrap();
    assert_eq!(info.names.iter().map(ToString::to_string).collect::<Vec<_>>(), [name + ":latest"]);
    assert_eq!(empty.count("GET", "/v2/app/manifests/latest"), 1);
    assert_eq!(mirror.count("GET", "/v2/cache/app/manifests/latest"), 1);
    assert!(origin.seen().is_empty(), "the mirror had all of it");
    stage.holds(&image);
}

#[tokio::test]
async fn a_mirror_that_fails_or_lies_is_replaced_by_the_registry() {
    let image = Image::usual();
    for manner in [None, Some(Manner::Break(100_000)), Some(Manner::Nothing)] {
        let shelf = Arc::new(Shelf::of("latest", &image));
        let (of_mirror, layer) = (Arc::clone(&shelf), image.layers[0].digest().to_string());
        let mirror = Stub::start(move |request| {
            let mut reply = of_mirror.answer(request);
            if request.path.contains(&layer) {
                match manner {
                    Some(manner) => reply.manner = manner,
                    None => reply.body[1000] ^= 1,
                }
            }
            reply
        });
        let origin = Stub::start(move |request| shelf.answer(request));
        let mut options = options();
        options.registry.mirrors.insert(origin.host(), vec![mirror.host()]);
        options.registry.patience.head = Duration::from_secs(2);
        options.registry.patience.tries = 2;
        let stage = Stage::new();
        stage.pull_with(&format!("{}/app", origin.host()), &options).await.unwrap();
        stage.holds(&image);
        assert_eq!(origin.seen().len(), 1, "{manner:?}: one layer, and that once");
    }
}

#[tokio::test]
async fn a_watcher_that_says_no_ends_it_at_once() {
    let image = Image::usual();
    let layer = image.layers[0].digest().to_string();
    for silent in ["/manifests/", &layer] {
        let shelf = Shelf::of("latest", &image);
        let silent = silent.to_owned();
        let stub = Stub::start(move |request| {
            let reply = shelf.answer(request);
            if request.path.contains(&silent) { reply.manner(Manner::Silence(10)) } else { reply }
        });
        let stage = Stage::new();
        let begin = Instant::now();
        let asked = AtomicUsize::new(0);
        // Late enough for the server to have fallen silent.
        let watcher: SharedWatcher = Arc::new(move |progress: Progress| {
            progress.layer.is_some() || asked.fetch_add(1, Ordering::SeqCst) < 2
        });
        let name = format!("{}/app", stub.host()).parse().unwrap();
        let options = options();
        let ended = bounded(pull(&stage.images, &name, &options, watcher)).await;
        assert!(matches!(ended, Err(ImageError::CalledOff)), "{ended:?}");
        assert!(begin.elapsed() < options.registry.patience.silence, "it was waited for");
        assert!(stage.images.list().is_empty());
        assert!(!stage.images.has_layer(&image.layers[0].diff_id()));
    }
}

#[tokio::test]
async fn progress_tells_of_each_layer_how_far_it_is() {
    let image = Image::usual();
    let shelf = Shelf::of("latest", &image);
    let stub = Stub::start(move |request| shelf.answer(request));
    let stage = Stage::new();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let name = format!("{}/app", stub.host()).parse().unwrap();
    for step in [Step::Done, Step::Known] {
        let to = Arc::clone(&told);
        let watcher: SharedWatcher = Arc::new(move |progress| {
            to.lock().unwrap().push(progress);
            true
        });
        bounded(pull(&stage.images, &name, &options(), watcher)).await.unwrap();
        let told: Vec<Progress> = told.lock().unwrap().drain(..).collect();
        for layer in &image.layers {
            let short = layer.digest().short();
            let mut of_it = told.iter().filter(|told| told.layer.as_deref() == Some(&short));
            let all = Some(layer.packed.len() as u64);
            assert!(of_it.clone().all(|told| told.of == all), "{told:?}");
            assert!(of_it.any(|told| told.stage == step && Some(told.bytes) == all), "{told:?}");
        }
    }
}
