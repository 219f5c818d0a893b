//! A directory on the disk as the archive that [`super::load`] takes.
//!
//! Only what an image consists of goes in: a layout may lie in a directory with other things.
//! Links are archived as links, so none brings in what lies elsewhere.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::Path;

use crate::image::ImageError;
use crate::inside::Writer;

/// Of an OCI layout. The last is what Docker adds to it.
const LAYOUT: [&str; 4] = ["oci-layout", "index.json", "blobs", "manifest.json"];

/// Without it, a layout is none.
const INDEX: &str = "index.json";

/// Of an unpacked `docker save`, which calls its other files by digests.
const DOCKER: &str = "manifest.json";

/// Archives the OCI layout, or the unpacked `docker save`, of a directory. Blocks.
///
/// # Errors
///
/// If it is neither, or cannot be read or written.
pub fn pack_layout(dir: &Path, to: &mut dyn Write) -> Result<(), ImageError> {
    let shown = dir.display().to_string();
    let failed = |source| ImageError::Read { what: shown.clone(), source };
    let handle = File::open(dir).map_err(failed)?;
    let has = |name: &str| std::fs::symlink_metadata(dir.join(name)).is_ok();
    let mut writer = Writer::new(to);
    let mut add = |name: &OsStr| writer.entry(handle.as_fd(), name, Path::new(name));
    if has(INDEX) {
        for name in LAYOUT.into_iter().filter(|name| has(name)) {
            add(OsStr::new(name)).map_err(failed)?;
        }
    } else if has(DOCKER) {
        for name in names(dir).map_err(failed)? {
            add(&name).map_err(failed)?;
        }
    } else {
        let why = format!("it has neither {INDEX} nor {DOCKER}: it is no image");
        return Err(ImageError::Document { what: format!("the directory {shown}"), why });
    }
    match writer.finish().map_err(failed)? {
        Some(left_out) => Err(failed(io::Error::other(left_out))),
        None => Ok(()),
    }
}

fn names(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort_unstable();
    Ok(names)
}
