//! Images between this node and registries, for users who are told how far it is.
//!
//! ```text
//! pull, ensure ─▶ the one pull of that name ─▶ its meter ─▶ lines ─▶ each who waits
//! push ─────────────────────────────────────────────────▶ lines
//! ```
//!
//! Whoever leaves waits no more; the last one who does ends the pull.

use std::pin::pin;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use gossip_core::container;
use runtime::image::{Origin, Reference};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::super::answer::{Query, Refused};
use super::super::image_types::ImageItem;
use super::super::logs::Lines;
use super::pin::{self, Unheard};
use super::transfer::{TOLD_EVERY, Teller, reference, streamed, tell_end, turn};
use super::{here, one};
use crate::agent::Doors;
use crate::agent::sources::{self, Pull, Pulled};

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    name: String,
}

/// Which image a job wants, and when it is to be pulled.
#[derive(Debug, Deserialize)]
pub(super) struct Wish {
    name: String,
    #[serde(default)]
    pull: container::Pull,
}

/// `POST /v1/images/pull?name=…`.
pub(super) async fn pull(
    State(doors): State<Doors>,
    Query(Named { name }): Query<Named>,
) -> Result<Response, Refused> {
    let name = reference(&name)?;
    let turn = turn(&doors).await?;
    let pull = sources::pull(&doors, name, Origin::Asked);
    Ok(tell(doors, turn, pull, |pulled| match pulled {
        Ok(info) => Told::Done(info),
        Err(error) => Told::Item(ImageItem::Failed { error: super::failed(&error).complaint() }),
    }))
}

/// `POST /v1/images/ensure?name=…&pull=…`: which content a job's image is. What no member has
/// is pulled first, for whoever waits: if they leave, there is neither the image nor a job.
pub(super) async fn ensure(
    State(doors): State<Doors>,
    Query(Wish { name, pull }): Query<Wish>,
) -> Result<Response, Refused> {
    let unheard = match pin::known(&doors, &name, pull).await? {
        Ok(pinned) => {
            let (lines, answer) = Lines::new();
            lines.item_if_room(&pinned.item());
            return Ok(streamed(answer));
        }
        Err(unheard) => unheard,
    };
    let from = wanted_of_registry(&name, pull, &unheard)?;
    let turn = turn(&doors).await?;
    let pulling = sources::pull(&doors, from.clone(), Origin::Asked);
    Ok(tell(doors, turn, pulling, move |pulled| {
        Told::Item(match pulled {
            Ok(info) => pin::pinned(&info).item(),
            Err(error) => {
                let refused = pin::not_pulled(&name, &from, pull, unheard, &error);
                ImageItem::Failed { error: refused.complaint() }
            }
        })
    }))
}

fn wanted_of_registry(
    name: &str,
    pull: container::Pull,
    unheard: &Unheard,
) -> Result<Reference, Refused> {
    let from = name.parse().ok().filter(|_| pull != container::Pull::Never);
    from.ok_or_else(|| pin::unknown(name, unheard.clone()))
}

/// What the last line says.
enum Told {
    Done(runtime::image::ImageInfo),
    Item(ImageItem),
}

/// Tells how far a pull is to its end, or until nobody listens.
fn tell(
    doors: Doors,
    turn: OwnedSemaphorePermit,
    pull: Pull,
    last: impl FnOnce(Pulled) -> Told + Send + 'static,
) -> Response {
    let (lines, answer) = Lines::new();
    let owner = doors.tasks.clone();
    owner.spawn(async move {
        let _turn = turn;
        let Some(pulled) = watched(&doors, &lines, pull).await else { return };
        match last(pulled) {
            Told::Done(info) => tell_end(&lines, &doors, Ok(vec![info])).await,
            // The reader left: nobody is there to be told.
            Told::Item(item) => drop(lines.item(&item).await),
        }
    });
    streamed(answer)
}

async fn watched(doors: &Doors, lines: &Lines, pull: Pull) -> Option<Pulled> {
    let teller = Teller::new(lines.clone());
    let meter = pull.meter.clone();
    let tell = || meter.told().into_iter().all(|progress| teller.tell(progress));
    let mut look = tokio::time::interval(TOLD_EVERY);
    let mut done = pin!(pull.done());
    loop {
        tokio::select! {
            pulled = &mut done => {
                tell();
                return Some(pulled);
            }
            _now = look.tick() => { tell(); }
            () = lines.left() => {
                tracing::debug!("whoever waited for a pull left");
                return None;
            }
            () = doors.stop.cancelled() => return None,
        }
    }
}

/// `POST /v1/images/push?name=…`.
pub(super) async fn push(
    State(doors): State<Doors>,
    Query(Named { name }): Query<Named>,
) -> Result<Response, Refused> {
    let to = reference(&name)?;
    let turn = turn(&doors).await?;
    let (view, _) = one(&doors, &name).await?;
    let held = here(&doors, view.id, &name).await?;
    let (lines, answer) = Lines::new();
    let owner = doors.tasks.clone();
    owner.spawn(async move {
        let (_turn, _held) = (turn, held);
        let teller = Teller::new(lines.clone());
        let watch = Arc::new(move |progress| teller.tell(progress));
        tokio::select! {
            done = sources::push(&doors, view.id, to, watch) => {
                tell_end(&lines, &doors, done.map(|info| vec![info])).await;
            }
            () = lines.left() => {}
            () = doors.stop.cancelled() => {}
        }
    });
    Ok(streamed(answer))
}
