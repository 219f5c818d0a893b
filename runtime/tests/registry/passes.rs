//! Who we are: shown when it is wanted, to whom it is for, and to nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use data_encoding::BASE64;
use runtime::image::{Credential, PullOptions, RegistryError};
use serde_json::json;

use super::image::Image;
use super::shelf::{Shelf, refusal};
use super::stage::{Stage, options, registry};
use super::stub::{Manner, Reply, Request, Stub};

fn password(user: &str, password: &str) -> Credential {
    Credential::Password { user: user.to_owned(), password: password.to_owned() }
}

fn as_user(stub: &Stub, credential: Credential) -> PullOptions {
    let mut options = options();
    options.registry.credentials.insert(stub.host(), credential);
    options
}

fn basic(pair: &str) -> String {
    format!("Basic {}", BASE64.encode(pair.as_bytes()))
}

fn unauthorised(challenge: &str) -> Reply {
    refusal(401, "UNAUTHORIZED", "who are you").with("WWW-Authenticate", challenge)
}

#[tokio::test]
async fn a_password_is_shown_when_it_is_wanted() {
    let image = Image::usual();
    let shelf = Shelf::of("latest", &image);
    let wanted = basic("me:s3:cret");
    let stub = Stub::start(move |request| {
        if request.header("authorization") == Some(&wanted) {
            return shelf.answer(request);
        }
        unauthorised("Basic realm=\"here\"")
    });
    let name = format!("{}/app", stub.host());
    let stage = Stage::new();
    let error = registry(stage.refused(&name, &options()).await);
    assert!(matches!(error, RegistryError::NeedsCredentials { .. }), "{error:?}");
    assert!(error.wants_credentials());
    let wrong = as_user(&stub, password("me", "other"));
    let error = registry(stage.refused(&name, &wrong).await);
    assert!(matches!(error, RegistryError::WrongCredentials { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("other"));
    assert_eq!(stub.seen().len(), 3, "nothing is tried twice");
    stage.pull_with(&name, &as_user(&stub, password("me", "s3:cret"))).await.unwrap();
    stage.holds(&image);
    // Once it was asked for, it goes along at once: one refusal, and three or four answers.
    let unasked = stub.seen()[3..].iter().filter(|it| it.header("authorization").is_none()).count();
    assert_eq!(unasked, 1);
}

/// A registry that wants tokens, and where they are given.
struct Tokens {
    registry: Stub,
    giver: Stub,
}

/// `accept` says whether a token is good for a request; `give` gives out one, by number.
fn tokens(
    image: &Image,
    accept: impl Fn(&str, &Request) -> bool + Send + Sync + 'static,
    give: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static,
) -> Tokens {
    let given = AtomicUsize::new(0);
    let giver = Stub::start(move |request| give(given.fetch_add(1, Ordering::SeqCst), request));
    let shelf = Shelf::of("latest", image);
    let challenge = format!(
        "Bearer realm=\"http://{}/token?old=1\",service=\"a service\",scope=\"repository:all:*\"",
        giver.host()
    );
    let registry = Stub::start(move |request| {
        let shown = request.header("authorization").unwrap_or_default();
        match shown.strip_prefix("Bearer ") {
            Some(token) if accept(token, request) => shelf.answer(request),
            _ => unauthorised(&challenge),
        }
    });
    Tokens { registry, giver }
}

fn token(text: &str) -> Reply {
    Reply::new(200, json!({ "token": text, "expires_in": 300 }).to_string())
}

#[tokio::test]
async fn a_token_is_fetched_where_the_registry_says_for_this_repository_alone() {
    let image = Image::usual();
    for credential in [None, Some(password("me", "secret"))] {
        let shown = credential.as_ref().map(|_| basic("me:secret"));
        let wanted = shown.clone();
        let both = tokens(
            &image,
            |token, _| token == "good",
            move |_, request| {
                let sound = request.header("authorization") == wanted.as_deref();
                if sound { token("good") } else { Reply::new(401, "") }
            },
        );
        let mut options = options();
        if let Some(credential) = credential {
            options.registry.credentials.insert(both.registry.host(), credential);
        }
        let stage = Stage::new();
        stage.pull_with(&format!("{}/some/app", both.registry.host()), &options).await.unwrap();
        stage.holds(&image);
        let asked = both.giver.seen();
        let path = "/token?old=1&service=a%20service&scope=repository%3Asome%2Fapp%3Apull";
        assert_eq!(asked.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(), [path]);
        for request in both.registry.seen() {
            let header = request.header("authorization").unwrap_or("Bearer good");
            assert_eq!(header, "Bearer good", "the password is for the giver");
        }
    }
}

#[tokio::test]
async fn an_identity_is_turned_into_tokens() {
    let image = Image::usual();
    let both = tokens(
        &image,
        |token, _| token == "good",
        |_, request| {
            let form = String::from_utf8(request.body.clone()).unwrap();
            let sound = request.method == "POST" && form.contains("&refresh_token=a%2Fb%3D");
            let answer = json!({ "access_token": "good" }).to_string();
            if sound { Reply::new(200, answer) } else { Reply::new(401, "") }
        },
    );
    let options = as_user(&both.registry, Credential::Identity("a/b=".to_owned()));
    let stage = Stage::new();
    stage.pull_with(&format!("{}/app", both.registry.host()), &options).await.unwrap();
    assert!(both.giver.seen().iter().all(|it| it.header("authorization").is_none()));
}

#[tokio::test]
async fn a_token_that_goes_stale_in_the_middle_is_renewed() {
    let image = Image::usual();
    let served = AtomicUsize::new(0);
    // The first token lasts for two answers.
    let both = tokens(
        &image,
        move |token, _| token == "t1" || served.fetch_add(1, Ordering::SeqCst) < 2,
        |number, _| token(&format!("t{number}")),
    );
    let stage = Stage::new();
    stage.pull(&format!("{}/app", both.registry.host())).await.unwrap();
    stage.holds(&image);
    assert_eq!(both.giver.seen().len(), 2, "all layers share the new one");
}

#[tokio::test]
async fn odd_givers_of_tokens_are_errors_and_nothing_is_endless() {
    let image = Image::usual();
    let nonsense = |error: &RegistryError| matches!(error, RegistryError::Nonsense { .. });
    let needs = |error: &RegistryError| matches!(error, RegistryError::NeedsCredentials { .. });
    let long = |error: &RegistryError| matches!(error, RegistryError::TooLong { .. });
    let endless = Reply::new(200, "").with("Content-Length", "99999999999").manner(Manner::Endless);
    type Check = fn(&RegistryError) -> bool;
    let cases: [(&str, Reply, Check); 8] = [
        ("no JSON", Reply::new(200, "<html>"), nonsense),
        ("no token", Reply::new(200, "{\"token\":\"\"}"), nonsense),
        ("another type", Reply::new(200, "{\"token\":7}"), nonsense),
        ("one no header can hold", token("a\nb: c"), nonsense),
        ("no more than before", token("bad"), needs),
        ("a refusal", Reply::new(401, ""), needs),
        ("endless", endless, long),
        ("elsewhere", Reply::new(302, "").with("Location", "http://127.0.0.1:1/"), |error| {
            matches!(error, RegistryError::Status { status: 302, .. })
        }),
    ];
    for (what, give, check) in cases {
        let both = tokens(&image, |token, _| token == "good", move |_, _| give.clone());
        let name = format!("{}/app", both.registry.host());
        let error = registry(Stage::new().refused(&name, &options()).await);
        assert!(check(&error), "{what}: {error:?}");
    }
}

#[tokio::test]
async fn a_realm_that_must_not_be_gone_to_is_not() {
    for realm in ["http://169.254.169.254/token", "http://[fe80::1]/", "file:///etc/passwd", "x"] {
        let challenge = format!("Bearer realm=\"{realm}\"");
        let stub = Stub::start(move |_| unauthorised(&challenge));
        let options = as_user(&stub, password("me", "secret"));
        let error = Stage::new().refused(&format!("{}/app", stub.host()), &options).await;
        let error = registry(error);
        let wanted = match &error {
            RegistryError::Forbidden { to, .. } => realm.starts_with(to.trim_end_matches('/')),
            RegistryError::Nonsense { .. } => !realm.starts_with("http"),
            _ => false,
        };
        assert!(wanted, "{realm}: {error:?}");
    }
}

#[tokio::test]
async fn what_is_denied_says_whether_credentials_could_help() {
    let stub = Stub::start(|_| refusal(403, "DENIED", "not\u{1b}[31m you"));
    let name = format!("{}/app", stub.host());
    let error = registry(Stage::new().refused(&name, &options()).await);
    assert!(error.wants_credentials());
    assert!(error.to_string().ends_with("denies app: \"not[31m you\""), "{error}");
    let options = as_user(&stub, password("me", "secret"));
    let error = registry(Stage::new().refused(&name, &options).await);
    assert!(!error.wants_credentials(), "{error:?}");
}

#[tokio::test]
async fn a_mirror_is_not_shown_who_we_are_to_the_registry() {
    let image = Image::usual();
    let shelf = Arc::new(Shelf::of("latest", &image));
    let challenge = "Basic realm=\"x\"";
    let mirror = Stub::start(move |_| unauthorised(challenge));
    let origin = Stub::start(move |request| match request.header("authorization") {
        Some(_) => shelf.answer(request),
        None => unauthorised(challenge),
    });
    let mut options = as_user(&origin, password("me", "secret"));
    options.registry.mirrors.insert(origin.host(), vec![mirror.host()]);
    let stage = Stage::new();
    stage.pull_with(&format!("{}/app", origin.host()), &options).await.unwrap();
    assert_eq!(mirror.seen().len(), 1);
    assert!(mirror.seen().iter().all(|request| request.header("authorization").is_none()));
}
