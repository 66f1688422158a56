//! A database in a temporary folder, which the `sqlite3` shell fills as any foreign client does, and programs on it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use coord_db::locate::Location;
use coord_db::{AcquireRequest, Clock, Database, Event, EventFilter, LoopId, NewLoop, NewTest, OpenOptions};

use crate::{Postgres, Process, wait_until_equal};

/// A database that nobody else sees, on the engine under test.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn in_memory(clock: Arc<dyn Clock>) -> Database {
    match Postgres::under_test() {
        None => Database::in_memory(clock).expect("a database"),
        Some(server) => {
            let options = OpenOptions { clock, ..OpenOptions::default() };
            Database::open(Path::new(&server.new_address()), &options).expect("a database")
        }
    }
}

/// Where a new database is on the engine under test: this path, or the address of one with the newest schema.
#[must_use]
pub fn place(path: &Path) -> PathBuf {
    Postgres::under_test().map_or_else(|| path.to_owned(), |server| server.new_address().into())
}

/// Makes an empty database. Not a copy of one: a copy is noticed, and its numbers jump.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn make_database(path: &Path) -> Database {
    Database::create(path, &OpenOptions::default()).expect("a database")
}

/// Runs SQL in the `sqlite3` shell, or in `psql`: what it prints, one row a line, columns joined by `|`; or what it reports.
///
/// # Errors
/// What the shell prints on stderr if it fails.
///
/// # Panics
/// If there is no `sqlite3`.
pub fn try_sql(database: &Path, sql: &str) -> Result<String, String> {
    if let Location::Server(address) = Location::of(database) {
        return Postgres::get().expect("a PostgreSQL server").try_sql(&address, sql);
    }
    let mut command = Command::new("sqlite3");
    command.args(["-batch", "-bail", "-cmd", ".timeout 10000"]).arg(database);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shell = command.spawn().expect("sqlite3");
    // Not as an argument, which cannot be long. A shell that has failed reads no further.
    let mut input = shell.stdin.take().expect("its input");
    let feeder = std::thread::spawn({
        let sql = format!("{sql}\n;\n");
        move || drop(input.write_all(sql.as_bytes()))
    });
    let output = shell.wait_with_output().expect("sqlite3");
    feeder.join().expect("its input");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Runs SQL that must succeed in the `sqlite3` shell; gives what it prints.
///
/// # Panics
/// If the shell fails.
#[track_caller]
pub fn sql(database: &Path, sql: &str) -> String {
    try_sql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// SQL that is to write what no foreign key allows.
#[must_use]
pub fn without_foreign_keys(sql: &str) -> String {
    match Postgres::under_test() {
        None => format!("PRAGMA foreign_keys = off; {sql}"),
        Some(_) => format!("SET session_replication_role = replica; {sql}; RESET session_replication_role"),
    }
}

/// Everything that the tables hold, as text.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn content(db: &Database) -> String {
    if Postgres::under_test().is_none() {
        let mut text = Vec::new();
        db.dump(&mut text).expect("a dump");
        return String::from_utf8(text).expect("text");
    }
    let tables = printed(db, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1");
    let rows = |table: &str| format!("SELECT '{table}', string_agg(row::text, chr(10) ORDER BY row::text) FROM {table} AS row");
    printed(db, &tables.lines().map(rows).collect::<Vec<_>>().join(" UNION ALL "))
}

/// What a query gives, as the shell prints it, without starting one: for asking again and again.
///
/// # Panics
/// If SQLite refuses it.
#[must_use]
#[track_caller]
pub fn printed(db: &Database, query: &str) -> String {
    let rows = db.query_foreign(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    let line = |row: Vec<Option<String>>| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join("|");
    rows.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// All events of one type, oldest first.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn events(db: &Database, event_type: &str) -> Vec<Event> {
    let filter = EventFilter { event_type: Some(event_type.to_owned()), ..EventFilter::default() };
    db.read(|tx| tx.events(&filter)).expect("events")
}

/// A loop as most tests want it.
///
/// # Panics
/// If the id is none.
#[must_use]
pub fn new_loop(id: &str) -> NewLoop {
    NewLoop { id: id.parse().expect("an id"), name: String::new(), priority: 5, branch: None }
}

/// A test as most tests want it.
///
/// # Panics
/// If an id is none.
#[must_use]
pub fn new_test(id: &str, loop_id: &str) -> NewTest {
    NewTest {
        id: id.parse().expect("an id"),
        loop_id: loop_id.parse::<LoopId>().expect("an id"),
        category: String::new(),
        max_attempts: 2,
        depends_on: None,
        automatable: true,
        notes: Some(format!("make {id}")),
        spec_content: None,
        scope: Vec::new(),
        allow_no_change: false,
    }
}

/// Leases as most tests want them.
///
/// # Panics
/// If the id or a path is none.
#[must_use]
pub fn acquire_request(loop_id: &str, paths: &[&str]) -> AcquireRequest {
    AcquireRequest {
        loop_id: loop_id.parse().expect("an id"),
        paths: paths.iter().map(|path| path.parse().expect("a path")).collect(),
        ttl_seconds: 60,
        reason: None,
        test_id: None,
        automatic: false,
    }
}

/// A database in a temporary folder.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
    logs: tempfile::TempDir,
    /// The database file.
    pub path: PathBuf,
    /// The database, opened in this process.
    pub db: Database,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty database.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        Self::below("")
    }

    /// An empty database in a folder below the temporary one, as in a repository.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn below(relative: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = folder.path().canonicalize().expect("a temporary folder").join(relative);
        std::fs::create_dir_all(&home).expect("a folder");
        let path = place(&home.join("coordination.db"));
        let db = make_database(&path);
        // Outside the folder of the database, which daemons watch.
        let logs = tempfile::tempdir().expect("a temporary folder");
        Self { folder, logs, path, db }
    }

    /// A database that the shell has filled.
    ///
    /// # Panics
    /// If the shell fails.
    #[must_use]
    #[track_caller]
    pub fn filled(sql: &str) -> Self {
        let world = Self::new();
        world.sql(sql);
        world
    }

    /// The temporary folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the settings beside the database.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn configure(&self, settings: &str) {
        std::fs::write(self.path.with_file_name("config.toml"), settings).expect("settings");
    }

    /// Runs SQL in the shell; see [`sql`].
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn sql(&self, query: &str) -> String {
        sql(&self.path, query)
    }

    /// Waits until a query in the shell prints this.
    ///
    /// # Panics
    /// If it does not within [`BOUND`](crate::BOUND).
    #[track_caller]
    pub fn until(&self, query: &str, expected: &str) {
        wait_until_equal(query, expected, || printed(&self.db, query));
    }

    /// All events of one type, oldest first.
    #[must_use]
    pub fn events(&self, event_type: &str) -> Vec<Event> {
        events(&self.db, event_type)
    }

    /// A program on the database.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--db").arg(&self.path).stdin(Stdio::null());
        command.env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned()));
        command
    }

    /// Lets a supervisor do what is due now; gives its log.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn once(&self, program: &str) -> String {
        let output = self.command(program).arg("--once").output().expect(program);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        log.into_owned()
    }

    /// Starts a supervisor and waits until it beats. Its log is at debug level.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    #[track_caller]
    pub fn daemon(&self, program: &str) -> Process {
        let log = self.logs.path().join(std::fs::read_dir(self.logs.path()).expect("logs").count().to_string());
        let process = Process::start_logged(self.command(program).env("RUST_LOG", "debug"), &log);
        self.until(&format!("SELECT count(*) FROM component_health WHERE pid = {}", process.pid()), "1");
        process
    }
}
