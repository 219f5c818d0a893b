//! Registries that send us elsewhere.

use std::sync::Arc;

use runtime::image::{Credential, PullOptions, RegistryError};

use super::image::Image;
use super::shelf::{Shelf, refusal};
use super::stage::{Stage, options, registry};
use super::stub::{Reply, Request, Stub};

/// A registry that wants a password and sends whoever wants a layer to `place`.
fn sending(image: &Image, place: impl Fn(&Request) -> String + Send + Sync + 'static) -> Stub {
    let shelf = Shelf::of("latest", image);
    let layer = image.layers[0].digest().to_string();
    Stub::start(move |request| {
        if request.header("authorization").is_none() {
            let refusal = refusal(401, "UNAUTHORIZED", "who are you");
            return refusal.with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if request.path.contains(&layer) {
            return Reply::new(307, "over there").with("Location", place(request));
        }
        shelf.answer(request)
    })
}

fn as_me(stub: &Stub) -> PullOptions {
    let mut options = options();
    let credential = Credential::Password { user: "me".to_owned(), password: "pw".to_owned() };
    options.registry.credentials.insert(stub.host(), credential);
    options
}

#[tokio::test]
async fn another_server_gives_a_layer_and_is_shown_nothing() {
    let image = Image::usual();
    let layer = image.layers[0].packed.clone();
    let other = Stub::start(move |_| Reply::new(200, layer.clone()));
    let place = format!("http://{}/some/where?signed=yes", other.host());
    let stub = sending(&image, move |_| place.clone());
    let stage = Stage::new();
    stage.pull_with(&format!("{}/app", stub.host()), &as_me(&stub)).await.unwrap();
    stage.holds(&image);
    let [request] = &other.seen()[..] else { panic!("{:?}", other.seen()) };
    assert_eq!(request.path, "/some/where?signed=yes");
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.header("host"), Some(other.host().as_str()));
}

#[tokio::test]
async fn another_server_that_asks_who_we_are_is_not_told() {
    let image = Image::usual();
    for challenge in ["Basic realm=\"x\"", "Bearer realm=\"http://127.0.0.1:1/token\""] {
        let other = Stub::start(move |_| {
            refusal(401, "UNAUTHORIZED", "tell me").with("WWW-Authenticate", challenge)
        });
        let place = format!("http://{}/", other.host());
        let stub = sending(&image, move |_| place.clone());
        let stage = Stage::new();
        let error = stage.refused(&format!("{}/app", stub.host()), &as_me(&stub)).await;
        let error = registry(error);
        let status = matches!(error, RegistryError::Status { status: 401, .. });
        assert!(status && !error.to_string().contains("tell me"), "{error:?}");
        assert!(other.seen().iter().all(|request| request.header("authorization").is_none()));
    }
}

#[tokio::test]
async fn what_comes_back_from_another_server_has_lost_its_credentials() {
    let image = Image::usual();
    let back = Arc::new(std::sync::OnceLock::new());
    let to = Arc::clone(&back);
    let other = Stub::start(move |_| {
        let host: &String = to.get().unwrap();
        Reply::new(302, "").with("Location", format!("http://{host}/v2/secret/thing"))
    });
    let place = format!("http://{}/", other.host());
    let stub = sending(&image, move |_| place.clone());
    back.set(stub.host()).unwrap();
    let error = Stage::new().refused(&format!("{}/app", stub.host()), &as_me(&stub)).await;
    assert!(matches!(registry(error), RegistryError::Status { status: 401, .. }));
    let came = stub.seen().into_iter().filter(|request| request.path == "/v2/secret/thing");
    let shown: Vec<_> = came.map(|request| request.header("authorization").is_some()).collect();
    assert_eq!(shown, [false]);
}

#[tokio::test]
async fn the_same_server_is_still_shown_who_we_are() {
    let image = Image::usual();
    let layer = image.layers[0].packed.clone();
    let digest = image.layers[0].digest().to_string();
    let shelf = Shelf::of("latest", &image);
    let stub = Stub::start(move |request| {
        if request.header("authorization").is_none() {
            let refusal = refusal(401, "UNAUTHORIZED", "who are you");
            return refusal.with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        match request.path.as_str() {
            "/elsewhere?x=1" => Reply::new(200, layer.clone()),
            path if path.contains(&digest) => {
                Reply::new(302, "").with("Location", "/elsewhere?x=1")
            }
            _ => shelf.answer(request),
        }
    });
    let stage = Stage::new();
    stage.pull_with(&format!("{}/app", stub.host()), &as_me(&stub)).await.unwrap();
    stage.holds(&image);
}

#[tokio::test]
async fn circles_and_places_that_nobody_should_be_sent_to_are_errors() {
    let image = Image::usual();
    let circle = sending(&image, |request| request.path.clone());
    let error = Stage::new().refused(&format!("{}/app", circle.host()), &as_me(&circle)).await;
    assert!(matches!(registry(error), RegistryError::Circles { .. }));
    assert!(circle.seen().len() < 20, "{}", circle.seen().len());
    for place in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "file:///etc/passwd",
        "gopher://x/",
        "nowhere",
        "",
    ] {
        let stub = sending(&image, move |_| place.to_owned());
        let error = Stage::new().refused(&format!("{}/app", stub.host()), &as_me(&stub)).await;
        let error = registry(error);
        assert!(matches!(error, RegistryError::Forbidden { .. }), "{place}: {error:?}");
    }
}
