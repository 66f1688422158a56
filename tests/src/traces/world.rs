//! The world of one trace: a real database file, a virtual clock, and what would be seen outside of the database.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use coord_db::process::{Liveness, ProcessIdentity};
use coord_db::{
    AcquireRequest, ActorId, Clock, ComponentId, Database, ErrorCategory, FailedAttempt, HealthStatus, LoopId, LoopStatus,
    ManualClock, NewEvent, NewLoop, NewTest, OpenOptions, PassedAttempt, Payload, TestId, Timestamp, payload,
};

use super::script::{Happening, filled, many, time};

/// Ahead of the machine's own clock, so that what triggers stamp with that clock is past; and a day's morning.
const BEGINNING: i64 = 2_000_000_000_000 - 2_000_000_000_000 % 86_400_000 + 8 * 3_600_000;
/// Between two beats.
const BEAT_MILLIS: i64 = 15_000;

/// What is outside of the database of one loop.
#[derive(Debug, Default)]
pub struct Outside {
    /// The current test, and its attempt.
    pub current: Option<(TestId, i64)>,
    /// Its agent's output in this attempt.
    pub log: String,
    /// When that grew last.
    pub said_at: Option<Timestamp>,
    /// What its worktree differs in: content and time.
    pub files: BTreeMap<String, (u64, Timestamp)>,
    /// When anything happened there.
    pub active_at: Option<Timestamp>,
    /// How often it was rebased.
    pub base: u64,
    identity: Option<ProcessIdentity>,
    beats: bool,
}

/// All of it.
pub struct World {
    /// The database.
    pub db: Database,
    /// The clocks.
    pub clock: ManualClock,
    /// By loop.
    pub loops: BTreeMap<LoopId, Outside>,
    /// Bytes of the database as they are seen.
    pub database_bytes: i64,
    /// The disk as it is seen: free and total bytes.
    pub disk: (i64, i64),
    /// Whether anyone beats.
    pub beats: bool,
    /// Whether heartbeat runs and beats.
    pub heartbeat: bool,
    gone: BTreeSet<i64>,
    contents: u64,
    pids: i64,
    beaten_at: i64,
    begun: i64,
    _folder: tempfile::TempDir,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("loops", &self.loops).finish_non_exhaustive()
    }
}

type Done = Result<(), String>;

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl World {
    /// An empty world on a new file.
    ///
    /// # Errors
    /// If there is no room for one.
    pub fn new() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(said)?;
        let clock = ManualClock::new(Timestamp::from_millis(BEGINNING));
        let options = OpenOptions { clock: Arc::new(clock.clone()), ..OpenOptions::default() };
        let db = Database::create(&folder.path().join("coordination.db"), &options).map_err(said)?;
        let begun = clock.read().boot_millis;
        Ok(Self {
            db,
            clock,
            loops: BTreeMap::new(),
            database_bytes: 1_000_000,
            disk: (50_000_000_000, 100_000_000_000),
            beats: true,
            heartbeat: true,
            gone: BTreeSet::new(),
            contents: 0,
            pids: 10_000_000,
            beaten_at: i64::MIN,
            begun,
            _folder: folder,
        })
    }

    /// The wall clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Milliseconds since the beginning, time suspended included, jumps of the wall clock not.
    #[must_use]
    pub fn elapsed(&self) -> i64 {
        self.clock.read().boot_millis - self.begun
    }

    /// What the kernel says of a process.
    #[must_use]
    pub fn liveness(&self, pid: i64) -> Liveness {
        if self.gone.contains(&pid) { Liveness::Gone } else { Liveness::Alive }
    }

    /// Records the heartbeats that are due.
    pub fn beat(&mut self) -> Done {
        if !self.beats || self.elapsed() < self.beaten_at.saturating_add(BEAT_MILLIS) {
            return Ok(());
        }
        self.beaten_at = self.elapsed();
        let beats = |outside: &&Outside| outside.beats;
        let loops: Vec<LoopId> = self.loops.iter().filter(|(_, outside)| beats(outside)).map(|(id, _)| id.clone()).collect();
        let heartbeat = self.heartbeat;
        self.db
            .write_quietly(|tx| -> coord_db::Result<()> {
                for id in &loops {
                    tx.beat(&id.as_str().parse()?, HealthStatus::Healthy, None)?;
                }
                for id in ["monitor", "heartbeat"] {
                    if id != "heartbeat" || heartbeat {
                        tx.beat(&id.parse()?, HealthStatus::Healthy, None)?;
                    }
                }
                Ok(())
            })
            .map_err(said)
    }

    fn of(&mut self, id: &LoopId) -> Result<&mut Outside, String> {
        self.loops.get_mut(id).ok_or_else(|| format!("{id} has not joined"))
    }

    fn current_test(&mut self, id: &LoopId) -> Result<TestId, String> {
        let current = self.of(id)?.current.as_ref().map(|(test, _)| test.clone());
        current.ok_or_else(|| format!("{id} has no current test"))
    }

    fn start(&mut self, id: &LoopId) -> Done {
        self.pids += 1;
        let identity = ProcessIdentity {
            pid: self.pids,
            pid_start_time: Some(self.elapsed() / 10),
            boot_id: Some("simulated".to_owned()),
            pid_namespace: None,
            host: None,
        };
        self.db.write(|tx| tx.start_loop(id, &identity, "0")).map_err(said)?;
        let outside = self.of(id)?;
        outside.identity = Some(identity);
        outside.beats = true;
        Ok(())
    }

    /// Makes it happen.
    ///
    /// # Errors
    /// If it cannot.
    pub fn happen(&mut self, happening: &Happening) -> Done {
        let Happening { who, what, text, .. } = happening;
        if who == "-" {
            return self.machine(what, text);
        }
        let id: LoopId = who.parse().map_err(said)?;
        let now = self.now();
        match what.as_str() {
            "joins" => {
                let priority = if text.is_empty() { 5 } else { text.parse().map_err(said)? };
                let new = NewLoop { id: id.clone(), name: String::new(), priority, branch: None };
                self.db.write(|tx| tx.add_loop(&new)).map_err(said)?;
                self.loops.insert(id.clone(), Outside::default());
                self.start(&id)
            }
            "test" => {
                let mut words = text.split_whitespace();
                let mut new = NewTest {
                    id: words.next().unwrap_or_default().parse().map_err(said)?,
                    loop_id: id,
                    category: String::new(),
                    max_attempts: 9,
                    depends_on: None,
                    automatable: true,
                    notes: None,
                    spec_content: None,
                    scope: Vec::new(),
                    allow_no_change: false,
                };
                for word in words {
                    match word.split_once('=') {
                        Some(("tries", number)) => new.max_attempts = number.parse().map_err(said)?,
                        Some(("after", test)) => new.depends_on = Some(test.parse().map_err(said)?),
                        _ => new.scope.push(word.to_owned()),
                    }
                }
                let problems = self.db.write(|tx| tx.import_tests(&[new])).map_err(said)?;
                if problems.is_empty() { Ok(()) } else { Err(format!("{problems:?}")) }
            }
            "begins" => self.begin(&id, text),
            "passes" | "fails" | "errs" | "gives-back" => self.end(&id, what, text),
            "says" => {
                let outside = self.of(&id)?;
                let _ = writeln!(outside.log, "{}", text.replace("\\n", "\n"));
                outside.said_at = Some(now);
                Ok(())
            }
            "edits" => {
                let (paths, times) = many(text);
                for number in 0..times.unwrap_or(1) {
                    for path in paths.split_whitespace() {
                        let path = if times.is_some() { filled(path, number) } else { path.to_owned() };
                        self.contents += 1;
                        let content = self.contents;
                        self.of(&id)?.files.insert(path, (content, now));
                    }
                }
                self.of(&id)?.active_at = Some(now);
                Ok(())
            }
            "reverts" => {
                self.of(&id)?.files.clear();
                Ok(())
            }
            "builds" => {
                self.of(&id)?.active_at = Some(now);
                Ok(())
            }
            "rebases" => {
                self.contents += 1000;
                let content = self.contents;
                let outside = self.of(&id)?;
                outside.base += 1;
                for file in outside.files.values_mut() {
                    *file = (content + file.0, now);
                }
                Ok(())
            }
            "locks" | "queues" | "unlocks" => self.lease(&id, what, text),
            "uses" => {
                let test = self.current_test(&id)?;
                let tokens = coord_db::ModelUse::of_tokens(text.parse().map_err(said)?);
                self.db.write(|tx| tx.record_usage(Some(&id), Some(&test), &tokens, 0, &[])).map_err(said).map(drop)
            }
            "events" => {
                let many: i64 = text.parse().map_err(said)?;
                let write = |tx: &coord_db::WriteTx<'_>| -> coord_db::Result<()> {
                    for number in 0..many {
                        let note = serde_json::json!({"n": number});
                        tx.publish(&NewEvent::from_json(id.as_str().parse()?, "custom.note", note)?)?;
                    }
                    Ok(())
                };
                self.db.write(write).map_err(said)
            }
            "pauses" | "resumes" => {
                let status = if what == "pauses" { LoopStatus::Paused } else { LoopStatus::Running };
                if what == "pauses" && self.of(&id)?.current.is_some() {
                    self.end(&id, "gives-back", "paused")?;
                }
                let caused_by: Option<String> = None;
                let said_so: Payload = if what == "pauses" {
                    payload::LoopPaused { loop_id: id.clone(), reason: "asked to".to_owned(), caused_by }.into()
                } else {
                    payload::LoopResumed { loop_id: id.clone(), reason: "asked to".to_owned(), caused_by }.into()
                };
                let write = |tx: &coord_db::WriteTx<'_>| -> coord_db::Result<()> {
                    tx.set_loop_status(&id, status)?;
                    tx.publish(&NewEvent::new(id.as_str().parse()?, said_so)).map(drop)
                };
                self.db.write(write).map_err(said)
            }
            "stops" => {
                self.of(&id)?.beats = false;
                self.db.write(|tx| tx.stop_loop(&id, "asked to")).map_err(said)
            }
            "starts" => self.start(&id),
            "dies" | "pid-reused" => {
                // The kernel says the same of both: there is no process with this pid and this start time.
                let outside = self.of(&id)?;
                outside.beats = false;
                let pid = outside.identity.as_ref().map_or(0, |identity| identity.pid);
                self.gone.insert(pid);
                Ok(())
            }
            "hangs" | "recovers" => {
                self.of(&id)?.beats = what == "recovers";
                Ok(())
            }
            "nothing" => Ok(()),
            other => Err(format!("a loop cannot do {other:?}")),
        }
    }

    fn machine(&mut self, what: &str, text: &str) -> Done {
        match what {
            "sleeps" => self.clock.suspend_millis(time(text)?),
            "clock" => self.clock.jump_millis(time(text)?),
            "database" => self.database_bytes = text.parse::<i64>().map_err(said)? * 1_000_000,
            "disk" => {
                let (free, total) = text.split_once(' ').ok_or("expected FREE_MB TOTAL_MB")?;
                let bytes = |text: &str| text.parse::<i64>().map(|number| number * 1_000_000).map_err(said);
                self.disk = (bytes(free)?, bytes(total)?);
            }
            "heartbeat-starts" | "heartbeat-dies" => {
                self.heartbeat = what == "heartbeat-starts";
                let id: ComponentId = "heartbeat".parse().map_err(said)?;
                self.db.write_quietly(|tx| tx.beat(&id, HealthStatus::Healthy, None)).map_err(said)?;
            }
            "answers" => {
                let (decision_type, choice) = text.split_once(' ').ok_or("expected TYPE CHOICE")?;
                let open = self.db.read(|tx| tx.decisions(true)).map_err(said)?;
                let asked = open.into_iter().find(|decision| decision.decision_type == decision_type);
                let asked = asked.ok_or_else(|| format!("no question of type {decision_type} is open"))?;
                let answer = |tx: &coord_db::WriteTx<'_>| tx.answer(&asked.id, choice, None, &ActorId::human(), "cli");
                self.db.write(answer).map_err(said)?;
            }
            "nothing" => {}
            other => return Err(format!("the machine cannot do {other:?}")),
        }
        Ok(())
    }

    fn begin(&mut self, id: &LoopId, test: &str) -> Done {
        let claimed = self.db.write(|tx| tx.claim_next_test(id, true)).map_err(said)?;
        let claimed = claimed.filter(|claimed| claimed.id.as_str() == test).ok_or_else(|| format!("{test} is not next"))?;
        let outside = self.of(id)?;
        outside.current = Some((claimed.id, claimed.attempts));
        outside.log.clear();
        outside.said_at = None;
        Ok(())
    }

    fn end(&mut self, id: &LoopId, how: &str, text: &str) -> Done {
        let test = self.current_test(id)?;
        let (category, message) = match (how, text.split_once(' ')) {
            ("errs", Some((category, message))) => (category.parse::<ErrorCategory>().map_err(said)?, message),
            ("errs", None) => return Err("expected CATEGORY TEXT".to_owned()),
            _ => (ErrorCategory::Code, text),
        };
        let write = |tx: &coord_db::WriteTx<'_>| -> coord_db::Result<()> {
            match how {
                "passes" => {
                    let passed = PassedAttempt {
                        commit: format!("{:040x}", tx.now().as_millis()),
                        checks: vec![("tests".to_owned(), true)],
                        duration_seconds: 1,
                        tokens_estimated: None,
                        files_modified: Vec::new(),
                    };
                    tx.record_passed(&test, id, &passed)?;
                }
                "fails" | "errs" => {
                    let failed = FailedAttempt::new(category, message);
                    tx.record_failed(&test, id, &failed)?;
                }
                _ => tx.give_back(&test, id, text)?,
            }
            tx.release_all(id, None).map(drop)
        };
        self.db.write(write).map_err(said)?;
        let outside = self.of(id)?;
        outside.current = None;
        if how != "fails" {
            outside.files.clear();
        }
        Ok(())
    }

    /// Every loop does what it was asked: it pauses, its test given back, or goes on. True if any had to.
    pub fn obey(&mut self) -> Result<bool, String> {
        let mut any = false;
        for id in self.loops.keys().cloned().collect::<Vec<_>>() {
            let status = self.db.read(|tx| tx.loop_row(&id)).map_err(said)?.status;
            if !matches!(status, LoopStatus::Running | LoopStatus::Paused) {
                continue;
            }
            let pauses = self.db.write(|tx| tx.settle_pauses(&id)).map_err(said)?;
            if pauses.is_empty() == (status == LoopStatus::Running) {
                continue;
            }
            any = true;
            if !pauses.is_empty() && self.of(&id)?.current.is_some() {
                self.end(&id, "gives-back", "paused")?;
            }
            self.db.write(|tx| tx.apply_pauses(&id, &pauses)).map_err(said)?;
        }
        Ok(any)
    }

    fn lease(&mut self, id: &LoopId, what: &str, path: &str) -> Done {
        let test_id = self.of(id)?.current.as_ref().map(|(test, _)| test.clone());
        let paths = vec![path.parse().map_err(said)?];
        if what == "unlocks" {
            return self.db.write(|tx| tx.release(id, &paths, None)).map_err(said).map(drop);
        }
        let request =
            AcquireRequest { loop_id: id.clone(), paths, ttl_seconds: 24 * 3600, reason: None, test_id, automatic: false };
        if what == "queues" {
            let queue = |tx: &coord_db::WriteTx<'_>| tx.acquire_or_queue(&request, tx.now().plus_seconds(24 * 3600), 5);
            return self.db.write(queue).map_err(said).map(drop);
        }
        match self.db.write(|tx| tx.acquire(&request, 5)).map_err(said)? {
            coord_db::Acquire::Granted(_) => Ok(()),
            coord_db::Acquire::Refused(_) => Err(format!("{id} is refused {path}")),
        }
    }
}
