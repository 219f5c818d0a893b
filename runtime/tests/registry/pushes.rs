//! Images that go to a registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use runtime::image::{Digest, ImageError, Origin, Packing, PushOptions, SharedWatcher, push};

use super::image::{Image, OCI_MANIFEST};
use super::shelf::{Shelf, refusal};
use super::stage::{Stage, bounded, patience, registry};
use super::stub::{Manner, Reply, Request, Stub};

fn options() -> PushOptions {
    let mut options = PushOptions::default();
    options.registry.patience = patience();
    options
}

/// An image that came from an archive, which says nothing of how layers were packed.
fn loaded(image: &Image) -> Stage {
    let stage = Stage::new();
    let staged = image.layers.iter().map(|layer| {
        let (mut from, diff_id) = (layer.packed.as_slice(), layer.diff_id());
        let bounds = runtime::unpack::Bounds::default();
        stage.images.stage(&mut from, "layer", Some(&diff_id), &bounds, &|_| true).unwrap()
    });
    let staged = staged.collect();
    stage.images.commit(&image.config, None, staged, &[], Origin::Asked).unwrap();
    stage
}

fn serving(
    shelf: &Arc<Shelf>,
    before: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> Stub {
    let shelf = Arc::clone(shelf);
    Stub::start(move |request| before(request).unwrap_or_else(|| shelf.answer(request)))
}

#[tokio::test]
async fn what_was_pushed_can_be_pulled_and_is_the_same_image() {
    let image = Image::usual();
    let stage = loaded(&image);
    for packing in [Packing::Gzip, Packing::Zstd, Packing::Plain] {
        let shelf = Arc::new(Shelf::new());
        let stub = serving(&shelf, |_| None);
        let name = format!("{}/some/app:2", stub.host());
        let options = PushOptions { packing, ..options() };
        let digest = stage.push(&image.id(), &name, &options).await.unwrap();
        let (media_type, manifest) = shelf.manifest("2").unwrap();
        assert_eq!((media_type.as_str(), Digest::of(&manifest)), (OCI_MANIFEST, digest));
        let other = Stage::new();
        assert_eq!(other.pull(&name).await.unwrap().id, image.id());
        other.holds(&image);
        // By digest, without a tag, to another repository.
        let by_digest = format!("{}/other@{digest}", stub.host());
        assert_eq!(stage.push(&image.id(), &by_digest, &options).await.unwrap(), digest);
        let wrong = format!("{}/other@{}", stub.host(), image.digest());
        let error = stage.push(&image.id(), &wrong, &options).await;
        assert!(matches!(error, Err(ImageError::Mismatch { .. })), "{error:?}");
    }
}

#[tokio::test]
async fn what_the_registry_has_is_not_sent_again() {
    let image = Image::usual();
    let shelf = Arc::new(Shelf::of("latest", &image));
    let stub = serving(&shelf, |_| None);
    let stage = Stage::new();
    stage.pull(&format!("{}/app", stub.host())).await.unwrap();
    let name = format!("{}/app:again", stub.host());
    // All of it is there: it is the same image with one more tag.
    assert_eq!(stage.push(&image.id(), &name, &options()).await.unwrap(), image.digest());
    assert_eq!(stub.count("POST", ""), 0);
    assert_eq!(shelf.manifest("again"), shelf.manifest("latest"));
    // To another registry, which has one of the layers.
    let partly = Arc::new(Shelf::new());
    partly.put_blob(&image.layers[0].packed);
    let stub = serving(&partly, |_| None);
    let name = format!("{}/app", stub.host());
    stage.push(&image.id(), &name, &options()).await.unwrap();
    assert_eq!(stub.count("PATCH", ""), 1, "the other layer");
    let other = Stage::new();
    other.pull(&name).await.unwrap();
    other.holds(&image);
}

#[tokio::test]
async fn an_upload_that_breaks_begins_anew() {
    let image = Image::usual();
    let stage = loaded(&image);
    let number = AtomicUsize::new(0);
    let shelf = Arc::new(Shelf::new());
    let stub = serving(&shelf, move |request| {
        if request.method == "POST" || request.method == "HEAD" {
            return None;
        }
        match number.fetch_add(1, Ordering::SeqCst) {
            0 => Some(Reply::new(500, "")),
            1 => Some(Reply::new(200, "").manner(Manner::Raw)),
            2 => Some(refusal(429, "TOOMANYREQUESTS", "slow down")),
            _ => None,
        }
    });
    let name = format!("{}/app", stub.host());
    stage.push(&image.id(), &name, &options()).await.unwrap();
    let other = Stage::new();
    other.pull(&name).await.unwrap();
    other.holds(&image);
}

#[tokio::test]
async fn a_registry_that_takes_no_streams_is_given_whole_layers() {
    let image = Image::usual();
    let stage = loaded(&image);
    let shelf = Arc::new(Shelf::new());
    let stub = serving(&shelf, |request| (request.method == "PATCH").then(|| Reply::new(405, "")));
    let name = format!("{}/app", stub.host());
    stage.push(&image.id(), &name, &options()).await.unwrap();
    let puts = stub.seen().into_iter().filter(|it| it.is("PUT", "/blobs/uploads/"));
    assert!(puts.clone().all(|it| it.header("content-length") == Some(&it.body.len().to_string())));
    assert_eq!(puts.filter(|it| !it.body.is_empty()).count(), 3, "two layers and the config");
    let other = Stage::new();
    other.pull(&name).await.unwrap();
    other.holds(&image);
}

#[tokio::test]
async fn a_token_that_goes_stale_before_an_upload_is_renewed() {
    let image = Image::usual();
    let stage = loaded(&image);
    let given = AtomicUsize::new(0);
    let giver = Stub::start(move |_| {
        let token = given.fetch_add(1, Ordering::SeqCst);
        Reply::new(200, format!("{{\"token\":\"t{token}\"}}"))
    });
    let challenge = format!("Bearer realm=\"http://{}/token\"", giver.host());
    let shelf = Arc::new(Shelf::new());
    // The first token is good until the first upload.
    let stale = AtomicBool::new(false);
    let stub = serving(&shelf, move |request| {
        if request.method == "PATCH" && request.header("authorization") == Some("Bearer t0") {
            stale.store(true, Ordering::SeqCst);
        }
        let refused = match request.header("authorization") {
            None => true,
            Some("Bearer t0") => stale.load(Ordering::SeqCst),
            Some(_) => false,
        };
        refused.then(|| Reply::new(401, "").with("WWW-Authenticate", challenge.clone()))
    });
    let name = format!("{}/app", stub.host());
    stage.push(&image.id(), &name, &options()).await.unwrap();
    assert_eq!(giver.seen().len(), 2);
    assert!(
        giver.seen().iter().all(|it| it.path.ends_with("scope=repository%3Aapp%3Apull%2Cpush"))
    );
}

#[tokio::test]
async fn a_push_that_is_refused_says_why() {
    let image = Image::usual();
    let stage = loaded(&image);
    let shelf = Arc::new(Shelf::new());
    let stub = serving(&shelf, |request| {
        (request.method == "POST").then(|| refusal(403, "DENIED", "read only"))
    });
    let name = format!("{}/app", stub.host());
    let error = registry(stage.push(&image.id(), &name, &options()).await.unwrap_err());
    assert!(error.to_string().ends_with("denies app: \"read only\""), "{error}");
    let nobody = Digest::of(b"nobody");
    let error = stage.push(&nobody, &name, &options()).await;
    assert!(error.is_err());
}

#[tokio::test]
async fn a_push_is_called_off_at_once() {
    let image = Image::usual();
    let stage = loaded(&image);
    let shelf = Arc::new(Shelf::new());
    let stub = serving(&shelf, |request| {
        (request.method == "PATCH").then(|| Reply::new(202, "").manner(Manner::Nothing))
    });
    let asked = AtomicUsize::new(0);
    let watcher: SharedWatcher = Arc::new(move |progress| {
        progress.layer.is_some() || asked.fetch_add(1, Ordering::SeqCst) < 2
    });
    let name = format!("{}/app", stub.host()).parse().unwrap();
    let options = options();
    let begin = std::time::Instant::now();
    let ended = bounded(push(&stage.images, &image.id(), &name, &options, watcher)).await;
    assert!(matches!(ended, Err(ImageError::CalledOff)), "{ended:?}");
    assert!(begin.elapsed() < options.registry.patience.head);
    assert_eq!(shelf.manifest("latest"), None);
}

#[tokio::test]
async fn a_place_elsewhere_is_shown_nothing() {
    let image = Image::usual();
    let stage = loaded(&image);
    let stored = Arc::new(Shelf::new());
    let other = serving(&stored, |_| None);
    let place = format!("http://{}/v2/x/blobs/uploads/", other.host());
    let shelf = Arc::new(Shelf::new());
    let number = AtomicUsize::new(0);
    let stub = serving(&shelf, move |request| {
        if request.header("authorization").is_none() {
            return Some(Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""));
        }
        let number = number.fetch_add(1, Ordering::SeqCst);
        let place = format!("{place}{number}");
        (request.method == "POST").then(|| Reply::new(202, "").with("Location", place))
    });
    let mut options = options();
    let credential = runtime::image::Credential::Password {
        user: "me".to_owned(),
        password: "secret".to_owned(),
    };
    options.registry.credentials.insert(stub.host(), credential);
    stage.push(&image.id(), &format!("{}/app", stub.host()), &options).await.unwrap();
    assert!(stored.blob(&image.id().to_string()).is_some());
    assert!(other.seen().iter().all(|request| request.header("authorization").is_none()));
}
