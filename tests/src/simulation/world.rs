//! What all actors share: the database, the clocks, the seed, and the world outside of the database (processes, git, the
//! gate), with a ledger of what really happened there, with which the laws compare the database.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use coord_db::config::CheckConfig;
use coord_db::process::{Liveness, ProcessIdentity};
use coord_db::{Config, Database, Error, Landing, LeasePath, LoopId, ManualClock, ReadTx, Result, TestId, Timestamp, WriteTx};

use super::story::Story;

/// The moment at which every world begins. It lies ahead of the machine's own clock, so that what the database's triggers
/// stamp with that clock is past for everyone.
const BEGINNING: i64 = 2_000_000_000_000;

/// A commit on the virtual integration branch.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Its hash.
    pub id: String,
    /// The test that it is for.
    pub test: TestId,
    /// The loop that made it.
    pub loop_id: String,
    /// The earlier test that it breaks unnoticed by its own gate, if it does.
    pub breaks: Option<TestId>,
    /// The row of the landing train that it is of.
    pub landing: String,
}

/// Git and the gate, as they would be outside.
#[derive(Debug, Default)]
pub struct Outside {
    /// The integration branch, oldest first.
    pub integration: Vec<Commit>,
    /// Commits that the gate has let through, with their test; of a batch each of its commits.
    pub gated: BTreeMap<String, TestId>,
    /// States that have passed: the newest commit of each. The branch may only be at one of them.
    pub passed: BTreeSet<String>,
    /// Queued works of which a run has failed by chance.
    pub flaked: BTreeSet<String>,
    /// Transient failures that each test has met so far.
    pub transients: BTreeMap<TestId, u32>,
    /// What each loop's worktree differs in, and since when.
    pub worktrees: BTreeMap<LoopId, BTreeMap<String, Timestamp>>,
}

impl Outside {
    /// The newest commit of the branch; empty at the beginning.
    #[must_use]
    pub fn head(&self) -> String {
        self.integration.last().map(|commit| commit.id.clone()).unwrap_or_default()
    }

    /// Where a commit is on the branch.
    #[must_use]
    pub fn place(&self, commit: &str) -> Option<usize> {
        self.integration.iter().position(|known| known.id == commit)
    }

    /// The commit that broke a test, if it is broken once the commit at `place` has landed. It is mended when it, or the test
    /// whose commit broke it, lands again.
    #[must_use]
    pub fn broken_by(&self, test: &TestId, place: usize) -> Option<&Commit> {
        let mut breaks: Vec<&Commit> = Vec::new();
        for commit in self.integration.iter().take(place + 1) {
            breaks.retain(|earlier| commit.test != *test && commit.test != earlier.test);
            if commit.breaks.as_ref() == Some(test) {
                breaks.push(commit);
            }
        }
        breaks.first().copied()
    }
}

/// What has really happened, told by those who did it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Attempts of each test that failed by its agent's fault since its last reset.
    pub failures: BTreeMap<TestId, i64>,
    /// How often each consumer carried out each event.
    pub effects: BTreeMap<(String, String), u32>,
    /// What an undone transaction left behind.
    pub leak: Option<String>,
    /// Who acts in this step: the subscribers that it may settle deliveries of.
    pub acting: BTreeSet<String>,
    /// The leases that were handed over with each queued work.
    pub handed: BTreeMap<String, Vec<(LeasePath, i64)>>,
    /// Queued works that were given back although they clash with nothing.
    pub wronged: Option<String>,
    /// Passes in a row that were due and changed nothing, by supervisor.
    pub idle_passes: BTreeMap<&'static str, u32>,
}

/// Everything but the actors.
pub struct World {
    /// The one database.
    pub db: Database,
    /// The virtual clocks.
    pub clock: ManualClock,
    /// The only source of chance.
    pub rng: fastrand::Rng,
    /// The seed, for what must not depend on the order of draws.
    pub seed: u64,
    /// The settings of all supervisors.
    pub config: Arc<Config>,
    /// What has happened.
    pub story: Story,
    /// Git and the gate.
    pub outside: Outside,
    /// What really happened.
    pub ledger: Ledger,
    /// True once faults are over: nobody misbehaves any more.
    pub calm: bool,
    /// Somebody has committed in this step.
    pub rung: bool,
    /// How fast people, other tools and misfortunes follow each other.
    pub pace: i64,
    /// Supervisors that run now.
    pub up: BTreeSet<&'static str>,
    /// Who is stopped without knowing it, and until when.
    pub frozen: BTreeMap<String, i64>,
    /// There is no room for new pages until then.
    pub disk_full_until: Option<i64>,
    living: BTreeSet<i64>,
    last_pid: i64,
    commits: u64,
    numbers: u64,
    elapsed: i64,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).field("elapsed", &self.elapsed).finish_non_exhaustive()
    }
}

/// Shorter times than the defaults, in the same proportions: a run sees more of them.
#[must_use]
pub fn settings() -> Config {
    let mut config = Config::default();
    config.lease.ttl_seconds = 120;
    config.heartbeat.beat_seconds = 20;
    config.heartbeat.degraded_seconds = 60;
    config.heartbeat.dead_seconds = 180;
    config.pm.reassign_after_seconds = 120;
    config.pm.decision_timeout_minutes = 2;
    config.pm.dependency_wait_minutes = 2;
    config.deadlock.spare_recent_minutes = 2;
    config.monitor.stuck_attempt_minutes = 5;
    config.monitor.stuck_silence_minutes = 2;
    config.monitor.stuck_no_pass_minutes = 8;
    config.regression.interval_seconds = 120;
    config.gate.check = vec![CheckConfig {
        name: "tests".to_owned(),
        command: vec!["check".to_owned()],
        categories: Vec::new(),
        timeout_seconds: None,
        baseline: true,
        per_test: coord_db::config::PerTest::Auto,
        fails_before: false,
        paths: Vec::new(),
        resources: Vec::new(),
    }];
    // Never run: the world decides its outcome.
    config.notify.command = vec!["notify".to_owned()];
    config
}

impl World {
    /// An empty world. `shared` is the seed of everything that is drawn in an order.
    ///
    /// # Panics
    /// If SQLite cannot make a database in memory.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let clock = ManualClock::new(Timestamp::from_millis(BEGINNING));
        let db = Database::in_memory(Arc::new(clock.clone())).expect("a database in memory");
        let mut world = Self {
            db,
            clock,
            rng: fastrand::Rng::with_seed(seed),
            seed,
            config: Arc::new(settings()),
            story: Story::default(),
            outside: Outside::default(),
            ledger: Ledger::default(),
            calm: false,
            rung: false,
            pace: 1,
            up: BTreeSet::new(),
            frozen: BTreeMap::new(),
            disk_full_until: None,
            living: BTreeSet::new(),
            last_pid: 10_000_000,
            commits: 0,
            numbers: 0,
            elapsed: 0,
        };
        world.pace = [1, 1, 3, 8][usize::try_from(world.fate("pace", 4)).unwrap_or_default()];
        world
    }

    /// The wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        use coord_db::Clock;
        self.clock.now()
    }

    /// Milliseconds since the beginning that timers have counted: neither a jump of the wall clock nor a suspend moves it.
    #[must_use]
    pub fn elapsed(&self) -> i64 {
        self.elapsed
    }

    /// Time passes.
    pub fn advance(&mut self, millis: i64) {
        self.clock.advance_millis(millis);
        self.elapsed += millis;
    }

    /// From now on the database cannot grow.
    ///
    /// # Panics
    /// If SQLite refuses the setting.
    pub fn fill_disk(&mut self, millis: i64) {
        self.disk_full_until = Some(self.elapsed + millis);
        // It is never less than what there is.
        self.db.execute_foreign("PRAGMA max_page_count = 1").expect("filling the disk");
    }

    /// The disk has room again.
    ///
    /// # Panics
    /// If SQLite refuses the setting.
    pub fn make_room(&mut self) {
        self.disk_full_until = None;
        self.db.execute_foreign("PRAGMA max_page_count = 4294967294").expect("making room");
    }

    /// Whether a supervisor can do what is its to do.
    #[must_use]
    pub fn serves(&self, id: &str) -> bool {
        self.up.contains(id) && !self.frozen.contains_key(id) && self.disk_full_until.is_none()
    }

    /// One transaction that writes, and whose commit the others may hear if it has changed anything.
    ///
    /// # Errors
    /// What `body` returns.
    pub fn write<R>(&mut self, body: impl FnOnce(&WriteTx<'_>) -> Result<R>) -> Result<R> {
        self.ringing(|world| world.db.write(body))
    }

    /// Notices whether anything is changed in the database.
    pub fn ringing<R>(&mut self, act: impl FnOnce(&Self) -> R) -> R {
        let before = self.db.rows_changed();
        let result = act(self);
        self.rung |= self.db.rows_changed() != before;
        result
    }

    /// One transaction that reads.
    ///
    /// # Panics
    /// If reading fails, which nothing here can cause.
    pub fn read<R>(&self, body: impl FnOnce(&ReadTx<'_>) -> Result<R>) -> R {
        self.db.read(body).expect("reading")
    }

    /// A new process. Its pid is beyond what a kernel gives, so that the kernel, if asked, answers that it has ended.
    pub fn spawn(&mut self) -> ProcessIdentity {
        self.last_pid += 1;
        self.living.insert(self.last_pid);
        ProcessIdentity {
            pid: self.last_pid,
            pid_start_time: Some(self.elapsed / 10),
            boot_id: Some("simulated".to_owned()),
            pid_namespace: None,
            host: None,
        }
    }

    /// A process ends.
    pub fn kill(&mut self, pid: i64) {
        self.living.remove(&pid);
    }

    /// What the virtual kernel says of a process.
    #[must_use]
    pub fn liveness(&self, pid: i64) -> Liveness {
        if self.living.contains(&pid) { Liveness::Alive } else { Liveness::Gone }
    }

    /// Whether this process runs.
    #[must_use]
    pub fn lives(&self, pid: Option<i64>) -> bool {
        pid.is_some_and(|pid| self.living.contains(&pid))
    }

    /// A number below `most` that depends on the seed and on what it is for alone, never on the order of steps.
    #[must_use]
    pub fn fate(&self, what: impl Hash, most: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, what).hash(&mut hasher);
        fastrand::Rng::with_seed(hasher.finish()).u64(0..most.max(1))
    }

    /// True in `percent` of all cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    /// A length of time between two bounds, in milliseconds.
    pub fn millis(&mut self, least: i64, most: i64) -> i64 {
        self.rng.i64(least..=most.max(least))
    }

    /// The hash of a new commit.
    pub fn commit(&mut self) -> String {
        self.commits += 1;
        format!("{:040x}", 0xc0_ffee_0000_u64 + self.commits)
    }

    /// Counts that a consumer has carried out an event.
    pub fn carried_out(&mut self, consumer: &str, event: &str) {
        *self.ledger.effects.entry((consumer.to_owned(), event.to_owned())).or_default() += 1;
    }

    /// A number that nothing else has, for an id that sorts by age.
    pub fn number(&mut self) -> String {
        self.numbers += 1;
        format!("{:06}", self.numbers)
    }

    /// Whether two works fail together, each of them made without the other.
    #[must_use]
    pub fn clash(&self, one: &TestId, other: &TestId) -> bool {
        one != other && self.fate((one.min(other), one.max(other), "clash"), 100) < 12
    }

    /// What a queued work clashes with: on the branch up to `head` since it was made, or in the works before it.
    #[must_use]
    pub fn clashing(&self, head: &str, before: &[Landing], work: &Landing) -> Option<TestId> {
        let since = self.outside.place(&work.head).map_or(0, |place| place + 1);
        let until = self.outside.place(head).map_or(0, |place| place + 1);
        let landed = self.outside.integration.get(since..until).unwrap_or_default().iter().map(|commit| &commit.test);
        landed.chain(before.iter().map(|work| &work.test_id)).find(|test| self.clash(test, &work.test_id)).cloned()
    }

    /// Moves the integration branch.
    pub fn land(&mut self, commits: Vec<Commit>) {
        self.outside.integration.extend(commits);
    }
}

/// An error that undoes a transaction on purpose.
#[must_use]
pub fn undone() -> Error {
    Error::Refused("undone by the simulation".to_owned())
}
