//! The supervisors' memory stays flat over a day: their real passes over a real file, on a virtual clock, through all that
//! makes them act. `FLAT_HOURS` makes the day longer.

use std::path::Path;
use std::sync::Arc;

use coord_db::{Config, RunOutcome};
use deadlock_detector::DeadlockDetector;
use heartbeat::Heartbeat;
use monitor::Monitor;
use pm_agent::PmAgent;
use regression_checker::{Checked, Observation, Outcome, RegressionChecker};
use supervisor::{Look, Supervisor, look, pass};
use system_tests::traces::run::Watched;
use system_tests::traces::script::Happening;
use system_tests::traces::world::World;

/// How much may come to it after the first quarter of the day: what the allocator keeps for later, and no more. A kilobyte
/// that is kept of each pass would be more than twice as much.
const MAX_GROWTH_KILOBYTES: i64 = 500;
const MINUTE: i64 = 60_000;

/// What is resident in this process.
fn resident_kilobytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Looks until nothing is due; gives the number of passes.
fn rest<S: Supervisor>(supervisor: &mut S, world: &World, mut see: impl FnMut(&mut S) -> S::Observation) -> u32 {
    for passes in 0..40 {
        let seen = see(supervisor);
        match look(supervisor, &world.db, &seen).unwrap() {
            Look::Due => drop(pass(supervisor, &world.db, &seen).unwrap()),
            Look::NothingDue(_) => return passes,
        }
    }
    panic!("{} never comes to rest", S::ID)
}

struct Everyone {
    monitor: Monitor,
    detector: DeadlockDetector,
    heartbeat: Heartbeat,
    pm: PmAgent,
    checker: RegressionChecker,
    passes: u32,
}

impl Everyone {
    fn new() -> Self {
        let settings = "[[gate.check]]\nname = \"tests\"\ncommand = [\"true\"]\n[agent]\ncommand = [\"agent\"]\n[budget]\ntokens_per_day = 0\ntests_per_day = 0\n";
        let config = Arc::new(Config::parse(settings, Path::new("settings")).unwrap());
        let at = Path::new("/nowhere/coordination.db");
        Self {
            monitor: Monitor::new(Arc::clone(&config), at),
            detector: DeadlockDetector::new(Arc::clone(&config), at),
            heartbeat: Heartbeat::new(Arc::clone(&config), at),
            pm: PmAgent::new(Arc::clone(&config), at),
            checker: RegressionChecker::new(config, at),
            passes: 0,
        }
    }

    /// Everyone looks, and the loops do what they are asked.
    fn look(&mut self, world: &mut World) {
        world.beat().unwrap();
        for _ in 0..2 {
            self.passes += rest(&mut self.monitor, world, |all| all.see(world).unwrap());
            self.passes += rest(&mut self.detector, world, |_| ());
            self.passes += rest(&mut self.heartbeat, world, |all| all.see(world).unwrap());
            self.passes += rest(&mut self.pm, world, |all| all.see(world).unwrap());
            let head = format!("{:040x}", world.elapsed() / (10 * MINUTE));
            self.passes += rest(&mut self.checker, world, |_| Observation { head: Some(head.clone()), lost: Vec::new() });
            self.check(world);
            if !world.obey().unwrap() {
                break;
            }
        }
    }

    /// Whatever is to be run passes.
    fn check(&mut self, world: &World) {
        for entry in world.db.read(|tx| tx.open_journal(Some(RegressionChecker::ID))).unwrap() {
            let outcome = Outcome::Checked(Checked {
                outcome: RunOutcome::Pass,
                runs: 1,
                message: String::new(),
                output_tail: String::new(),
                tests: Vec::new(),
            });
            world.db.write(|tx| self.checker.record(tx, &entry, &outcome)).unwrap();
        }
    }
}

/// What happens in each hour, by minute; `{h}` is the hour.
const HOUR: &[(i64, &str)] = &[
    (0, "a test a-{h}"),
    (0, "b test b-{h} src/**"),
    (0, "a test again-{h}"),
    (0, "b test broken-{h} tries=2"),
    (1, "a begins a-{h}"),
    (1, "b begins b-{h}"),
    (2, "a edits src/a_{h}.rs"),
    (2, "a locks lib/a.rs"),
    (2, "b locks lib/b.rs"),
    // They wait for each other, and the victim releases its leases.
    (3, "a queues lib/b.rs"),
    (3, "b queues lib/a.rs"),
    (4, "a unlocks lib/a.rs"),
    (4, "b unlocks lib/b.rs"),
    (5, "b edits docs/b_{h}.md docs/c_{h}.md docs/d_{h}.md"),
    (8, "a uses 450000"),
    (9, "a says error[E0001]: hour {h} again"),
    (14, "a fails the balance of {h} is wrong"),
    (15, "b passes"),
    (16, "b begins broken-{h}"),
    (17, "b errs transient no network"),
    (20, "b begins broken-{h}"),
    (21, "b fails off by {h}"),
    (22, "b begins broken-{h}"),
    (23, "b fails off by {h}"),
    (24, "a begins a-{h}"),
    (40, "a passes"),
    (41, "a begins again-{h}"),
    (44, "a edits src/again_{h}.rs"),
    (45, "b dies"),
    (46, "b starts"),
    (50, "a passes"),
    (51, "a events 20"),
    (52, "- answers blocked skip"),
];

#[test]
fn a_days_work_leaves_no_memory_behind() {
    let hours: i64 = std::env::var("FLAT_HOURS").map_or(24, |hours| hours.parse().unwrap());
    let mut world = World::new().unwrap();
    let mut everyone = Everyone::new();
    let happen = |world: &mut World, line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let happening = Happening { at: world.elapsed(), who: word(), what: word(), text: word() };
        world.happen(&happening).unwrap_or_else(|error| panic!("{line}: {error}"));
    };
    happen(&mut world, "a joins 1");
    // Fills what SQLite keeps of the file, so that it grows no more.
    happen(&mut world, "a events 8000");
    happen(&mut world, "b joins 5");
    let mut resident = Vec::new();
    for hour in 0..hours {
        for minute in 0..60 {
            for (_, line) in HOUR.iter().filter(|(at, _)| *at == minute) {
                happen(&mut world, &line.replace("{h}", &hour.to_string()));
            }
            if minute < 10 || HOUR.iter().any(|(at, _)| *at == minute) {
                everyone.look(&mut world);
            }
            world.clock.advance_millis(MINUTE);
        }
        resident.push(resident_kilobytes());
    }
    println!("{} passes; kilobytes by hour: {resident:?}", everyone.passes);
    let warm = usize::try_from(hours / 4).unwrap();
    assert!(hours >= 8, "too short to tell");
    let growth = resident[resident.len() - 1] - resident[warm];
    assert!(growth < MAX_GROWTH_KILOBYTES, "{growth} kilobytes more than after a quarter of the time: {resident:?}");
    assert!(i64::from(everyone.passes) > hours * 50, "{} passes are no day's work", everyone.passes);
    let alerts = world.db.read(|tx| tx.alerts(false)).unwrap();
    let kinds =
        |word: &str| alerts.iter().filter(|alert| alert.fingerprint.as_deref().unwrap_or_default().starts_with(word)).count();
    for word in ["deadlock:", "digression:", "resource:"] {
        assert!(i64::try_from(kinds(word)).unwrap() >= hours, "{word}: {}", kinds(word));
    }
}
