-- Tests whose last attempt failed, by whose fault: pm looks for the few that it has to act on.
CREATE INDEX tests_error_category ON tests (error_category) WHERE error_category IS NOT NULL;

-- When the machine slept or its clock was set forward: time that counts against nobody who had beaten before.
CREATE TABLE clock_changes (
  seen_at TEXT PRIMARY KEY NOT NULL CHECK (seen_at IS strftime('%Y-%m-%d %H:%M:%f', seen_at, '+0 days')),
  millis  INTEGER NOT NULL
) STRICT;
