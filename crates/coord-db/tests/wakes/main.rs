//! Waking, between real processes: no wake is lost under load, a foreign writer is found by the `-wal`, and with every wake
//! withheld the same final state is reached.
//!
//! `WAKES=…` sets how many isolated commits are waited for in each case (1 000; a quarter of them by the shell). `WAKES_FALLBACK_MILLIS=…` makes the timer
//! short that must never be what finds one: on a busy machine it then does, but each wake still comes. Latencies are
//! printed, never asserted.

mod children;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use children::{Child, Role, monotonic_nanos};
use coord_db::wake::{Ladder, Listener, Wake, Watcher, Woken, bell_folder};
use coord_db::{ActorId, Database, Durability, EventFilter, OpenOptions};

/// Long enough that whatever it finds was lost.
const FALLBACK: Duration = Duration::from_secs(30);
/// How long a fact may take to come about before the test fails.
const BOUND: Duration = Duration::from_secs(60);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; expected a number")))
}

fn commits() -> u64 {
    number("WAKES").unwrap_or(1_000)
}

struct World {
    folder: tempfile::TempDir,
    durability: Durability,
}

impl World {
    fn new(durability: Durability) -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap(), durability };
        for name in ["a", "other"] {
            Database::create(&world.path(name), &OpenOptions::default()).unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.db"))
    }

    fn open(&self) -> Database {
        Database::open(&self.path("a"), &OpenOptions { durability: self.durability, ..OpenOptions::default() }).unwrap()
    }

    fn child(&self, role: Role, name: &str, number: u64) -> Child {
        Child::start(role, &self.path(name), self.durability, number)
    }
}

/// What found the commits that were waited for.
#[derive(Debug, Default)]
struct Tally {
    bell: u64,
    wal: u64,
    ladder: u64,
    /// By the fallback timer; the wake came within a second after it.
    late: u64,
    /// By the fallback timer; there was no wake.
    lost: u64,
    nanos: Vec<u64>,
}

impl Tally {
    fn add(&mut self, woken: Woken, came_late: bool) {
        match woken {
            Woken::By(Wake::Bell) => self.bell += 1,
            Woken::By(Wake::Wal) => self.wal += 1,
            Woken::Again => self.ladder += 1,
            Woken::Timer if came_late => self.late += 1,
            Woken::Timer => self.lost += 1,
        }
    }

    fn print(&mut self, what: &str, durability: Durability) {
        self.nanos.sort_unstable();
        let at = |percent: usize| self.nanos.get(self.nanos.len() * percent / 100).map_or(0, |nanos| nanos / 1_000);
        let Self { bell, wal, ladder, late, lost, .. } = self;
        println!(
            "{what}, {durability:?}: found by bell {bell}, -wal {wal}, ladder {ladder}, timer {} ({late} late, {lost} lost); \
             p50 {} µs, p99 {} µs",
            *late + *lost,
            at(50),
            at(99)
        );
    }
}

/// Waits for single commits, and knows what woke it. Unlike a [`Listener`] it can be made deaf to one kind of wake.
struct Reader {
    db: Database,
    wakes: mpsc::Receiver<Wake>,
    _watcher: Watcher,
    fallback: Duration,
}

impl Reader {
    fn new(db: Database, hears: Wake) -> Self {
        let (sender, wakes) = mpsc::channel();
        let watcher = Watcher::new(db.path().unwrap(), move |wake| {
            if wake == hears {
                let _ = sender.send(wake);
            }
        });
        let fallback = number("WAKES_FALLBACK_MILLIS").map_or(FALLBACK, Duration::from_millis);
        Self { db, wakes, _watcher: watcher.unwrap(), fallback }
    }

    fn has(&self, event: &str) -> bool {
        self.db.read(|tx| tx.event(event)).unwrap().is_some()
    }

    /// Forgets what earlier commits have caused.
    fn quiet(&self) {
        while self.wakes.recv_timeout(Duration::from_millis(1)).is_ok() {}
    }

    /// Waits, looks only when something says so, and gives what led to the look that found it.
    fn find(&self, event: &str) -> Woken {
        let mut ladder = Ladder::default();
        let (begun, mut deadline) = (Instant::now(), Instant::now() + self.fallback);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let pause = ladder.timeout(left);
            let woken = match self.wakes.recv_timeout(pause) {
                Ok(wake) => {
                    for wake in std::iter::once(wake).chain(self.wakes.try_iter()) {
                        ladder.woken(wake);
                    }
                    Woken::By(wake)
                }
                Err(_) if pause < left => Woken::Again,
                Err(_) => Woken::Timer,
            };
            if self.has(event) {
                return woken;
            }
            if woken == Woken::Timer {
                assert!(begun.elapsed() < BOUND, "{event} is not there at all");
                deadline = Instant::now() + self.fallback;
            }
        }
    }
}

/// One bell a commit and nothing else to be woken by: the load writes the same database, but rings no bell.
fn bells(durability: Durability) {
    let world = World::new(durability);
    let reader = Reader::new(world.open(), Wake::Bell);
    let mut publisher = world.child(Role::Publish, "a", 0);
    let load: Vec<Child> = (1..8).map(|number| world.child(Role::Load, "a", number)).collect();
    let mut tally = Tally::default();
    for n in 0..commits() {
        publisher.say(&format!("tick-{n}"));
        let woken = reader.find(&format!("tick-{n}"));
        let found = monotonic_nanos();
        let committed: u64 = publisher.line(BOUND).parse().unwrap();
        tally.nanos.push(found.saturating_sub(committed));
        let came_late = woken == Woken::Timer && reader.wakes.recv_timeout(Duration::from_secs(1)).is_ok();
        tally.add(woken, came_late);
    }
    tally.print("bell among seven other writers", durability);
    for child in load {
        child.stop();
    }
    publisher.stop();
    assert_eq!(tally.lost, 0, "lost wakes");
    assert_eq!(tally.late, 0, "wakes later than {FALLBACK:?}");
}

#[test]
fn no_bell_is_lost_among_seven_other_writers() {
    bells(Durability::Normal);
}

#[test]
fn no_bell_is_lost_among_seven_other_writers_with_full_durability() {
    bells(Durability::Full);
}

/// The `sqlite3` shell commits once in a while and rings no bell. The load works on another database, so that no wake of it
/// can hide a lost one.
fn foreign(durability: Durability) {
    let world = World::new(durability);
    let reader = Reader::new(world.open(), Wake::Wal);
    let load: Vec<Child> = (1..8).map(|number| world.child(Role::Load, "other", number)).collect();
    let mut shell = Child::shell(&world.path("a"), durability);
    let mut tally = Tally::default();
    for n in 0..commits() / 4 {
        reader.quiet();
        let begun = Instant::now();
        shell.say(&format!(
            "INSERT INTO events (id, source, event_type, payload) VALUES ('tick-{n}', 'x', 'custom.tick', '{{}}'); SELECT {n};"
        ));
        let woken = reader.find(&format!("tick-{n}"));
        tally.nanos.push(begun.elapsed().as_nanos() as u64);
        assert_eq!(shell.line(BOUND), n.to_string());
        tally.add(woken, false);
    }
    tally.print("foreign writer (from before its insert)", durability);
    for child in load {
        child.stop();
    }
    shell.stop();
    assert_eq!(tally.lost, 0, "commits that the -wal did not tell");
}

#[test]
fn a_foreign_writer_is_found_by_the_wal() {
    foreign(Durability::Normal);
}

#[test]
fn a_foreign_writer_is_found_by_the_wal_with_full_durability() {
    foreign(Durability::Full);
}

/// Eight writers as fast as they can: none fails, all ends, and a listener sees all of it without its timer's help.
fn writers(durability: Durability) {
    const EACH: u64 = 250;
    let world = World::new(durability);
    let db = world.open();
    let mut listener = Listener::new(db.path().unwrap());
    let writers: Vec<Child> = (0..8).map(|number| world.child(Role::Burst(EACH), "a", number)).collect();
    let deadline = Instant::now() + BOUND;
    let (mut position, mut seen, mut by_timer) = (0, 0, 0);
    while seen < 8 * EACH {
        let woken = listener.wait(FALLBACK);
        let filter = EventFilter {
            event_type: Some("custom.burst".to_owned()),
            after_position: Some(position),
            ..EventFilter::default()
        };
        let (events, end) = db.read(|tx| Ok::<_, coord_db::Error>((tx.events(&filter)?, tx.last_event_position()?))).unwrap();
        position = end;
        seen += events.len() as u64;
        if woken == Woken::Timer && !events.is_empty() {
            by_timer += 1;
        }
        assert!(Instant::now() < deadline, "only {seen} of {} commits came", 8 * EACH);
    }
    let waits: Vec<u64> = writers.into_iter().map(|mut writer| writer.line(BOUND).parse().unwrap()).collect();
    println!("eight writers, {durability:?}: longest commit of each, in µs: {waits:?}");
    assert_eq!(by_timer, 0, "looks that only the timer led to");
    assert_eq!(db.check().unwrap(), []);
}

#[test]
fn eight_writers_share_the_database_without_an_error() {
    writers(Durability::Normal);
}

#[test]
fn eight_writers_share_the_database_without_an_error_with_full_durability() {
    writers(Durability::Full);
}

const STAGES: u64 = 3;

/// The result of everything: each event's type and payload with its cause's, in an order of its own.
fn outcome(db: &Database) -> Vec<String> {
    let events = db.read(|tx| tx.events(&EventFilter::default())).unwrap();
    let mut lines: Vec<String> = events
        .iter()
        .filter(|event| event.event_type.starts_with("custom.stage"))
        .map(|event| {
            let cause = event.caused_by.as_ref().and_then(|id| events.iter().find(|cause| cause.id == *id));
            let cause = cause.map_or_else(String::new, |cause| format!("{} {}", cause.event_type, cause.payload));
            format!("{} {} {} <- {cause}", event.event_type, event.source, event.payload)
        })
        .collect();
    lines.sort();
    lines
}

/// Events go through three processes, each of which consumes, acts and publishes; `before` may spoil the waking.
fn relay(before: impl FnOnce(&Path)) -> Vec<String> {
    const EVENTS: u64 = 60;
    let world = World::new(Durability::Normal);
    before(&world.path("a"));
    let db = world.open();
    db.write(|tx| {
        for stage in 0..=STAGES {
            let who: ActorId = format!("stage-{stage}").parse()?;
            tx.subscribe(&who, &[format!("custom.stage-{stage}")], None)?;
        }
        Ok::<_, coord_db::Error>(())
    })
    .unwrap();
    let stages: Vec<Child> = (0..STAGES).map(|number| world.child(Role::Relay, "a", number)).collect();
    let mut publisher = world.child(Role::Source, "a", 0);
    for n in 0..EVENTS {
        publisher.say(&n.to_string());
        publisher.line(BOUND);
    }
    let mut listener = Listener::new(db.path().unwrap());
    let deadline = Instant::now() + BOUND;
    while db.read(|tx| tx.pending_deliveries(&format!("stage-{STAGES}"), usize::MAX)).unwrap().len() < EVENTS as usize {
        assert!(Instant::now() < deadline, "the last stage has not got everything");
        listener.wait(Duration::from_millis(100));
    }
    drop(stages);
    publisher.stop();
    assert_eq!(db.check().unwrap(), []);
    outcome(&db)
}

#[test]
fn with_all_wakes_withheld_the_same_final_state_is_reached() {
    let woken = relay(|_| ());
    let deaf = relay(|path| {
        // No folder can be made where a file stands: nobody rings, nobody listens, and only the timers are left.
        let bell = bell_folder(path);
        let _ = std::fs::remove_dir_all(&bell);
        std::fs::write(&bell, "").unwrap();
        assert!(Watcher::new(path, |_| ()).is_err());
    });
    assert_eq!(woken, deaf);
    assert_eq!(woken.len() as u64, 60 * (STAGES + 1));
}

#[test]
fn a_removed_bell_is_created_again_and_heard() {
    let world = World::new(Durability::Normal);
    let db = world.open();
    let bell = bell_folder(db.path().unwrap());
    let ring = || db.write(|_| Ok::<_, coord_db::Error>(())).unwrap();
    ring();
    for moved in [false, true] {
        if moved {
            std::fs::rename(&bell, world.folder.path().join("moved")).unwrap();
        } else {
            std::fs::remove_dir_all(&bell).unwrap();
        }
        ring();
        let mut listener = Listener::new(db.path().unwrap());
        ring();
        assert_eq!(listener.wait(FALLBACK), Woken::By(Wake::Bell));
    }
}

#[test]
fn who_opens_the_database_by_a_link_hears_the_same_bell() {
    let world = World::new(Durability::Normal);
    let link = world.folder.path().join("link.db");
    std::os::unix::fs::symlink(world.path("a"), &link).unwrap();
    let db = world.open();
    let mut listener = Listener::new(&link);
    db.write(|_| Ok::<_, coord_db::Error>(())).unwrap();
    assert_eq!(listener.wait(FALLBACK), Woken::By(Wake::Bell));
}

/// Not a test: what the children of the tests above run.
#[test]
#[ignore = "run by the other tests in processes of their own"]
fn child() {
    children::run();
}
