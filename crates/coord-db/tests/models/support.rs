//! What the models share: a database that is as new for each sequence, its rows as text, and the story of a sequence.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use coord_db::{CleanUp, Clock, Database, LoopId, LoopStatus, ManualClock, OpenOptions, SystemClock, Timestamp, UnlockCause};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRunner};
use test_support::{Postgres, new_loop};

/// When every sequence begins.
pub const START: Timestamp = test_support::NOW;

/// Runs `run` on random sequences of operations, and fails with the story of the shortest one that goes wrong. On a server, each
/// sequence runs on SQLite as well, and after each operation both have the same rows.
#[track_caller]
pub fn check<O: Clone + Debug>(
    cases: u32,
    operation: impl Strategy<Value = O>,
    length: Range<usize>,
    make: impl Fn(Option<&'static Postgres>) -> World,
    run: impl Fn(&World, &[O]) -> Result<(), String>,
) {
    let asked = ["CODING_LOOPS_CASES", "PROPTEST_CASES"].into_iter().find_map(|name| std::env::var(name).ok()?.parse().ok());
    let server = Postgres::under_test();
    // On a server, each takes a hundred times as long.
    let usual = if server.is_some() { cases / 4 } else { cases };
    let config = Config {
        cases: asked.unwrap_or(usual),
        failure_persistence: None,
        max_shrink_iters: if server.is_some() { 400 } else { 20_000 },
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    };
    let mut worlds = vec![make(server)];
    worlds.extend(server.map(|_| make(None)));
    let is_compared = worlds.len() > 1;
    worlds.iter_mut().for_each(|world| world.remember(is_compared));
    let worlds = RefCell::new(worlds);
    let outcome = TestRunner::new(config).run(&vec(operation, length), |operations| {
        let worlds = worlds.borrow_mut();
        for world in &*worlds {
            world.reset();
            run(world, &operations).map_err(TestCaseError::fail)?;
        }
        if let [server, file] = &worlds[..] {
            compare(&server.history.borrow(), &file.history.borrow()).map_err(TestCaseError::fail)?;
        }
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(story, operations)) => panic!("{story}\n\nthe operations: {operations:?}\n"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// Two worlds had the same rows after each operation.
fn compare(server: &[String], file: &[String]) -> Result<(), String> {
    for (at, (server, file)) in server.iter().zip(file).enumerate() {
        if server != file {
            let only =
                |one: &str, other: &str| one.lines().filter(|line| !other.contains(line)).collect::<Vec<_>>().join("\n  ");
            return Err(format!(
                "after operation {}\n only on the server:\n  {}\n only in the file:\n  {}",
                at + 1,
                only(server, file),
                only(file, server)
            ));
        }
    }
    if server.len() == file.len() { Ok(()) } else { Err("not all operations ran".to_owned()) }
}

/// Without what differs between two runs of the same operations: generated ids, numbered in the order of their making, and times that
/// are not the simulation's.
fn normalised(rows: &str) -> String {
    let is_id = |text: &str| {
        text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                14 => byte == b'7',
                _ => byte.is_ascii_hexdigit(),
            })
    };
    let places = (0..rows.len()).filter(|at| rows.get(*at..*at + 36).is_some_and(is_id));
    let ids: BTreeSet<&str> = places.map(|at| &rows[at..at + 36]).collect();
    let mut text = rows.to_owned();
    for (number, id) in ids.iter().enumerate() {
        text = text.replace(id, &format!("id{number}"));
    }
    let is_now = |word: &str| {
        let time: Option<Timestamp> = word.parse().ok();
        time.is_some_and(|time| time.seconds_since(SystemClock.now()).abs() < 86_400)
    };
    let value = |value: &str| if is_now(value) { "now".to_owned() } else { value.to_owned() };
    let mut lines: Vec<String> = text.lines().map(|line| line.split('|').map(value).collect::<Vec<_>>().join("|")).collect();
    lines.sort();
    lines.join("\n")
}

/// Rows of any table, each as its name and one text.
pub type Rows = Vec<Vec<Option<String>>>;

/// A database and its clock, used for one sequence after the other.
pub struct World {
    pub db: Database,
    pub clock: ManualClock,
    server: Option<&'static Postgres>,
    reset: Vec<String>,
    fresh: Rc<Rows>,
    last: RefCell<Option<(Vec<String>, Rc<Rows>)>>,
    /// The query for all rows, where they are compared with those of another world.
    compared: Option<String>,
    /// The rows after each operation.
    history: RefCell<Vec<String>>,
}

impl World {
    pub fn new(server: Option<&'static Postgres>) -> Self {
        let clock = ManualClock::new(START);
        let options = OpenOptions { clock: Arc::new(clock.clone()), ..OpenOptions::default() };
        let db = match server {
            None => Database::in_memory(options.clock),
            Some(server) => Database::open(Path::new(&server.new_address()), &options),
        };
        Self {
            db: db.unwrap(),
            clock,
            server,
            reset: Vec::new(),
            fresh: Rc::default(),
            last: RefCell::default(),
            compared: None,
            history: RefCell::default(),
        }
    }

    /// The same, with the loop `loop`.
    pub fn with_loop(server: Option<&'static Postgres>) -> Self {
        let world = Self::new(server);
        let new = new_loop("loop");
        world.db.write(|tx| tx.add_loop(&new)).unwrap();
        world
    }

    /// To be called after each operation.
    pub fn note(&self) {
        if let Some(query) = &self.compared {
            self.history.borrow_mut().push(normalised(&self.query(query).join("\n")));
        }
    }

    /// What stands now is what every sequence begins with.
    fn remember(&mut self, is_compared: bool) {
        let (mut wipe, mut fill, mut dump) = (Vec::new(), Vec::new(), Vec::new());
        for table in &self.tables() {
            wipe.push(format!("DELETE FROM {table}"));
            let columns = self.columns(table);
            dump.push(match self.server {
                None => format!("SELECT '{table}', json_group_array(json_array({columns})) FROM {table}"),
                Some(_) => format!("SELECT '{table}', string_agg(row::text, ' ' ORDER BY row::text) FROM {table} AS row"),
            });
            if self.db.query_foreign(&format!("SELECT 1 FROM {table} LIMIT 1")).unwrap().is_empty() {
                continue;
            }
            self.db.execute_foreign(&format!("CREATE TEMP TABLE fresh_{table} AS SELECT * FROM {table}")).unwrap();
            // A second time, for what the triggers of an earlier table have put there.
            fill.push(format!("DELETE FROM {table}"));
            fill.push(format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM fresh_{table}"));
        }
        let begin = match self.server {
            None => vec!["BEGIN", "INSERT INTO maintenance VALUES ('archive')", "DELETE FROM deliveries"],
            // Neither triggers nor foreign keys.
            Some(_) => vec!["BEGIN", "SET LOCAL session_replication_role = replica"],
        };
        let end = ["DELETE FROM maintenance", "COMMIT"].map(str::to_owned);
        self.reset = begin.into_iter().map(str::to_owned).chain(wipe.into_iter().rev()).chain(fill).chain(end).collect();
        // By name: the text itself is long, and would be looked up in the cache of statements each time.
        self.db.execute_foreign(&format!("CREATE TEMP VIEW everything AS {}", dump.join(" UNION ALL "))).unwrap();
        self.fresh = self.rows();
        if is_compared {
            let tables: Vec<String> = self.tables().into_iter().filter(|table| table != "coding_loops_schema").collect();
            self.compared = Some(tables.iter().map(|table| self.compared_rows(table)).collect::<Vec<_>>().join(" UNION ALL "));
        }
    }

    /// A query for a table's rows that is the same on each engine.
    fn compared_rows(&self, table: &str) -> String {
        let columns = self.columns(table);
        let mut columns: Vec<&str> = columns.split(", ").filter(|column| *column != "rowid").collect();
        columns.sort_unstable();
        let value = |column: &&str| format!("coalesce(CAST({column} AS TEXT), '-')");
        format!("SELECT '{table}|' || {} FROM {table}", columns.iter().map(value).collect::<Vec<_>>().join(" || '|' || "))
    }

    /// As they were made: what refers to a table comes after it.
    fn tables(&self) -> Vec<String> {
        self.query(match self.server {
            None => {
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'knowledge%'
                 AND name <> 'maintenance' ORDER BY rowid"
            }
            Some(_) => {
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
                 AND relname NOT LIKE 'knowledge%' AND relname <> 'maintenance' ORDER BY oid"
            }
        })
    }

    fn columns(&self, table: &str) -> String {
        let names = match self.server {
            None => format!("SELECT name FROM pragma_table_info('{table}')"),
            Some(_) => format!("SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'"),
        };
        self.query(&names).join(", ")
    }

    fn reset(&self) {
        self.history.borrow_mut().clear();
        match self.server {
            None => self.reset.iter().for_each(|statement| drop(self.db.query_foreign(statement).unwrap())),
            Some(_) => self.db.execute_foreign(&self.reset.join("; ")).unwrap(),
        }
        assert_eq!(self.rows(), self.fresh, "a sequence has left something behind");
        self.clock.suspend_millis(-self.clock.read().suspended_millis);
        self.clock.advance_millis(START.millis_since(self.now()));
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Every row of every table, to see that nothing has changed.
    pub fn rows(&self) -> Rc<Rows> {
        if self.server.is_some() {
            return Rc::new(self.db.query_foreign("SELECT * FROM everything").unwrap());
        }
        // Grows with each row that is written, also by one who takes it back: what it says to be the same is the same.
        let written = self.query("SELECT total_changes()");
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|(at, _)| *at != written) {
            *last = Some((written, Rc::new(self.db.query_foreign("SELECT * FROM everything").unwrap())));
        }
        last.as_ref().map(|(_, rows)| Rc::clone(rows)).unwrap()
    }

    /// Rows by a query, as text.
    pub fn query(&self, sql: &str) -> Vec<String> {
        let text = |row: Vec<Option<String>>| {
            row.into_iter().map(|value| value.unwrap_or_else(|| "-".to_owned())).collect::<Vec<_>>().join(" ")
        };
        self.db.query_foreign(sql).unwrap().into_iter().map(text).collect()
    }
}

pub fn loop_id(id: &str) -> LoopId {
    id.parse().unwrap()
}

/// What heartbeat does to a loop that has died.
pub fn death() -> CleanUp {
    let source = "heartbeat".parse().unwrap();
    CleanUp { source, cause: UnlockCause::OwnerDied, status: LoopStatus::Error, reason: "gone".to_owned() }
}

/// What has happened so far, one line for each operation.
#[derive(Default)]
pub struct Story {
    lines: Vec<String>,
}

impl Story {
    /// The next operation, and how it ended.
    pub fn tell(&mut self, line: impl Display) {
        self.lines.push(format!("{:>3}. {line}", self.lines.len() + 1));
    }

    /// The database and the model must say the same.
    pub fn same<T: PartialEq + Debug>(&self, what: &str, database: T, model: T) -> Result<(), String> {
        if database == model {
            return Ok(());
        }
        Err(self.wrong(&format!("{what}\n     database: {database:?}\n        model: {model:?}")))
    }

    /// The answers are the same, and no row has changed since `before` where nothing was to happen.
    pub fn agrees<T: PartialEq + Debug>(
        &self,
        world: &World,
        database: T,
        model: T,
        before: Option<Rc<Rows>>,
    ) -> Result<(), String> {
        self.same("the answer", database, model)?;
        before.map_or(Ok(()), |before| self.same("nothing was to happen: the rows", world.rows(), before))
    }

    /// What must hold.
    pub fn holds(&self, what: &str, holds: bool) -> Result<(), String> {
        if holds { Ok(()) } else { Err(self.wrong(what)) }
    }

    pub fn wrong(&self, what: &str) -> String {
        format!("\n{}\n     !! {what}", self.lines.join("\n"))
    }
}
