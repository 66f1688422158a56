//! Waits without a lease: tests wait for tests, for permission to change what another loop owns, and for their turn; a
//! loop that can begin none of its tests waits for all of them.
//!
//! They are not rows of their own: they follow from tests, loops and change requests. `test_waits` only says which tests may
//! have begun to wait, so that a reader need not look at all.
//!
//! Who waits for the human (for an answer, a resume, a blocked test) waits for nobody here: the human can always answer.

use std::collections::BTreeSet;

use serde::Serialize;

use super::WaitEdge;
use crate::{LoopId, ReadTx, Result, TestId, Timestamp};

/// Who waits, or is waited for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitNode {
    /// A loop, or whatever another tool has named in an edge.
    Loop(String),
    /// A test that is pending or in progress.
    Test {
        /// Its id.
        id: String,
        /// Whose queue it is on.
        loop_id: String,
    },
}

impl WaitNode {
    /// The loop itself, or the test's.
    #[must_use]
    pub fn loop_id(&self) -> &str {
        match self {
            Self::Loop(id) | Self::Test { loop_id: id, .. } => id,
        }
    }
}

/// Why one waits for the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WaitKind {
    /// A pending test depends on one that has not ended.
    Dependency,
    /// A pending test needs permission to change a resource of the other loop, and the request is not answered.
    Leave {
        /// The change request.
        request_id: String,
        /// What is owned.
        resource: String,
    },
    /// A test is in its loop's hand, or has to wait until the loop is done with another one.
    Turn {
        /// The other one; none if the test itself is in progress.
        after: Option<String>,
    },
    /// The work of a test waits to land.
    Landing,
    /// A loop without a current test can begin none of its tests. It goes on as soon as one of them is ready.
    Idle,
}

/// One wait.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Wait {
    /// Who waits.
    pub waiter: WaitNode,
    /// For whom.
    pub holder: WaitNode,
    /// Why.
    #[serde(flatten)]
    pub kind: WaitKind,
    /// Since when, if the rows show it.
    pub since: Timestamp,
}

/// What was found around some nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Waits {
    /// Waits for leases.
    pub edges: Vec<WaitEdge>,
    /// All others.
    pub waits: Vec<Wait>,
}

impl Waits {
    fn len(&self) -> usize {
        self.edges.len() + self.waits.len()
    }
}

/// A loop `l` that runs, has no current test, and none of whose pending tests is ready.
const IS_IDLE: &str = "l.status = 'running'
   AND NOT EXISTS (SELECT 1 FROM tests AS p WHERE p.loop_id = l.id AND p.status = 'in_progress'
     AND p.id NOT IN (SELECT test_id FROM landings WHERE ended_at IS NULL))
   AND EXISTS (SELECT 1 FROM tests AS q WHERE q.loop_id = l.id AND q.status = 'pending')
   AND NOT EXISTS (SELECT 1 FROM tests AS r WHERE r.loop_id = l.id AND r.status = 'pending'
     AND (r.depends_on IS NULL OR EXISTS (SELECT 1 FROM tests AS d WHERE d.id = r.depends_on AND d.status = 'passed'))
     AND NOT EXISTS (SELECT 1 FROM change_request_tests AS w JOIN change_requests AS c ON c.id = w.request_id
                     WHERE w.test_id = r.id AND c.status = 'pending'))";

fn test(id: String, loop_id: String) -> WaitNode {
    WaitNode::Test { id, loop_id }
}

impl ReadTx<'_> {
    /// The number of the last test that may have begun to wait.
    pub fn last_test_wait_seq(&self) -> Result<i64> {
        self.value("SELECT value FROM counters WHERE name = 'test_wait'", [])
    }

    /// The tests that may have begun to wait after `seq`.
    pub fn test_waits_after(&self, seq: i64) -> Result<Vec<WaitNode>> {
        self.query(
            "SELECT t.id, t.loop_id FROM test_waits AS w JOIN tests AS t ON t.id = w.test_id WHERE w.seq > ?1
             ORDER BY w.seq",
            [seq],
            |row| Ok(test(row.get(0)?, row.get(1)?)),
        )
    }

    /// What a loop or test waits for, leases apart.
    pub fn waits_of(&self, waiter: &WaitNode) -> Result<Vec<Wait>> {
        match waiter {
            WaitNode::Loop(id) => self.waits_of_loop(id),
            WaitNode::Test { id, .. } => self.waits_of_test(id),
        }
    }

    fn waits_of_loop(&self, id: &str) -> Result<Vec<Wait>> {
        let Some(since) = self.idle_since(id)? else { return Ok(Vec::new()) };
        self.query("SELECT id FROM tests WHERE loop_id = ?1 AND status = 'pending'", [id], |row| {
            let waiter = WaitNode::Loop(id.to_owned());
            Ok(Wait { waiter, holder: test(row.get(0)?, id.to_owned()), kind: WaitKind::Idle, since })
        })
    }

    fn idle_since(&self, id: &str) -> Result<Option<Timestamp>> {
        static SQL: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let sql = SQL.get_or_init(|| format!("SELECT l.updated_at FROM loops AS l WHERE l.id = ?1 AND {IS_IDLE}"));
        self.query_opt(sql, [id], |row| row.get(0))
    }

    fn waits_of_test(&self, id: &str) -> Result<Vec<Wait>> {
        type Facts = (String, bool, Option<String>, Option<String>, Timestamp);
        let facts: Option<Facts> = self.query_opt(
            "SELECT t.loop_id, t.status = 'pending', d.id, d.loop_id, coalesce(t.last_attempt_at, t.created_at)
             FROM tests AS t LEFT JOIN tests AS d ON d.id = t.depends_on AND d.status IN ('pending', 'in_progress')
             WHERE t.id = ?1 AND t.status IN ('pending', 'in_progress')",
            [id],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )?;
        let Some((loop_id, pending, dependency, dependency_loop, since)) = facts else { return Ok(Vec::new()) };
        let waiter = test(id.to_owned(), loop_id.clone());
        let own = WaitNode::Loop(loop_id.clone());
        if !pending {
            // Queued work is out of the loop's hands.
            if let Some(landing) = self.open_landing(&TestId::trusted(id))? {
                let train = WaitNode::Loop(LoopId::train().to_string());
                return Ok(vec![Wait { waiter, holder: train, kind: WaitKind::Landing, since: landing.queued_at }]);
            }
            return Ok(vec![Wait { waiter, holder: own, kind: WaitKind::Turn { after: None }, since }]);
        }
        let mut waits = Vec::new();
        if let (Some(id), Some(loop_id)) = (dependency, dependency_loop) {
            waits.push(Wait { waiter: waiter.clone(), holder: test(id, loop_id), kind: WaitKind::Dependency, since });
        }
        waits.extend(self.query(
            "SELECT r.owner_loop, r.id, r.resource_path, r.requested_at
             FROM change_request_tests AS w JOIN change_requests AS r ON r.id = w.request_id
             WHERE w.test_id = ?1 AND r.status = 'pending' AND r.owner_loop <> ?2",
            [id, loop_id.as_str()],
            |row| {
                let kind = WaitKind::Leave { request_id: row.get(1)?, resource: row.get(2)? };
                Ok(Wait { waiter: waiter.clone(), holder: WaitNode::Loop(row.get(0)?), kind, since: row.get(3)? })
            },
        )?);
        let current: Option<(String, Timestamp)> = self.query_opt(
            "SELECT id, coalesce(last_attempt_at, created_at) FROM tests WHERE loop_id = ?1 AND status = 'in_progress'
               AND id NOT IN (SELECT test_id FROM landings WHERE ended_at IS NULL) ORDER BY id LIMIT 1",
            [loop_id.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        if let Some((after, since)) = current {
            waits.push(Wait { waiter, holder: own, kind: WaitKind::Turn { after: Some(after) }, since });
        }
        Ok(waits)
    }

    /// Who waits for a loop or test, leases apart: the same waits as [`ReadTx::waits_of`] gives, from their other end.
    pub(crate) fn waits_on(&self, holder: &WaitNode) -> Result<Vec<Wait>> {
        let mut waiters: Vec<WaitNode> = match holder {
            WaitNode::Loop(id) => self.query(
                "SELECT t.id, t.loop_id FROM tests AS t WHERE t.loop_id = ?1 AND t.status IN ('pending', 'in_progress')
                   AND EXISTS (SELECT 1 FROM tests AS p WHERE p.loop_id = ?1 AND p.status = 'in_progress')
                 UNION
                 SELECT t.id, t.loop_id FROM landings AS q JOIN tests AS t ON t.id = q.test_id
                 WHERE q.ended_at IS NULL AND ?1 = 'landing-train'
                 UNION
                 SELECT t.id, t.loop_id FROM change_requests AS r JOIN change_request_tests AS w ON w.request_id = r.id
                   JOIN tests AS t ON t.id = w.test_id
                 WHERE r.status = 'pending' AND r.owner_loop = ?1 AND t.status = 'pending'",
                [id],
                |row| Ok(test(row.get(0)?, row.get(1)?)),
            )?,
            WaitNode::Test { id, .. } => {
                self.query("SELECT id, loop_id FROM tests WHERE depends_on = ?1 AND +status = 'pending'", [id], |row| {
                    Ok(test(row.get(0)?, row.get(1)?))
                })?
            }
        };
        if let WaitNode::Test { loop_id, .. } = holder
            && self.idle_since(loop_id)?.is_some()
        {
            waiters.push(WaitNode::Loop(loop_id.clone()));
        }
        let mut waits = Vec::new();
        for waiter in waiters {
            waits.extend(self.waits_of(&waiter)?.into_iter().filter(|wait| wait.holder == *holder));
        }
        Ok(waits)
    }

    /// Every wait of every cycle through one of these, and some more. A cycle is found along the waits as well as against
    /// them, so the search that ends first will do; who waits is rarely many, so that one gets a head start.
    pub fn waits_around(&self, seeds: &BTreeSet<WaitNode>) -> Result<Waits> {
        const HEAD_START: usize = 256;
        let (mut along, mut against) = (Waits::default(), Waits::default());
        let (mut seen_along, mut seen_against) = (seeds.clone(), seeds.clone());
        let mut next_along: Vec<WaitNode> = seeds.iter().cloned().collect();
        let mut next_against = next_along.clone();
        loop {
            if along.len() <= against.len() + HEAD_START {
                let Some(waiter) = next_along.pop() else { return Ok(along) };
                if let WaitNode::Loop(id) = &waiter {
                    for edge in self.wait_edges_of(id)? {
                        follow(WaitNode::Loop(edge.holder.clone()), &mut seen_along, &mut next_along);
                        along.edges.push(edge);
                    }
                }
                for wait in self.waits_of(&waiter)? {
                    follow(wait.holder.clone(), &mut seen_along, &mut next_along);
                    along.waits.push(wait);
                }
            } else {
                let Some(holder) = next_against.pop() else { return Ok(against) };
                if let WaitNode::Loop(id) = &holder {
                    for edge in self.wait_edges_on(id)? {
                        follow(WaitNode::Loop(edge.waiter.clone()), &mut seen_against, &mut next_against);
                        against.edges.push(edge);
                    }
                }
                for wait in self.waits_on(&holder)? {
                    follow(wait.waiter.clone(), &mut seen_against, &mut next_against);
                    against.waits.push(wait);
                }
            }
        }
    }

    /// Every wait there is, that for a lease included; tests that only wait for their turn are in it if somebody waits for
    /// them.
    pub fn all_waits(&self) -> Result<Waits> {
        static IDLE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let edges = self.wait_edges()?;
        let mut next: Vec<WaitNode> = self.query(
            "SELECT t.id, t.loop_id FROM tests AS t JOIN tests AS d ON d.id = t.depends_on
             WHERE t.status = 'pending' AND d.status IN ('pending', 'in_progress')
             UNION
             SELECT t.id, t.loop_id FROM change_requests AS r JOIN change_request_tests AS w ON w.request_id = r.id
               JOIN tests AS t ON t.id = w.test_id
             WHERE r.status = 'pending' AND t.status = 'pending'",
            [],
            |row| Ok(test(row.get(0)?, row.get(1)?)),
        )?;
        let idle = IDLE.get_or_init(|| format!("SELECT l.id FROM loops AS l WHERE {IS_IDLE}"));
        next.extend(self.query(idle, [], |row| Ok(WaitNode::Loop(row.get(0)?)))?);
        let mut seen: BTreeSet<WaitNode> = next.iter().cloned().collect();
        let mut waits = Vec::new();
        while let Some(waiter) = next.pop() {
            for wait in self.waits_of(&waiter)? {
                follow(wait.holder.clone(), &mut seen, &mut next);
                waits.push(wait);
            }
        }
        Ok(Waits { edges, waits })
    }
}

fn follow(node: WaitNode, seen: &mut BTreeSet<WaitNode>, next: &mut Vec<WaitNode>) {
    if seen.insert(node.clone()) {
        next.push(node);
    }
}
