//! Progress of the loops: tests that have been tried, are ready, or have passed.

use super::Test;
use crate::{LoopId, ReadTx, Result, Timestamp};

impl ReadTx<'_> {
    /// Tests that loops work on, by id. Those whose work waits to land are in nobody's hands.
    pub fn current_tests(&self) -> Result<Vec<Test>> {
        self.query(
            select!(
                Test,
                "FROM tests WHERE status = 'in_progress' AND id NOT IN (SELECT test_id FROM landings WHERE ended_at IS NULL)
                 ORDER BY id"
            ),
            [],
            Test::from_row,
        )
    }

    /// Tests that loops work on, and pending ones that have been tried, by id; those in progress first. At most `limit`.
    pub fn tests_under_way(&self, limit: usize) -> Result<Vec<Test>> {
        self.query(
            select!(
                Test,
                "FROM tests WHERE status IN ('in_progress', 'pending')
                   AND (status = 'in_progress' OR attempts > 0 OR give_backs > 0 OR last_result IS NOT NULL)
                   AND id NOT IN (SELECT test_id FROM landings WHERE ended_at IS NULL)
                 ORDER BY status, id LIMIT ?1"
            ),
            [limit as i64],
            Test::from_row,
        )
    }

    /// Since when each loop has had a pending test that an agent could take, by loop.
    pub fn ready_since(&self) -> Result<Vec<(LoopId, Timestamp)>> {
        self.query(
            "SELECT t.loop_id, min(max(t.created_at, coalesce(t.not_before, ''), coalesce(d.passed_at, d.verified_at, '')))
             FROM tests AS t LEFT JOIN tests AS d ON d.id = t.depends_on
             WHERE t.status = 'pending' AND t.automatable = 1 AND (t.depends_on IS NULL OR d.status = 'passed')
               AND (t.not_before IS NULL OR t.not_before <= ?1)
             GROUP BY t.loop_id ORDER BY t.loop_id",
            [self.now()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// When each loop's last test was passed, by loop, as the rows have it.
    pub fn last_passes(&self) -> Result<Vec<(LoopId, Timestamp)>> {
        self.query(
            "SELECT loop_id, max(coalesce(passed_at, verified_at)) FROM tests
             WHERE status = 'passed' GROUP BY loop_id ORDER BY loop_id",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// How many tests were tried or passed since a moment.
    pub fn tests_tried_since(&self, since: Timestamp) -> Result<i64> {
        self.value("SELECT count(*) FROM tests WHERE last_attempt_at >= ?1 OR passed_at >= ?1", [since])
    }
}
