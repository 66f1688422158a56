-- A lease is one row, found by its path. A commit pays for each page that it touches, and an acquire with its release
-- touched three indexes twice; there are as many leases as files in work, hundreds and seldom thousands, and who asks by
-- holder, end or token reads them all in less than a commit takes.

CREATE TABLE leases_before AS SELECT * FROM file_locks;
DROP TABLE file_locks;
CREATE TABLE file_locks (
  file_path     TEXT PRIMARY KEY NOT NULL CHECK (length(file_path) BETWEEN 1 AND 4096 AND file_path NOT GLOB '/*' AND instr(file_path, char(0)) = 0 AND '/' || file_path || '/' NOT LIKE '%/../%'),
  locked_by     TEXT NOT NULL CHECK (locked_by <> ''),
  locked_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CHECK (locked_at IS datetime(locked_at, '+0 days') OR locked_at IS strftime('%Y-%m-%d %H:%M:%f', locked_at, '+0 days')),
  lock_reason   TEXT,
  expires_at    TEXT CHECK (expires_at IS datetime(expires_at, '+0 days') OR expires_at IS strftime('%Y-%m-%d %H:%M:%f', expires_at, '+0 days')),
  test_id       TEXT,
  fencing_token INTEGER NOT NULL DEFAULT 0 CHECK (fencing_token >= 0),
  ttl_seconds   INTEGER CHECK (ttl_seconds > 0),
  automatic     INTEGER NOT NULL DEFAULT 0 CHECK (automatic IN (0, 1))
) STRICT, WITHOUT ROWID;
INSERT INTO file_locks (file_path, locked_by, locked_at, lock_reason, expires_at, test_id, fencing_token, ttl_seconds, automatic)
  SELECT file_path, locked_by, locked_at, lock_reason, expires_at, test_id, fencing_token, ttl_seconds, automatic FROM leases_before;
DROP TABLE leases_before;
CREATE TRIGGER file_locks_fence AFTER INSERT ON file_locks
WHEN NEW.fencing_token = 0
BEGIN
  UPDATE counters SET value = value + 1 WHERE name = 'fencing_token';
  UPDATE file_locks SET fencing_token = (SELECT value FROM counters WHERE name = 'fencing_token')
  WHERE file_path = NEW.file_path;
END;
CREATE TRIGGER file_locks_delete AFTER DELETE ON file_locks
BEGIN
  DELETE FROM wait_graph WHERE holder = OLD.locked_by
    AND (resource = OLD.file_path OR resource || '/' = OLD.file_path OR OLD.file_path || '/' = resource OR (substr(resource, -1) = '/' AND substr(OLD.file_path, 1, length(resource)) = resource) OR (substr(OLD.file_path, -1) = '/' AND substr(resource, 1, length(OLD.file_path)) = OLD.file_path))
    AND NOT EXISTS (SELECT 1 FROM file_locks AS l WHERE l.locked_by = OLD.locked_by
                    AND (l.file_path = wait_graph.resource OR l.file_path || '/' = wait_graph.resource OR wait_graph.resource || '/' = l.file_path OR (substr(l.file_path, -1) = '/' AND substr(wait_graph.resource, 1, length(l.file_path)) = l.file_path) OR (substr(wait_graph.resource, -1) = '/' AND substr(l.file_path, 1, length(wait_graph.resource)) = wait_graph.resource)));
  UPDATE lease_requests SET freed_at = strftime('%Y-%m-%d %H:%M:%f', 'now')
  WHERE id IN (SELECT request_id FROM lease_request_paths WHERE (file_path = OLD.file_path OR file_path || '/' = OLD.file_path OR OLD.file_path || '/' = file_path OR (substr(file_path, -1) = '/' AND substr(OLD.file_path, 1, length(file_path)) = file_path) OR (substr(OLD.file_path, -1) = '/' AND substr(file_path, 1, length(OLD.file_path)) = OLD.file_path)));
END;
