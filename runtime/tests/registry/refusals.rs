//! Pulls that cannot be, and what people are told.

use runtime::image::RegistryError;

use super::image::Image;
use super::shelf::{Shelf, refusal, unknown};
use super::stage::{Stage, options, registry};
use super::stub::{Manner, Reply, Stub};

async fn told(reply: Reply) -> (RegistryError, usize) {
    let stub = Stub::start(move |_| reply.clone());
    let name = format!("{}/some/app:1.0", stub.host());
    let error = registry(Stage::new().refused(&name, &options()).await);
    (error, stub.seen().len())
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_said_at_once() {
    let gone = Stub::start(|_| Reply::new(500, "")).host();
    let error = registry(Stage::new().refused(&format!("{gone}/app"), &options()).await);
    assert!(
        matches!(&error, RegistryError::Unreachable { host, .. } if *host == gone),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_a_registry_does_not_have_is_told_from_what_is_no_registry() {
    let (error, _) = told(unknown("NAME_UNKNOWN")).await;
    assert!(matches!(&error, RegistryError::NoRepository { .. }), "{error:?}");
    assert!(error.to_string().ends_with(" has no some/app"), "{error}");
    let (error, _) = told(unknown("MANIFEST_UNKNOWN")).await;
    assert!(error.to_string().ends_with(" has no 1.0 in some/app"), "{error}");
    let web = |status| Reply::new(status, "<html>").with("Content-Type", "text/html; charset=x");
    for (reply, why) in [
        (web(404), "it knows no /v2/"),
        (web(200), "it gives a web page in place of a manifest"),
        (Reply::new(200, "SSH-2.0-x\r\n").manner(Manner::Raw), "it does not answer as HTTP does"),
    ] {
        let (error, _) = told(reply).await;
        let RegistryError::NotARegistry { why: said, .. } = &error else { panic!("{error:?}") };
        assert_eq!(said, why);
    }
    // One that says no more than 404, but is one.
    let stub = Stub::start(|request| match request.path.as_str() {
        "/v2/" => Reply::new(401, ""),
        _ => Reply::new(404, ""),
    });
    let name = format!("{}/app", stub.host());
    let error = registry(Stage::new().refused(&name, &options()).await);
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn other_refusals_are_told_with_the_registrys_own_words() {
    let long = "x".repeat(5000) + "\u{7}";
    let (error, tries) = told(refusal(418, "TEAPOT", &long)).await;
    let RegistryError::Status { status: 418, said, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*said, "x".repeat(200));
    assert_eq!(tries, 1);
    let (error, _) = told(Reply::new(302, "")).await;
    assert!(matches!(error, RegistryError::Nonsense { .. }), "{error:?}");
    // A refusal without end is none that is read.
    let endless = Reply::new(400, "").with("Content-Length", "99999999999");
    let (error, _) = told(endless.manner(Manner::Endless)).await;
    assert!(matches!(error, RegistryError::Status { status: 400, .. }), "{error:?}");
}

#[tokio::test]
async fn a_mirror_that_is_none_is_an_error() {
    let image = Image::usual();
    let shelf = Shelf::of("latest", &image);
    let stub = Stub::start(move |request| shelf.answer(request));
    for mirror in ["https://mirror.example", "", "mirror example", "../x"] {
        let mut options = options();
        options.registry.mirrors.insert(stub.host(), vec![mirror.to_owned()]);
        let name = format!("{}/app", stub.host());
        let error = registry(Stage::new().refused(&name, &options).await);
        assert!(matches!(error, RegistryError::Nonsense { .. }), "{mirror}: {error:?}");
    }
}
