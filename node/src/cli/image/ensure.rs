//! What the images of a job are, found out before the job is submitted: an image that no
//! member has is pulled, which is seen here, and ends with whoever waits for it.
//!
//! Must never: leave a job behind whose submitter left while its image came.

use gossip_core::container::{ImageSpec, Pull};
use gossip_core::id::ContentHash;
use gossip_core::spec::JobSpec;

use super::gauge::Gauge;
use super::query;
use super::transfer::{LOOK_EVERY, left};
use crate::agent::vet;
use crate::api::image_types::ImageItem;
use crate::cli::client::{Client, parse};
use crate::cli::errors::Failed;
use crate::cli::output::Output;

/// Writes into a job which content its images are.
pub(in crate::cli) async fn ensure(
    spec: &mut JobSpec,
    client: &mut Client,
    out: Output,
) -> Result<(), Failed> {
    // What is refused in any case is refused before anything is pulled for it.
    if spec.check().is_err() || vet(spec).is_err() {
        return Ok(());
    }
    let tasks = spec.groups.iter_mut().flat_map(|group| &mut group.tasks);
    let images = tasks.filter_map(|task| task.run.image_mut());
    // What is never pulled is found out by the submission itself.
    for image in images.filter(|image| image.id.is_none() && image.pull != Pull::Never) {
        match one(image, client, out).await {
            // An agent of an older version pulls as the job is submitted.
            Err(failed) if failed.code() == Some("no_such_route") => return Ok(()),
            done => done?,
        }
    }
    Ok(())
}

async fn one(image: &mut ImageSpec, client: &mut Client, out: Output) -> Result<(), Failed> {
    let pull = match image.pull {
        Pull::Always => "always",
        Pull::Missing | Pull::Never => "missing",
    };
    let path = format!("/v1/images/ensure?name={}&pull={pull}", query(&image.name));
    let mut lines = client.watch(&path).await?;
    let mut gauge = Gauge::new(out);
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        let line = tokio::select! {
            line = lines.next() => line?.ok_or_else(left)?,
            _now = look.tick() => {
                gauge.show(None);
                continue;
            }
        };
        match parse(&line)? {
            ImageItem::Progress(progress) => gauge.layer(&progress),
            ImageItem::Failed { error } => return Err(error.into()),
            ImageItem::Meant { id, bytes, notice } => {
                gauge.clear();
                notice.iter().for_each(|notice| out.note(&format!("note: {notice}")));
                image.id = Some(ContentHash::new(*id.as_bytes()));
                image.bytes = Some(bytes);
                return Ok(());
            }
            // Only other requests are answered so.
            ImageItem::Done { .. } => {}
        }
    }
}
