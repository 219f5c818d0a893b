//! `image save`: an archive from an agent to here.
//!
//! Must never: give a file its name before all of it is written.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;

use super::gauge::Gauge;
use super::query;
use crate::api::types::Complaint;
use crate::cli::client::Client;
use crate::cli::errors::{Failed, without_number};
use crate::cli::output::Output;

/// The flags of `image save`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SaveArgs {
    /// Write it here instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Names, ids, or beginnings of ids
    #[arg(value_name = "IMAGE", required = true)]
    names: Vec<String>,
}

/// `starling image save`.
pub(super) async fn save(args: SaveArgs, client: &mut Client, out: Output) -> Result<u8, Failed> {
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(Complaint::new("usage", "an archive is not for a terminal")
            .hint("starling image save -o FILE IMAGE   or > FILE, or | something")
            .into());
    }
    let names: Vec<_> = args.names.iter().map(|name| format!("name={}", query(name))).collect();
    let mut bytes = client.download(&format!("/v1/images/save?{}", names.join("&"))).await?;
    let mut gauge = Gauge::new(out);
    let mut target = Target::open(args.output)?;
    let mut written = 0;
    while let Some(piece) = bytes.next().await.map_err(cut)? {
        target.write(&piece)?;
        written += piece.len() as u64;
        gauge.show(Some((written, None)));
    }
    target.finish()?;
    Ok(0)
}

/// What the middle of an archive cannot say.
fn cut(failed: Failed) -> Failed {
    match failed.code() {
        Some("broken") => Complaint::new("broken", "the archive broke off before its end")
            .because("the agent left, could not read an image, or waited too long for this reader")
            .hint("its agent.log says which; one that takes nothing for 30 seconds is left")
            .into(),
        _ => failed,
    }
}

/// Where an archive is written. A file gets its name when it is whole, and not before.
pub(in crate::cli) enum Target {
    Stdout,
    File { file: File, part: PathBuf, path: PathBuf },
}

impl Target {
    pub(in crate::cli) fn open(path: Option<PathBuf>) -> Result<Self, Failed> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        let mut part = path.clone().into_os_string();
        part.push(".part");
        // What is no file, like /dev/null, is written where it is.
        let is_other = path.metadata().is_ok_and(|found| !found.is_file());
        let part = if is_other { path.clone() } else { PathBuf::from(part) };
        let file = File::create(&part).map_err(|error| unwritten(&path, &error))?;
        Ok(Self::File { file, part, path })
    }

    pub(in crate::cli) fn write(&mut self, piece: &[u8]) -> Result<(), Failed> {
        match self {
            Self::Stdout => Ok(io::stdout().write_all(piece)?),
            Self::File { file, path, .. } => {
                file.write_all(piece).map_err(|error| unwritten(path, &error))
            }
        }
    }

    pub(in crate::cli) fn finish(mut self) -> Result<(), Failed> {
        match &mut self {
            Self::Stdout => Ok(io::stdout().flush()?),
            Self::File { part, path, .. } if part == path => Ok(()),
            Self::File { file, part, path } => {
                let done = file.sync_all().and_then(|()| std::fs::rename(&*part, &*path));
                done.map_err(|error| unwritten(path, &error))?;
                *part = path.clone();
                Ok(())
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Self::File { part, path, .. } = self
            && part != path
        {
            // It is no archive, and may be gone already.
            let _ = std::fs::remove_file(part);
        }
    }
}

fn unwritten(path: &Path, error: &io::Error) -> Failed {
    let what = format!("{} cannot be written", path.display());
    Complaint::new("output", what).because(without_number(error)).into()
}
