//! One image from wherever it is: its documents, then the layers that are not here, some at a
//! time. They are committed together, or none is.

use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt as _, stream};
use gossip_core::id::NodeId;
use runtime::image::{Digest, ImageConfig, ImageError, Origin, Reference};

use super::documents::{Verified, documents};
use super::layer::{self, Stuck, Way};
use super::meter::Meter;
use super::{Missing, Wanted, change_store};
use crate::agent::fetch::{Brought, Rest, kin};
use crate::agent::{Doors, chain, sources};
use crate::api::image_types::HeldImages;
use crate::api::peer::{self, PeerError};

/// How often the members are asked where one of those who are silent may have it: whoever
/// only started again is back by then.
const ROUNDS_SILENT: u32 = 4;

/// How often where one does not answer who is not known to be gone: half a minute, in which
/// a broken connection is made again or the member is found out to be silent.
const ROUNDS_MAX: u32 = 9;

/// Before the second round; it doubles.
const ROUND_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause.
const ROUND_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The largest list that is asked for by one id.
const LIST_BYTES_MAX: usize = 1 << 20;

/// Layers that come at once: a small one need not wait for a large one, and one is unpacked
/// while another comes. What the links and the budgets carry is not more for it.
const LAYERS_MAX: usize = 3;

/// A member that says that it has the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) node: NodeId,
    pub(super) name: String,
}

/// What was found out on the way, for whoever is told that it failed. One line for each
/// member: what it said last.
#[derive(Debug, Default)]
pub(super) struct Tried(Vec<(String, String)>);

impl Tried {
    pub(super) fn note(&mut self, whom: &str, what: impl ToString) {
        self.0.retain(|(name, _)| name != whom);
        self.0.push((whom.to_owned(), what.to_string()));
    }

    /// What was found out elsewhere at the same time.
    fn add(&mut self, other: Self) {
        other.0.into_iter().for_each(|(whom, what)| self.note(&whom, what));
    }

    fn missing(self) -> Missing {
        let all = self.0.into_iter().map(|(name, what)| format!("{name} {what}"));
        let mut why: Vec<_> = all.collect();
        if why.is_empty() {
            why.push("no other member could be asked".to_owned());
        }
        Missing { why, ..Missing::default() }
    }
}

/// Brings an image here, or says what was tried.
pub(super) async fn fetch(doors: &Doors, wanted: &Wanted) -> Result<(), Missing> {
    let meter = doors.supply.meters().begin(Some(wanted.id), &wanted.name);
    let mut tried = Tried::default();
    let mut pause = ROUND_PAUSE;
    // What came in one round need not come in the next.
    let mut brought: Vec<Brought> = Vec::new();
    let mut liars: Vec<Holder> = Vec::new();
    let mut unsure = Unsure::Nobody;
    for round in 1..=ROUNDS_MAX {
        let mut found = holders(doors, &wanted.id, &mut tried).await?;
        found.holders.retain(|holder| !liars.contains(holder));
        found.holders = doors.supply.trusted(found.holders, |holder| holder.node);
        unsure = found.unsure;
        let before = found.holders.clone();
        let rounds = match (found.holders.is_empty(), found.unsure) {
            (true, Unsure::Nobody) => 1,
            (true, Unsure::Silent) => ROUNDS_SILENT,
            (false, _) | (_, Unsure::Unreached) => ROUNDS_MAX,
        };
        let mut order = Order { doors, wanted, meter: &meter, tried: &mut tried };
        let got = order.ask_members(&mut found.holders, &mut brought).await;
        for liar in before.into_iter().filter(|holder| !found.holders.contains(holder)) {
            doors.supply.distrust(liar.node);
            liars.push(liar);
        }
        match got {
            Ok(()) => return Ok(()),
            Err(Stuck::Here(error)) => return Err((&error).into()),
            Err(Stuck::There) if round >= rounds => break,
            Err(Stuck::There) => {}
        }
        tracing::info!(image = %wanted.id, ?tried, "no member gave it; once more");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ROUND_PAUSE_MAX);
    }
    let got = from_registry(doors, wanted, &meter, tried).await;
    got.map_err(|missing| {
        let for_now = !missing.is_full && unsure != Unsure::Nobody;
        Missing { for_now, ..missing }
    })
}

/// Who has it.
struct Found {
    holders: Vec<Holder>,
    unsure: Unsure,
}

/// Of whom it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unsure {
    Nobody,
    /// Of members that are thought to be gone.
    Silent,
    /// Of members that should have answered.
    Unreached,
}

async fn holders(doors: &Doors, id: &Digest, tried: &mut Tried) -> Result<Found, Missing> {
    let nodes = doors.agent.look(|core, now| core.node_views(now.moment)).await;
    let nodes = nodes.map_err(|gone| Missing {
        why: vec![gone.to_string()],
        for_now: true,
        is_full: false,
    })?;
    let path = format!("/v1/local/images?name={id}");
    let path = path.as_str();
    let (ready, silent): (Vec<_>, Vec<_>) =
        nodes.into_iter().filter(|node| !node.me).partition(|node| node.state == "ready");
    let asked = ready.into_iter().map(|node| async move {
        let answer = peer::document::<HeldImages>(doors, node.id, path, LIST_BYTES_MAX).await;
        (Holder { node: node.id, name: node.name }, answer)
    });
    let unsure = if silent.is_empty() { Unsure::Nobody } else { Unsure::Silent };
    let mut found = Found { holders: Vec::new(), unsure };
    for node in silent {
        tried.note(&node.name, "is silent");
    }
    for (holder, answer) in join_all(asked).await {
        match answer {
            Ok(held) if held.items.iter().any(|it| it.id == *id && it.damaged.is_empty()) => {
                found.holders.push(holder);
            }
            Ok(held) if held.items.iter().any(|it| it.id == *id) => {
                tried.note(&holder.name, "has it damaged");
            }
            Ok(_) => tried.note(&holder.name, "does not have it"),
            Err(error) => {
                // A member of an older version has none, and never will.
                if !matches!(error, PeerError::Status(404)) {
                    found.unsure = Unsure::Unreached;
                }
                tried.note(&holder.name, error);
            }
        }
    }
    Ok(found)
}

/// One round of asking members.
struct Order<'a> {
    doors: &'a Doors,
    wanted: &'a Wanted,
    meter: &'a Meter,
    tried: &'a mut Tried,
}

impl Order<'_> {
    async fn ask_members(
        &mut self,
        holders: &mut Vec<Holder>,
        brought: &mut Vec<Brought>,
    ) -> Result<(), Stuck> {
        let Self { doors, wanted, .. } = *self;
        let documents = documents(doors, &wanted.id, holders, self.tried).await?;
        let images = doors.runtime.images().clone();
        let mut lacked: Vec<Digest> = Vec::new();
        for diff_id in ImageConfig::parse(&documents.config)?.layers {
            let is_brought = brought.iter().any(|layer| layer.staged.diff_id() == diff_id);
            // An empty layer may stand in an image several times.
            if !is_brought && !lacked.contains(&diff_id) && !images.has_layer(&diff_id) {
                lacked.push(diff_id);
            }
        }
        for layer in documents.layers.iter().filter(|layer| lacked.contains(&layer.diff_id)) {
            self.meter.lacks(&layer.diff_id, layer.bytes);
        }
        self.layers(&lacked, holders, brought).await?;
        let (name, id) = (wanted.reference(), wanted.id);
        let (staged, rests): (Vec<_>, Vec<_>) =
            std::mem::take(brought).into_iter().map(|layer| (layer.staged, layer.rest)).unzip();
        let Verified { config, manifest, .. } = documents;
        change_store(doors, move |images| {
            let names = name.filter(|name| is_free(images.named(name), &id));
            let names: Vec<Reference> = names.into_iter().collect();
            let manifest = manifest.as_deref();
            let committed = images.commit(&config, manifest, staged, &names, Origin::Needed);
            if committed.is_ok() {
                rests.into_iter().flatten().for_each(Rest::remove);
            }
            committed
        })
        .await?;
        Ok(())
    }

    /// Brings layers, some at a time. What came of others when one cannot be had stays in
    /// their spools.
    async fn layers(
        &mut self,
        lacked: &[Digest],
        holders: &mut Vec<Holder>,
        brought: &mut Vec<Brought>,
    ) -> Result<(), Stuck> {
        let doors = self.doors;
        let kin = kin(doors.runtime.images(), self.wanted.reference().as_ref());
        let honest = Mutex::new(std::mem::take(holders));
        let way = Way { doors, kin: &kin, meter: self.meter };
        let each = lacked.iter().copied().enumerate().map(|(at, diff_id)| {
            let honest = &honest;
            async move {
                let mut holders = honest.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // Each first from another one, if there are several.
                let first = at.checked_rem(holders.len()).unwrap_or(0);
                holders.rotate_left(first);
                let before = holders.clone();
                let mut tried = Tried::default();
                let got = layer::bring(way, &diff_id, &mut holders, &mut tried).await;
                let mut honest = honest.lock().unwrap_or_else(PoisonError::into_inner);
                honest.retain(|one| !before.contains(one) || holders.contains(one));
                (got, tried)
            }
        });
        let got = {
            let mut coming = pin!(stream::iter(each).buffer_unordered(LAYERS_MAX));
            loop {
                let Some((got, tried)) = coming.next().await else { break Ok(()) };
                self.tried.add(tried);
                match got {
                    Ok(layer) => brought.push(layer),
                    Err(stuck) => break Err(stuck),
                }
            }
        };
        *holders = honest.into_inner().unwrap_or_else(PoisonError::into_inner);
        got
    }
}

/// Whether a name may go to a copy that only a task needs: somebody who loaded another image
/// under it here means that one by it.
fn is_free(named: Option<runtime::image::ImageInfo>, id: &Digest) -> bool {
    named.is_none_or(|other| other.id == *id || other.origin == Origin::Needed)
}

/// The last resort, where the job's name leads to a registry.
async fn from_registry(
    doors: &Doors,
    wanted: &Wanted,
    meter: &Meter,
    mut tried: Tried,
) -> Result<(), Missing> {
    let Some(name) = wanted.reference() else { return Err(tried.missing()) };
    let host = name.host().to_owned();
    let pull = sources::pull(doors, name, Origin::Needed);
    meter.through(pull.meter.clone());
    match pull.done().await {
        Ok(info) if info.id == wanted.id => return Ok(()),
        Ok(info) => {
            tried.note(&host, format!("has another image by this name now: {}", info.id.short()));
        }
        // Whoever gives it, it cannot be kept here.
        Err(error) if error.is_full() => return Err((&*error).into()),
        Err(error) => tried.note(&host, format!("did not give it: {}", chain(&error))),
    }
    Err(tried.missing())
}

impl From<ImageError> for Stuck {
    fn from(error: ImageError) -> Self {
        Self::Here(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_is_told_of_once_with_what_it_said_last() {
        let mut tried = Tried::default();
        tried.note("h2", "does not have it");
        tried.note("h3", "is silent");
        tried.note("h2", "broke off");
        assert_eq!(tried.missing().why, ["h3 is silent", "h2 broke off"]);
        assert_eq!(Tried::default().missing().why.len(), 1);
    }
}
