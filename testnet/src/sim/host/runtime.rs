//! What a host's runtime does: launches, stops, ends, with or without an agent.
//!
//! A launch takes a while and may fail, a stop takes up to its grace, and an
//! order once given holds even if the agent dies. Must never ask a core.

use gossip_core::fact::TaskEnd;
use starling_core::effect::Launch;

use super::super::air::{Air, Event, Mail};
use super::super::tasks::{State, TaskName};
use super::{HEAL_AT, Host, WARM_UP, jobs};

impl Host {
    pub(super) fn launch(&mut self, air: &mut Air, launch: Launch) {
        let name = (launch.id.clone(), launch.restarts);
        if let Some(agent) = &mut self.agent {
            agent.names.insert(launch.id.clone(), launch.restarts);
        }
        air.note(Some(self.index), || format!("launches {name:?}"));
        if !self.tasks.begin(&name, launch.task.resources) {
            return self.later(air, 1, Mail::Started(name));
        }
        air.bench.capacity.tasks(air.now, self.index, self.tasks.used(), self.card.capacity);
        let slow = air.now > WARM_UP && air.dice.chance(60);
        let takes = if slow { air.dice.range(100, 2000) } else { air.dice.range(3, 40) };
        let fails = air.now < HEAL_AT && air.dice.chance(15);
        let service = air.bench.sight.is_service(&launch.id.slot.job);
        let (host, boot) = (self.index, self.boot);
        air.after(takes, Event::Launched { host, boot, name, fails, service });
    }

    /// A launch came to its end.
    pub(in super::super) fn launched(
        &mut self,
        air: &mut Air,
        (boot, name): (u64, TaskName),
        fails: bool,
        service: bool,
    ) {
        let Some(task) = self.tasks.get_mut(&name).filter(|task| task.state == State::Starting)
        else {
            return;
        };
        if boot != self.boot {
            return;
        }
        if fails {
            let reason = "simulated".to_owned();
            let end = TaskEnd::NotStarted { code: 127, reason };
            return self.end(air, &name, end);
        }
        task.state = State::Running(false);
        let host = self.index;
        air.note(Some(host), || format!("runs {name:?}"));
        air.bench.task_started(air.now, host, &name);
        if let Some((after, end)) = jobs::life(&mut air.dice, air.now, service) {
            air.after(after, Event::Exits { host, boot, name: name.clone(), end });
        }
        air.after(0, Event::Agent { host, start: None, mail: Mail::Started(name) });
    }

    /// A starting agent waits until the launches of the one before came to their end.
    pub(super) fn settle_launches(&mut self, air: &mut Air) {
        for name in self.tasks.starting() {
            let service = air.bench.sight.is_service(&name.0.slot.job);
            let fails = air.now < HEAL_AT && air.dice.chance(100);
            self.launched(air, (self.boot, name), fails, service);
        }
    }

    pub(super) fn stop_task(&mut self, air: &mut Air, name: &TaskName, grace_ms: u64) {
        let Some(task) = self.tasks.get_mut(name) else { return };
        if !matches!(task.state, State::Starting | State::Running(false)) {
            return;
        }
        if task.state == State::Running(false) {
            task.state = State::Running(true);
        }
        let heeds = air.dice.chance(800);
        let after = if heeds { air.dice.range(5, 200) } else { grace_ms.min(3000) };
        let end = match (heeds, air.dice.chance(100)) {
            (true, true) => TaskEnd::Exited { code: 0 },
            (true, false) => TaskEnd::Signalled { signal: 15 },
            (false, _) => TaskEnd::Signalled { signal: 9 },
        };
        let (host, boot, name) = (self.index, self.boot, name.clone());
        air.after(after, Event::Exits { host, boot, name, end });
    }

    /// A task comes to its end, whether or not an agent looks.
    pub(in super::super) fn exits(
        &mut self,
        air: &mut Air,
        boot: u64,
        name: TaskName,
        end: TaskEnd,
    ) {
        let state = self.tasks.get_mut(&name).map(|task| task.state.clone());
        match state {
            Some(State::Running(_)) if boot == self.boot => self.end(air, &name, end),
            // Told to stop before it was there: it is told again.
            Some(State::Starting) if boot == self.boot => {
                air.after(50, Event::Exits { host: self.index, boot, name, end });
            }
            _ => {}
        }
    }

    pub(super) fn end(&mut self, air: &mut Air, name: &TaskName, end: TaskEnd) {
        self.set_end(air, name, end.clone());
        let mail = Mail::Ended(name.clone(), end);
        air.after(0, Event::Agent { host: self.index, start: None, mail });
    }

    pub(super) fn set_end(&mut self, air: &mut Air, name: &TaskName, end: TaskEnd) {
        air.note(Some(self.index), || format!("{name:?} ends: {end}"));
        if let Some(task) = self.tasks.get_mut(name) {
            air.bench.restarts.ended(self.index, name, &end);
            task.state = State::Ended(end);
            air.bench.task_ended(air.now, self.index, name);
        }
    }
}
