//! Pulls that are under way: however many wait for the same one, it is made once, and for as
//! long as somebody of them waits.
//!
//! ```text
//! image pull ─┐
//! submission ─┼─▶ one pull a name ─▶ registry ─▶ store
//! launch ─────┘      └─ the last one that leaves ends it
//! ```
//!
//! Must never: go on for nobody. It runs only while it is waited for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use runtime::image::{self, ImageError, ImageInfo, Origin, PullOptions, Reference};

use crate::agent::Doors;
use crate::agent::images::{Giver, Meter, WeakMeter};

/// What came of a pull, for all who waited for it.
pub(crate) type Pulled = Result<ImageInfo, Arc<ImageError>>;

type Pulling = BoxFuture<'static, Pulled>;

/// A pull is another one if somebody asked for the image itself: it stays then.
type Key = (String, bool);

/// All that are under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulls(Arc<Mutex<BTreeMap<Key, Underway>>>);

#[derive(Debug)]
struct Underway {
    pulling: WeakShared<Pulling>,
    meter: WeakMeter,
}

/// One of them, in the hands of somebody who waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Pull {
    pulling: Shared<Pulling>,
    /// How far it is.
    pub(crate) meter: Meter,
}

impl Pull {
    /// Waits for its end. Dropped before, it is called off unless others wait for it too.
    pub(crate) async fn done(self) -> Pulled {
        self.pulling.await
    }
}

/// Joins the pull of an image from its registry into this node's store, or begins it.
pub(crate) fn pull(doors: &Doors, name: Reference, origin: Origin) -> Pull {
    let key = (name.to_string(), origin == Origin::Asked);
    let mut all = doors.supply.pulls().0.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, underway| underway.pulling.upgrade().is_some());
    if let Some(underway) = all.get(&key)
        && let Some(pulling) = underway.pulling.upgrade()
        && let Some(meter) = underway.meter.upgrade()
    {
        return Pull { pulling, meter };
    }
    let meter = doors.supply.meters().begin(None, &name.familiar());
    let begun: Pulling = make(doors.clone(), name, origin, meter.clone()).boxed();
    let pulling = begun.shared();
    if let Some(weak) = pulling.downgrade() {
        all.insert(key, Underway { pulling: weak, meter: meter.downgrade() });
    }
    Pull { pulling, meter }
}

async fn make(doors: Doors, name: Reference, origin: Origin, meter: Meter) -> Pulled {
    let registry = super::options(&doors).await?;
    let options = PullOptions { registry, origin, ..Default::default() };
    meter.from(Giver::Host(name.host().to_owned()));
    let watcher = Arc::new(move |progress| {
        meter.tell(progress);
        // Nobody is asked whether to go on: without anybody who waits this future is gone.
        true
    });
    let pulled = image::pull(doors.runtime.images(), &name, &options, watcher).await;
    doors.supply.touch();
    Ok(pulled?)
}
