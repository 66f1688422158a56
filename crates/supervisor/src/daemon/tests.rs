use coord_db::{OpenOptions, ReadTx, WriteTx};

use super::*;
use crate::{Inbound, LogFormat, Plan};

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

    fn snapshot(&mut self, _tx: &ReadTx<'_>, _observation: &(), _inbox: Vec<Inbound>) -> Result<()> {
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
    let line = CommandLine { db: Some(path), config: None, once: false, log_format: LogFormat::Text };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut process = Process::<Idle>::start(&line).await.unwrap();
        process.round().unwrap();
        // Its own commits ring as well, and nobody else has committed.
        process.seen.bell.store(true, Ordering::Relaxed);
        process.seen.wal.store(true, Ordering::Relaxed);
        process.seen.notify.notify_one();
        process.waker.wake();
        let waited = process.wait(Duration::from_secs(3600));
        assert!(tokio::time::timeout(Duration::from_secs(30), waited).await.is_ok(), "the wake is lost");
    });
}
