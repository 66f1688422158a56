-- How the run behind a proof ended, in more words than pass, fail and error, and exactly which command it was; so that the same
-- check on the same files is not run twice, and a changed one is.
CREATE TABLE proof_runs (
  proof_id     TEXT PRIMARY KEY NOT NULL REFERENCES proofs (id) ON DELETE CASCADE,
  kind         TEXT NOT NULL CHECK (kind IN ('passed', 'failed', 'timed_out', 'changed_files', 'missing', 'not_executable', 'not_started', 'signaled', 'lost', 'cancelled')),
  why          TEXT NOT NULL DEFAULT '',
  check_hash   TEXT NOT NULL DEFAULT '',
  reused_from  TEXT
) STRICT;
CREATE INDEX proofs_commit ON proofs (commit_hash);
