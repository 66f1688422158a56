"""A client of the coordination database in Python's standard library alone, written from schema/README.md.

One `Client` is one loop. Every method that changes something is one transaction.
"""

import json
import os
import sqlite3
import time
import uuid
from datetime import datetime, timedelta, timezone


class Refused(Exception):
    """What was asked for cannot be had now."""


def text_of(moment):
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03}"


def overlap(a, b):
    """True if leases on the two paths exclude each other."""
    def inside(inner, tree):
        return tree.endswith("/") and inner.startswith(tree)
    return a.rstrip("/") == b.rstrip("/") or inside(a, b) or inside(b, a)


class Client:
    def __init__(self, database, loop_id):
        self.database, self.loop_id = database, loop_id
        # Transactions are begun and ended here alone.
        self.connection = sqlite3.connect(database, timeout=10, isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        self.connection.execute("PRAGMA foreign_keys = ON")
        mark, version = (self.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if mark != 0x634C6F50 or version < 2:
            raise Refused(f"application_id {mark:#x}, user_version {version}: not a database that this client knows")
        self.version = None

    # One transaction, and the bell after it.

    def __enter__(self):
        self.connection.execute("BEGIN IMMEDIATE")
        self.now = datetime.now(timezone.utc)
        return self

    def __exit__(self, kind, _error, _trace):
        if kind is not None:
            self.connection.execute("ROLLBACK")
            return
        self.connection.execute("COMMIT")
        try:
            bell = os.open(self.database + ".bell/ring", os.O_WRONLY | os.O_CREAT, 0o600)
            os.pwrite(bell, b"!", 0)
            os.close(bell)
        except OSError:
            # Nobody listens, or the others look at the -wal.
            pass

    def at(self, seconds=0):
        return text_of(self.now + timedelta(seconds=seconds))

    def rows(self, sql, *parameters):
        return self.connection.execute(sql, parameters).fetchall()

    def publish(self, event_type, payload, priority=5, cause=None):
        """Inside a transaction."""
        story = self.rows("SELECT coalesce(correlation_id, id) FROM events WHERE id = ?", cause) if cause else []
        event = str(uuid.uuid4())
        self.connection.execute(
            "INSERT INTO events (id, timestamp, source, event_type, payload, priority, correlation_id, caused_by)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (event, self.at(), self.loop_id, event_type, json.dumps(payload), priority, story[0][0] if story else None, cause))
        return event

    def wait(self, most):
        """Sleeps until another connection has committed, `most` seconds at the longest. Standard Python has no inotify: a
        short timer stands in for the bell."""
        deadline = time.monotonic() + most
        while time.monotonic() < deadline:
            version = self.rows("PRAGMA data_version")[0][0]
            if version != self.version:
                self.version = version
                return
            time.sleep(0.02)

    # The loop itself.

    def register(self, priority=5):
        with self:
            self.connection.execute(
                "INSERT INTO loops (id, name, priority, status) VALUES (?, 'a client in Python', ?, 'stopped')"
                " ON CONFLICT (id) DO NOTHING", (self.loop_id, priority))

    def start(self):
        with self:
            paused = self.rows("SELECT 1 FROM pauses WHERE loop_id = ?", self.loop_id)
            # Without a pid it is driven by hand: nobody looks for its process, its beats say that it lives.
            self.connection.execute("UPDATE loops SET status = ?, updated_at = ?, died_at = NULL WHERE id = ?",
                                    ("paused" if paused else "running", self.at(), self.loop_id))
            self._beat()
            self.publish("component_started", {"component": self.loop_id, "pid": os.getpid(), "version": "python"})

    def stop(self):
        with self:
            self._release_all(None)
            self.connection.execute("UPDATE loops SET status = 'stopped', current_test_id = NULL, updated_at = ? WHERE id = ?",
                                    (self.at(), self.loop_id))
            self.connection.execute("UPDATE component_health SET status = 'unknown' WHERE component = ?", (self.loop_id,))
            self.publish("component_stopped", {"component": self.loop_id, "reason": "done"})

    def beat(self):
        with self:
            self._beat()

    def _beat(self):
        self.connection.execute(
            "INSERT INTO component_health (component, last_heartbeat, status, started_at, version)"
            " VALUES (?1, ?2, 'healthy', ?2, 'python') ON CONFLICT (component) DO UPDATE SET last_heartbeat = ?2, status = 'healthy'",
            (self.loop_id, self.at()))

    # Tests.

    def claim(self):
        """The next test of the queue, or None."""
        with self:
            (status,) = self.rows("SELECT status FROM loops WHERE id = ?", self.loop_id)[0]
            if status != "running" or self.rows("SELECT 1 FROM tests WHERE loop_id = ? AND status = 'in_progress'", self.loop_id):
                return None
            ready = self.rows(
                "SELECT id, attempts FROM pending_tests AS t WHERE loop_id = ? AND automatable = 1"
                " AND (not_before IS NULL OR not_before <= ?) AND NOT EXISTS (SELECT 1 FROM change_request_tests AS w"
                " JOIN change_requests AS r ON r.id = w.request_id WHERE w.test_id = t.id AND r.status = 'pending')"
                " ORDER BY id LIMIT 1", self.loop_id, self.at())
            if not ready:
                return None
            test, attempts = ready[0]
            self.connection.execute("UPDATE tests SET status = 'in_progress', attempts = attempts + 1, last_attempt_at = ?,"
                                    " not_before = NULL WHERE id = ?", (self.at(), test))
            self.connection.execute("UPDATE loops SET current_test_id = ?, updated_at = ? WHERE id = ?",
                                    (test, self.at(), self.loop_id))
            self.publish("test_started", {"test_id": test, "loop_id": self.loop_id, "attempt": attempts + 1})
            return test

    def _current(self, test):
        rows = self.rows("SELECT * FROM tests WHERE id = ? AND loop_id = ? AND status = 'in_progress'", test, self.loop_id)
        if not rows:
            raise Refused(f"test {test} is no longer the current test")
        return rows[0]

    def _leave(self):
        self.connection.execute("UPDATE loops SET current_test_id = NULL, updated_at = ? WHERE id = ?", (self.at(), self.loop_id))

    def passed(self, test, commit, proofs, seconds, files, token):
        """The gate's result: `proofs` are (check_name, exit_code, milliseconds, sha256, tail), with their commit and tree."""
        with self:
            row = self._current(test)
            if not proofs or any(proof["exit_code"] != 0 for proof in proofs):
                raise Refused("nothing passes without a check that has passed")
            self._must_hold(token)
            for proof in proofs:
                self.connection.execute(
                    "INSERT INTO proofs (id, test_id, attempt, commit_hash, tree_hash, check_name, outcome, exit_code, duration_ms,"
                    " output_sha256, output_tail) VALUES (?, ?, ?, ?, ?, ?, 'pass', ?, ?, ?, ?)",
                    (str(uuid.uuid4()), test, row["attempts"], commit, proof["tree"], proof["check_name"], proof["exit_code"],
                     proof["milliseconds"], proof["sha256"], proof["tail"]))
            self.connection.execute(
                "UPDATE tests SET status = 'passed', verified_at = ?1, passed_at = ?1, last_result = 'pass', commit_hash = ?2,"
                " last_error = NULL, error_category = NULL WHERE id = ?3", (self.at(), commit, test))
            self.connection.execute("INSERT INTO passing_tests (test_id, commit_hash, passed_at) VALUES (?1, ?2, ?3)"
                                    " ON CONFLICT DO UPDATE SET passed_at = ?3", (test, commit, self.at()))
            self.connection.execute("INSERT INTO usage (id, loop_id, test_id, duration_seconds, files_modified) VALUES (?, ?, ?, ?, ?)",
                                    (str(uuid.uuid4()), self.loop_id, test, seconds, json.dumps(files)))
            self._leave()
            self.publish("test_passed", {
                "test_id": test, "loop_id": self.loop_id, "attempt": row["attempts"], "duration_seconds": seconds,
                "files_modified": files, "verified": True, "commit": commit,
                "verification_checks": {proof["check_name"]: True for proof in proofs}})
            self._release_all(None)

    def failed(self, test, category, message):
        """An attempt that failed by the agent's own fault (`code`, `spec` …)."""
        with self:
            row = self._current(test)
            again = category != "permanent" and row["attempts"] < row["max_attempts"]
            status = "pending" if again else "failed" if category == "permanent" else "blocked"
            self.connection.execute(
                "UPDATE tests SET status = ?, last_result = ?, last_error = ?, error_category = ?, give_backs = 0 WHERE id = ?",
                (status, "blocked" if status == "blocked" else "fail", message, category, test))
            self._leave()
            cause = self.publish("test_failed", {"test_id": test, "loop_id": self.loop_id, "attempt": row["attempts"],
                                                 "error_category": category, "error_message": message, "will_retry": again})
            if not again:
                waiting = self.rows("SELECT id FROM tests WHERE depends_on = ? ORDER BY id", test)
                self.publish("test_blocked", {"test_id": test, "loop_id": self.loop_id, "attempts": row["attempts"],
                                              "last_error": message, "blocking_dependents": [other[0] for other in waiting]}, cause=cause)
            self._release_all(None)

    # Leases.

    def acquire(self, paths, test=None, wait_seconds=0, ttl_seconds=900, request=None):
        """All of the paths under one token, or none: (token, None) if granted; (None, request) if queued, to be asked again
        with it; Refused if there is nothing to wait for."""
        with self:
            blockers = self._blockers(paths, request)
            if not blockers:
                return self._grant(paths, test, ttl_seconds, request), None
            row = self.rows("SELECT waiting_since, wait_until FROM lease_requests WHERE id = ?", request) if request else []
            if (request and not row) or (row and row[0]["wait_until"] <= self.at()) or not (request or wait_seconds):
                if request:
                    self._withdraw(request)
                result = Refused(f"in the way: {sorted(blockers)}")
            else:
                if not request:
                    request = str(uuid.uuid4())
                    self.connection.execute(
                        "INSERT INTO lease_requests (id, loop_id, paths, test_id, waiting_since, wait_until) VALUES (?, ?, ?, ?, ?, ?)",
                        (request, self.loop_id, json.dumps(paths), test, self.at(), self.at(wait_seconds)))
                    for path in set(paths):
                        self.connection.execute("INSERT INTO lease_request_paths (request_id, file_path) VALUES (?, ?)", (request, path))
                since, until = self.rows("SELECT waiting_since, wait_until FROM lease_requests WHERE id = ?", request)[0]
                for edge in self.rows("SELECT holder, resource FROM wait_graph WHERE waiter = ?", self.loop_id):
                    if edge["resource"] in paths and tuple(edge) not in blockers:
                        self.connection.execute("DELETE FROM wait_graph WHERE waiter = ? AND holder = ? AND resource = ?",
                                                (self.loop_id, *edge))
                for holder, wanted in blockers:
                    self.connection.execute(
                        "INSERT INTO wait_graph (waiter, holder, resource, waiting_since, wait_until) VALUES (?, ?, ?, ?, ?)"
                        " ON CONFLICT DO NOTHING", (self.loop_id, holder, wanted, since, until))
                result = request
        # What the transaction has changed stands; the exception is for the caller.
        if isinstance(result, Refused):
            raise result
        return None, result

    def _blockers(self, paths, request):
        """(holder, wanted path) of everything in the way."""
        for owned in self.rows("SELECT path, owner_loop FROM resources WHERE owner_loop <> ?", self.loop_id):
            leave = self.rows("SELECT 1 FROM change_requests WHERE resource_path = ? AND requestor_loop = ? AND owner_loop = ?"
                              " AND status = 'approved'", owned["path"], self.loop_id, owned["owner_loop"])
            if not leave and any(path != "git:integration" and overlap(path, owned["path"]) for path in paths):
                raise Refused(f"{owned['owner_loop']} owns {owned['path']}")
        blockers = set()
        clock = self.rows("SELECT grace_until FROM clock WHERE grace_until > ?", self.at())
        for lease in self.rows("SELECT file_path, locked_by, expires_at FROM file_locks WHERE locked_by <> ?", self.loop_id):
            live = clock or lease["expires_at"] is None or lease["expires_at"] > self.at()
            for path in paths:
                if overlap(path, lease["file_path"]):
                    if live:
                        blockers.add((lease["locked_by"], path))
        # Nobody overtakes a live waiter that ranks before him; a newcomer overtakes nobody.
        waiters = self.rows(
            "SELECT r.id, r.loop_id, r.paths, (julianday(r.waiting_since) * 1440 + l.priority) AS rank FROM lease_requests AS r"
            " JOIN loops AS l ON l.id = r.loop_id WHERE r.wait_until > ? AND l.status = 'running' ORDER BY rank, r.waiting_since, r.id",
            self.at())
        for waiter in waiters:
            if waiter["id"] == request:
                break
            if waiter["loop_id"] != self.loop_id:
                blockers.update((waiter["loop_id"], path) for path in paths
                                if any(overlap(path, other) for other in json.loads(waiter["paths"])))
        return blockers

    def _grant(self, paths, test, ttl_seconds, request):
        # What has expired is free, and the loop that takes it records so.
        for lease in self.rows("SELECT * FROM file_locks WHERE locked_by <> ?", self.loop_id):
            if any(overlap(path, lease["file_path"]) for path in paths):
                self._end(lease, "expired", None)
        self.connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'fencing_token'")
        (token,) = self.rows("SELECT value FROM counters WHERE name = 'fencing_token'")[0]
        for path in sorted(set(paths)):
            self.connection.execute(
                "INSERT INTO file_locks (file_path, locked_by, locked_at, expires_at, test_id, fencing_token, ttl_seconds)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (file_path) DO UPDATE SET expires_at = excluded.expires_at,"
                " test_id = excluded.test_id, fencing_token = excluded.fencing_token, ttl_seconds = excluded.ttl_seconds",
                (path, self.loop_id, self.at(), self.at(ttl_seconds), test, token, ttl_seconds))
            self.publish("file_locked", {"file_path": path, "loop_id": self.loop_id, "test_id": test, "ttl_seconds": ttl_seconds})
        if request:
            self._withdraw(request)
        return token

    def _must_hold(self, token):
        if not self.rows("SELECT 1 FROM file_locks WHERE locked_by = ? AND fencing_token = ?", self.loop_id, token):
            raise Refused(f"token {token} holds nothing any more")

    def renew(self, token, ttl_seconds=900):
        with self:
            self._must_hold(token)
            self.connection.execute("UPDATE file_locks SET expires_at = ?, ttl_seconds = ? WHERE locked_by = ? AND fencing_token = ?",
                                    (self.at(ttl_seconds), ttl_seconds, self.loop_id, token))

    def _end(self, lease, cause, event):
        self.connection.execute("DELETE FROM file_locks WHERE file_path = ? AND fencing_token = ?",
                                (lease["file_path"], lease["fencing_token"]))
        since = datetime.fromisoformat(lease["locked_at"]).replace(tzinfo=timezone.utc)
        self.publish("file_unlocked", {"file_path": lease["file_path"], "loop_id": lease["locked_by"], "cause": cause,
                                       "held_for_seconds": max(0, int((self.now - since).total_seconds()))}, cause=event)

    def _withdraw(self, request):
        self.connection.execute("DELETE FROM wait_graph WHERE waiter = ? AND resource IN"
                                " (SELECT file_path FROM lease_request_paths WHERE request_id = ?)", (self.loop_id, request))
        self.connection.execute("DELETE FROM lease_request_paths WHERE request_id = ?", (request,))
        self.connection.execute("DELETE FROM lease_requests WHERE id = ?", (request,))

    def _release_all(self, event):
        for (request,) in self.rows("SELECT id FROM lease_requests WHERE loop_id = ?", self.loop_id):
            self._withdraw(request)
        self.connection.execute("DELETE FROM wait_graph WHERE waiter = ?", (self.loop_id,))
        for lease in self.rows("SELECT * FROM file_locks WHERE locked_by = ?", self.loop_id):
            self._end(lease, "released", event)

    # Orders.

    def order(self):
        """The most urgent event that is for this loop and asks for something, or None. The others are acknowledged."""
        with self:
            for event in self.rows("SELECT id, event_type, payload FROM undelivered_events WHERE subscriber = ?", self.loop_id):
                payload = json.loads(event["payload"])
                if event["event_type"] == "force_release" and payload.get("loop_id") == self.loop_id:
                    return event["id"], payload["reason"]
                self._acknowledge(event["id"])
        return None

    def _acknowledge(self, event):
        self.connection.execute(
            "UPDATE deliveries SET status = 'acknowledged', settled_at = ? WHERE event_id = ? AND status = 'pending'"
            " AND subscription_id IN (SELECT id FROM subscriptions WHERE subscriber = ?)", (self.at(), event, self.loop_id))

    def obey_force_release(self, event, test, reason, pause_seconds=2):
        """Gives up everything and the attempt, and acknowledges, in one transaction. The work was saved before."""
        with self:
            self._release_all(event)
            if test:
                self._current(test)
                self.connection.execute(
                    "UPDATE tests SET status = 'pending', attempts = max(attempts - 1, 0), give_backs = give_backs + 1,"
                    " last_error = ?, not_before = ? WHERE id = ?", (reason, self.at(pause_seconds), test))
                self._leave()
            self._acknowledge(event)
