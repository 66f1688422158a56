//! What the models share: a database that is as new for each sequence, its rows as text, and the story of a sequence.

use std::cell::RefCell;
use std::fmt::{Debug, Display};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use coord_db::{Clock, Database, LoopId, ManualClock, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRunner};
use test_support::Postgres;

/// When every sequence begins.
pub const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// Runs `run` on random sequences of operations, and fails with the story of the shortest one that goes wrong.
#[track_caller]
pub fn check<O: Clone + Debug>(
    cases: u32,
    operation: impl Strategy<Value = O>,
    length: Range<usize>,
    mut world: World,
    run: impl Fn(&World, &[O]) -> Result<(), String>,
) {
    let asked = ["CODING_LOOPS_CASES", "PROPTEST_CASES"].into_iter().find_map(|name| std::env::var(name).ok()?.parse().ok());
    let config = Config {
        cases: asked.unwrap_or(cases),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    };
    world.remember();
    let world = RefCell::new(world);
    let outcome = TestRunner::new(config).run(&vec(operation, length), |operations| {
        let world = &mut *world.borrow_mut();
        world.begin_anew();
        run(world, &operations).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(story, operations)) => panic!("{story}\n\nthe operations: {operations:?}\n"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// Rows of any table, each as its name and one text.
pub type Rows = Vec<Vec<Option<String>>>;

/// A database and its clock, used for one sequence after the other.
pub struct World {
    pub db: Database,
    pub clock: ManualClock,
    server: Option<&'static Postgres>,
    begin_anew: Vec<String>,
    fresh: Rc<Rows>,
    last: RefCell<Option<(Vec<String>, Rc<Rows>)>>,
}

impl World {
    pub fn new() -> Self {
        let clock = ManualClock::new(START);
        let db = test_support::in_memory(Arc::new(clock.clone()));
        Self {
            db,
            clock,
            server: Postgres::under_test(),
            begin_anew: Vec::new(),
            fresh: Rc::default(),
            last: RefCell::default(),
        }
    }

    /// What stands now is what every sequence begins with.
    fn remember(&mut self) {
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
        self.begin_anew = begin.into_iter().map(str::to_owned).chain(wipe.into_iter().rev()).chain(fill).chain(end).collect();
        // By name: the text itself is long, and would be looked up in the cache of statements each time.
        self.db.execute_foreign(&format!("CREATE TEMP VIEW everything AS {}", dump.join(" UNION ALL "))).unwrap();
        self.fresh = self.rows();
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

    fn begin_anew(&self) {
        match self.server {
            None => self.begin_anew.iter().for_each(|statement| drop(self.db.query_foreign(statement).unwrap())),
            Some(_) => self.db.execute_foreign(&self.begin_anew.join("; ")).unwrap(),
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

    /// What must hold.
    pub fn holds(&self, what: &str, holds: bool) -> Result<(), String> {
        if holds { Ok(()) } else { Err(self.wrong(what)) }
    }

    pub fn wrong(&self, what: &str) -> String {
        format!("\n{}\n     !! {what}", self.lines.join("\n"))
    }
}
