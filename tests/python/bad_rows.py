#!/usr/bin/env python3
"""Tries every kind of bad row, with nothing but Python's own sqlite3.

    bad_rows.py refused DATABASE    each row that schema/README.md promises to refuse; fails if one is taken
    bad_rows.py odd DATABASE        rows that may be taken but that nobody expects; they stay; prints how many were taken

What is expected stands in schema/README.md. What changes events or archived ids is tried in their own way.
"""

import json
import sqlite3
import sys

NOW = "2026-11-22 10:00:00.000"

# Triggers or the programs fill these; clients have no reason to write them.
NOT_FOR_CLIENTS = {
    "archived_events", "attempts", "base_mends", "base_runs", "baseline_runs", "batches", "clock", "clock_changes", "counters",
    "ignored_checks", "knowledge_areas", "knowledge_numbers", "knowledge_words", "landings", "lease_sets", "proof_runs", "reverts",
    "stores", "subscription_matches", "test_waits",
}

# One good row of each table that clients write.
GOOD = {
    "loops": {"id": "x", "name": "", "priority": 5, "branch": "b", "status": "stopped", "current_test_id": None, "pid": None,
              "created_at": NOW, "updated_at": NOW, "died_at": None, "agent": None, "vain_runs": 0},
    "tests": {"id": "x", "loop_id": "l", "category": "", "status": "pending", "attempts": 0, "max_attempts": 3,
              "last_result": None, "depends_on": None, "automatable": 1, "notes": "", "spec_content": "", "last_attempt_at": None,
              "passed_at": None, "verified_at": None, "created_at": NOW, "scope": "[]", "last_error": None,
              "error_category": None, "not_before": None, "commit_hash": None, "give_backs": 0,
              "no_change": "ask"},
    "proofs": {"id": "x", "test_id": "t", "attempt": 1, "commit_hash": "c", "tree_hash": "h", "check_name": "n",
               "outcome": "pass", "exit_code": 0, "duration_ms": 1, "output_sha256": "s", "output_tail": "", "created_at": NOW},
    "events": {"id": "x", "timestamp": NOW, "source": "l", "event_type": "custom.x", "payload": "{}", "correlation_id": None,
               "priority": 5, "acknowledged": 0, "acknowledged_by": None, "acknowledged_at": None, "caused_by": None},
    "subscriptions": {"id": "x", "subscriber": "s", "event_types": '["custom.x"]', "filter_sources": None, "last_poll_at": None,
                      "active": 1, "max_priority": None},
    "deliveries": {"event_id": "x", "subscription_id": "pm", "seq": 1, "priority": 5, "status": "pending", "tries": 0,
                   "last_error": None, "settled_at": None},
    "maintenance": {"operation": "archive"},
    "file_locks": {"file_path": "x", "locked_by": "l", "locked_at": NOW, "lock_reason": None, "expires_at": None,
                   "test_id": None, "fencing_token": 0, "ttl_seconds": None, "automatic": 0},
    "lease_requests": {"id": "x", "loop_id": "l", "paths": '["p"]', "test_id": None, "waiting_since": NOW,
                       "wait_until": NOW, "freed_at": None},
    "lease_request_paths": {"request_id": "q", "file_path": "x"},
    "wait_graph": {"waiter": "l", "holder": "m", "resource": "x", "waiting_since": NOW, "wait_until": None, "seq": 0},
    "deadlocks": {"id": "x", "victim": "l", "cycle": '["l","m"]', "locks": "[]", "reason": "", "detected_at": NOW,
                  "revoke_at": NOW, "resolved_at": NOW, "outcome": "released", "event_id": "e"},
    "knowledge": {"id": "x", "loop_id": "l", "item_type": "fact", "topic": "t", "content": "c", "confidence": 0.5,
                  "evidence": None, "affected_areas": "[]", "superseded_by": None, "created_at": NOW},
    "resources": {"path": "x", "owner_loop": "l", "resource_type": "file", "description": None, "created_at": NOW},
    "change_requests": {"id": "x", "resource_path": "r", "requestor_loop": "m", "owner_loop": "l", "request_type": "modify",
                        "description": "", "status": "pending", "requested_at": NOW, "resolved_at": None, "resolved_by": None},
    "change_request_tests": {"test_id": "t", "request_id": "q"},
    "migrations": {"number": 7, "name": "x", "loop_id": "l", "file_path": None, "status": "pending", "allocated_at": NOW,
                   "applied_at": None},
    "checkpoints": {"id": "x", "loop_id": "l", "test_id": "t", "git_ref": "r", "checkpoint_type": "branch", "created_at": NOW,
                    "deleted_at": None, "commit_hash": None, "reason": None},
    "passing_tests": {"test_id": "x", "commit_hash": "c", "passed_at": NOW},
    "regressions": {"id": "x", "test_id": "t", "check_name": "n", "last_good_commit": "a", "bad_commit": "b",
                    "first_bad_commit": None, "blamed_loop": None, "blamed_test": None, "status": "cleared", "bisect": None,
                    "output_tail": "", "detected_at": NOW, "resolved_at": NOW, "event_id": None},
    "check_runs": {"check_name": "x", "commit_hash": "c", "outcome": "pass", "runs": 1, "output_tail": "", "ran_at": NOW},
    "decisions": {"id": "x", "decision_type": "d", "summary": "s", "options": '[{"id":"a"},{"id":"b"}]', "default_option": "a",
                  "context": "{}", "timeout_minutes": 5, "status": "pending", "requested_at": NOW, "requested_by": "l",
                  "decided_at": None, "decided_by": None, "choice": None, "comment": None, "fingerprint": None,
                  "expires_at": None, "event_id": None},
    "usage": {"id": "x", "loop_id": "l", "test_id": "t", "tokens_estimated": 1, "duration_seconds": 1, "files_modified": "[]",
              "recorded_at": NOW,
              "agent": None, "model": None, "input_tokens": 0, "output_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0,
              "cost_microusd": None},
    "component_health": {"component": "x", "last_heartbeat": NOW, "status": "healthy", "metadata": "{}", "pid": None,
                         "pid_start_time": None, "boot_id": None, "pid_namespace": None, "host": None, "started_at": NOW, "version": None,
                         "child_pid": None, "child_pid_start_time": None},
    "holds": {"subject": "agent:x", "kind": "limit", "reason": "", "since": NOW, "until": NOW, "tries": 1, "loop_id": "l",
              "probe_loop": None, "event_id": None},
    "loop_ports": {"loop_id": "x", "port": 20000},
    "pauses": {"loop_id": "x", "requested_by": "pm", "reason": "", "event_id": None, "since": NOW},
    "conflicts": {"id": "x", "file_path": "f", "loop_a": "l", "loop_b": "m", "detected_at": NOW, "event_id": None,
                  "winner": None, "loser": None, "winner_test": None, "resolved_at": None, "resolution": None},
    "worktree_changes": {"loop_id": "x", "file_path": "f", "first_seen_at": NOW, "last_changed_at": NOW, "fingerprint": ""},
    "runs": {"id": "x", "loop_id": "l", "test_id": "t", "attempt": 1, "kind": "agent", "name": "sh", "log": "t-1.log",
             "started_at": NOW, "ended_at": NOW, "outcome": None, "session": None, "session_used": None, "progress": None},
    "agent_outputs": {"loop_id": "x", "log": "l", "read_bytes": 0, "read_at": NOW, "news_at": NOW, "errors": "{}"},
    "alerts": {"id": "x", "severity": "info", "alert_type": "stuck", "source": "l", "message": "m", "context": "{}",
               "acknowledged": 0, "acknowledged_by": None, "acknowledged_at": None, "created_at": NOW, "closed_at": None,
               "updated_at": None, "fingerprint": None, "event_id": None},
    "transaction_log": {"id": "x", "operation": "o", "loop_id": "l", "steps": "[]", "status": "in_progress", "started_at": NOW,
                        "completed_at": None, "component": "nobody", "event_id": None},
}

# Rows that others refer to.
BASE = """
INSERT OR IGNORE INTO loops (id, name, priority, status) VALUES ('l', 'L', 1, 'running'), ('m', 'M', 2, 'running');
INSERT OR IGNORE INTO tests (id, loop_id) VALUES ('t', 'l'), ('u', 'm');
INSERT OR IGNORE INTO resources (path, owner_loop) VALUES ('r', 'l');
INSERT OR IGNORE INTO change_requests (id, resource_path, requestor_loop, owner_loop) VALUES ('q', 'r', 'm', 'l');
INSERT OR IGNORE INTO lease_requests (id, loop_id, paths, wait_until) VALUES ('q', 'l', '["p"]', '2026-11-22 10:00:00.000');
INSERT INTO transaction_log (id, operation, component) SELECT 'j', 'o', 'nobody' WHERE NOT EXISTS (SELECT 1 FROM transaction_log);
INSERT INTO events (id, source, event_type) SELECT 'e', 'l', 'custom.e' WHERE NOT EXISTS (SELECT 1 FROM events WHERE id = 'e');
"""

CLOSED = [
    ("loops", "status"), ("tests", "status"), ("tests", "last_result"), ("tests", "error_category"), ("proofs", "outcome"),
    ("deliveries", "status"), ("maintenance", "operation"), ("deadlocks", "outcome"), ("knowledge", "item_type"),
    ("resources", "resource_type"), ("change_requests", "request_type"), ("change_requests", "status"),
    ("change_requests", "resolved_by"), ("migrations", "status"), ("checkpoints", "checkpoint_type"), ("regressions", "status"),
    ("check_runs", "outcome"), ("decisions", "status"), ("decisions", "decided_by"), ("component_health", "status"),
    ("alerts", "severity"), ("alerts", "alert_type"), ("transaction_log", "status"), ("holds", "kind"), ("tests", "no_change"),
    ("runs", "kind"),
]
JSON = [
    ("tests", "scope"), ("events", "payload"), ("subscriptions", "event_types"), ("subscriptions", "filter_sources"),
    ("lease_requests", "paths"), ("deadlocks", "cycle"), ("deadlocks", "locks"), ("knowledge", "affected_areas"),
    ("regressions", "bisect"), ("decisions", "options"), ("decisions", "context"), ("usage", "files_modified"), ("runs", "session_used"),
    ("component_health", "metadata"), ("alerts", "context"), ("transaction_log", "steps"), ("agent_outputs", "errors"),
]
ARRAYS = [("subscriptions", "event_types"), ("subscriptions", "filter_sources"), ("lease_requests", "paths"), ("decisions", "options")]
FLAGS = [("tests", "automatable"), ("events", "acknowledged"), ("subscriptions", "active"), ("file_locks", "automatic"),
         ("alerts", "acknowledged")]
# The smallest value that is allowed.
LEAST = [
    ("loops", "priority", 1), ("loops", "pid", 1), ("tests", "attempts", 0), ("tests", "max_attempts", 1),
    ("tests", "give_backs", 0), ("proofs", "duration_ms", 0), ("events", "priority", 1), ("subscriptions", "max_priority", 1),
    ("deliveries", "tries", 0), ("file_locks", "fencing_token", 0), ("file_locks", "ttl_seconds", 1),
    ("migrations", "number", 1), ("decisions", "timeout_minutes", 0), ("usage", "tokens_estimated", 0), ("usage", "input_tokens", 0), ("usage", "output_tokens", 0),
    ("usage", "cache_read_tokens", 0), ("usage", "cache_write_tokens", 0), ("usage", "cost_microusd", 0),
    ("usage", "duration_seconds", 0), ("component_health", "pid", 1), ("component_health", "child_pid", 1), ("agent_outputs", "read_bytes", 0),
    ("holds", "tries", 1), ("loops", "vain_runs", 0), ("runs", "attempt", 0),
]
NOT_EMPTY = [
    ("events", "id"), ("events", "source"), ("events", "event_type"), ("subscriptions", "id"), ("subscriptions", "subscriber"),
    ("file_locks", "file_path"), ("file_locks", "locked_by"), ("wait_graph", "waiter"), ("wait_graph", "holder"),
    ("wait_graph", "resource"), ("resources", "path"), ("migrations", "name"), ("checkpoints", "git_ref"),
    ("passing_tests", "test_id"), ("passing_tests", "commit_hash"), ("decisions", "decision_type"),
    ("component_health", "component"), ("transaction_log", "operation"), ("loops", "id"), ("tests", "id"), ("runs", "log"),
]
BAD_TIMES = [
    "2026-11-22T10:00:00.000Z", "2026-11-22T10:00:00", "2026-11-22", "10:00:00", "2026-11-22 10:00", "2026-02-30 10:00:00",
    "2026-11-22 25:00:00", "2026-11-22 10:00:00.00", "2026-11-22 10:00:00.000000", "2026-11-22 10:00:00.000+01:00", "now", "",
    "2026-11-22 10:00:00.000 ", "1795341600", "2461367.5", "yesterday",
]
BAD_IDS = ["", " ", "a b", "a/b", "../x", "-a", ".a", "_a", "a\n", "ä", "a" * 65, "a;b", "a'b"]
RESERVED = ["monitor", "deadlock-detector", "regression-checker", "pm-agent", "pm", "heartbeat", "human", "all"]
# What belongs together: a state and its time.
COMBINATIONS = [
    ("tests", {"status": "passed"}), ("tests", {"depends_on": "x"}), ("wait_graph", {"holder": "l"}),
    ("deliveries", {"status": "acknowledged"}), ("deliveries", {"status": "set_aside"}), ("deliveries", {"settled_at": NOW}),
    ("deadlocks", {"outcome": None}), ("deadlocks", {"resolved_at": None}), ("change_requests", {"status": "approved"}),
    ("change_requests", {"resolved_at": NOW}), ("migrations", {"status": "applied"}), ("decisions", {"status": "decided"}),
    ("decisions", {"status": "decided", "decided_at": NOW}), ("decisions", {"status": "auto_resolved", "decided_at": NOW}),
    ("decisions", {"decided_at": NOW}), ("transaction_log", {"status": "committed"}), ("transaction_log", {"completed_at": NOW}),
    ("knowledge", {"superseded_by": "x"}), ("knowledge", {"confidence": 1.01}), ("knowledge", {"confidence": -0.1}),
    ("file_locks", {"file_path": "/etc/passwd"}), ("file_locks", {"file_path": ".."}), ("file_locks", {"file_path": "../a"}),
    ("file_locks", {"file_path": "a/../b"}), ("file_locks", {"file_path": "a/.."}), ("file_locks", {"file_path": "a\0b"}),
    ("file_locks", {"file_path": "a" * 4097}),
]
STATEMENTS = [
    "INSERT INTO events (id, source, event_type) VALUES ('e', 'l', 'custom.again')",
    "INSERT OR REPLACE INTO events (id, source, event_type) VALUES ('e', 'l', 'custom.again')",
    "REPLACE INTO events (id, source, event_type) SELECT id, 'm', event_type FROM events WHERE id = 'e'",
    "INSERT INTO events (id, source, event_type) VALUES ('e', 'l', 'x') ON CONFLICT (id) DO UPDATE SET payload = '[]'",
    "REPLACE INTO events (rowid, id, source, event_type) SELECT rowid, 'f', 'l', 'custom.f' FROM events WHERE id = 'e'",
    "UPDATE events SET id = 'f' WHERE id = 'e'",
    "UPDATE events SET rowid = rowid + 1000 WHERE id = 'e'",
    "UPDATE OR REPLACE events SET oid = (SELECT max(rowid) FROM events) + 7 WHERE id = 'e'",
    "UPDATE events SET timestamp = '2020-01-01 00:00:00' WHERE id = 'e'",
    "UPDATE events SET source = 'm' WHERE id = 'e'",
    "UPDATE events SET event_type = 'custom.f' WHERE id = 'e'",
    "UPDATE events SET payload = '{\"a\": 1}' WHERE id = 'e'",
    "UPDATE events SET priority = 1 WHERE id = 'e'",
    "UPDATE events SET correlation_id = 'other' WHERE id = 'e'",
    "UPDATE events SET caused_by = 'other' WHERE id = 'e'",
    "UPDATE events SET payload = '[]'",
    "DELETE FROM events WHERE id = 'e'",
    "DELETE FROM events",
    "INSERT INTO events (id, source, event_type) VALUES ('archived', 'l', 'custom.x')",
    "INSERT OR REPLACE INTO events (id, source, event_type) VALUES ('archived', 'l', 'custom.x')",
    "DELETE FROM archived_events",
    "INSERT OR REPLACE INTO transaction_log (id, operation) VALUES ('j', 'other')",
    "UPDATE transaction_log SET operation = 'other' WHERE id = 'j'",
    "UPDATE transaction_log SET event_id = 'other' WHERE id = 'j'",
    "DELETE FROM transaction_log WHERE id = 'j'",
    "INSERT INTO file_locks (file_path, locked_by) VALUES ('held', 'm')",
    "INSERT INTO loops (id) VALUES ('l')",
    "INSERT INTO tests (id, loop_id) VALUES ('t', 'm')",
]


def times(row):
    """The columns of a row that hold a time."""
    named = {"timestamp", "waiting_since", "wait_until", "not_before", "last_heartbeat", "since", "until"}
    return [column for column in row if column.endswith("_at") or column in named]


def insert(connection, table, row):
    marks = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def not_null(connection, table):
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[3]]


def type_of(connection, table):
    return {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")}


def bad_rows(connection):
    """(table, row) for each row that must be refused."""
    def changed(table, **values):
        return table, {**GOOD[table], **values}

    for table, row in GOOD.items():
        types = type_of(connection, table)
        assert set(types) == set(row), (table, set(types) ^ set(row))
        for column in times(row):
            for bad in BAD_TIMES:
                yield changed(table, **{column: bad})
        for column in not_null(connection, table):
            # A rowid that is NULL is the next one.
            if (table, column) != ("migrations", "number"):
                yield changed(table, **{column: None})
        for column, kind in types.items():
            # STRICT tables convert what loses nothing, and refuse the rest.
            for bad in {"INTEGER": ["one", 1.5, b"1"], "REAL": ["much", b"1"], "TEXT": [b"bytes"]}[kind]:
                yield changed(table, **{column: bad})
    for table, column in CLOSED:
        for bad in ["", "strange", GOOD[table][column] and GOOD[table][column].upper()]:
            if bad is not None:
                yield changed(table, **{column: bad})
    for table, column in JSON:
        for bad in ["", "no json", "{", "{'a': 1}", "[1,]", "NaN"]:
            yield changed(table, **{column: bad})
    for table, column in ARRAYS:
        for bad in ["{}", '"text"', "1", "null"]:
            yield changed(table, **{column: bad})
    for table, column in FLAGS:
        for bad in [2, -1]:
            yield changed(table, **{column: bad})
    for table, column, least in LEAST:
        yield changed(table, **{column: least - 1})
    for table, column in NOT_EMPTY:
        yield changed(table, **{column: ""})
    for bad in BAD_IDS:
        yield changed("loops", id=bad)
        yield changed("tests", id=bad)
    for bad in RESERVED:
        yield changed("loops", id=bad)
    for table, values in COMBINATIONS:
        yield changed(table, **values)


def refused(connection):
    wrongly, tried = [], 0
    tables = {name for (name,) in connection.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')")}
    unknown = {name for name in tables if not name.startswith("sqlite_")} - GOOD.keys() - NOT_FOR_CLIENTS
    assert not unknown, f"give a good row of {unknown}, or say that clients do not write it"
    for table, row in GOOD.items():
        # A good row must be taken, or the bad ones would be refused for something else.
        connection.execute("BEGIN IMMEDIATE")
        insert(connection, table, row)
        connection.execute("ROLLBACK")
    for table, row in bad_rows(connection):
        tried += 1
        connection.execute("BEGIN IMMEDIATE")
        try:
            insert(connection, table, row)
            odd = {key: value for key, value in row.items() if value != GOOD[table][key]}
            wrongly.append(f"{table} {odd}")
        except (sqlite3.IntegrityError, sqlite3.OperationalError) as error:
            assert "no such column" not in str(error), error
        connection.execute("ROLLBACK")
    connection.execute("INSERT OR IGNORE INTO archived_events (id) VALUES ('archived')")
    connection.execute("INSERT INTO file_locks (file_path, locked_by) VALUES ('held', 'l')")
    before = connection.execute("SELECT rowid, * FROM events ORDER BY rowid").fetchall()
    for sql in STATEMENTS:
        tried += 1
        try:
            connection.execute(sql)
            wrongly.append(sql)
        except sqlite3.IntegrityError:
            pass
    if connection.execute("SELECT rowid, * FROM events ORDER BY rowid").fetchall() != before:
        wrongly.append("events have changed")
    for line in wrongly:
        print("taken:", line)
    print(f"{tried} bad rows were tried")
    return not wrongly


ODD_TEXTS = [
    "", " ", "null", "x" * 70_000, "\0", "\U0001f9e8\u202e", "--all", "$(reboot)", "';DROP TABLE loops;--", "../../etc", "*",
    "[", "\n\r\t\x1b[2J", "a/b", "dir/", "human", "%s", "l", "t", "e", "9" * 400,
]
ODD_NUMBERS = [0, 1, -1, 2**31, 2**53, 2**63 - 1, -(2**63)]
ODD_TIMES = ["0000-01-01 00:00:00", "9999-12-31 23:59:59.999", "-4713-11-25 12:00:00", "1970-01-01 00:00:00.000", "2026-11-22 10:00:00"]
ODD_JSON = [
    "null", "true", "1", "1e999", "-1e999", "123456789012345678901234567890", '"text"', r'"\ud800"', r'{"\udfff": "\u0000"}',
    "[]", "{}", "[null, 1, {}, [[]]]", '{"a": {"b": [1, 2, {"c": null}]}}', "[" * 500 + "]" * 500, '["x", 1, null]',
    '{"loop_id": 5, "test_id": [], "kind": 7, "id": {}}', '[{"id": 1}, {"id": null}, {}]', '{"a": 1, "a": 2}', " [ ] ",
]
# Payloads that are no payloads, of every type that supervisors take.
TYPES = [
    "test_started", "test_passed", "test_failed", "test_blocked", "file_locked", "file_unlocked", "file_conflict",
    "stuck_detected", "digression_detected", "resource_warning", "regression_detected", "regression_cleared", "decision_needed",
    "decision_resolved", "priority_changed", "pause_requested", "resume_requested", "restart_requested", "loop_paused",
    "loop_resumed", "rollback_triggered", "rollback_done", "force_release", "human_message", "summary_requested",
    "knowledge_recorded", "knowledge_conflict", "change_requested", "change_resolved", "component_started", "component_stopped",
    "component_degraded", "component_recovered", "agent_limited", "agent_available", "no_such_type", "custom.", "custom.*",
]
KEYS = {"loops": ["id"], "tests": ["id"], "deliveries": ["event_id"], "file_locks": ["file_path"], "wait_graph": ["resource"],
        "component_health": ["component"], "passing_tests": ["test_id"], "check_runs": ["check_name"], "resources": ["path"],
        "migrations": ["number"], "pauses": ["loop_id"], "agent_outputs": ["loop_id"], "worktree_changes": ["loop_id"], "lease_request_paths": ["file_path"],
        "change_request_tests": ["test_id"], "holds": ["subject"], "loop_ports": ["loop_id"]}


def odd(connection):
    """Leaves every odd row that is taken. Foreign keys are off, as in the shell: orphans are taken too."""
    taken = count = 0

    def attempt(table, row):
        nonlocal taken, count
        count += 1
        row = dict(row)
        (key,) = KEYS.get(table, ["id"])
        if row[key] == GOOD[table][key]:
            row[key] = count + 100 if table == "migrations" else f"{'agent:' if table == 'holds' else ''}odd{count}"
        try:
            insert(connection, table, row)
            taken += 1
        except (sqlite3.IntegrityError, sqlite3.OperationalError, sqlite3.DataError):
            pass

    connection.execute("BEGIN IMMEDIATE")
    for table, good in GOOD.items():
        if table == "maintenance":
            continue
        types = type_of(connection, table)
        for column in good:
            values = [None]
            if types[column] == "INTEGER":
                values += ODD_NUMBERS
            elif types[column] == "REAL":
                values += [0, 1, 1e-300]
            elif (table, column) in JSON:
                values += ODD_JSON
            elif column in times(good):
                values += ODD_TIMES
            else:
                values += ODD_TEXTS
            if (table, column) == ("events", "acknowledged"):
                values = [1]
            for value in values:
                attempt(table, {**good, column: value})
            # Text that is no UTF-8 cannot be bound by Python as text; SQLite casts it.
            if types[column] == "TEXT" and column not in times(good):
                row = {**good, column: b"\xff\xfe odd"}
                (key,) = KEYS.get(table, ["id"])
                count += 1
                if key != column:
                    row[key] = f"odd{count}" if table != "migrations" else count + 100
                marks = ", ".join("CAST(? AS TEXT)" if name == column else "?" for name in row)
                try:
                    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))
                    taken += 1
                except (sqlite3.IntegrityError, sqlite3.OperationalError):
                    pass
    for event_type in TYPES:
        for payload in ODD_JSON:
            count += 1
            insert(connection, "events", {**GOOD["events"], "id": f"odd{count}", "event_type": event_type, "payload": payload})
            taken += 1
    # Open rows of every state that a supervisor acts on, about things that are not there.
    for status in ["suspected", "bisecting", "regressed", "unknown"]:
        attempt("regressions", {**GOOD["regressions"], "status": status, "resolved_at": None, "test_id": "nowhere"})
    attempt("deadlocks", {**GOOD["deadlocks"], "resolved_at": None, "outcome": None, "victim": "nowhere", "cycle": '{"a": 1}', "locks": "7"})
    attempt("decisions", {**GOOD["decisions"], "expires_at": "2000-01-01 00:00:00", "options": "[]", "default_option": "nothing"})
    attempt("decisions", {**GOOD["decisions"], "expires_at": "2000-01-01 00:00:00", "options": "[1, null]", "default_option": None})
    attempt("transaction_log", {**GOOD["transaction_log"], "component": "pm", "operation": "notify:x", "steps": "7"})
    attempt("transaction_log", {**GOOD["transaction_log"], "component": "regression-checker", "operation": "bisect", "steps": "{}"})
    for status in ["running", "paused", "error"]:
        count += 1
        attempt("loops", {**GOOD["loops"], "id": f"odd{count}", "status": status, "pid": 2**31 - 1, "current_test_id": "nowhere"})
    for status in ["in_progress", "blocked", "failed", "skipped"]:
        attempt("tests", {**GOOD["tests"], "status": status, "loop_id": "nowhere", "depends_on": "nowhere"})
    attempt("component_health", {**GOOD["component_health"], "component": "odd-one", "pid": 1, "pid_start_time": -5, "boot_id": "x"})
    connection.execute("COMMIT")
    print(json.dumps({"tried": count, "taken": taken}))
    return True


def main():
    what, path = sys.argv[1:]
    connection = sqlite3.connect(path, timeout=20, isolation_level=None)
    connection.executescript(BASE)
    sys.exit(0 if {"refused": refused, "odd": odd}[what](connection) else 1)


if __name__ == "__main__":
    main()
