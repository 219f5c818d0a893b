//! Connections that break, fall silent or are told to wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use runtime::image::RegistryError;

use super::image::{Image, Layer, noise};
use super::shelf::{Shelf, refusal};
use super::stage::{Stage, TRIES, options, registry};
use super::stub::{Manner, Reply, Request, Stub};

/// A registry whose answers for the only layer go through `bend`, with their number.
fn bending(
    image: &Image,
    bend: impl Fn(usize, Reply) -> Reply + Send + Sync + 'static,
) -> (Stub, String) {
    let shelf = Shelf::of("latest", image);
    let layer = image.layers[0].digest().to_string();
    let number = AtomicUsize::new(0);
    let stub = Stub::start(move |request| {
        let reply = shelf.answer(request);
        if !request.path.contains(&layer) {
            return reply;
        }
        bend(number.fetch_add(1, Ordering::SeqCst), reply)
    });
    let name = format!("{}/app", stub.host());
    (stub, name)
}

fn one_layer(bytes: usize) -> Image {
    Image::new(vec![Layer::gzip("f", &noise(7, bytes))])
}

fn ranges(stub: &Stub) -> Vec<String> {
    let of_layer = |request: &Request| request.path.contains("/blobs/");
    let seen = stub.seen();
    let ranges = seen.iter().filter(|it| of_layer(it)).filter_map(|it| it.header("range"));
    ranges.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_layer_goes_on_at_the_byte_where_it_broke() {
    let image = one_layer(100_000);
    let (stub, name) = bending(&image, |number, reply| match number {
        0 => reply.manner(Manner::Break(30_000)),
        1 => reply.manner(Manner::Break(20_000)),
        _ => reply,
    });
    let stage = Stage::new();
    stage.pull(&name).await.unwrap();
    stage.holds(&image);
    assert_eq!(ranges(&stub), ["bytes=30000-", "bytes=50000-"]);
}

#[tokio::test]
async fn without_ranges_what_is_here_is_passed_over() {
    let image = one_layer(100_000);
    let whole = image.layers[0].packed.clone();
    let (_stub, name) = bending(&image, move |number, _| {
        let manner = [Manner::Break(30_000), Manner::Break(60_000), Manner::Chunks];
        Reply::new(200, whole.clone()).manner(manner[number.min(2)])
    });
    let stage = Stage::new();
    stage.pull(&name).await.unwrap();
    stage.holds(&image);
}

#[tokio::test]
async fn another_range_than_was_asked_for_is_not_taken() {
    let image = one_layer(100_000);
    let (_stub, name) = bending(&image, |number, mut reply| {
        if number == 0 {
            return reply.manner(Manner::Break(30_000));
        }
        reply.headers = vec![("Content-Range".to_owned(), "bytes 40000-99999/100000".to_owned())];
        reply
    });
    let error = registry(Stage::new().refused(&name, &options()).await);
    assert!(matches!(error, RegistryError::Nonsense { .. }), "{error:?}");
}

#[tokio::test]
async fn progress_earns_more_tries_and_none_ends_them() {
    // Four times the tries, each of which brings it nearer.
    let image = one_layer(300_000 * 4 * TRIES as usize);
    let (stub, name) = bending(&image, |_, reply| reply.manner(Manner::Break(300_000)));
    let stage = Stage::new();
    stage.pull(&name).await.unwrap();
    stage.holds(&image);
    assert!(ranges(&stub).len() > 3 * TRIES as usize);

    let image = one_layer(100_000);
    let (stub, name) = bending(&image, |_, reply| reply.manner(Manner::Break(10)));
    let error = registry(Stage::new().refused(&name, &options()).await);
    assert!(matches!(error, RegistryError::Broke { .. }), "{error:?}");
    assert_eq!(ranges(&stub).len(), TRIES as usize - 1);
}

#[tokio::test]
async fn silence_in_the_middle_of_a_layer_is_a_break() {
    let image = one_layer(100_000);
    let (stub, name) = bending(&image, |number, reply| match number {
        0 => reply.manner(Manner::Silence(30_000)),
        _ => reply,
    });
    let mut options = options();
    options.registry.patience.silence = Duration::from_secs(1);
    let stage = Stage::new();
    stage.pull_with(&name, &options).await.unwrap();
    stage.holds(&image);
    assert_eq!(ranges(&stub), ["bytes=30000-"]);
}

#[tokio::test]
async fn a_registry_that_says_nothing_is_an_error_in_time() {
    for manner in [Manner::Nothing, Manner::Silence(1)] {
        let stub = Stub::start(move |_| Reply::new(200, "{}{}").manner(manner));
        let mut options = options();
        let limit = Duration::from_millis(300);
        (options.registry.patience.head, options.registry.patience.silence) = (limit, limit);
        let begin = Instant::now();
        let name = format!("{}/app", stub.host());
        let error = registry(Stage::new().refused(&name, &options).await);
        assert!(matches!(error, RegistryError::TimedOut { .. }), "{error:?}");
        assert!(begin.elapsed() >= limit);
    }
}

#[tokio::test]
async fn who_is_told_to_wait_waits_and_comes_back() {
    let image = one_layer(1000);
    for (status, after) in [(429, Some("1")), (429, None), (503, Some("soon")), (500, None)] {
        let (stub, name) = bending(&image, move |number, reply| {
            if number == 2 {
                return reply;
            }
            let refusal = refusal(status, "TOOMANYREQUESTS", "slow down");
            after.map_or(refusal.clone(), |after| refusal.with("Retry-After", after))
        });
        let begin = Instant::now();
        let stage = Stage::new();
        stage.pull(&name).await.unwrap();
        stage.holds(&image);
        assert_eq!(stub.seen().len(), 5);
        if after == Some("1") {
            assert!(begin.elapsed() >= Duration::from_secs(2), "twice a second");
        }
    }
}

#[tokio::test]
async fn who_is_told_to_wait_for_hours_says_so_at_once() {
    for (status, after, tries) in [(429, "7200", 1), (503, "7200", 1), (429, "0", TRIES as usize)] {
        let stub = Stub::start(move |_| {
            refusal(status, "TOOMANYREQUESTS", "slow down").with("Retry-After", after)
        });
        let name = format!("{}/app", stub.host());
        let error = registry(Stage::new().refused(&name, &options()).await);
        let wanted = Some(Duration::from_secs(after.parse().unwrap()));
        assert!(
            matches!(&error, RegistryError::Busy { after, .. } if *after == wanted),
            "{error:?}"
        );
        assert!(error.to_string().contains("slow down"), "{error}");
        assert_eq!(stub.seen().len(), tries);
    }
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_is_made_again() {
    let image = Image::usual();
    let shelf = Shelf::of("latest", &image);
    // Each answer is whole, and says nothing of the end of the connection that follows it.
    let stub = Stub::start(move |request| shelf.answer(request).manner(Manner::Break(usize::MAX)));
    let mut options = options();
    options.registry.patience.tries = 1;
    let stage = Stage::new();
    stage.pull_with(&format!("{}/app", stub.host()), &options).await.unwrap();
    stage.holds(&image);
}
