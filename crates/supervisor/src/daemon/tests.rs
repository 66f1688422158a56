use coord_db::supervisors::{self, Program};
use coord_db::{OpenOptions, ReadTx, WriteTx};

use super::*;
use process_host::{LogFormat, Options};

use crate::{LocalFuture, Plan};

/// A supervisor that has nothing to do, and cannot record what it has performed.
struct Idle {
    config: Arc<Config>,
    has_stood_still: bool,
}

impl Supervisor for Idle {
    type Observation = ();
    type Snapshot = ();
    type Action = ();
    type Outcome = ();

    const PROGRAM: &'static Program = &supervisors::HEARTBEAT;
    const HAS_EFFECTS: bool = true;

    fn new(config: Arc<Config>, _database: &std::path::Path) -> Self {
        Self { config, has_stood_still: false }
    }

    fn configure(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    fn stood_still(&mut self) {
        self.has_stood_still = true;
    }

    fn observe(&mut self, _db: &Database) -> Result<()> {
        Ok(())
    }

    fn snapshot(&mut self, _tx: &ReadTx<'_>, _observation: &()) -> Result<()> {
        Ok(())
    }

    fn decide(_config: &Config, _snapshot: &()) -> Plan<()> {
        Plan::default()
    }

    fn apply(&self, _tx: &WriteTx<'_>, _snapshot: &(), _action: &()) -> Result<()> {
        Ok(())
    }

    fn perform(&self, entry: JournalEntry) -> LocalFuture<()> {
        Box::pin(async move { assert_ne!(entry.operation, "panic") })
    }

    fn record(&self, _tx: &WriteTx<'_>, _entry: &JournalEntry, _outcome: &()) -> Result<()> {
        Err(Error::CommitUnknown { server: "db.example".to_owned(), detail: "the connection was closed".to_owned() })
    }

    fn config(&self) -> &Config {
        &self.config
    }
}

/// Runs `body` with a process that has started on a new database, after `prepare`.
fn with_process(prepare: impl FnOnce(&Database), body: impl AsyncFnOnce(Process<Idle>)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coordination.db");
    prepare(&Database::create(&path, &OpenOptions::default()).unwrap());
    let options = Options { db: Some(path), config: None, log_format: LogFormat::Text };
    let line = CommandLine { options, once: false };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async { body(Process::<Idle>::start(&line).await.unwrap().unwrap()).await });
}

#[test]
fn a_wake_from_outside_is_not_mistaken_for_the_bell_of_a_commit_that_was_looked_at() {
    with_process(
        |_| {},
        async |mut process| {
            process.round().unwrap();
            // Its own commits ring as well, and nobody else has committed.
            process.db.write(|tx| tx.beat(&process.id, coord_db::HealthStatus::Healthy, None)).unwrap();
            process.waker.wake();
            assert_eq!(process.wait(Duration::from_secs(3600)).await.unwrap(), Woken::Outside, "the wake is lost");
        },
    );
}

#[test]
fn an_effect_whose_outcome_is_not_recorded_ends_the_process_so_that_the_next_one_performs_it() {
    for (operation, part) in [("end_leftovers", "commit of unknown outcome"), ("panic", "without an outcome")] {
        with_process(
            |db| {
                db.write(|tx| tx.begin_operation(operation, Idle::ID, None, &serde_json::json!({}), None)).unwrap();
            },
            async |mut process| {
                let ended = tokio::time::timeout(Duration::from_secs(60), process.work()).await;
                let error = ended.expect("it goes on, and the entry is never performed again").unwrap_err();
                assert!(error.to_string().contains(part), "{error}");
                assert_eq!(process.db.read(|tx| tx.open_journal(Some(Idle::ID))).unwrap().len(), 1);
            },
        );
    }
}

#[test]
fn silence_from_before_the_start_counts_against_nobody_if_the_predecessor_was_silent_too() {
    for (status, age, stood_still) in [("healthy", 90, true), ("healthy", 1, false), ("unknown", 90, false)] {
        with_process(
            |db| {
                db.execute_foreign(&format!(
                    "INSERT INTO component_health (component, last_heartbeat, status)
                     VALUES ('heartbeat', datetime('now', '-{age} seconds'), '{status}')"
                ))
                .unwrap();
            },
            async |process| assert_eq!(process.supervisor.has_stood_still, stood_still, "{status} {age}"),
        );
    }
}
