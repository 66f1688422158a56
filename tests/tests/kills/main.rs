//! Many real processes publish, consume, lease and work tests on one database, are killed with SIGKILL at random moments
//! while the others go on, and are started again. Afterwards every promise is checked.
//!
//! `KILLS_SEED=…` repeats a run's choices (the kernel's are its own), `KILLS_SECONDS=3600` goes on with new seeds for so long.

mod audit;
mod repository;
mod worker;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use coord_db::{ActorId, Database, Durability, Error, LoopStatus, OpenOptions};
use system_tests::binaries;
use test_support::{BOUND, new_loop};

/// One process for each of these loops.
pub const LOOPS: usize = 8;
/// Two loops share each of these subscribers.
pub const CONSUMERS: usize = 4;
/// How long a fact may take to come about before the test fails.
/// A line of a worker that is meant for the parent, among what the test harness prints.
const MARK: &str = "@@ ";

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; expected a number")))
}

/// What a slot runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    /// The worker of a loop.
    Work(usize),
    /// Backs up and checkpoints without pause.
    Keep,
    /// The real `heartbeat`.
    Heartbeat,
}

/// What processes have reported, and that they ended.
enum Report {
    /// A line, printed after the commit that it reports.
    Told(String),
    /// The output of a process has ended.
    Ended(usize),
}

struct Slot {
    job: Job,
    process: Child,
    /// A new one with each start.
    life: u64,
}

struct World {
    folder: tempfile::TempDir,
    durability: Durability,
    reports: (Sender<Report>, Receiver<Report>),
    slots: Vec<Option<Slot>>,
    lives: u64,
    /// Lives that were ended by SIGKILL.
    killed: BTreeSet<u64>,
    told: Vec<String>,
    random: fastrand::Rng,
}

impl World {
    fn new(durability: Durability, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("paths")).unwrap();
        let world = Self {
            folder,
            durability,
            reports: channel(),
            slots: (0..LOOPS + 2).map(|_| None).collect(),
            lives: 0,
            killed: BTreeSet::new(),
            told: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
        };
        let full = if durability == Durability::Full { "full" } else { "normal" };
        std::fs::write(world.folder.path().join("config.toml"), format!("[database]\ndurability = \"{full}\"\n")).unwrap();
        let db = Database::create(&world.path(), &world.options()).unwrap();
        db.write(|tx| {
            for index in 0..LOOPS {
                let id = worker::loop_id(index);
                tx.add_loop(&new_loop(id.as_str()))?;
                tx.set_loop_status(&id, LoopStatus::Stopped)?;
            }
            for index in 0..CONSUMERS {
                let consumer: ActorId = worker::consumer(index).parse()?;
                tx.subscribe(&consumer, &["custom.made".to_owned()], None)?;
            }
            Ok::<_, Error>(())
        })
        .unwrap();
        world
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("coordination.db")
    }

    fn options(&self) -> OpenOptions {
        OpenOptions { durability: self.durability, ..OpenOptions::default() }
    }

    fn open(&self) -> Database {
        Database::open(&self.path(), &self.options()).unwrap()
    }

    fn job(slot: usize) -> Job {
        match slot {
            LOOPS => Job::Keep,
            slot if slot > LOOPS => Job::Heartbeat,
            slot => Job::Work(slot),
        }
    }

    /// Starts a slot's process. One that drains takes on nothing new and ends when nothing is left to do.
    fn start(&mut self, slot: usize, drain: bool) {
        let job = Self::job(slot);
        self.lives += 1;
        let mut command = match job {
            Job::Heartbeat => heartbeat(&self.path()),
            Job::Work(_) | Job::Keep => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                let role = if let Job::Work(index) = job { index.to_string() } else { "keep".to_owned() };
                command
                    .args(["--ignored", "--exact", "one_process", "--nocapture"])
                    .env("KILLS_ROLE", role)
                    .env("KILLS_FOLDER", self.folder.path())
                    .env("KILLS_LIFE", self.lives.to_string())
                    .env("KILLS_DRAIN", if drain { "1" } else { "" })
                    .env("KILLS_FULL", if self.durability == Durability::Full { "1" } else { "" })
                    .env("KILLS_RANDOM", self.random.u64(..).to_string());
                command
            }
        };
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let sender = self.reports.0.clone();
        std::thread::spawn(move || {
            let mut line = String::new();
            // A line that the kill has cut short reports nothing.
            while output.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line.ends_with('\n') {
                if let Some(told) = line.trim_end().strip_prefix(MARK) {
                    let _ = sender.send(Report::Told(told.to_owned()));
                }
                line.clear();
            }
            let _ = sender.send(Report::Ended(slot));
        });
        self.slots[slot] = Some(Slot { job, process, life: self.lives });
    }

    /// SIGKILL, and waits until it has ended and everything that it reported has been received.
    fn kill(&mut self, slot: usize) {
        let Some(mut victim) = self.slots[slot].take() else { return };
        victim.process.kill().unwrap();
        let status = victim.process.wait().unwrap();
        assert!(was_killed(status), "{:?} ended by itself with {status}", victim.job);
        self.killed.insert(victim.life);
        self.hear_out(slot);
    }

    fn hear_out(&mut self, slot: usize) {
        let deadline = Instant::now() + BOUND;
        loop {
            match self.reports.1.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap() {
                Report::Told(line) => self.told.push(line),
                Report::Ended(ended) if ended == slot => return,
                Report::Ended(ended) => self.ended_by_itself(ended),
            }
        }
    }

    fn ended_by_itself(&mut self, slot: usize) -> ! {
        let mut slot = self.slots[slot].take().unwrap();
        panic!("{:?} ended by itself with {}", slot.job, slot.process.wait().unwrap());
    }

    /// Receives reports for this time.
    fn hear(&mut self, most: Duration) {
        let deadline = Instant::now() + most;
        while let Ok(report) = self.reports.1.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            match report {
                Report::Told(line) => self.told.push(line),
                Report::Ended(slot) => self.ended_by_itself(slot),
            }
        }
    }

    /// Lets the workers run to their end.
    fn drain(&mut self) {
        for slot in 0..LOOPS {
            self.start(slot, true);
        }
        let mut left = LOOPS;
        let deadline = Instant::now() + BOUND;
        while left > 0 {
            match self.reports.1.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Report::Told(line)) => self.told.push(line),
                Ok(Report::Ended(slot)) => {
                    let mut ended = self.slots[slot].take().unwrap();
                    let status = ended.process.wait().unwrap();
                    assert!(status.success(), "{:?} ended with {status}", ended.job);
                    left -= 1;
                }
                Err(_) => panic!("{left} workers find no end"),
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            let _ = slot.process.kill();
            let _ = slot.process.wait();
        }
    }
}

fn was_killed(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
}

fn heartbeat(database: &Path) -> Command {
    let program = binaries().join("heartbeat");
    assert!(program.exists(), "{} is missing; run cargo build --workspace first", program.display());
    let mut command = Command::new(program);
    command.arg("--db").arg(database).env("RUST_LOG", "error");
    command
}

/// One world, with this number of kills, and its audit.
fn round(durability: Durability, seed: u64, kills: usize) {
    let mut world = World::new(durability, seed);
    for slot in 0..world.slots.len() {
        world.start(slot, false);
    }
    world.hear(Duration::from_millis(300));
    for _ in 0..kills {
        let pause = Duration::from_micros(world.random.u64(5_000..60_000));
        world.hear(pause);
        // Several at once now and then; heartbeat and the keeper have their share.
        for _ in 0..*world.random.choice(&[1, 1, 1, 1, 3]).unwrap() {
            let slot = world.random.usize(0..world.slots.len());
            world.kill(slot);
        }
        for slot in 0..world.slots.len() {
            // Some stay dead for a while, so that heartbeat and not their next life cleans up after them.
            if world.slots[slot].is_none() && world.random.u8(..4) > 0 {
                world.start(slot, false);
            }
        }
    }
    for slot in 0..world.slots.len() {
        world.kill(slot);
    }
    let dead = world.killed.len();

    let status = heartbeat(&world.path()).arg("--once").status().unwrap();
    assert!(status.success(), "heartbeat --once ended with {status}");
    audit::nothing_is_held_by_the_dead(&world.open());
    audit::backups_are_sound(world.folder.path());

    world.drain();
    let db = world.open();
    let counts = audit::every_promise_was_kept(&db, &world.told);
    let grants = audit::exclusion_held(&world.folder.path().join("paths"), &world.killed);
    println!("seed {seed}, {durability:?}: {dead} killed; {counts}, {grants} leases written under");
    assert!(dead >= kills, "only {dead} processes were killed");
}

fn rounds(durability: Durability, kills: usize) {
    let until = Instant::now() + Duration::from_secs(number("KILLS_SECONDS").unwrap_or(0));
    let mut seed = number("KILLS_SEED").unwrap_or_else(|| fastrand::u64(..));
    loop {
        println!("KILLS_SEED={seed}");
        round(durability, seed, kills);
        if Instant::now() >= until {
            return;
        }
        seed = seed.wrapping_add(1);
    }
}

#[test]
fn a_hundred_kills_lose_nothing_and_double_nothing() {
    rounds(Durability::Normal, 100);
}

#[test]
fn nor_do_they_with_full_durability() {
    rounds(Durability::Full, 40);
}

/// Not a test: what the processes of the tests above run.
#[test]
#[ignore = "run by the other tests in processes of their own"]
fn one_process() {
    worker::run();
}
