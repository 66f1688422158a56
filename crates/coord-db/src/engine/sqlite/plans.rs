//! Which index each query of a hot path is answered by.
//!
//! An operation is run for real, the statements it sends are taken down, and SQLite is asked for the plan of each,
//! triggers included. The plans stand in `plans.txt`, one line a step; a change of a query, an index or the engine that
//! changes a plan shows there. What grows without end is never scanned, whatever the file says.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;

use crate::process::ProcessIdentity;
use crate::{
    AcquireRequest, ActorId, AlertType, Database, ErrorCategory, FailedAttempt, KnowledgeSearch, KnowledgeType, LeasePath,
    ManualClock, NewAlert, NewEvent, NewKnowledge, NewTest, PassedAttempt, Payload, Result, Severity, Timestamp, UnlockCause,
    UsageKey, WaitNode, Waiting, WriteTx,
};

thread_local! {
    static SENT: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Takes down a statement that is being sent.
pub(crate) fn note(sql: &str) {
    SENT.with_borrow_mut(|sent| {
        if !sent.iter().any(|known| known == sql) {
            sent.push(sql.to_owned());
        }
    });
}

/// Rows of these pile up for as long as the system runs.
const GROWING: [&str; 11] = [
    "events",
    "deliveries",
    "tests",
    "proofs",
    "usage",
    "knowledge",
    "decisions",
    "alerts",
    "passing_tests",
    "transaction_log",
    "check_runs",
];

fn id<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no id"))
}

fn lease(loop_id: &str, path: &str) -> AcquireRequest {
    AcquireRequest {
        loop_id: id(loop_id),
        paths: vec![id::<LeasePath>(path)],
        ttl_seconds: 900,
        reason: None,
        test_id: None,
        automatic: false,
    }
}

fn tick() -> NewEvent {
    NewEvent::new(id::<ActorId>("monitor"), Payload::Custom { event_type: "custom.tick".to_owned(), value: json!({}) })
}

fn world() -> Database {
    let db = Database::in_memory(Arc::new(ManualClock::new(Timestamp::from_millis(1_800_000_000_000)))).unwrap();
    db.execute_foreign(
        "PRAGMA foreign_keys = ON; INSERT INTO loops (id, name, priority, status) VALUES ('a', 'A', 1, 'running'), ('b', 'B', 2, 'running');
         INSERT INTO subscriptions (id, subscriber, event_types) VALUES ('reader', 'reader', '[\"custom.tick\"]')",
    )
    .unwrap();
    let queue: Vec<NewTest> = ["t1", "t2", "t3"]
        .iter()
        .map(|test| NewTest {
            id: id(test),
            loop_id: id("a"),
            category: "build".to_owned(),
            max_attempts: 3,
            depends_on: None,
            automatable: true,
            notes: None,
            spec_content: None,
            scope: vec!["src/**".to_owned()],
            allow_no_change: false,
        })
        .collect();
    db.write(|tx| tx.import_tests(&queue)).unwrap();
    db
}

type Operation = fn(&WriteTx<'_>) -> Result<()>;

/// What is prepared and what is then watched.
const HOT: &[(&str, Operation, Operation)] = &[
    ("publish", nothing, |tx| tx.publish(&tick()).map(|_| ())),
    ("publish what an event led to", nothing, |tx| {
        let cause = tx.publish(&tick())?;
        tx.publish(&tick().caused_by_id(Some(cause))).map(|_| ())
    }),
    ("look for deliveries", nothing, |tx| tx.has_deliveries("reader").map(|_| ())),
    (
        "take deliveries",
        |tx| tx.publish(&tick()).map(|_| ()),
        |tx| {
            let pending = tx.pending_deliveries("reader", 100)?;
            tx.record_try(&pending[0])?;
            tx.acknowledge("reader", pending.iter().map(|delivery| &delivery.event.id))
        },
    ),
    (
        "set a delivery aside",
        |tx| tx.publish(&tick()).map(|_| ()),
        |tx| {
            let pending = tx.pending_deliveries("reader", 1)?;
            tx.set_aside("reader", &pending[0].event.id, "measured")
        },
    ),
    ("claim", nothing, |tx| tx.claim_next_test(&id("a"), true).map(|_| ())),
    ("give back", claim, |tx| tx.give_back(&id("t1"), &id("a"), "measured")),
    ("pass", claim, |tx| {
        let attempt = PassedAttempt {
            commit: "c".to_owned(),
            checks: vec![("tests".to_owned(), true)],
            duration_seconds: 1,
            tokens_estimated: None,
            files_modified: Vec::new(),
        };
        tx.record_passed(&id("t1"), &id("a"), &attempt).map(|_| ())
    }),
    ("fail", claim, |tx| {
        let attempt = FailedAttempt::new(ErrorCategory::Code, "no");
        tx.record_failed(&id("t1"), &id("a"), &attempt).map(|_| ())
    }),
    ("acquire", nothing, |tx| tx.acquire(&lease("a", "src/x.rs"), 5).map(|_| ())),
    ("acquire what another holds", held_by_b, |tx| tx.acquire(&lease("a", "src/x.rs"), 5).map(|_| ())),
    ("queue, and ask again", held_by_b, |tx| {
        let (request, _) = tx.acquire_or_queue(&lease("a", "src/x.rs"), tx.now().plus_seconds(60), 5)?;
        tx.retry_request(&request.unwrap(), &lease("a", "src/x.rs"), 5).map(|_: Waiting| ())
    }),
    ("renew", held_by_b, |tx| tx.renew_all(&id("b"), 900).map(|_| ())),
    ("release", held_by_b, |tx| tx.release(&id("b"), &[id("src/x.rs")], None).map(|_| ())),
    ("revoke", held_by_b, |tx| tx.release_everything("b", &id("heartbeat"), UnlockCause::OwnerDied, None).map(|_| ())),
    ("check a lease", held_by_b, |tx| tx.holds(&id("b"), &id("src/x.rs"), 1).map(|_| ())),
    ("expired leases", nothing, |tx| tx.expired_leases().and_then(|_| tx.next_lease_expiry()).map(|_| ())),
    ("probe from new wait edges", nothing, |tx| {
        tx.wait_edges_after(0)?;
        tx.last_wait_edge_seq()?;
        tx.test_waits_after(0)?;
        tx.last_test_wait_seq()?;
        let test = WaitNode::Test { id: "t1".to_owned(), loop_id: "a".to_owned() };
        let a = WaitNode::Loop("a".to_owned());
        tx.waits_on(&a)?;
        tx.waits_on(&test)?;
        tx.wait_edges_on("a")?;
        tx.waits_around(&[a, test].into()).map(|_| ())
    }),
    ("add a wait edge", nothing, |tx| tx.add_wait_edge("a", "b", "r", tx.now(), None)),
    ("start and beat", nothing, |tx| {
        tx.start_component(&id("monitor"), &ProcessIdentity::own(), "1")?;
        tx.beat(&id("monitor"), crate::HealthStatus::Healthy, None)
    }),
    ("raise and close an alert", nothing, |tx| {
        let alert = NewAlert {
            fingerprint: "f".to_owned(),
            severity: Severity::Warning,
            alert_type: AlertType::Stuck,
            source: "monitor".to_owned(),
            message: "m".to_owned(),
            context: json!({}),
            event_id: None,
        };
        tx.raise_alert(&alert)?;
        tx.raise_alert(&alert)?;
        tx.close_alert("f").map(|_| ())
    }),
    ("journal", nothing, |tx| {
        let entry = tx.begin_operation("o", "monitor", None, &json!([]), None)?;
        tx.open_journal(Some("monitor"))?;
        tx.end_operation(&entry, true).map(|_| ())
    }),
    ("marks of tests since", nothing, |tx| tx.test_marks_after(0, 100).and_then(|_| tx.last_event_position()).map(|_| ())),
    ("decisions settled last", nothing, |tx| tx.settled_decisions(10).map(|_| ())),
    ("events of a test", nothing, |tx| tx.events_of_test(&id("t1"), 100).map(|_| ())),
    ("events of types since", nothing, |tx| tx.events_of_types(&["test_passed"], tx.now()).map(|_| ())),
    ("a proof of the same tree and command", nothing, |tx| tx.proven("t", "tests", "h", &id("t1")).map(|_| ())),
    ("proofs of a test", nothing, |tx| tx.proofs(&id("t1"), None).map(|_| ())),
    ("why", nothing, |tx| {
        let event = tx.publish(&tick())?;
        tx.effects_of(&event).map(|_| ())
    }),
    ("find knowledge", knowledge, |tx| {
        let searches = [
            KnowledgeSearch::default(),
            KnowledgeSearch { words: vec!["word".to_owned()], ..KnowledgeSearch::default() },
            KnowledgeSearch { path: Some("src/x.rs".to_owned()), ..KnowledgeSearch::default() },
            KnowledgeSearch { topic: Some("build".to_owned()), ..KnowledgeSearch::default() },
        ];
        searches.iter().try_for_each(|search| tx.search_knowledge(search).map(|_| ()))
    }),
    ("knowledge for a test", knowledge, |tx| tx.knowledge_context(&tx.test(&id("t1"))?, 1000).map(|_| ())),
    ("history of an item of knowledge", knowledge, |tx| {
        let items = tx.search_knowledge(&KnowledgeSearch::default())?;
        tx.knowledge_history(&items[0].id).map(|_| ())
    }),
    ("record a decision that contradicts another", knowledge, |tx| {
        tx.add_knowledge(&decision("another"), &ActorId::human()).map(|_| ())
    }),
    ("last decisions about", nothing, |tx| tx.last_decisions_about(&["f".to_owned()]).map(|_| ())),
    ("decisions settled by another tool", nothing, |tx| tx.unannounced_decisions(tx.now(), 5).map(|_| ())),
    ("usage since", nothing, |tx| tx.usage_totals(UsageKey::Loop, Some(tx.now())).map(|_| ())),
    ("usage of a test", nothing, |tx| tx.usage_of_test(&id("t1")).map(|_| ())),
    ("dependents", nothing, |tx| tx.dependents(&id("t1")).map(|_| ())),
];

fn nothing(_: &WriteTx<'_>) -> Result<()> {
    Ok(())
}

fn claim(tx: &WriteTx<'_>) -> Result<()> {
    tx.claim_next_test(&id("a"), true).map(|_| ())
}

fn decision(content: &str) -> NewKnowledge {
    NewKnowledge {
        loop_id: None,
        item_type: KnowledgeType::Decision,
        topic: Some("build".to_owned()),
        content: content.to_owned(),
        confidence: 1.0,
        evidence: None,
        affected_areas: vec!["src/**".to_owned()],
        supersedes: Vec::new(),
    }
}

fn knowledge(tx: &WriteTx<'_>) -> Result<()> {
    tx.add_knowledge(&decision("words"), &ActorId::human()).map(|_| ())
}

fn held_by_b(tx: &WriteTx<'_>) -> Result<()> {
    tx.acquire(&lease("b", "src/x.rs"), 5).map(|_| ())
}

/// The steps of a statement's plan, its triggers' included, each once.
fn plan(db: &Database, sql: &str, steps: &mut Vec<String>) {
    let mut statement = db.engine().sqlite().unwrap().connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().unwrap() {
        let step: String = row.get(3).unwrap();
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
}

#[test]
fn each_hot_query_uses_the_index_meant_for_it() {
    let mut seen = String::new();
    for (name, prepare, operation) in HOT {
        let db = world();
        db.engine()
            .sqlite()
            .unwrap()
            .connection
            .set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_TRIGGER_EQP, true)
            .unwrap();
        db.write(prepare).unwrap();
        SENT.take();
        db.write(operation).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut steps = Vec::new();
        for sql in SENT.take() {
            // What saying something costs stands once, under its own name.
            if *name == "publish" || !sql.starts_with("INSERT INTO events") {
                plan(&db, &sql, &mut steps);
            }
        }
        for step in &steps {
            let scanned = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
            let by_index = step.contains("USING") || step.contains("VIRTUAL");
            assert!(by_index || scanned.is_none_or(|table| !GROWING.contains(&table)), "{name}: {step}");
        }
        writeln!(seen, "{name}").unwrap();
        for step in steps {
            writeln!(seen, "  {step}").unwrap();
        }
    }
    let meant = include_str!("plans.txt");
    assert!(seen == meant, "if each step is what is meant, this is the new plans.txt:\n{seen}");
}
