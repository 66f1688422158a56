//! `loopctl check`: the engine's own integrity, foreign keys, and what must always hold here.

use serde::Serialize;

use crate::engine::Kind;
use crate::{Database, ReadTx, Result};

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Which rule.
    pub rule: &'static str,
    /// Where, in words.
    pub detail: String,
}

/// Each query lists the rows that break its rule.
const INVARIANTS: &[(&str, &str)] = &[
    ("a passed test is verified", "SELECT id FROM tests WHERE status = 'passed' AND verified_at IS NULL"),
    (
        "a loop's current test is its own and in progress",
        "SELECT l.id || ' says ' || l.current_test_id FROM loops AS l LEFT JOIN tests AS t ON t.id = l.current_test_id
         WHERE l.current_test_id IS NOT NULL AND (t.id IS NULL OR t.loop_id <> l.id OR t.status <> 'in_progress')",
    ),
    (
        "a loop has at most one test in progress",
        "SELECT loop_id FROM tests WHERE status = 'in_progress' AND id NOT IN (SELECT test_id FROM landings WHERE ended_at IS NULL)
         GROUP BY loop_id HAVING count(*) > 1",
    ),
    (
        "a test in progress belongs to a loop that is at work",
        "SELECT t.id FROM tests AS t JOIN loops AS l ON l.id = t.loop_id
         WHERE t.status = 'in_progress' AND l.status IN ('stopped', 'error')
           AND t.id NOT IN (SELECT test_id FROM landings WHERE ended_at IS NULL)",
    ),
    (
        "a lease belongs to a registered loop",
        "SELECT file_path || ' of ' || locked_by FROM file_locks
         WHERE locked_by <> 'human' AND locked_by NOT LIKE 'landing-train%' AND locked_by NOT IN (SELECT id FROM loops)",
    ),
    (
        "queued work belongs to a test in progress",
        "SELECT test_id FROM landings WHERE ended_at IS NULL AND test_id NOT IN (SELECT id FROM tests WHERE status = 'in_progress')",
    ),
    (
        "a passed test's work has landed",
        "SELECT DISTINCT t.id || ': another program has marked it as passed while its work waited to land; the work is saved: loopctl reset --force ' || t.id
         FROM tests AS t JOIN landings AS l ON l.test_id = t.id AND l.state = 'withdrawn'
         WHERE t.status = 'passed' AND (t.commit_hash IS NULL OR t.commit_hash = l.commit_hash)",
    ),
    (
        "no two loops hold overlapping leases",
        "SELECT a.file_path || ' of ' || a.locked_by || ' and ' || b.file_path || ' of ' || b.locked_by
         FROM file_locks AS a JOIN file_locks AS b ON a.locked_by <> b.locked_by AND a.file_path LIKE '%/'
           AND b.file_path >= a.file_path AND substr(b.file_path, 1, length(a.file_path)) = a.file_path
         WHERE (a.expires_at IS NULL OR a.expires_at > strftime('%Y-%m-%d %H:%M:%f', 'now'))
           AND (b.expires_at IS NULL OR b.expires_at > strftime('%Y-%m-%d %H:%M:%f', 'now'))",
    ),
    (
        "no fencing token is ahead of the counter",
        "SELECT file_path FROM file_locks WHERE fencing_token > (SELECT value FROM counters WHERE name = 'fencing_token')",
    ),
    (
        "a wait edge joins registered loops",
        "SELECT waiter || ' waits for ' || holder FROM wait_graph
         WHERE (waiter <> 'human' AND waiter NOT LIKE 'landing-train%' AND waiter NOT IN (SELECT id FROM loops))
            OR (holder <> 'human' AND holder NOT LIKE 'landing-train%' AND holder NOT IN (SELECT id FROM loops))",
    ),
    (
        "a delivery has its event",
        "SELECT subscription_id || ' ' || event_id FROM deliveries WHERE event_id NOT IN (SELECT id FROM events)",
    ),
    (
        "an acknowledged event has no open delivery",
        "SELECT e.id FROM events AS e JOIN deliveries AS d ON d.event_id = e.id
         WHERE e.acknowledged = 1 AND d.status = 'pending'",
    ),
    (
        "an event's cause comes before it",
        "SELECT e.id FROM events AS e JOIN events AS c ON c.id = e.caused_by WHERE c.rowid >= e.rowid",
    ),
    (
        "an event of an attempt belongs to its story",
        // A lease that was taken for a test is of the attempt that it was taken in if that has ended with a result: one that
        // was given back leaves no event.
        "WITH said AS (
           SELECT rowid AS at, id, event_type, caused_by, correlation_id, json_extract(payload, '$.test_id') AS test_id FROM events
           WHERE event_type IN ('test_started', 'test_passed', 'test_failed', 'test_blocked', 'file_locked')
             AND json_type(payload, '$.test_id') = 'text'
             AND rowid > (SELECT value FROM counters WHERE name = 'attempts_since')),
         placed AS (
           SELECT *, max(CASE event_type WHEN 'test_started' THEN at END) OVER past AS started,
             max(CASE WHEN event_type IN ('test_started', 'test_passed', 'test_failed') THEN at END) OVER past AS mark,
             min(CASE WHEN event_type IN ('test_started', 'test_passed', 'test_failed') THEN at END) OVER coming AS next
           FROM said
           WINDOW past AS (PARTITION BY test_id ORDER BY at),
             coming AS (PARTITION BY test_id ORDER BY at ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING))
         SELECT p.event_type || ' ' || p.id || ' of ' || p.test_id FROM placed AS p JOIN events AS s ON s.rowid = p.started
         WHERE p.event_type <> 'test_started' AND (p.caused_by IS NULL OR p.correlation_id IS DISTINCT FROM s.correlation_id)
           AND (p.event_type <> 'file_locked' OR (p.mark = p.started
             AND EXISTS (SELECT 1 FROM events AS n WHERE n.rowid = p.next AND n.event_type <> 'test_started')))
         UNION ALL
         SELECT u.event_type || ' ' || u.id || ' of ' || l.test_id FROM (
           SELECT id, event_type, caused_by, max(CASE event_type WHEN 'file_locked' THEN rowid END) OVER (
             PARTITION BY json_extract(payload, '$.loop_id'), json_extract(payload, '$.file_path') ORDER BY rowid) AS locked
           FROM events WHERE event_type IN ('file_locked', 'file_unlocked')) AS u
         JOIN said AS l ON l.at = u.locked
         WHERE u.event_type = 'file_unlocked' AND u.caused_by IS NULL AND l.caused_by IS NOT NULL",
    ),
    (
        "a test depends on a test that exists",
        "SELECT id FROM tests WHERE depends_on IS NOT NULL AND depends_on NOT IN (SELECT id FROM tests)",
    ),
    (
        "knowledge is found by its present words",
        "SELECT coalesce(i.knowledge_id, 'number ' || w.rowid) FROM knowledge_index AS i FULL JOIN knowledge_words AS w ON w.rowid = i.seq
         WHERE w.topic IS DISTINCT FROM i.topic OR w.content IS DISTINCT FROM i.content OR w.evidence IS DISTINCT FROM i.evidence",
    ),
    (
        "knowledge is found by its present areas",
        "SELECT 'number ' || seq || ' in ' || area FROM (SELECT prefix, seq, area FROM knowledge_scopes EXCEPT SELECT prefix, seq, area FROM knowledge_areas) AS missing
         UNION ALL
         SELECT 'number ' || seq || ' in ' || area FROM (SELECT prefix, seq, area FROM knowledge_areas EXCEPT SELECT prefix, seq, area FROM knowledge_scopes) AS left_over",
    ),
    (
        "every item of knowledge has its number",
        "SELECT id FROM knowledge WHERE id NOT IN (SELECT knowledge_id FROM knowledge_numbers)
         UNION ALL SELECT knowledge_id FROM knowledge_numbers WHERE knowledge_id NOT IN (SELECT id FROM knowledge)",
    ),
    (
        "knowledge is superseded by an item that is there",
        "SELECT id || ' by ' || superseded_by FROM knowledge
         WHERE superseded_by IS NOT NULL AND superseded_by NOT IN (SELECT id FROM knowledge)",
    ),
    (
        "superseded knowledge has no cycle",
        "WITH RECURSIVE leads (id) AS (
           SELECT id FROM knowledge WHERE superseded_by IS NULL OR superseded_by NOT IN (SELECT id FROM knowledge)
           UNION
           SELECT k.id FROM leads AS l JOIN knowledge AS k ON k.superseded_by = l.id
         )
         SELECT id FROM knowledge WHERE id NOT IN (SELECT id FROM leads)",
    ),
    (
        "subscriptions are matched by their present event types",
        "WITH due (event_type, source, subscription_id, max_priority) AS (
           SELECT t.value, f.value, s.id, coalesce(s.max_priority, 9223372036854775807)
           FROM subscriptions AS s, json_each(s.event_types) AS t, json_each(coalesce(s.filter_sources, '[\"\"]')) AS f
           WHERE s.active = 1 AND t.type = 'text' AND f.type = 'text'),
         there AS (SELECT event_type, source, subscription_id, max_priority FROM subscription_matches)
         SELECT subscription_id FROM (SELECT * FROM due EXCEPT SELECT * FROM there) AS missing
         UNION SELECT subscription_id FROM (SELECT * FROM there EXCEPT SELECT * FROM due) AS left_over",
    ),
    (
        "an open delivery has a subscription that stands",
        "SELECT subscription_id || ' ' || event_id FROM deliveries
         WHERE status = 'pending' AND subscription_id NOT IN (SELECT id FROM subscriptions WHERE active = 1)",
    ),
    (
        "an archived event is no longer here",
        "SELECT id FROM events WHERE id IN (SELECT id FROM archived_events)",
    ),
    (
        "archiving has ended",
        "SELECT operation FROM maintenance",
    ),
    (
        "a passed test names its commit's proofs that passed, or were let through",
        "SELECT t.id || ' at ' || t.commit_hash FROM tests AS t
         WHERE t.status = 'passed' AND t.commit_hash IS NOT NULL
           AND EXISTS (SELECT 1 FROM proofs AS p WHERE p.test_id = t.id AND p.commit_hash = t.commit_hash)
           AND NOT EXISTS (SELECT 1 FROM proofs AS p WHERE p.test_id = t.id AND p.commit_hash = t.commit_hash
                           AND (p.outcome = 'pass'
                                OR EXISTS (SELECT 1 FROM proof_runs AS r WHERE r.proof_id = p.id AND r.let_through = 1)))",
    ),
    (
        "no test depends on itself by way of others",
        "WITH RECURSIVE above (start, id) AS (
           SELECT id, depends_on FROM tests WHERE depends_on IS NOT NULL
           UNION
           SELECT above.start, t.depends_on FROM above JOIN tests AS t ON t.id = above.id WHERE t.depends_on IS NOT NULL)
         SELECT start FROM above WHERE start = id",
    ),
    (
        "a waiting acquire belongs to a registered loop",
        "SELECT id || ' of ' || loop_id FROM lease_requests WHERE loop_id NOT IN (SELECT id FROM loops)",
    ),
    (
        "a waiting acquire's paths are its own",
        "SELECT r.id || ' ' || p.value FROM lease_requests AS r, json_each(r.paths) AS p
         WHERE NOT EXISTS (SELECT 1 FROM lease_request_paths AS q WHERE q.request_id = r.id AND q.file_path = p.value)
         UNION ALL
         SELECT request_id || ' ' || file_path FROM lease_request_paths WHERE request_id NOT IN (SELECT id FROM lease_requests)",
    ),
    (
        "no edge's number is ahead of the counter",
        "SELECT waiter || ' waits for ' || holder FROM wait_graph
         WHERE seq > (SELECT value FROM counters WHERE name = 'wait_edge')",
    ),
    (
        "both counters stand",
        "SELECT name FROM (SELECT 'fencing_token' AS name UNION ALL SELECT 'wait_edge') AS needed
         WHERE name NOT IN (SELECT name FROM counters)",
    ),
    (
        "a leased path belongs to one loop under a token",
        "SELECT fencing_token || ' of ' || min(locked_by) || ' and ' || max(locked_by) FROM file_locks
         GROUP BY fencing_token HAVING count(DISTINCT locked_by) > 1",
    ),
    (
        "a decision's answer is one of its options",
        "SELECT id FROM decisions WHERE status IN ('decided', 'auto_resolved') AND json_array_length(options) > 0
           AND choice NOT IN (SELECT coalesce(CASE o.type WHEN 'object' THEN json_extract(o.value, '$.id') WHEN 'text' THEN o.value END, '')
                          FROM json_each(decisions.options) AS o)",
    ),
    ("a standing pause is a registered loop's", "SELECT loop_id FROM pauses WHERE loop_id NOT IN (SELECT id FROM loops)"),
    (
        "a dead loop holds nothing",
        "SELECT l.file_path || ' of ' || l.locked_by FROM file_locks AS l JOIN loops ON loops.id = l.locked_by
         WHERE loops.status = 'error' AND loops.died_at IS NOT NULL AND l.locked_at <= loops.died_at",
    ),
];

const SOUND: &str = "the file is sound";
const NO_ORPHANS: &str = "every foreign key has its row";

impl Problem {
    /// All that is looked at, in words.
    pub fn rules() -> impl Iterator<Item = &'static str> {
        [SOUND, NO_ORPHANS].into_iter().chain(INVARIANTS.iter().map(|(rule, _)| *rule))
    }
}

fn problems_of_file(tx: &ReadTx<'_>) -> Result<Vec<Problem>> {
    let pages = tx.query("PRAGMA integrity_check", [], |row| row.get::<String>(0))?;
    let pages = pages.into_iter().filter(|detail| detail != "ok").map(|detail| Problem { rule: SOUND, detail });
    let orphans = tx.query("PRAGMA foreign_key_check", [], |row| {
        let detail = format!(
            "row {} of {} refers to no row of {}",
            row.get::<Option<i64>>(1)?.unwrap_or_default(),
            row.get::<String>(0)?,
            row.get::<String>(2)?
        );
        Ok(Problem { rule: NO_ORPHANS, detail })
    })?;
    Ok(pages.chain(orphans).collect())
}

impl Database {
    /// Looks for everything that should not be. Empty is clean.
    pub fn check(&self) -> Result<Vec<Problem>> {
        self.read(|tx| {
            let mut problems = Vec::new();
            match tx.engine().kind() {
                Kind::Sqlite => problems.extend(problems_of_file(tx)?),
                Kind::Postgres => {
                    let found = crate::engine::postgres::check::problems(tx, NO_ORPHANS)?;
                    problems.extend(found.into_iter().map(|(rule, detail)| Problem { rule, detail }));
                }
            }
            for (rule, sql) in INVARIANTS {
                let broken = tx.query(sql, [], |row| row.get::<String>(0))?;
                problems.extend(broken.into_iter().map(|detail| Problem { rule, detail }));
            }
            Ok(problems)
        })
    }
}
