use coord_db::{OpenOptions, ReadTx, WriteTx};

use super::*;
use process_host::{LogFormat, Options};

use crate::Plan;

/// A supervisor that has nothing to do.
struct Idle(Arc<Config>);

impl Supervisor for Idle {
    type Observation = ();
    type Snapshot = ();
    type Action = ();
    type Outcome = ();

    const ID: &'static str = "heartbeat";

    fn new(config: Arc<Config>, _database: &std::path::Path) -> Self {
        Self(config)
    }

    fn configure(&mut self, config: Arc<Config>) {
        self.0 = config;
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

    fn config(&self) -> &Config {
        &self.0
    }
}

#[test]
fn a_wake_from_outside_is_not_mistaken_for_the_bell_of_a_commit_that_was_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coordination.db");
    Database::create(&path, &OpenOptions::default()).unwrap();
    let options = Options { db: Some(path), config: None, log_format: LogFormat::Text };
    let line = CommandLine { options, once: false };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let mut process = Process::<Idle>::start(&line).await.unwrap().unwrap();
        process.round().unwrap();
        // Its own commits ring as well, and nobody else has committed.
        process.db.write(|tx| tx.beat(&process.id, coord_db::HealthStatus::Healthy, None)).unwrap();
        process.waker.wake();
        assert_eq!(process.wait(Duration::from_secs(3600)).await, Woken::Outside, "the wake is lost");
    });
}
