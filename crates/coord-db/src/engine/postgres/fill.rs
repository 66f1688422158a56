//! An empty database on a server that is given the whole content of another one, in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::address::Address;
use super::connection::Postgres;
use super::migrate;
use super::values::Value;
use crate::engine::value::{Parameter, ToParameter, ValueRef};
use crate::{Error, Result, Timestamp};

/// Number of values that go with one statement; the protocol takes 65,535.
const BATCH_VALUES: usize = 8_000;

/// A table of the schema.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
    /// The column that the server numbers.
    pub(crate) numbered: Option<String>,
}

/// How many rows a table has, and what they hold, in whatever order they are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) rows: u64,
    digest: u128,
}

impl Content {
    fn add(&mut self, row: &[Value]) {
        let mut hash = Sha256::new();
        for value in row {
            match value {
                Value::Null => hash.update(b"n"),
                Value::Integer(number) => {
                    hash.update(b"i");
                    hash.update(number.to_be_bytes());
                }
                Value::Real(number) => {
                    hash.update(b"r");
                    hash.update(number.to_be_bytes());
                }
                Value::Text(text) => {
                    hash.update(b"t");
                    hash.update((text.len() as u64).to_be_bytes());
                    hash.update(text.as_bytes());
                }
            }
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hash.finalize()[..16]);
        self.digest = self.digest.wrapping_add(u128::from_be_bytes(half));
        self.rows += 1;
    }
}

/// A value as the server can hold it; true if it is not quite what it was.
fn nearest(value: ValueRef<'_>) -> Result<(Value, bool)> {
    Ok(match value {
        ValueRef::Null => (Value::Null, false),
        ValueRef::Integer(number) => (Value::Integer(number), false),
        ValueRef::Real(number) => (Value::Real(number), false),
        ValueRef::Text(bytes) => {
            let value = Value::of(&Parameter::Text(String::from_utf8_lossy(bytes)));
            let is_changed = !matches!(&value, Value::Text(text) if text.as_bytes() == bytes);
            (value, is_changed)
        }
        ValueRef::Blob(_) => return Err(Error::Refused("it holds bytes where the schema has text or a number".to_owned())),
    })
}

/// Rows of a table that are on their way.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    filling: &'a Filling,
    table: &'a Table,
    waiting: Vec<Value>,
    /// What all rows hold, as the server is to have them.
    pub(crate) content: Content,
    /// Number of values that the server cannot hold as they were.
    pub(crate) replaced: u64,
}

impl Rows<'_> {
    /// Adds a row with a value for each column of the table.
    pub(crate) fn add(&mut self, row: &crate::engine::Row<'_>) -> Result<()> {
        let from = self.waiting.len();
        for at in 0..self.table.columns.len() {
            let (value, is_changed) = nearest(row.value(at)?)?;
            self.replaced += u64::from(is_changed);
            self.waiting.push(value);
        }
        self.content.add(&self.waiting[from..]);
        if self.waiting.len() + self.table.columns.len() > BATCH_VALUES { self.send() } else { Ok(()) }
    }

    /// Sends the rows that wait.
    pub(crate) fn send(&mut self) -> Result<()> {
        let width = self.table.columns.len();
        let rows: Vec<String> = (0..self.waiting.len() / width)
            .map(|row| format!("({})", (1..=width).map(|at| format!("?{}", row * width + at)).collect::<Vec<_>>().join(", ")))
            .collect();
        if !rows.is_empty() {
            let sql = format!("INSERT INTO {} ({}) VALUES {}", self.table.name, self.table.columns.join(", "), rows.join(", "));
            let values: Vec<&dyn ToParameter> = self.waiting.iter().map(|value| value as &dyn ToParameter).collect();
            self.filling.connection.execute(&sql, &values.as_slice()).map_err(|error| refused(&self.table.name, error))?;
        }
        self.waiting.clear();
        Ok(())
    }
}

/// A row that breaks a rule of the server's schema, which an external tool can have written to a file.
fn refused(table: &str, error: Error) -> Error {
    match error {
        Error::Statement(cause) => Error::Refused(format!(
            "the server refuses a row of {table}: {}; correct the row, which loopctl check may name, and run the command again",
            crate::error_chain(&*cause)
        )),
        other => other,
    }
}

/// A connection whose open transaction makes and fills a database.
#[derive(Debug)]
pub(crate) struct Filling {
    connection: Postgres,
}

impl Filling {
    /// Connects, and waits for others that make the same database.
    pub(crate) fn begin(address: &str, patience: Duration) -> Result<Self> {
        let address: Address = address.parse()?;
        let connection = Postgres::connect(address.clone(), true, patience)?;
        migrate::check_server(&connection, &Postgres::connect(address, true, patience)?)?;
        connection.begin_to_make(migrate::MAKING_KEY)?;
        connection.set_making(true);
        Ok(Self { connection })
    }

    /// The server's address, without a password.
    pub(crate) fn server(&self) -> String {
        self.connection.address().to_string()
    }

    fn texts(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let rows = self.connection.batch(sql)?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect())
    }

    /// Whether the server has this event.
    pub(crate) fn has_event(&self, id: &str) -> Result<bool> {
        if self
            .texts("SELECT 1 WHERE to_regclass('events') IS NOT NULL AND to_regclass('coding_loops_schema') IS NOT NULL")?
            .is_empty()
        {
            return Ok(false);
        }
        let mut found = false;
        self.connection.each("SELECT id FROM events WHERE id = ?1", &[id], |_| {
            found = true;
            Ok(false)
        })?;
        Ok(found)
    }

    /// Makes the tables, without a row in them and with triggers that do nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] if the database is not empty.
    pub(crate) fn make_tables(&self) -> Result<Vec<Table>> {
        migrate::fill_empty(&self.connection)?;
        let tables = self.tables()?;
        for table in tables.iter().rev() {
            self.connection.batch(&format!("ALTER TABLE {0} DISABLE TRIGGER USER; DELETE FROM {0}", table.name))?;
        }
        Ok(tables)
    }

    /// The tables, each after those that it refers to.
    fn tables(&self) -> Result<Vec<Table>> {
        let mut tables: BTreeMap<String, Table> = BTreeMap::new();
        for row in self.texts(
            "SELECT c.relname, a.attname, a.attidentity FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
             WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace AND c.relname <> 'coding_loops_schema'
               AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY c.relname, a.attnum",
        )? {
            let [name, column, identity] = <[String; 3]>::try_from(row).unwrap_or_default();
            let table = tables.entry(name.clone()).or_insert(Table { name, columns: Vec::new(), numbered: None });
            if !identity.is_empty() {
                table.numbered = Some(column.clone());
            }
            table.columns.push(column);
        }
        let references = self.texts(
            "SELECT f.relname, t.relname FROM pg_constraint AS c JOIN pg_class AS f ON f.oid = c.conrelid
             JOIN pg_class AS t ON t.oid = c.confrelid
             WHERE c.contype = 'f' AND c.connamespace = current_schema()::regnamespace AND f.oid <> t.oid",
        )?;
        let (mut sorted, mut placed) = (Vec::new(), BTreeSet::new());
        while !tables.is_empty() {
            let is_ready = |name: &str| references.iter().all(|pair| pair[0] != name || placed.contains(&pair[1]));
            let ready: Vec<String> = tables.keys().filter(|name| is_ready(name)).cloned().collect();
            if ready.is_empty() {
                return Err(Error::Refused("the tables of the schema refer to each other in a cycle".to_owned()));
            }
            sorted.extend(ready.iter().filter_map(|name| tables.remove(name)));
            placed.extend(ready);
        }
        Ok(sorted)
    }

    /// Begins to send the rows of a table.
    pub(crate) fn rows<'a>(&'a self, table: &'a Table) -> Rows<'a> {
        Rows { filling: self, table, waiting: Vec::new(), content: Content::default(), replaced: 0 }
    }

    /// What a table holds, read back from the server.
    pub(crate) fn content(&self, table: &Table) -> Result<Content> {
        let (name, columns) = (&table.name, table.columns.join(", "));
        self.connection.batch(&format!("DECLARE back_{name} NO SCROLL CURSOR FOR SELECT {columns} FROM {name}"))?;
        let (mut content, mut values) = (Content::default(), Vec::new());
        loop {
            let before = content.rows;
            self.connection.each(&format!("FETCH 1000 FROM back_{name}"), &[], |row| {
                values.clear();
                for at in 0..table.columns.len() {
                    values.push(nearest(row.value(at)?)?.0);
                }
                content.add(&values);
                Ok(true)
            })?;
            if content.rows == before {
                break;
            }
        }
        self.connection.batch(&format!("CLOSE back_{name}"))?;
        Ok(content)
    }

    /// Lets a table's numbers go on after this one.
    pub(crate) fn number_after(&self, table: &Table, column: &str, largest: i64) -> Result<()> {
        let sql =
            format!("SELECT setval(pg_get_serial_sequence('{}', '{column}'), {}, {})", table.name, largest.max(1), largest > 0);
        self.connection.batch(&sql).map(drop)
    }

    /// Lets the triggers act, time go on after `now`, and publishes an event.
    pub(crate) fn finish(&self, tables: &[Table], now: Timestamp, event_id: &str, note: &str) -> Result<()> {
        for table in tables {
            self.connection.batch(&format!("ALTER TABLE {} ENABLE TRIGGER USER", table.name))?;
        }
        self.connection.batch(&format!("SELECT setval('moment', {})", now.as_millis()))?;
        let payload = crate::engine::note(note);
        self.connection.execute(
            "INSERT INTO events (id, source, event_type, payload) VALUES (?1, 'human', 'human_message', ?2)",
            &[event_id, &payload],
        )?;
        // Plans of queries depend on it, and nothing else does it before a while has passed.
        self.connection.batch("ANALYZE").map(drop)
    }

    /// Ends the transaction: the database is there whole, or as it was.
    pub(crate) fn commit(&self) -> Result<()> {
        self.connection.commit()
    }
}
