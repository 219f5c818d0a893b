//! `bundle`: jobs, and the images that they run from, in one file, for a cluster that never
//! met the one that they are from.
//!
//! ```text
//! export: jobs ─▶ head ─┐                    ┌─▶ head ─▶ what it will do
//!         images ───────┴─▶ FILE ──carried──▶┤
//!                                            ├─▶ images ─▶ load
//!                                            └─▶ jobs ───▶ submit, once
//! ```
//!
//! Must never: start anything of a file that is not whole, or twice what was imported twice.

mod entry;
mod export;
mod head;
mod import;

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use gossip_core::resources::show_bytes;
use gossip_core::spec::JobKind;
use runtime::image::Reference;

use crate::api::types::Complaint;
use crate::cli::client::Client;
use crate::cli::errors::{Failed, without_number};
use crate::cli::output::{Format, Output};
use crate::cli::table::Table;
use crate::cli::times;
use entry::NoEntry;
use head::{BundledImage, BundledJob, Head};

/// What can be done with bundles.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Write jobs and the images that they run from as one file
    #[command(after_help = "It has all that was said to `run`, variables with their values too. \
        Volumes, directories of nodes and what tasks wrote are not in it.\n\n\
        Examples:\n  starling bundle export -o shop.bundle web worker\n  \
        starling bundle export -o all.bundle --all\n  \
        starling bundle export -o - web | ssh other-host starling bundle import -")]
    Export(export::ExportArgs),
    /// Load a bundle's images here and submit its jobs
    #[command(after_help = "Once: what a bundle brought before is not started again.\n\n\
        Examples:\n  starling bundle import shop.bundle\n  \
        starling bundle import shop.bundle --only web --rename web=web2\n  \
        starling --peer bay bundle import --images-only shop.bundle")]
    Import(import::ImportArgs),
    /// Show what a bundle has in it; no agent is asked
    #[command(after_help = "Examples:\n  starling bundle show shop.bundle\n  \
        starling bundle show shop.bundle --json | jq '.jobs[].spec.groups[].tasks[].run'")]
    Show(ShowArgs),
}

/// The words of `bundle show`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ShowArgs {
    /// A bundle; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// `starling bundle export` and `import`.
pub(crate) async fn run(
    command: BundleCommand,
    client: &mut Client,
    out: Output,
) -> Result<u8, Failed> {
    match command {
        BundleCommand::Export(args) => export::run(args, client, out).await,
        BundleCommand::Import(args) => import::run(args, client, out).await,
        BundleCommand::Show(args) => show(&args, out),
    }
}

/// `starling bundle show`.
pub(crate) fn show(args: &ShowArgs, out: Output) -> Result<u8, Failed> {
    let bundle = Bundle::open(&args.file)?;
    match out.format {
        // As it was written, with what this program does not know of.
        Format::Json => out.json(bundle.text())?,
        Format::Quiet => {
            bundle.head.jobs.iter().try_for_each(|job| out.line(&job.spec.name))?;
        }
        Format::Human => {
            out.line(&summary(&bundle.head))?;
            if !bundle.head.jobs.is_empty() {
                out.table(&jobs(&bundle.head.jobs))?;
            }
            if !bundle.head.images.is_empty() {
                out.table(&images(&bundle.head.images))?;
            }
            left_behind(&bundle.head.jobs, out);
        }
    }
    Ok(0)
}

/// A bundle of which nothing but the head was read.
struct Bundle {
    head: Head,
    /// What was read: the first entry, and where in it the head ends.
    begin: (Vec<u8>, usize),
    rest: Rest,
}

/// What comes behind that.
enum Rest {
    File(File, u64),
    Stream,
}

impl Bundle {
    fn open(path: &Path) -> Result<Self, Failed> {
        let shown = shown(path);
        let failed = |error: io::Error| {
            let complaint = Complaint::new("no_such_file", format!("{shown} cannot be read"));
            Failed::from(complaint.because(without_number(&error)))
        };
        let mut rest = if path == Path::new("-") {
            if io::stdin().is_terminal() {
                return Err(Complaint::new("usage", "there is no bundle to read")
                    .because("standard input is a terminal")
                    .hint("starling bundle import FILE")
                    .into());
            }
            Rest::Stream
        } else {
            let file = File::open(path).map_err(failed)?;
            let bytes = file.metadata().map_err(failed)?.len();
            Rest::File(file, bytes)
        };
        let most = u64::try_from(head::BYTES_MAX).unwrap_or(u64::MAX);
        let read = match &mut rest {
            Rest::File(file, _) => entry::read(file, head::NAME, most),
            Rest::Stream => entry::read(&mut io::stdin().lock(), head::NAME, most),
        };
        let begin = read.map_err(|why| match why {
            NoEntry::Io(error) => failed(error),
            why => foreign(&shown, why).into(),
        })?;
        let head = Head::parse(entry::content(&begin));
        let head = head.map_err(|bad| bad_bundle(&shown).because(bad))?;
        Ok(Self { head, begin, rest })
    }

    /// The head, as it was written.
    fn text(&self) -> &[u8] {
        entry::content(&self.begin)
    }
}

impl Rest {
    /// How much it is, where that is known before.
    fn size(&self) -> Option<u64> {
        match self {
            // A pipe by name has no length.
            Self::File(_, bytes) => Some(*bytes).filter(|bytes| *bytes > 0),
            Self::Stream => None,
        }
    }
}

impl Read for Rest {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file, _) => file.read(into),
            Self::Stream => io::stdin().lock().read(into),
        }
    }
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

fn bad_bundle(shown: &str) -> Complaint {
    Complaint::new("bad_bundle", format!("{shown} cannot be imported"))
}

/// What a file is that is no bundle, as far as its first bytes tell.
fn foreign(shown: &str, why: NoEntry) -> Complaint {
    let complaint = bad_bundle(shown);
    let unpack = |with: &str| format!("{with} FILE | starling bundle import -");
    match why {
        NoEntry::Io(error) => complaint.because(without_number(&error)),
        NoEntry::CutOff => complaint.because("it ends before its first entry does"),
        NoEntry::Long(bytes) => complaint.because(format!(
            "its {} has {}, more than any is read",
            head::NAME,
            show_bytes(bytes)
        )),
        NoEntry::Foreign(begin) => match begin.as_slice() {
            [0x1f, 0x8b, ..] => complaint.because("it is compressed").hint(unpack("zcat")),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                complaint.because("it is compressed").hint(unpack("zstdcat"))
            }
            [0xfd, b'7', b'z', b'X', b'Z', ..] => {
                complaint.because("it is compressed").hint(unpack("xzcat"))
            }
            _ => complaint.because("it is no archive"),
        },
        NoEntry::Other(name) => complaint
            .because(format!("it is no bundle: it begins with {name}, not with {}", head::NAME))
            .hint("starling image load FILE   takes archives of images without jobs"),
    }
}

/// What it has, in a line.
fn summary(head: &Head) -> String {
    let (jobs, images) = (counted(head.jobs.len(), "job"), counted(head.images.len(), "image"));
    let (from, at) = (head.cluster.short(), times::timestamp(head.made));
    let size = show_bytes(head.image_bytes());
    format!("{jobs} and {images} ({size}) of cluster {from}, made {at}")
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn jobs(jobs: &[BundledJob]) -> Table {
    let mut table = Table::new(["JOB", "KIND", "COPIES", "COMMAND"]);
    for BundledJob { spec, .. } in jobs {
        let kind = match spec.kind {
            JobKind::Service => "service",
            JobKind::Batch => "batch",
        };
        let copies: u64 = spec.groups.iter().map(|group| u64::from(group.count)).sum();
        let tasks = spec.groups.iter().flat_map(|group| &group.tasks);
        let commands: Vec<_> = tasks.map(|task| task.run.command()).collect();
        table.row([spec.name.clone(), kind.to_owned(), copies.to_string(), commands.join("; ")]);
    }
    table
}

fn images(images: &[BundledImage]) -> Table {
    let mut table = Table::new(["IMAGE", "ID", "SIZE"]);
    for image in images {
        let names: Vec<_> = image.names.iter().map(Reference::familiar).collect();
        table.row([names.join(","), image.id.short(), show_bytes(image.bytes)]);
    }
    table
}

/// Says what the jobs need that no bundle has.
fn left_behind(jobs: &[BundledJob], out: Output) {
    for job in jobs {
        let paths = job.left_behind();
        if !paths.is_empty() {
            let (name, paths) = (&job.spec.name, paths.join(", "));
            out.note(&format!("note: {name} uses {paths} of its node, which is not in the bundle"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_bundle_says_what_it_is_and_what_to_do() {
        let told = |begin: &[u8]| foreign("f", NoEntry::Foreign(begin.to_vec()));
        assert_eq!(
            told(b"\x1f\x8b\x08").hint.as_deref(),
            Some("zcat FILE | starling bundle import -")
        );
        assert_eq!(told(b"hello").why, ["it is no archive"]);
        let other = foreign("f", NoEntry::Other("manifest.json".into()));
        assert!(other.hint.is_some_and(|hint| hint.contains("image load")), "{:?}", other.why);
        assert_eq!(foreign("f", NoEntry::CutOff).code, "bad_bundle");
    }
}
