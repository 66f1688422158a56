//! Runs a world from its seed: picks who acts next, lets time pass, loses and doubles wake-ups, kills and restarts, and
//! holds every step against the laws.

use coord_db::{ActorId, supervisors};

use super::audit;
use super::human::{Foreign, Human};
use super::laws::{self, Broken, Laws};
use super::loops::{LoopActor, LoopFault, Temper};
use super::story::Failure;
use super::supervisors::Tampering;
use super::train::{TrainActor, TrainFault};
use super::world::World;

/// What an actor has done, and when it wants to be asked again if nobody wakes it before.
#[derive(Debug, Clone)]
pub struct Step {
    /// In words; empty for what is not worth telling.
    pub what: String,
    after_millis: i64,
    deaf: bool,
}

impl Step {
    /// Goes on at once.
    pub fn now(what: impl Into<String>) -> Self {
        Self { what: what.into(), after_millis: 0, deaf: false }
    }

    /// Goes on when woken, or after this time.
    pub fn after(millis: i64, what: impl Into<String>) -> Self {
        Self { what: what.into(), after_millis: millis.max(0), deaf: false }
    }

    /// Hears nothing for this time.
    pub fn deaf(millis: i64, what: impl Into<String>) -> Self {
        Self { what: what.into(), after_millis: millis, deaf: true }
    }

    /// Goes on after this time at the latest.
    #[must_use]
    pub fn at_most(mut self, millis: i64) -> Self {
        if !self.deaf {
            self.after_millis = self.after_millis.min(millis.max(0));
        }
        self
    }
}

/// A participant of the simulation.
pub trait Actor {
    /// As the story calls it.
    fn name(&self) -> &str;
    /// Its id in the data.
    fn actor_id(&self) -> ActorId;
    /// One transaction, one look, or one pass.
    ///
    /// # Errors
    /// If the database fails. Nothing has happened then, and the actor goes on from where it was.
    fn step(&mut self, world: &mut World) -> coord_db::Result<Step>;
    /// Its process dies: all that it has in memory is lost.
    fn crash(&mut self, world: &mut World);
}

/// How wake-ups arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakes {
    /// Each arrives.
    All,
    /// None does.
    None,
    /// Some are lost, some come twice.
    Faulty,
}

/// A world to be run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name, which is that of the test that runs it.
    pub name: &'static str,
    /// What all chance comes from.
    pub seed: u64,
    /// How wake-ups arrive.
    pub wakes: Wakes,
    /// Whether processes die, clocks jump and passes are undone.
    pub faults: bool,
    /// Whether people and other tools take part.
    pub hands: bool,
    /// Virtual seconds before everyone calms down.
    pub seconds: i64,
    /// Virtual seconds after that in which everything settles.
    pub settles_seconds: i64,
    /// What the loops do wrong on purpose.
    pub loop_fault: LoopFault,
    /// What the landing trains do wrong on purpose.
    pub train_fault: TrainFault,
    /// What is done to which supervisors, by id.
    pub tampered: Vec<(&'static str, Tampering)>,
    /// SQL of a rogue hand, tried after every step until it has changed something once.
    pub rogue: Option<&'static str>,
}

impl Scenario {
    /// Everything at once.
    #[must_use]
    pub fn chaos(name: &'static str, seed: u64) -> Self {
        Self {
            name,
            seed,
            wakes: Wakes::Faulty,
            faults: true,
            hands: true,
            // Most mistakes show early; some need long.
            seconds: [100, 150, 250, 600][fastrand::Rng::with_seed(seed).usize(0..4)],
            settles_seconds: 4 * 3600,
            loop_fault: LoopFault::None,
            train_fault: TrainFault::None,
            tampered: Vec::new(),
            rogue: None,
        }
    }

    /// Nothing goes wrong that the loops do not do themselves.
    #[must_use]
    pub fn fair(name: &'static str, seed: u64) -> Self {
        Self { wakes: Wakes::All, faults: false, hands: false, ..Self::chaos(name, seed) }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How many steps there were.
    pub steps: u64,
    /// Virtual seconds until everything had settled.
    pub seconds: i64,
    /// The same for two runs exactly if they went the same way.
    pub digest: u64,
    /// How many steps found the disk full.
    pub refused: u64,
    /// Every test with its final status.
    pub tests: Vec<(String, String)>,
    /// How many events of each type there were.
    pub events: std::collections::BTreeMap<String, usize>,
}

struct Slot {
    actor: Box<dyn Actor>,
    due_at: i64,
    woken: bool,
    deaf_until: i64,
    /// Dead until then.
    down_until: Option<i64>,
    mortal: bool,
}

struct Engine {
    scenario: Scenario,
    world: World,
    slots: Vec<Slot>,
    laws: Laws,
    /// How many of a hundred wake-ups arrive where they are faulty.
    heard_percent: u32,
    refused: u64,
}

/// Runs a world to its end. If it breaks and `SIM_KEEP` names a file, its database is kept there, to be looked at.
///
/// # Errors
/// The law that did not hold, and the story.
pub fn run(scenario: &Scenario) -> Result<Summary, Box<Failure>> {
    let mut engine = Engine::new(scenario);
    engine.run().map_err(|Broken { law, detail }| {
        if let Some(file) = std::env::var_os("SIM_KEEP") {
            let file = file.to_string_lossy().replace('\'', "''");
            engine.world.db.execute_foreign(&format!("VACUUM INTO '{file}'")).expect("keeping the database");
        }
        Box::new(Failure { seed: scenario.seed, scenario: scenario.name, law, detail, story: engine.world.story.tail() })
    })
}

impl Engine {
    fn new(scenario: &Scenario) -> Self {
        let mut world = World::new(scenario.seed);
        audit::install(&world).expect("the audit's triggers");
        let mut slots: Vec<Slot> = Vec::new();
        let mut add = |actor: Box<dyn Actor>, mortal: bool| {
            slots.push(Slot { actor, due_at: 0, woken: false, deaf_until: 0, down_until: None, mortal });
        };
        for (id, temper) in super::populate(&mut world, scenario.hands) {
            let mortal = temper != Temper::ByHand;
            let actor = LoopActor::new(id.clone(), temper, scenario.loop_fault);
            let process = actor.process();
            add(Box::new(actor), mortal);
            if mortal {
                add(Box::new(TrainActor::new(id, process, scenario.train_fault)), true);
            }
        }
        let undone = if scenario.faults { 3 } else { 0 };
        let tampering =
            |id: &str| scenario.tampered.iter().find(|(whom, _)| *whom == id).map_or(Tampering::None, |(_, how)| *how);
        super::join(&mut |id, make| add(make(tampering(id), undone), true));
        if scenario.hands {
            add(Box::new(Human), false);
            add(Box::<Foreign>::default(), false);
        }
        // Losing a supervisor degrades and never stops: some are missing until everyone calms down.
        if scenario.faults && scenario.tampered.is_empty() {
            for slot in slots.iter_mut().filter(|slot| slot.mortal && supervisors::find(slot.actor.name()).is_some()) {
                if world.fate(("missing", slot.actor.name()), 7) == 0 {
                    slot.down_until = Some(i64::MAX);
                }
            }
        }
        let heard_percent = [20, 60, 90][usize::try_from(world.fate("heard", 3)).unwrap_or_default()];
        Self { scenario: scenario.clone(), world, slots, laws: Laws::default(), heard_percent, refused: 0 }
    }

    fn run(&mut self) -> Result<Summary, Broken> {
        // What setting up has changed is no step's doing.
        let _ =
            audit::changes(&self.world).map_err(|error| Broken { law: "the database answers", detail: error.to_string() })?;
        while self.world.elapsed() < self.scenario.seconds * 1000 {
            if self.scenario.faults {
                self.misfortune();
            }
            self.one_step()?;
        }
        self.calm();
        let begun = self.world.elapsed();
        let mut rests = 0;
        // Rest is rest once it has lasted.
        while rests < 3 {
            let look_at = self.world.elapsed() + 20_000;
            while self.world.elapsed() < look_at {
                self.one_step()?;
            }
            match laws::unrest(&self.world) {
                None => rests += 1,
                Some(why) if self.world.elapsed() - begun > self.scenario.settles_seconds * 1000 => {
                    return Err(Broken { law: "everything settles", detail: why });
                }
                Some(_) => rests = 0,
            }
        }
        laws::check(&self.world)?;
        Ok(self.summary())
    }

    fn summary(&self) -> Summary {
        let (tests, events) = self.world.read(|tx| Ok((tx.tests(None, None)?, tx.events(&Default::default())?)));
        let mut kinds = std::collections::BTreeMap::new();
        for event in events {
            *kinds.entry(event.event_type).or_default() += 1;
        }
        Summary {
            steps: self.world.story.steps(),
            seconds: self.world.elapsed() / 1000,
            refused: self.refused,
            digest: self.world.story.digest(),
            tests: tests.into_iter().map(|test| (test.id.to_string(), test.status.to_string())).collect(),
            events: kinds,
        }
    }

    /// From now on nobody misbehaves, and the dead rise.
    fn calm(&mut self) {
        self.world.calm = true;
        self.world.make_room();
        self.world.frozen.clear();
        self.tell("world", "calms down");
        self.scenario.wakes = if self.scenario.wakes == Wakes::Faulty { Wakes::All } else { self.scenario.wakes };
        for slot in &mut self.slots {
            slot.down_until = None;
            slot.due_at = self.world.elapsed();
            slot.deaf_until = 0;
        }
    }

    fn tell(&mut self, actor: &str, what: &str) {
        let elapsed = self.world.elapsed();
        self.world.story.tell(elapsed, actor, what);
    }

    fn misfortune(&mut self) {
        match self.world.rng.i64(0..4_000) / self.world.pace {
            0..30 => {
                let at = self.world.rng.usize(0..self.slots.len());
                let down = self.world.millis(0, 60_000) * self.world.rng.i64(0..5);
                let (world, slot) = (&mut self.world, &mut self.slots[at]);
                if slot.mortal && slot.down_until.is_none() {
                    slot.actor.crash(world);
                    slot.down_until = Some(world.elapsed() + down);
                    slot.deaf_until = 0;
                    let name = slot.actor.name().to_owned();
                    self.tell(&name, &format!("dies, for {} s", down / 1000));
                }
            }
            30..32 => {
                let jump = self.world.millis(-300_000, 300_000);
                self.world.clock.jump_millis(jump);
                self.laws.clocks_changed();
                self.tell("world", &format!("sets its clock by {} s", jump / 1000));
            }
            32..34 => {
                let sleep = self.world.millis(10_000, 7_200_000);
                self.world.clock.suspend_millis(sleep);
                self.laws.clocks_changed();
                self.tell("world", &format!("sleeps for {} s", sleep / 1000));
            }
            34..60 => {
                let busy = self.world.millis(1_000, 15_000);
                self.world.advance(busy);
            }
            60..66 if self.world.disk_full_until.is_none() => {
                let full = self.world.millis(5_000, 120_000);
                self.world.fill_disk(full);
                self.tell("world", &format!("has no room on its disk for {} s", full / 1000));
            }
            66..90 => {
                let at = self.world.rng.usize(0..self.slots.len());
                let (frozen, now) = (self.world.millis(1_000, 90_000), self.world.elapsed());
                let slot = &mut self.slots[at];
                if slot.mortal && slot.down_until.is_none() {
                    slot.deaf_until = slot.deaf_until.max(now + frozen);
                    let name = slot.actor.name().to_owned();
                    self.world.frozen.insert(name.clone(), now + frozen);
                    self.tell(&name, &format!("stands still for {} s", frozen / 1000));
                }
            }
            _ => {}
        }
    }

    fn one_step(&mut self) -> Result<(), Broken> {
        let now = self.world.elapsed();
        self.world.frozen.retain(|_, until| *until > now);
        if self.world.disk_full_until.is_some_and(|until| until <= now) {
            self.world.make_room();
        }
        let ready = |slot: &Slot| {
            slot.down_until.is_none_or(|until| until <= now)
                && slot.deaf_until <= now
                && (slot.woken || slot.due_at <= now || slot.down_until.is_some())
        };
        let ready: Vec<usize> = (0..self.slots.len()).filter(|at| ready(&self.slots[*at])).collect();
        if ready.is_empty() {
            let next = |slot: &Slot| {
                slot.down_until.unwrap_or(if slot.woken { slot.deaf_until } else { slot.due_at.max(slot.deaf_until) })
            };
            let next = self.slots.iter().map(next).min().unwrap_or(now + 1000);
            self.world.advance((next - now).clamp(1, 60_000));
            // The bounds hold also while nobody does anything.
            return self.laws.after_step(&self.world, &[]);
        }
        let at = ready[self.world.rng.usize(0..ready.len())];
        let slot = &mut self.slots[at];
        slot.down_until = None;
        slot.woken = false;
        self.world.rung = false;
        self.world.ledger.acting.clear();
        let step = match slot.actor.step(&mut self.world) {
            // It holds still, and tries again.
            Err(coord_db::Error::Unwritable { .. }) if self.world.disk_full_until.is_some() => {
                self.refused += 1;
                Step::after(2_000, "finds the disk full")
            }
            step => step.unwrap_or_else(|error| {
                panic!("seed {}: {}: {error}: {:?}", self.world.seed, slot.actor.name(), std::error::Error::source(&error))
            }),
        };
        let name = slot.actor.name().to_owned();
        slot.due_at = self.world.elapsed() + step.after_millis;
        slot.deaf_until = if step.deaf { slot.due_at } else { 0 };
        if !step.what.is_empty() {
            self.tell(&name, &step.what);
        }
        if let Some(sql) = self.scenario.rogue {
            let rung = std::mem::take(&mut self.world.rung);
            // Refused is not yet done: what it waits for may not have happened.
            let _ = self.world.ringing(|world| world.db.execute_foreign(sql));
            if std::mem::replace(&mut self.world.rung, rung) {
                self.scenario.rogue = None;
                self.tell("a rogue hand", sql);
            }
        }
        let changes =
            audit::changes(&self.world).map_err(|error| Broken { law: "the database answers", detail: error.to_string() })?;
        self.count_idle_pass(&step.what, &name, !self.world.rung);
        self.note(&changes);
        self.laws.after_step(&self.world, &changes)?;
        if self.world.rung {
            self.ring(at);
        }
        if self.world.story.steps() % 1_000 == 999 {
            laws::check(&self.world)?;
        }
        let passes = self.world.millis(1, 40);
        self.world.advance(passes);
        Ok(())
    }

    fn count_idle_pass(&mut self, what: &str, name: &str, unchanged: bool) {
        if !what.starts_with("passes: ") {
            return;
        }
        if let Some(id) = self.world.up.iter().copied().find(|id| *id == name) {
            let idle = unchanged && what.starts_with("passes: 0 handled");
            let count = self.world.ledger.idle_passes.entry(id).or_default();
            *count = if idle { *count + 1 } else { 0 };
        }
    }

    /// Takes over into the ledger what resets have made undone.
    fn note(&mut self, changes: &[audit::Change]) {
        for change in changes {
            if change.what == "test" && change.text(1) == "pending" && change.text(0) != "in_progress" && change.number(3) == 0
            {
                self.world.ledger.failures.retain(|test, _| test.as_str() != change.key);
            }
        }
    }

    fn ring(&mut self, by: usize) {
        for at in 0..self.slots.len() {
            if at == by {
                continue;
            }
            let heard = match self.scenario.wakes {
                Wakes::All => true,
                Wakes::None => false,
                Wakes::Faulty => self.world.chance(self.heard_percent),
            };
            if heard {
                self.slots[at].woken = true;
            } else if self.scenario.wakes == Wakes::Faulty && self.world.chance(10) {
                // It comes later, when there is nothing to hear any more.
                self.slots[at].due_at = self.slots[at].due_at.min(self.world.elapsed() + 2_000);
            }
        }
    }
}
