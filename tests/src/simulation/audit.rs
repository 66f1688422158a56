//! What a step has changed, row by row: the database itself writes it down, in temporary triggers of this connection.
//! So a law sees every change, also those inside one transaction that a later statement covers up.

use coord_db::Result;

use super::world::World;

/// One changed row. `old` and `new` are as the table's triggers below give them.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which table, and what was done.
    pub what: String,
    /// The row.
    pub key: String,
    /// The values, as text; which they are depends on `what`.
    pub values: [Option<String>; 6],
}

impl Change {
    /// A value as text; nothing is empty.
    #[must_use]
    pub fn text(&self, at: usize) -> &str {
        self.values[at].as_deref().unwrap_or_default()
    }

    /// A value as a number; nothing is zero.
    #[must_use]
    pub fn number(&self, at: usize) -> i64 {
        self.text(at).parse().unwrap_or_default()
    }
}

/// (name, event and condition, key, values)
const TRIGGERS: &[(&str, &str, &str, &str)] = &[
    (
        "test",
        "UPDATE ON main.tests WHEN OLD.status <> NEW.status OR OLD.attempts <> NEW.attempts",
        "NEW.id",
        "OLD.status, NEW.status, OLD.attempts, NEW.attempts, NEW.max_attempts, NEW.loop_id",
    ),
    ("test added", "INSERT ON main.tests", "NEW.id", "NEW.status, NEW.attempts"),
    (
        "loop",
        "UPDATE ON main.loops WHEN OLD.status <> NEW.status OR OLD.current_test_id IS NOT NEW.current_test_id",
        "NEW.id",
        "OLD.status, NEW.status, OLD.current_test_id, NEW.current_test_id, OLD.pid",
    ),
    ("lease", "INSERT ON main.file_locks", "NEW.file_path", "NEW.locked_by, NEW.fencing_token, NEW.expires_at"),
    (
        "lease again",
        "UPDATE ON main.file_locks WHEN OLD.fencing_token <> NEW.fencing_token OR OLD.locked_by <> NEW.locked_by",
        "NEW.file_path",
        "NEW.locked_by, NEW.fencing_token, OLD.locked_by, OLD.fencing_token, OLD.expires_at",
    ),
    ("lease over", "DELETE ON main.file_locks", "OLD.file_path", "OLD.locked_by, OLD.fencing_token, OLD.expires_at"),
    ("counter", "UPDATE ON main.counters", "NEW.name", "OLD.value, NEW.value"),
    (
        "delivery",
        "UPDATE ON main.deliveries WHEN OLD.status <> NEW.status",
        "NEW.event_id || ' for ' || NEW.subscription_id",
        "OLD.status, NEW.status, NEW.event_id, (SELECT subscriber FROM subscriptions WHERE id = NEW.subscription_id), NEW.last_error",
    ),
    ("delivery gone", "DELETE ON main.deliveries", "OLD.event_id || ' for ' || OLD.subscription_id", "OLD.status"),
    ("event", "INSERT ON main.events", "NEW.id", "NEW.source, NEW.event_type, NEW.caused_by, NEW.payload"),
    (
        "event changed",
        "UPDATE ON main.events WHEN NEW.id <> OLD.id OR NEW.timestamp <> OLD.timestamp OR NEW.source <> OLD.source \
         OR NEW.event_type <> OLD.event_type OR NEW.payload <> OLD.payload OR NEW.caused_by IS NOT OLD.caused_by \
         OR NEW.priority <> OLD.priority",
        "OLD.id",
        "OLD.event_type, NEW.event_type",
    ),
    ("event gone", "DELETE ON main.events", "OLD.id", "OLD.event_type"),
    ("pause lifted", "DELETE ON main.pauses", "OLD.loop_id", "OLD.requested_by, OLD.since"),
    (
        "landing",
        "UPDATE ON main.landings WHEN OLD.state <> NEW.state OR OLD.passed_over <> NEW.passed_over",
        "NEW.id",
        "OLD.state, NEW.state, NEW.passed_over, NEW.test_id",
    ),
    ("decision", "UPDATE ON main.decisions WHEN OLD.status <> NEW.status", "NEW.id", "OLD.status, NEW.status, NEW.choice"),
];

/// Puts the triggers there.
pub fn install(world: &World) -> Result<()> {
    let mut sql = "CREATE TEMP TABLE audit (seq INTEGER PRIMARY KEY, what, key, a, b, c, d, e, f);\n".to_owned();
    for (at, (name, when, key, values)) in TRIGGERS.iter().enumerate() {
        let columns: String = ["a", "b", "c", "d", "e", "f"][..values_in(values)].join(", ");
        sql.push_str(&format!(
            "CREATE TEMP TRIGGER audit_{at} AFTER {when} BEGIN INSERT INTO audit (what, key, {columns}) VALUES ('{name}', {key}, {values}); END;\n"
        ));
    }
    world.db.execute_foreign(&sql)
}

fn values_in(values: &str) -> usize {
    let mut depth = 0;
    let separators = values.chars().filter(|character| {
        depth += i32::from(*character == '(') - i32::from(*character == ')');
        *character == ',' && depth == 0
    });
    separators.count() + 1
}

/// What has changed since this was asked last.
pub fn changes(world: &World) -> Result<Vec<Change>> {
    let rows = world.db.query_foreign("SELECT what, key, a, b, c, d, e, f FROM audit ORDER BY seq")?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    world.db.execute_foreign("DELETE FROM audit")?;
    let change = |row: Vec<Option<String>>| {
        let mut row = row.into_iter();
        let mut next = || row.next().flatten();
        Change {
            what: next().unwrap_or_default(),
            key: next().unwrap_or_default(),
            values: [next(), next(), next(), next(), next(), next()],
        }
    };
    Ok(rows.into_iter().map(change).collect())
}
