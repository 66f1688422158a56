//! The thread on which a connection lives. The driver is asynchronous and everything else is not: a request goes to the thread, and
//! the caller waits for its answer.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::sync::mpsc as answers;
use std::time::Duration;

use tokio::sync::mpsc as requests;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, SimpleQueryMessage, Statement};

use super::errors::Failure;
use super::values::Value;

/// How long to wait for a connection, from the first packet until the server is ready.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// How long to wait for an answer, beyond the time for which a statement waits for the lock. A server that takes longer stands still.
/// The caller does nothing else meanwhile: after an interval between two heartbeats it still is less than the shortest watchdog period, a
/// minute.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// As [`ANSWER_LIMIT`], for what makes, migrates or fills a database: its statements run over whole tables.
pub(super) const MAKING_LIMIT: Duration = Duration::from_secs(600);

/// Number of prepared statements that a connection keeps, here and on the server.
const MAX_STATEMENTS: usize = 512;

type Outcome<T> = Result<T, Failure>;
type Answer<T> = answers::Sender<Outcome<T>>;
/// Rows whose values are all text.
pub(super) type Texts = Vec<Vec<Option<String>>>;

/// What the thread is asked for.
enum Request {
    /// The rows of a query.
    Query(String, Vec<Value>, Answer<Vec<Row>>),
    /// The number of rows that a statement changes.
    Execute(String, Vec<Value>, Answer<u64>),
    /// Several statements; the rows of all of them.
    Batch(String, Answer<Texts>),
}

/// A connection, seen from outside of its thread. Dropped, it closes the connection.
#[derive(Debug)]
pub(super) struct Worker {
    requests: requests::UnboundedSender<(Request, Duration)>,
    /// How long the server may take to answer.
    limit: Cell<Duration>,
}

impl Worker {
    /// Connects.
    pub(super) fn connect(config: &Config, patience: Duration) -> Result<Self, Failure> {
        let (sender, receiver) = requests::unbounded_channel();
        let (connected, outcome) = answers::channel();
        let config = config.clone();
        let thread = super::thread::spawn("postgres", move || {
            match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
                Ok(runtime) => runtime.block_on(serve(&config, receiver, &connected)),
                Err(error) => tracing::error!(%error, "cannot run a connection to the server"),
            }
        });
        thread.map_err(|_| Failure::Ended)?;
        received(&outcome)?;
        Ok(Self { requests: sender, limit: Cell::new(ANSWER_LIMIT + patience) })
    }

    /// Lets the server take this long for each answer from now on.
    pub(super) fn set_limit(&self, limit: Duration) {
        self.limit.set(limit);
    }

    /// The rows of a query.
    pub(super) fn query(&self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, Failure> {
        self.ask(|answer| Request::Query(sql.to_owned(), values, answer))
    }

    /// The number of rows that a statement changes.
    pub(super) fn execute(&self, sql: &str, values: Vec<Value>) -> Result<u64, Failure> {
        self.ask(|answer| Request::Execute(sql.to_owned(), values, answer))
    }

    /// Runs several statements, past the cache.
    pub(super) fn batch(&self, sql: &str) -> Result<Texts, Failure> {
        self.ask(|answer| Request::Batch(sql.to_owned(), answer))
    }

    fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, Failure> {
        let (answer, outcome) = answers::channel();
        self.requests.send((request(answer), self.limit.get())).map_err(|_| Failure::Ended)?;
        received(&outcome)
    }
}

/// The value of a column of the first row.
pub(super) fn text(rows: &[Vec<Option<String>>], at: usize) -> Option<String> {
    rows.first()?.get(at)?.clone()
}

fn received<T>(outcome: &answers::Receiver<Outcome<T>>) -> Result<T, Failure> {
    outcome.recv().map_err(|_| Failure::Ended)?
}

/// Waits for something from the server, for a limited time.
pub(super) async fn answered<T>(limit: Duration, answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Outcome<T> {
    match tokio::time::timeout(limit, answer).await {
        Ok(outcome) => outcome.map_err(Failure::Driver),
        Err(_) => Err(Failure::Silent { seconds: limit.as_secs() }),
    }
}

/// Connects, and does what is asked for until nobody can ask any more.
async fn serve(config: &Config, mut requests: requests::UnboundedReceiver<(Request, Duration)>, connected: &Answer<()>) {
    let (client, connection) = match answered(CONNECT_LIMIT, config.connect(NoTls)).await {
        Ok(connection) => connection,
        Err(error) => {
            let _ = connected.send(Err(error));
            return;
        }
    };
    let connection = tokio::spawn(connection);
    let _ = connected.send(Ok(()));
    let mut session = Session { client, statements: HashMap::new() };
    // Who asked and is no longer there needs no answer.
    while let Some((request, limit)) = requests.recv().await {
        let is_silent = match request {
            Request::Query(sql, values, answer) => answer_with(&answer, answered(limit, session.query(&sql, &values)).await),
            Request::Execute(sql, values, answer) => {
                answer_with(&answer, answered(limit, session.execute(&sql, &values)).await)
            }
            Request::Batch(sql, answer) => answer_with(&answer, answered(limit, session.batch(&sql)).await),
        };
        if is_silent {
            // It would wait for the answer.
            connection.abort();
            return;
        }
    }
    drop(session);
    // The server is notified that the connection ends.
    let _ = tokio::time::timeout(CONNECT_LIMIT, connection).await;
}

/// Answers who asked. True if the server did not.
fn answer_with<T>(answer: &Answer<T>, outcome: Outcome<T>) -> bool {
    let is_silent = outcome.as_ref().is_err_and(Failure::is_silence);
    let _ = answer.send(outcome);
    is_silent
}

struct Session {
    client: Client,
    /// By the text as SQLite has it.
    statements: HashMap<String, Statement>,
}

impl Session {
    async fn prepare(&mut self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&numbered(sql)).await?;
        if self.statements.len() >= MAX_STATEMENTS {
            self.statements.clear();
        }
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    async fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = self.prepare(sql).await?;
        self.client.query(&statement, &bound(values)).await
    }

    async fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, tokio_postgres::Error> {
        let statement = self.prepare(sql).await?;
        self.client.execute(&statement, &bound(values)).await
    }

    async fn batch(&self, sql: &str) -> Result<Texts, tokio_postgres::Error> {
        let mut rows = Vec::new();
        for message in self.client.simple_query(sql).await? {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
            }
        }
        Ok(rows)
    }
}

fn bound(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

/// `$1` for each `?1`.
fn numbered(sql: &str) -> String {
    let mut parts = sql.split('?');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push(if part.starts_with(|c: char| c.is_ascii_digit()) { '$' } else { '?' });
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_as_postgres_has_them() {
        assert_eq!(numbered("a = ?1 AND b LIKE '?' OR c = ?12"), "a = $1 AND b LIKE '?' OR c = $12");
        assert_eq!(numbered("?"), "?");
    }
}
