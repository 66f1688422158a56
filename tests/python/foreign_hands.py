#!/usr/bin/env python3
"""Works beside the programs, with nothing but Python's own sqlite3 and the sqlite3 shell: events, locks, edges, long read
transactions, VACUUM and checkpoints.

    foreign_hands.py DATABASE EVENTS

Publishes EVENTS events from Python (py-0, py-1 …) and a tenth of that from the shell (sh-0 …), and says what else it did.
"""

import json
import os
import sqlite3
import subprocess
import sys
import threading

path, events = sys.argv[1], int(sys.argv[2])
done = {"locks": 0, "edges": 0, "snapshots": 0, "vacuums": 0, "wal_checkpoints": 0}
writing = threading.Event()
failures = []


def connect():
    return sqlite3.connect(path, timeout=60, isolation_level=None)


def ring():
    with open(os.open(path + ".bell/ring", os.O_WRONLY), "wb", buffering=0) as bell:
        bell.write(b"!")


def write():
    connection = connect()
    for number in range(events):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO events (id, source, event_type, payload) VALUES (?, 'py', 'custom.foreign', ?)",
                           (f"py-{number}", json.dumps({"number": number})))
        if number % 3 == 0:
            connection.execute("INSERT INTO file_locks (file_path, locked_by) VALUES (?, 'py')", (f"py/{number}",))
            connection.execute("INSERT INTO wait_graph (waiter, holder, resource) VALUES ('ours', 'py', ?)", (f"py/{number}",))
            done["edges"] += 1
        connection.execute("COMMIT")
        # Half of the commits ring; the others are found by the -wal.
        if number % 2:
            ring()
        if number % 3 == 2:
            lock = f"py/{number - 2}"
            connection.execute("DELETE FROM file_locks WHERE file_path = ?", (lock,))
            left = connection.execute("SELECT count(*) FROM wait_graph WHERE resource = ?", (lock,)).fetchone()[0]
            assert left == 0, "an edge outlives the lease that it waits for"
            done["locks"] += 1
    writing.set()


def shell():
    for number in range(events // 10):
        sql = f"INSERT INTO events (id, source, event_type) VALUES ('sh-{number}', 'sh', 'custom.foreign');"
        subprocess.run(["sqlite3", "-bail", "-cmd", ".timeout 60000", path, sql], check=True)


def read():
    connection = connect()
    while not writing.is_set():
        connection.execute("BEGIN")
        first = connection.execute("SELECT count(*), max(rowid) FROM events").fetchone()
        # Long enough for the others to write a good deal, and to want their checkpoints.
        writing.wait(0.4)
        assert connection.execute("SELECT count(*), max(rowid) FROM events").fetchone() == first, "a snapshot has moved"
        connection.execute("COMMIT")
        done["snapshots"] += 1


def keep():
    connection = connect()
    while not writing.is_set():
        for sql, name in [("VACUUM", "vacuums"), ("PRAGMA wal_checkpoint(TRUNCATE)", "wal_checkpoints")]:
            try:
                connection.execute(sql).fetchall()
                done[name] += 1
            except sqlite3.OperationalError as error:
                assert "locked" in str(error) or "busy" in str(error), error
        writing.wait(0.2)


def guarded(work):
    def run():
        try:
            work()
        except BaseException as error:  # all of it is to be told
            failures.append(f"{work.__name__}: {error!r}")
            writing.set()
    return threading.Thread(target=run)


threads = [guarded(work) for work in (write, shell, read, keep)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(done))
sys.exit("\n".join(failures) or 0)
