//! One connection to the server, which connects again after it broke.
//!
//! A connection that breaks loses the transaction that is open on it, and nothing else: the next one begins on a new connection. Only
//! a commit whose answer is lost leaves a question, which the server is asked afterwards.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use super::address::Address;
use super::claim::Claim;
use super::errors::Failure;
use super::values::{Row, Value};
use super::worker::{ANSWER_LIMIT, MAKING_LIMIT, Texts, Worker};
use crate::engine::value::Params;
use crate::{Error, Result, Timestamp};

/// What each connection is set to. A holder of the lock that has stalled is thrown out; it has lost its transaction then.
const SETTINGS: &str = "SET client_min_messages = warning; SET idle_in_transaction_session_timeout = '60s';
  SET standard_conforming_strings = on; SET default_transaction_isolation = 'read committed'; SET jit = off";

/// Minimum time in which the outcome of a commit is asked for: a process that cannot know it has to end.
const OUTCOME_LIMIT: Duration = Duration::from_secs(20);

/// The open transaction.
#[derive(Debug)]
struct Transaction {
    /// The server's number for it, if it may write.
    number: Option<String>,
    /// A statement has failed: the server takes no other, and cannot commit.
    failed: bool,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Postgres {
    address: Address,
    patience: Duration,
    durable: Cell<bool>,
    /// None once it broke.
    worker: RefCell<Option<Worker>>,
    transaction: RefCell<Option<Transaction>>,
    rows_changed: Cell<u64>,
    /// The moment of the last writer that is known here.
    last_moment: Cell<Option<i64>>,
    version: Cell<i64>,
    /// What this process claims to run as.
    claim: RefCell<Option<Claim>>,
    /// The timeline of the server, if the numbers of the database were given out on it; none before that was asked on this connection.
    timeline: Cell<Option<i64>>,
}

impl Postgres {
    /// Connects to a database as it is.
    pub(super) fn connect(address: Address, durable: bool, patience: Duration) -> Result<Self> {
        Ok(Self {
            worker: RefCell::new(Some(connect(&address, patience)?)),
            patience,
            durable: Cell::new(durable),
            transaction: RefCell::default(),
            rows_changed: Cell::new(0),
            last_moment: Cell::new(None),
            version: Cell::new(0),
            claim: RefCell::default(),
            timeline: Cell::new(None),
            address,
        })
    }

    /// The server's address, which shows no password.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Lets the server take long for each answer, while statements run over whole tables; a connection that breaks ends that.
    pub(super) fn set_making(&self, is_making: bool) {
        if let Some(worker) = self.worker.borrow().as_ref() {
            worker.set_limit(self.patience + if is_making { MAKING_LIMIT } else { ANSWER_LIMIT });
        }
    }

    /// The error of a failure outside of a transaction.
    pub(super) fn error(&self, failure: Failure) -> Error {
        failure.convert(&self.address, self.patience.as_secs())
    }

    /// Sends something on the connection. It connects again if it broke and no transaction was lost with it.
    fn on_worker<T>(&self, ask: impl FnOnce(&Worker) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut worker = self.worker.borrow_mut();
        if worker.is_none() && self.transaction.borrow().is_none() {
            let new = connect_once(&self.address, self.patience)?;
            self.timeline.set(None);
            let renewed = self.claim.borrow().as_ref().map(|claim| claim.renew(&new)).transpose()?;
            self.claim.replace(renewed);
            *worker = Some(new);
        }
        let result = worker.as_ref().map_or(Err(Failure::Ended), ask);
        if let Err(failure) = &result {
            if failure.is_broken() {
                *worker = None;
            }
            if let Some(transaction) = self.transaction.borrow_mut().as_mut() {
                transaction.failed = true;
            }
        }
        result
    }

    /// Claims to be the one process that runs as a component: true if nobody who is connected does.
    pub(crate) fn claim(&self, component: &str) -> Result<bool> {
        if self.has_claim(component) {
            return Ok(true);
        }
        let claim = self.on_worker(|worker| Claim::take(worker, component)).map_err(|failure| self.error(failure))?;
        let is_taken = claim.is_some();
        self.claim.replace(claim);
        Ok(is_taken)
    }

    /// As [`Postgres::claim`], after the session of another process that claims it was ended: one that is silent, and still connected.
    pub(crate) fn seize(&self, component: &str) -> Result<()> {
        let ended = self.on_worker(|worker| {
            Claim::end_others(worker, component);
            Ok(())
        });
        ended.map_err(|failure| self.error(failure))?;
        self.claim(component).map(drop)
    }

    /// True if this connection has claimed a component.
    pub(crate) fn has_claim(&self, component: &str) -> bool {
        self.claim.borrow().as_ref().is_some_and(|claim| claim.component() == component)
    }

    /// Runs several statements, past the cache.
    pub(super) fn batch(&self, sql: &str) -> Result<Texts> {
        self.on_worker(|worker| worker.batch(sql)).map_err(|failure| self.error(failure))
    }

    pub(crate) fn execute_batch(&self, sql: &str) -> Result<()> {
        self.batch(sql).map(drop)
    }

    /// Sends what begins a transaction; on a new connection if the old one turns out to be broken. Gives its only row.
    fn begin(&self, sql: &str) -> Result<Vec<Option<String>>> {
        // One that has not answered for long would do so twice.
        let again = |failure: Failure| {
            if failure.is_broken() && !failure.is_silence() { self.on_worker(|worker| worker.batch(sql)) } else { Err(failure) }
        };
        let rows = self.on_worker(|worker| worker.batch(sql)).or_else(again).map_err(|failure| {
            // What has begun and not got the lock is over.
            self.end_without_changes();
            self.error(failure)
        })?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }

    /// The moment in a row, in milliseconds since 1970.
    fn number(row: &[Option<String>], at: usize) -> Option<i64> {
        row.get(at)?.as_deref()?.parse().ok()
    }

    /// Takes note of the last writer's moment. Another one than was known is another client's.
    fn note(&self, moment: Option<i64>) {
        if self.last_moment.replace(moment) != moment {
            self.version.set(self.version.get() + 1);
        }
    }

    pub(crate) fn begin_read(&self) -> Result<Option<Timestamp>> {
        let row = self.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT begin_read()")?;
        self.transaction.replace(Some(Transaction { number: None, failed: false }));
        Ok(Self::number(&row, 0).map(Timestamp::from_millis))
    }

    pub(crate) fn begin_write(&self, quiet: bool) -> Result<Option<Timestamp>> {
        let lasting = if quiet && !self.durable.get() { "off" } else { "on" };
        let row = self.begin(&format!(
            "BEGIN; SET LOCAL synchronous_commit = {lasting}; \
             SELECT at, before, pg_current_xact_id() FROM begin_write({}, {quiet})",
            self.patience.as_millis()
        ))?;
        let number = row.get(2).cloned().flatten();
        self.transaction.replace(Some(Transaction { number, failed: false }));
        let moment = Self::number(&row, 0);
        self.note(Self::number(&row, 1));
        self.last_moment.set(moment);
        Ok(moment.map(Timestamp::from_millis))
    }

    /// Begins a transaction that may take long, and waits for others that make or migrate the same database.
    pub(super) fn begin_to_make(&self, key: i64) -> Result<()> {
        let row = self.begin(&format!(
            "BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL idle_in_transaction_session_timeout = 0; \
             SET LOCAL lock_timeout = {}; SELECT pg_advisory_xact_lock({key}), pg_current_xact_id()",
            self.patience.as_millis().max(1)
        ))?;
        let number = row.get(1).cloned().flatten();
        self.transaction.replace(Some(Transaction { number, failed: false }));
        Ok(())
    }

    /// True if the server is on another timeline than the one on which the numbers of the database were given out: a standby was
    /// promoted. Asked once for each connection, because a promotion ends all; to be called in a writing transaction.
    pub(crate) fn is_on_new_timeline(&self) -> Result<bool> {
        if self.timeline.get().is_some() {
            return Ok(false);
        }
        let rows = self.batch(
            "SELECT server_timeline(), (SELECT count(*) FROM coding_loops_schema WHERE timeline <> server_timeline() AND server_timeline() > 0)",
        )?;
        let number = |at| rows.first().and_then(|row| Self::number(row, at)).unwrap_or_default();
        let is_new = number(1) > 0;
        self.timeline.set((!is_new).then(|| number(0)));
        Ok(is_new)
    }

    pub(crate) fn commit(&self) -> Result<()> {
        let Some(transaction) = self.transaction.take() else { return Ok(()) };
        if transaction.failed {
            // Its error was hidden; what the server would answer to COMMIT hides that nothing was done.
            self.end_without_changes();
            return Err(Error::Refused("the transaction was not committed: one of its statements has failed".to_owned()));
        }
        match self.on_worker(|worker| worker.batch("COMMIT")) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_broken() => self.settle(transaction.number.as_deref(), &failure),
            Err(failure) => Err(self.error(failure)),
        }
    }

    /// Asks the server for the outcome of a commit whose answer was lost.
    #[allow(clippy::disallowed_methods)]
    fn settle(&self, number: Option<&str>, failure: &Failure) -> Result<()> {
        let unknown = |detail: String| Error::CommitUnknown { server: self.address.to_string(), detail };
        let Some(number) = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit())) else { return Ok(()) };
        let end = Instant::now() + self.patience.max(OUTCOME_LIMIT);
        let timeline = self.timeline.get();
        loop {
            let asked =
                self.on_worker(|worker| worker.batch(&format!("SELECT pg_xact_status('{number}'::xid8), server_timeline()")));
            let row = asked.map(|rows| rows.into_iter().next().unwrap_or_default());
            if row.as_ref().is_ok_and(|row| timeline.is_some() && Self::number(row, 1) != timeline) {
                // There, the number may be another transaction's.
                return Err(unknown("another server has taken its place".to_owned()));
            }
            match row.map(|row| row.into_iter().next().flatten()) {
                Ok(Some(status)) if status == "committed" => return Ok(()),
                Ok(Some(status)) if status == "aborted" => return Err(failure.unreachable(&self.address)),
                Ok(None) => return Err(unknown("the server no longer knows the transaction".to_owned())),
                Err(asked) if !asked.is_broken() => return Err(unknown(asked.detail())),
                // It still commits, or does not answer yet.
                Ok(Some(_)) | Err(_) if Instant::now() >= end => return Err(unknown(failure.detail())),
                Ok(Some(_)) | Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    pub(crate) fn roll_back(&self) {
        if self.transaction.take().is_some() {
            self.end_without_changes();
        }
    }

    /// Ends the server's transaction. One whose connection broke has ended already.
    fn end_without_changes(&self) {
        if self.worker.borrow().is_some() {
            let _ = self.on_worker(|worker| worker.batch("ROLLBACK"));
        }
    }

    pub(crate) fn execute(&self, sql: &str, parameters: &impl Params) -> Result<usize> {
        let values = values(parameters);
        let changed = self.on_worker(|worker| worker.execute(sql, values)).map_err(|failure| self.error(failure))?;
        self.rows_changed.set(self.rows_changed.get() + changed);
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    pub(crate) fn each(
        &self,
        sql: &str,
        parameters: &impl Params,
        mut take: impl FnMut(&crate::engine::Row<'_>) -> Result<bool>,
    ) -> Result<()> {
        let values = values(parameters);
        let rows = self.on_worker(|worker| worker.query(sql, values)).map_err(|failure| self.error(failure))?;
        for row in &rows {
            if !take(&crate::engine::Row::Postgres(Row(row)))? {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn set_durable(&self, durable: bool) -> Result<()> {
        self.durable.set(durable);
        Ok(())
    }

    pub(crate) fn rows_changed(&self) -> u64 {
        self.rows_changed.get()
    }

    /// A number that changes whenever another connection has begun to write.
    pub(crate) fn data_version(&self) -> Result<i64> {
        let rows = self.batch("SELECT last_value FROM moment")?;
        self.note(rows.first().and_then(|row| Self::number(row, 0)));
        Ok(self.version.get())
    }
}

fn values(parameters: &impl Params) -> Vec<Value> {
    parameters.with(|parameters| parameters.iter().map(|parameter| Value::of(*parameter)).collect())
}

fn connect_once(address: &Address, patience: Duration) -> Result<Worker, Failure> {
    let worker = Worker::connect(&address.config, patience)?;
    worker.batch(SETTINGS)?;
    Ok(worker)
}

fn connect(address: &Address, patience: Duration) -> Result<Worker> {
    connect_once(address, patience).map_err(|failure| failure.unreachable(address))
}
