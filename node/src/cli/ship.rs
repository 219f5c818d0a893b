//! `run --ship`: files of this machine that a plain process brings along to whichever node
//! runs it.
//!
//! ```text
//! ./prog, conf/, assets/. ──pack──▶ one archive ──▶ the agent's images ──▶ its id, in the job
//! ```
//!
//! The archive says nothing of when, where and whose: the same files are the same image, and
//! are sent and kept once.

use std::collections::BTreeSet;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use gossip_core::container::ImageSpec;
use gossip_core::id::ContentHash;

use crate::api::types::Complaint;
use crate::cli::client::Client;
use crate::cli::errors::{Failed, without_number};
use crate::cli::image::transfer::{PIECE_BYTES, upload};
use crate::cli::output::Output;

/// How much of the files' names a job is told.
const NAME_CHARS: usize = 100;

/// What is packed: a path, and what that is called where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shipment(Vec<(PathBuf, PathBuf)>);

impl Shipment {
    /// Gives each path the name that it ends with; the contents of one that ends in `/.` have
    /// their own. None without paths.
    pub(crate) fn of(paths: &[PathBuf]) -> Result<Option<Self>, Complaint> {
        let mut all = Vec::new();
        let mut names = BTreeSet::new();
        for path in paths {
            let bytes = path.as_os_str().as_encoded_bytes();
            let contents = bytes == b"." || bytes.ends_with(b"/.");
            let name = match path.file_name() {
                _ if contents => PathBuf::from("."),
                Some(name) => PathBuf::from(name),
                None => {
                    let what = format!("{} has no name to ship it under", path.display());
                    return Err(Complaint::new("usage", what)
                        .hint("--ship DIR   ships it as DIR, --ship DIR/.   ships what is in it"));
                }
            };
            if !names.insert(name.clone()) {
                let what = format!("two things to ship are called {}", name.display());
                return Err(Complaint::new("usage", what).because(path.display()));
            }
            all.push((path.clone(), name));
        }
        // In whichever order they are named, they are the same.
        all.sort_by(|a, b| a.1.cmp(&b.1));
        Ok((!all.is_empty()).then_some(Self(all)))
    }

    /// What the job says of them before they are sent. No name of an image begins so: nobody
    /// asks a registry for it.
    pub(crate) fn spec(&self) -> ImageSpec {
        let names: Vec<_> = self.0.iter().map(|(_, name)| name.to_string_lossy()).collect();
        let shown = |c: char| if c.is_ascii_graphic() { c } else { '_' };
        let names: String = names.join(",").chars().map(shown).take(NAME_CHARS).collect();
        ImageSpec::named(format!("./{names}"))
    }

    /// Sends them to the agent, where nodes fetch them from. Answers what they are.
    pub(crate) async fn send(
        self,
        client: &mut Client,
        out: Output,
    ) -> Result<(ContentHash, u64), Failed> {
        self.0.iter().try_for_each(|(path, name)| readable(path, name))?;
        let path = "/v1/images/import?origin=needed";
        let pack = move |to: &mut _| {
            runtime::pack_plain(&self.0, BufWriter::with_capacity(PIECE_BYTES, to))
        };
        let done = upload(path, None, pack, client, out).await?;
        let Some(image) = done.images.first() else {
            return Err(Complaint::new("bad_answer", "the agent does not say what it has").into());
        };
        let bytes = image.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.bytes));
        Ok((ContentHash::new(*image.id.as_bytes()), bytes))
    }
}

fn readable(path: &Path, name: &Path) -> Result<(), Complaint> {
    let failed = |why: String| {
        let what = format!("{} cannot be shipped", path.display());
        Complaint::new("no_such_file", what).because(why)
    };
    let found = std::fs::metadata(path).map_err(|error| failed(without_number(&error)))?;
    match (found.is_dir(), found.is_file()) {
        (false, true) if name != Path::new(".") => Ok(()),
        (true, _) => Ok(()),
        (false, true) => Err(failed("it is no directory".to_owned())),
        _ => Err(failed("it is neither a file nor a directory".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(paths: &[&str]) -> Result<Option<Shipment>, Complaint> {
        Shipment::of(&paths.iter().map(PathBuf::from).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_those_that_paths_end_with_in_any_order() {
        assert_eq!(of(&[]).expect("nothing"), None);
        let names = |paths: &[&str]| -> Vec<String> {
            let shipment = of(paths).expect("sound").expect("some");
            shipment.0.into_iter().map(|(_, name)| name.display().to_string()).collect()
        };
        assert_eq!(names(&["/opt/prog", "conf/", "b/."]), [".", "conf", "prog"]);
        assert_eq!(names(&["conf/", "b/.", "/opt/prog"]), [".", "conf", "prog"]);
        assert_eq!(names(&["."]), ["."]);
        for bad in [&["a/x", "b/x"][..], &[".."], &["/"], &["a/.", "b/."]] {
            assert_eq!(of(bad).expect_err("refused").code, "usage", "{bad:?}");
        }
    }

    #[test]
    fn a_job_calls_them_by_no_name_of_an_image() {
        for path in ["prog", "a b", "ü", "x".repeat(300).as_str()] {
            let spec = of(&[path]).expect("sound").expect("some").spec();
            assert!(spec.name.parse::<runtime::image::Reference>().is_err(), "{}", spec.name);
            assert!(spec.name.len() < 200 && spec.name.is_ascii(), "{}", spec.name);
        }
    }
}
