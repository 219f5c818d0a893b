//! What is started again, what is said of its checks, and what goes when it is over.

use std::collections::BTreeMap;

use gossip_core::fact::TaskEnd;
use gossip_core::health::{Health, HealthSpec, HealthState, HealthTest};
use gossip_core::id::JobId;
use gossip_core::restart::Restart;
use gossip_core::spec::{JobKind, JobSpec};

use super::super::Found;
use super::wires::Cluster;
use super::{job, spec};
use crate::effect::{Ask, Effect, Input};
use crate::ledger::AllocationId;

/// A batch of one task that is started again when it failed.
fn retried(most: Option<u32>) -> JobSpec {
    let mut spec = spec(100);
    spec.kind = JobKind::Batch;
    spec.groups[0].count = 1;
    spec.groups[0].tasks[0].restart = Some(Restart::OnFailure { most });
    spec
}

#[test]
fn a_batch_task_with_a_rule_is_started_again_on_its_node_until_it_is_used_up() {
    let failed = TaskEnd::Exited { code: 3 };
    let killed = TaskEnd::Signalled { signal: 9 };
    let well = TaskEnd::Exited { code: 0 };
    let never = TaskEnd::NotStarted { code: 127, reason: String::new() };
    // The most restarts, the ends one after the other, the restarts, and the job's exit code.
    type Case<'a> = (Option<u32>, &'a [&'a TaskEnd], u32, Option<i32>);
    let cases: [Case<'_>; 6] = [
        (Some(2), &[&failed, &failed], 2, None),
        (Some(2), &[&failed, &killed, &failed], 2, Some(3)),
        (Some(2), &[&failed, &well], 1, Some(0)),
        (Some(1), &[&never], 0, Some(127)),
        (None, &[&failed, &failed, &failed, &failed], 4, None),
        (None, &[&well], 0, Some(0)),
    ];
    for (most, ends, restarts, exit) in cases {
        let mut cluster = Cluster::new(&[1000, 1000]);
        cluster.ask(0, Ask::Submit { job: job(), spec: Box::new(retried(most)) });
        let (at, id) = cluster.tasks.keys().next().expect("runs").clone();
        for end in ends {
            assert!(cluster.tasks.remove(&(at, id.clone())).is_some(), "{most:?} {ends:?}");
            cluster.mail.push_back((at, Input::Ended { id: id.clone(), end: (*end).clone() }));
            cluster.run(9000);
        }
        let view = cluster.cores[1 - at].job_view(&job()).expect("known");
        assert_eq!(view.exit_code, exit, "{most:?} {ends:?}");
        let runs: Vec<_> = cluster.tasks.keys().cloned().collect();
        let wanted = if exit.is_none() { vec![(at, id.clone())] } else { vec![] };
        assert_eq!(runs, wanted, "on the same node, under the same claim");
        let counted = cluster.cores[at].allocations().get(&id).map_or(restarts, |it| it.restarts);
        assert_eq!(counted, restarts);
    }
}

#[test]
fn restarts_are_not_forgotten_over_an_agents_own() {
    let mut cluster = Cluster::new(&[1000]);
    cluster.ask(0, Ask::Submit { job: job(), spec: Box::new(retried(Some(1))) });
    let (_, id) = cluster.tasks.keys().next().expect("runs").clone();
    let end = TaskEnd::Exited { code: 3 };
    cluster.mail.push_back((0, Input::Ended { id: id.clone(), end: end.clone() }));
    cluster.run(1000);
    let past = cluster.past();
    cluster.mail.clear();
    // It ended once more while no agent looked.
    cluster.add(0, 1000, 2, past, &BTreeMap::from([(id, Found::Ended(end))]));
    cluster.run(1000);
    let view = cluster.cores[0].job_view(&job()).expect("known");
    assert_eq!((view.state, view.exit_code), (crate::view::JobState::Failed, Some(3)));
}

#[test]
fn a_job_that_says_so_is_removed_once_it_is_over_or_stopped() {
    let of = |kind| {
        let mut spec = spec(100);
        (spec.kind, spec.remove) = (kind, true);
        Ask::Submit { job: job(), spec: Box::new(spec) }
    };
    let is_removed = |cluster: &Cluster, job: &JobId| {
        let removed =
            |core: &super::super::Core| core.state().job(job).is_some_and(|it| it.removed);
        cluster.cores.iter().all(removed)
    };
    let mut cluster = Cluster::new(&[1000, 1000, 1000]);
    cluster.ask(0, of(JobKind::Batch));
    let tasks: Vec<_> = cluster.tasks.keys().cloned().collect();
    for (at, id) in tasks {
        assert!(!is_removed(&cluster, &job()), "a task runs still");
        cluster.tasks.remove(&(at, id.clone()));
        cluster.mail.push_back((at, Input::Ended { id, end: TaskEnd::Exited { code: 0 } }));
        cluster.run(50);
    }
    assert!(is_removed(&cluster, &job()));
    let mut cluster = Cluster::new(&[1000, 1000, 1000]);
    cluster.ask(0, of(JobKind::Service));
    assert!(!is_removed(&cluster, &job()));
    cluster.ask(1, Ask::Stop(job()));
    assert!(is_removed(&cluster, &job()) && cluster.places().is_empty());
}

/// A job of one task with a check of its own, and what is said of that.
fn checked(kind: JobKind) -> (Cluster, AllocationId, impl Fn(&mut Cluster, HealthState)) {
    let mut spec = spec(100);
    spec.kind = kind;
    spec.groups[0].count = 1;
    let test = Some(HealthTest::Shell("true".into()));
    spec.groups[0].tasks[0].health = Some(HealthSpec { test, ..HealthSpec::default() });
    let mut cluster = Cluster::new(&[1000]);
    cluster.ask(0, Ask::Submit { job: job(), spec: Box::new(spec) });
    let (_, id) = cluster.tasks.keys().next().expect("runs").clone();
    let of = id.clone();
    let say = move |cluster: &mut Cluster, state| {
        let health = Health { state, output: "said".into() };
        cluster.mail.push_back((0, Input::Checked { id: of.clone(), health }));
        cluster.run(50);
    };
    (cluster, id, say)
}

fn shown(cluster: &Cluster) -> Option<HealthState> {
    let views = cluster.cores[0].task_views(&job(), crate::view::Ended::Hidden);
    views[0].health.as_ref().map(|health| health.state)
}

#[test]
fn a_service_that_is_not_well_is_started_again_and_begins_anew() {
    let (mut cluster, id, say) = checked(JobKind::Service);
    assert_eq!(shown(&cluster), Some(HealthState::Starting));
    say(&mut cluster, HealthState::Healthy);
    assert_eq!(shown(&cluster), Some(HealthState::Healthy));
    say(&mut cluster, HealthState::Unhealthy);
    assert!(cluster.tasks.is_empty(), "it was told to stop");
    assert_eq!(shown(&cluster), None, "nothing runs");
    cluster.run(500);
    assert!(cluster.tasks.contains_key(&(0, id.clone())), "it is started again, where it was");
    assert_eq!(shown(&cluster), Some(HealthState::Starting));
    assert_eq!(cluster.cores[0].allocations()[&id].restarts, 1);
}

#[test]
fn of_a_batch_it_is_only_shown_and_nothing_is_written_twice() {
    let (mut cluster, id, say) = checked(JobKind::Batch);
    say(&mut cluster, HealthState::Unhealthy);
    assert!(cluster.tasks.contains_key(&(0, id.clone())));
    let view = cluster.cores[0].job_view(&job()).expect("known");
    assert_eq!((view.running, view.unhealthy), (1, 1));
    let mut out = Vec::new();
    let health = Health { state: HealthState::Unhealthy, output: "again".into() };
    let input = Input::Checked { id, health };
    let now = cluster.clock();
    cluster.cores[0].handle(now, &mut cluster.dice, input, &mut out);
    let writes = out.iter().filter(|effect| matches!(effect, Effect::Append { .. })).count();
    assert_eq!(writes, 0, "only changes are facts");
}

#[test]
fn a_restarted_agent_finds_out_anew_that_a_task_is_not_well() {
    let (mut cluster, id, say) = checked(JobKind::Batch);
    say(&mut cluster, HealthState::Unhealthy);
    let past = cluster.past();
    cluster.mail.clear();
    cluster.add(0, 1000, 2, past, &BTreeMap::from([(id, Found::Running)]));
    cluster.run(50);
    assert_eq!(shown(&cluster), Some(HealthState::Starting));
}
