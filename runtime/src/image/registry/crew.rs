//! Several layers at once, and one end for all.

use tokio::task::JoinSet;

use super::watch::Watch;
use crate::image::ImageError;

/// Layers that are worked on at a time: more do not fill a link better, and each has a thread.
const AT_A_TIME: usize = 3;

/// Does all `work`, a few at a time, and gives what came of it, in any order. The first failure
/// ends what is under way, which is waited for.
pub(super) async fn all<T: Send + 'static>(
    work: impl Iterator<Item = impl Future<Output = Result<T, ImageError>> + Send + 'static>,
    watch: &Watch,
) -> Result<Vec<T>, ImageError> {
    let mut left = work.fuse();
    let mut under_way = JoinSet::new();
    let mut done = Vec::new();
    let mut failure = None;
    loop {
        while failure.is_none() && under_way.len() < AT_A_TIME {
            let Some(next) = left.next() else { break };
            under_way.spawn(next);
        }
        match under_way.join_next().await {
            None => break,
            Some(Ok(Ok(one))) => done.push(one),
            Some(ended) => {
                watch.end();
                failure.get_or_insert(match ended {
                    Ok(Err(error)) => error,
                    _ => crashed(),
                });
            }
        }
    }
    match failure {
        None => Ok(done),
        Some(_) if watch.called_off() => Err(ImageError::CalledOff),
        Some(error) => Err(error),
    }
}

/// Does what blocks, in a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_panicked| Err(crashed()))
}

/// What a panic in one of our threads comes to.
fn crashed() -> ImageError {
    let source = std::io::Error::other("its thread crashed");
    ImageError::Read { what: "the image".to_owned(), source }
}
