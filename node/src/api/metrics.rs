//! `/v1/metrics` in the Prometheus text format: gauges read on demand.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use starling_core::view::JobState;

use super::answer::Refused;
use crate::agent::Doors;
use crate::agent::fetch::Shares;

/// `GET /v1/metrics`.
pub(super) async fn metrics(State(doors): State<Doors>) -> Result<Response, Refused> {
    let peers = doors.gossip.peers().len();
    let events = doors.events.counts();
    let shares = doors.shares.clone();
    let text = doors
        .agent
        .look(move |core, now| {
            let mut page = Page::default();
            let version = env!("CARGO_PKG_VERSION");
            page.gauge("starling_build_info", "The program.", &format!("version=\"{version}\""), 1);
            page.gauge("starling_peers_connected", "Members connected now.", "", peers as u64);
            let view = core.freshness(now.moment);
            page.gauge("starling_nodes_known", "Members known.", "", view.known.into());
            page.gauge("starling_nodes_silent", "Members not heard.", "", view.silent.len() as u64);
            let (all, free) = (core.ledger().capacity(), core.ledger().free());
            let cpu = "starling_node_cpu_milli";
            page.gauge(cpu, "Thousandths of a core.", "kind=\"capacity\"", all.cpu_milli);
            page.sample(cpu, "kind=\"free\"", free.cpu_milli);
            let memory = "starling_node_memory_bytes";
            page.gauge(memory, "Memory.", "kind=\"capacity\"", all.memory_bytes);
            page.sample(memory, "kind=\"free\"", free.memory_bytes);
            let held = core.allocations().len() as u64;
            page.gauge("starling_node_allocations", "Slots claimed here.", "", held);
            let jobs = core.job_views();
            page.head("starling_jobs", "Jobs, by state.", "gauge");
            for state in [
                JobState::Pending,
                JobState::Running,
                JobState::Succeeded,
                JobState::Failed,
                JobState::Stopped,
            ] {
                let count = jobs.iter().filter(|job| job.state == state).count() as u64;
                page.sample("starling_jobs", &format!("state=\"{}\"", state.as_str()), count);
            }
            page.head("starling_events_total", "Events told, by kind.", "counter");
            for (kind, count) in events {
                page.sample("starling_events_total", &format!("event=\"{kind}\""), count);
            }
            images(&mut page, &shares);
            page.0
        })
        .await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// What went over the links for images: as it went, and as it counts in their layers.
fn images(page: &mut Page, shares: &Shares) {
    let counts = shares.counts();
    let name = "starling_image_bytes_total";
    page.head(name, "Bytes of images between members, by way.", "counter");
    for (source, count) in [
        ("sent", &counts.sent),
        ("sent-unpacked", &counts.sent_unpacked),
        ("peer", &counts.peer),
        ("peer-unpacked", &counts.peer_unpacked),
        ("local", &counts.local),
        ("bad", &counts.bad),
    ] {
        page.sample(name, &format!("source=\"{source}\""), count.load(Ordering::Relaxed));
    }
    if let Some(rate) = shares.rate() {
        let what = "What fetching images brought lately, bytes a second.";
        page.gauge("starling_image_link_bytes", what, "", rate);
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: u64) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &str, value: u64) {
        self.head(name, help, "gauge");
        self.sample(name, labels, value);
    }
}
