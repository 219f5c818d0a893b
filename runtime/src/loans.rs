//! What the agent lends a container for its life, and takes back at its end: a range
//! of ids, an unpacked root or an image's layers, a place on the bridge. A plain process
//! may have files of an image.
//!
//! ```text
//! launch ──lend──▶ ids, root ──▶ supervisor ──NetworkWanted──▶ connect ──▶ it runs
//! end    ──take back──▶ bridge, root, ids
//! ```
//!
//! All three are the agent's to give, because they are shared between tasks and
//! supervisors know of one task only. A restarted agent learns from the launches of
//! the tasks that run what was lent before.
//!
//! Invariant: nothing is lent twice at a time, and what a task had is free before
//! its end is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use crate::container::{Container, Ids, Network, Publish, Root};
use crate::ids::{self, Granted};
use crate::image::{Digest, Held, ImageError, Images};
use crate::launch::{Launch, Place, TaskId, User};
use crate::names::Names;
use crate::net::{self, Bridge, BridgeConfig, Closed};
use crate::order::chain;
use crate::shipped::{self, Shipped};
use crate::unpack::{Bounds, Kept, Owners, Store};

/// Where unpacked roots are kept.
const ROOTS: &str = "roots";

/// Where images are kept.
const IMAGES: &str = "images";

/// What cannot be lent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoanError {
    /// Every range is in use.
    #[error("all ranges of ids for containers are in use")]
    Ids,
    /// An archive that is no root.
    #[error("container.root: {reason}")]
    Root {
        /// Why, with its path.
        reason: String,
    },
    /// An image that is not here.
    #[error("container.root.image: {0}")]
    Image(ImageError),
    /// Files that cannot be had.
    #[error("process.files: {reason}")]
    Files {
        /// Why.
        reason: String,
    },
}

/// What one task has.
#[derive(Debug, Default)]
struct Loan {
    id_base: Option<u32>,
    root: Option<Lent>,
    bridge: Option<Wanted>,
    shipped: Option<Shipped>,
}

/// Whose files are kept from being swept.
#[derive(Debug)]
enum Lent {
    /// An archive's.
    Root { _kept: Kept },
    /// An image's.
    Image(Held),
}

/// What a task on the bridge asked for.
#[derive(Clone, Debug)]
struct Wanted {
    hostname: String,
    names: Names,
    publish: Vec<Publish>,
}

/// All that is lent, and what it is lent from.
#[derive(Debug)]
pub(crate) struct Loans {
    dir: PathBuf,
    tag: u64,
    granted: Granted,
    is_root: bool,
    images: Images,
    roots: OnceLock<Store>,
    bridge: Mutex<Option<Arc<Bridge>>>,
    lent: Mutex<BTreeMap<TaskId, Loan>>,
}

impl Loans {
    /// Nothing lent yet. `tag` tells this runtime from others on the machine.
    pub(crate) fn new(dir: &Path, tag: u64) -> Result<Self, ImageError> {
        let is_root = rustix::process::geteuid().is_root();
        let images = Images::open(&dir.join(IMAGES), owners(is_root))?;
        Ok(Self {
            dir: dir.to_owned(),
            tag,
            granted: Granted::read(),
            is_root,
            images,
            roots: OnceLock::new(),
            bridge: Mutex::new(None),
            lent: Mutex::default(),
        })
    }

    /// The images of this machine.
    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    /// Whether a launch needs something of us that takes time.
    pub(crate) fn takes_time(launch: &Launch) -> bool {
        match &launch.place {
            Place::Container(container) => matches!(container.root, Root::Tar(_)),
            Place::Process(process) => process.files.is_some(),
        }
    }

    /// Gives a launch what it needs before its supervisor can begin. Blocks where that
    /// [takes time](Self::takes_time), for long when an archive is unpacked for the first
    /// time.
    pub(crate) fn lend(&self, launch: &mut Launch) -> Result<(), LoanError> {
        let id = launch.id.clone();
        let container = match &mut launch.place {
            Place::Container(container) => container,
            Place::Process(process) => match process.files {
                Some(image) => return self.ship(id, &image, process.user),
                None => return Ok(()),
            },
        };
        let root = self.files(container)?;
        let bridge = wanted(&id, container);
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut loan = Loan { root, bridge, ..Loan::default() };
        if self.is_root && container.ids == Ids::Own && container.id_base.is_none() {
            let taken = lent.values().filter_map(|loan| loan.id_base).collect();
            let base = ids::pick(self.tag, &taken, &self.granted).ok_or(LoanError::Ids)?;
            container.id_base = Some(base);
        }
        loan.id_base = container.id_base;
        lent.insert(id, loan);
        Ok(())
    }

    /// Unpacks the files that come with a process, and keeps their image for its next start.
    fn ship(&self, id: TaskId, image: &Digest, user: Option<User>) -> Result<(), LoanError> {
        let failed = |reason: String| LoanError::Files { reason };
        let held = self.images.hold(image).map_err(|error| failed(chain(&error)))?;
        let shipped = Shipped::unpack(&self.images, image, &self.dir, &id, user);
        let shipped = Some(shipped.map_err(failed)?);
        let loan = Loan { root: Some(Lent::Image(held)), shipped, ..Loan::default() };
        self.lent.lock().unwrap_or_else(PoisonError::into_inner).insert(id, loan);
        Ok(())
    }

    /// Says in which directories a container's files are, and keeps them there.
    fn files(&self, container: &mut Container) -> Result<Option<Lent>, LoanError> {
        match &container.root {
            Root::Directory(_) => Ok(None),
            Root::Tar(path) => {
                let kept = self.unpack(&path.clone())?;
                container.root = Root::Directory(kept.path().to_owned());
                Ok(Some(Lent::Root { _kept: kept }))
            }
            Root::Layers(paths) => Ok(self.hold_layers(paths)),
            Root::Image(id) => {
                let held = self.images.hold(id).map_err(LoanError::Image)?;
                container.root = Root::Layers(held.layers().to_vec());
                Ok(Some(Lent::Image(held)))
            }
        }
    }

    /// Keeps those of some layers that are an image's.
    fn hold_layers(&self, paths: &[PathBuf]) -> Option<Lent> {
        let held = self.images.hold_layers(paths);
        (!held.layers().is_empty()).then_some(Lent::Image(held))
    }

    fn unpack(&self, path: &Path) -> Result<Kept, LoanError> {
        let failed = |reason: String| LoanError::Root { reason };
        let kept = self
            .store()
            .map_err(&failed)?
            .tree(path, &Bounds::default())
            .map_err(|error| failed(chain(&error)))?;
        Ok(kept)
    }

    fn store(&self) -> Result<&Store, String> {
        if let Some(store) = self.roots.get() {
            return Ok(store);
        }
        let store = Store::open(&self.dir.join(ROOTS), owners(self.is_root))
            .map_err(|error| chain(&error))?;
        Ok(self.roots.get_or_init(|| store))
    }

    /// Remembers what a task has that an earlier agent launched.
    pub(crate) fn resume(&self, launch: &Launch) {
        let container = match &launch.place {
            Place::Container(container) => container,
            Place::Process(process) => {
                // Its files are its own by now; without the image it only cannot start again.
                if let Some(held) = process.files.and_then(|id| self.images.hold(&id).ok()) {
                    let loan = Loan { root: Some(Lent::Image(held)), ..Loan::default() };
                    let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
                    lent.insert(launch.id.clone(), loan);
                }
                return;
            }
        };
        let bridge = wanted(&launch.id, container);
        let root = match &container.root {
            Root::Layers(paths) => self.hold_layers(paths),
            Root::Directory(_) | Root::Tar(_) | Root::Image(_) => None,
        };
        let loan = Loan { id_base: container.id_base, root, bridge, shipped: None };
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        lent.insert(launch.id.clone(), loan);
    }

    /// Frees what tasks had that ended while no agent lived. Blocks.
    pub(crate) fn sweep(&self) {
        self.images.sweep();
        shipped::sweep(&self.dir);
        let tag = self.bridge_tag();
        match Bridge::remains(&tag) {
            Ok(remains) if remains.is_empty() => {}
            Ok(_) => {
                let living = {
                    let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
                    lent.keys().map(|id| id.as_str().to_owned()).collect::<BTreeSet<_>>()
                };
                let swept = self
                    .bridge()
                    .and_then(|bridge| bridge.sweep(&living).map_err(|error| chain(&error)))
                    .and_then(|_| self.repair());
                if let Err(error) = swept {
                    warn!(error, "the network of tasks that are gone may stay");
                }
                if living.is_empty() {
                    self.close();
                }
            }
            // Without the right to look there is nothing of ours.
            Err(_) => {}
        }
    }

    /// Puts a container's network namespace on the bridge. Blocks.
    pub(crate) fn connect(
        &self,
        id: &TaskId,
        namespace: &OwnedFd,
        texts: &Path,
    ) -> Result<(), String> {
        let wanted = {
            let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
            lent.get(id).and_then(|loan| loan.bridge.clone())
        };
        let wanted = wanted.ok_or("it asked for no bridge")?;
        let attach =
            |bridge: Arc<Bridge>| bridge.attach(id.as_str(), namespace.as_fd(), &wanted.publish);
        let attached = match attach(self.bridge()?) {
            Err(_) if self.forget_lost_bridge() => attach(self.bridge()?),
            attached => attached,
        };
        let attached = attached.map_err(|error| chain(&error))?;
        info!(%id, address = %attached.address, "on the bridge");
        let six = attached.address6.map(|six| (wanted.hostname.clone(), six.into()));
        let more = wanted.names.hosts(attached.gateway.into());
        let more: Vec<_> = six.into_iter().chain(more).collect();
        let hosts = net::hosts(&wanted.hostname, Some(attached.address), &more);
        rewrite(&texts.join("hosts"), &hosts)
            .map_err(|error| format!("cannot write its hosts file: {error}"))
    }

    /// Whether somebody removed the bridge; the next one who needs it makes it anew.
    fn forget_lost_bridge(&self) -> bool {
        let mut bridge = self.bridge.lock().unwrap_or_else(PoisonError::into_inner);
        let is_lost = bridge.as_ref().is_some_and(|bridge| matches!(bridge.is_there(), Ok(false)));
        if is_lost {
            warn!("somebody removed the bridge of the containers; it is made anew");
            *bridge = None;
        }
        is_lost
    }

    fn bridge(&self) -> Result<Arc<Bridge>, String> {
        let mut bridge = self.bridge.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bridge) = bridge.as_ref() {
            return Ok(Arc::clone(bridge));
        }
        let tag = self.bridge_tag();
        Bridge::facts(&tag)
            .map_err(|error| chain(&error))?
            .bridge()
            .map_err(|error| error.to_string())?;
        let opened = Bridge::open(&BridgeConfig { tag, home: self.dir.clone(), subnet: None });
        let opened = Arc::new(opened.map_err(|error| chain(&error))?);
        *bridge = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Puts back packet rules that somebody removed; says how many. Blocks.
    pub(crate) fn repair(&self) -> Result<usize, String> {
        let bridge = self.bridge.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(bridge) = bridge else { return Ok(0) };
        let wanted = {
            let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
            let on_bridge = lent.iter().filter_map(|(id, loan)| Some((id, loan.bridge.as_ref()?)));
            let all = on_bridge.map(|(id, wanted)| (id.to_string(), wanted.publish.clone()));
            all.collect::<BTreeMap<_, _>>()
        };
        bridge.repair(&wanted).map_err(|error| chain(&error))
    }

    /// Whether there may be rules of ours to look after.
    pub(crate) fn may_bridge(&self) -> bool {
        self.is_root
    }

    fn bridge_tag(&self) -> String {
        // Small numbers of two file systems are alike now and then, and their sums are not.
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(self.tag.to_le_bytes()));
        format!("{:x}", u32::from_le_bytes([a, b, c, d]))
    }

    fn is_on_bridge(&self, id: &TaskId) -> bool {
        let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        lent.get(id).is_some_and(|loan| loan.bridge.is_some())
    }

    /// Whether a task has something whose return takes time: a place on the bridge, files
    /// that it never took, or the last hold on an image that was removed.
    pub(crate) fn returns_slowly(&self, id: &TaskId) -> bool {
        let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        lent.get(id).is_some_and(|loan| {
            let last = |root: &Lent| matches!(root, Lent::Image(held) if held.is_last());
            let untaken = loan.shipped.as_ref().is_some_and(Shipped::is_there);
            loan.bridge.is_some() || untaken || loan.root.as_ref().is_some_and(last)
        })
    }

    /// Takes back what a task had; it has ended, or will never start. Blocks where that
    /// [takes time](Self::returns_slowly).
    pub(crate) fn take_back(&self, id: &TaskId) {
        if self.is_on_bridge(id) {
            let detached = self
                .bridge()
                .and_then(|bridge| bridge.detach(id.as_str()).map_err(|error| chain(&error)));
            if let Err(error) = detached {
                warn!(%id, error, "its network may stay until the next start");
            }
        }
        // Let go without the lock: to remove an image takes a while.
        let loan = self.lent.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        drop(loan);
    }

    /// Removes the bridge if nobody is on it. Blocks.
    pub(crate) fn close(&self) {
        let mut bridge = self.bridge.lock().unwrap_or_else(PoisonError::into_inner);
        match bridge.as_ref().map(|bridge| bridge.close()) {
            Some(Ok(Closed::Gone)) => *bridge = None,
            Some(Err(error)) => warn!(error = chain(&error), "the bridge stays"),
            Some(Ok(_)) | None => {}
        }
    }
}

impl Drop for Loans {
    fn drop(&mut self) {
        // Tasks go on without this agent: what they run from stays.
        let lent = self.lent.get_mut().unwrap_or_else(PoisonError::into_inner);
        for loan in std::mem::take(lent).into_values() {
            if let Some(Lent::Image(held)) = loan.root {
                held.leave();
            }
        }
    }
}

fn owners(is_root: bool) -> Owners {
    if is_root { Owners::Keep } else { Owners::Mine }
}

fn wanted(id: &TaskId, container: &Container) -> Option<Wanted> {
    let Network::Bridge { publish } = &container.network else { return None };
    let hostname = container.hostname.clone().unwrap_or_else(|| id.as_str().to_owned());
    Some(Wanted { hostname, names: container.names.clone(), publish: publish.clone() })
}

/// Changes what a file says where it is: it is seen in the container already.
fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let mut file: File =
        OpenOptions::new().write(true).truncate(true).custom_flags(flags).open(path)?;
    file.write_all(text.as_bytes())
}
