"""The demo's stage manager: sets up a sample repository, causes trouble, and reports what the system did about it.

    demo.py set-up FOLDER BIN     a repository with a small project, three loops, thirteen tests
    demo.py direct FOLDER BIN     kills an agent and a loop, answers questions, waits until all is settled
    demo.py report FOLDER BIN     one line for each incident; exit 0 only if all happened and were resolved

It only causes trouble; whatever puts it right is the product's doing. It reads the database as any foreign client may.
"""

import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
MARK = "this folder is made and deleted by scripts/launch.sh --demo\n"
# A test on a busy machine may take its time; a person should not have to.
LIMIT_SECONDS = int(os.environ.get("CODING_LOOPS_DEMO_SECONDS", "115"))


class Demo:
    def __init__(self, folder, binaries):
        self.folder = pathlib.Path(folder).resolve()
        self.repository = self.folder / "repository"
        self.stage = self.folder / "stage"
        self.home = self.repository / "coding-loops"
        self.binaries = pathlib.Path(binaries).resolve()

    def loopctl(self, *arguments, check=True):
        command = [str(self.binaries / "loopctl"), "--db", str(self.home / "coordination.db"), *arguments]
        return subprocess.run(command, check=check, cwd=self.repository, capture_output=True, text=True)

    def git(self, *arguments):
        return subprocess.run(
            ["git", *arguments], check=True, cwd=self.repository, capture_output=True, text=True
        ).stdout.strip()

    def query(self, sql, *parameters):
        connection = sqlite3.connect(f"file:{self.home / 'coordination.db'}?mode=ro", uri=True, timeout=10)
        try:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql, parameters).fetchall()
        finally:
            connection.close()


def set_up(demo):
    if demo.folder.exists():
        mark = demo.folder / "README"
        if not mark.exists() or mark.read_text() != MARK:
            sys.exit(f"{demo.folder} is not a demo's folder; name another one with CODING_LOOPS_DEMO")
        shutil.rmtree(demo.folder)
    demo.stage.mkdir(parents=True)
    (demo.folder / "README").write_text(MARK)
    shutil.copytree(HERE / "project", demo.repository)
    (demo.repository / "gitignore").rename(demo.repository / ".gitignore")
    demo.git("init", "--quiet", "--initial-branch", "main")
    demo.git("config", "user.name", "A Human")
    demo.git("config", "user.email", "human@example.org")
    demo.git("add", "--all")
    demo.git("commit", "--quiet", "--message", "A ledger, to be written")
    subprocess.run(
        [str(demo.binaries / "loopctl"), "--quiet", "init"],
        check=True,
        cwd=demo.repository,
        env={name: value for name, value in os.environ.items() if name != "CODING_LOOPS_DB"},
    )
    config = (HERE / "config.toml").read_text().replace("@DEMO@", json.dumps(str(HERE))[1:-1])
    (demo.home / "config.toml").write_text(config)
    for priority, name in enumerate(["core", "store", "report"], start=1):
        demo.loopctl("loop", "add", name, "--priority", str(priority))
    demo.loopctl("test", "import", str(HERE / "tests.toml"))


def child_of(parent):
    """The process that runs directly under another one."""
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            return int(entry.parent.name)
    return None


class Director:
    """Causes each incident when its moment has come: again at the next attempt, if its witness died in the same moment."""

    def __init__(self, demo):
        self.demo = demo
        self.done = set()
        self.struck = set()

    def once(self, name, act):
        if name not in self.done and act():
            self.done.add(name)
            print(f"-- {name}", file=sys.stderr, flush=True)

    def at_work(self, loop, test):
        """The loop's and its keeper's pid while the loop's agent works on this test."""
        rows = self.demo.query(
            "SELECT l.pid, h.child_pid FROM loops AS l JOIN component_health AS h ON h.component = l.id"
            " WHERE l.id = ? AND l.current_test_id = ? AND l.pid IS NOT NULL AND h.child_pid IS NOT NULL",
            loop,
            test,
        )
        return rows[0] if rows else None

    def strike(self, loop, test, whom, seen, what):
        """Kills once in each attempt at a test, until it is recorded. True then."""
        if self.demo.query(seen):
            (self.demo.stage / what).touch()
            return True
        row = self.at_work(loop, test)
        pid = row and whom(row)
        started = self.demo.query(
            "SELECT id FROM events WHERE event_type = 'test_started' AND json_extract(payload, '$.test_id') = ?"
            " ORDER BY rowid DESC LIMIT 1",
            test,
        )
        if pid and started and started[0]["id"] not in self.struck:
            self.struck.add(started[0]["id"])
            os.kill(pid, signal.SIGKILL)
        return False

    def kill_the_agent(self):
        seen = (
            "SELECT 1 FROM events WHERE event_type = 'test_failed' AND json_extract(payload, '$.test_id') = 'core-2-show'"
            " AND json_extract(payload, '$.error_category') = 'transient'"
        )
        return self.strike("core", "core-2-show", lambda row: child_of(row["child_pid"]), seen, "agent-was-killed")

    def kill_the_loop(self):
        seen = (
            "SELECT 1 FROM events WHERE event_type = 'component_degraded' AND json_extract(payload, '$.component') = 'store'"
            " AND json_extract(payload, '$.status') = 'dead'"
        )
        return self.strike("store", "store-2-withdraw", lambda row: row["pid"], seen, "loop-was-killed")

    def notice(self):
        """Marks what has happened, so that the agents stop provoking it."""
        for what, sql in {
            "deadlock": "SELECT 1 FROM events WHERE event_type = 'force_release'",
            "conflict": "SELECT 1 FROM conflicts WHERE file_path = 'ledger/report.py' AND loser IS NOT NULL",
        }.items():
            if self.demo.query(sql):
                (self.demo.stage / what).touch()

    def answer(self):
        answers = {"blocked": "skip", "stuck": "wait", "regression": "fix_forward"}
        for row in self.demo.query("SELECT id, decision_type FROM decisions WHERE status = 'pending'"):
            choice = answers.get(row["decision_type"])
            if choice and row["id"] not in self.done:
                said = self.demo.loopctl("decide", row["id"], choice, "--comment", "the demo's human", check=False)
                if said.returncode == 0:
                    self.done.add(row["id"])
                    print(f"-- the human decides: {row['decision_type']} → {choice}", file=sys.stderr, flush=True)

    def settled(self):
        one = lambda sql: self.demo.query(sql)[0][0]
        return (
            one("SELECT count(*) FROM tests WHERE status NOT IN ('passed', 'skipped')") == 0
            and one("SELECT count(*) FROM decisions WHERE status = 'pending'") == 0
            and one("SELECT count(*) FROM regressions WHERE status = 'cleared'") > 0
            and one("SELECT count(*) FROM regressions WHERE resolved_at IS NULL") == 0
            and one("SELECT count(*) FROM conflicts WHERE resolved_at IS NULL") == 0
            and one("SELECT count(*) FROM transaction_log WHERE status = 'in_progress'") == 0
        )

    def run(self):
        end = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < end:
            self.once("an agent is killed with SIGKILL", self.kill_the_agent)
            self.once("a coding-loop is killed with SIGKILL", self.kill_the_loop)
            self.notice()
            self.answer()
            if self.settled():
                return 0
            time.sleep(0.2)
        return 1


def direct(demo):
    return Director(demo).run()


class Report:
    def __init__(self, demo):
        self.demo = demo
        rows = demo.query("SELECT rowid, * FROM events ORDER BY rowid")
        self.events = [{**dict(row), "payload": json.loads(row["payload"])} for row in rows]
        self.incidents = []

    def find(self, kind, after=None, **fields):
        """The first event of a type, after another one, whose payload has these fields."""
        for event in self.events:
            if event["event_type"] != kind or (after and event["rowid"] <= after["rowid"]):
                continue
            if all(event["payload"].get(name) == value for name, value in fields.items()):
                return event
        return None

    def incident(self, what, who, first, *rest):
        """An incident is resolved if every event of its story is there."""
        self.incidents.append((what, who, first, rest[-1] if rest and all(rest) else None))

    def conflict(self):
        """A conflict for which one loop was paused and resumed; else one that ended before a pause was needed."""
        ended = []
        for event in (event for event in self.events if event["event_type"] == "file_conflict"):
            story = [other for other in self.events if other["correlation_id"] == event["correlation_id"]]
            paused = next((other for other in story if other["event_type"] == "loop_paused"), None)
            resumed = paused and self.find("loop_resumed", paused, loop_id=paused["payload"]["loop_id"])
            if resumed:
                return event, paused, resumed
            row = self.demo.query("SELECT resolved_at FROM conflicts WHERE event_id = ?", event["id"])
            ended.append((event, {"timestamp": row[0]["resolved_at"]} if row and row[0]["resolved_at"] else None))
        return next((pair for pair in ended if pair[1]), ended[0] if ended else (None,))

    def collect(self):
        passed = lambda test, after: after and self.find("test_passed", after, test_id=test)
        # Three agents at once: an attempt of each loop is under way before any of the three has ended.
        running, parallel = {}, None
        for event in self.events:
            if event["event_type"] == "test_started":
                running[event["payload"]["loop_id"]] = event
                if len(running) == 3 and not parallel:
                    parallel = event
            elif event["event_type"] in ("test_passed", "test_failed"):
                running.pop(event["payload"]["loop_id"], None)
        self.incident("three agents work at once", "coding-loop", parallel, self.find("test_passed", parallel) if parallel else None)

        self.incident("two loops change one file", "monitor, pm-agent", *self.conflict())

        deadlock = self.find("force_release")
        victim = deadlock and deadlock["payload"]["loop_id"]
        freed = deadlock and self.find("file_unlocked", deadlock, loop_id=victim)
        again = freed and next(
            (event for event in self.events if event["event_type"] == "test_passed" and event["rowid"] > freed["rowid"] and event["source"] == victim),
            None,
        )
        self.incident("a deadlock over two files", "deadlock-detector", deadlock, freed, again)

        lie = self.find("test_failed", test_id="core-3-split")
        self.incident("an agent claims success and is wrong", "the gate", lie, passed("core-3-split", lie))

        killed = self.find("test_failed", test_id="core-2-show", error_category="transient")
        self.incident("an agent is killed", "coding-loop", killed, passed("core-2-show", killed))

        dead = self.find("component_degraded", component="store", status="dead")
        back = dead and self.find("component_started", dead, component="store")
        self.incident("a coding-loop is killed", "heartbeat", dead, back, back and passed("store-2-withdraw", dead))

        broken = self.find("regression_detected")
        blamed = broken and broken["payload"].get("blamed_test") == "store-4-interest"
        cleared = broken and self.find("regression_cleared", broken, test_id=broken["payload"]["test_id"])
        self.incident("a finished test breaks", "regression-checker", broken, blamed and cleared)

        asked = self.find("decision_needed", decision_type="blocked")
        answered = asked and self.find("decision_resolved", asked, decision_id=asked["payload"]["decision_id"])
        self.incident("a question to the human", "pm-agent", asked, answered)

    def checks(self):
        """(what, fine) for the state that the demo leaves."""
        demo = self.demo
        left = demo.query("SELECT count(*) FROM tests WHERE status NOT IN ('passed', 'skipped')")[0][0]
        unproven = demo.query(
            "SELECT count(*) FROM tests AS t WHERE status = 'passed' AND NOT EXISTS"
            " (SELECT 1 FROM proofs AS p WHERE p.test_id = t.id AND p.outcome = 'pass')"
        )[0][0]
        final = demo.folder / "final"
        demo.git("worktree", "add", "--detach", str(final), "coding-loops/integration")
        suite = subprocess.run([sys.executable, "check.py"], cwd=final, capture_output=True, text=True, check=False)
        demo.git("worktree", "remove", "--force", str(final))
        checked = demo.loopctl("check", check=False)
        if checked.returncode != 0:
            print(checked.stdout + checked.stderr, file=sys.stderr)
        status = demo.git("status", "--porcelain", "--untracked-files=all")
        references = demo.git("for-each-ref", "--format=%(refname)").split()
        return [
            ("every test is passed or skipped on purpose", left == 0),
            ("every passed test has its proofs", unproven == 0),
            ("the integration branch passes its suite", suite.returncode == 0),
            ("loopctl check is clean", checked.returncode == 0),
            ("your branch and your files are untouched", demo.git("log", "--format=%s", "main") == "A ledger, to be written" and not status),
            ("one branch was added to your repository", references == ["refs/heads/coding-loops/integration", "refs/heads/main"]),
        ]

    def print(self):
        self.collect()
        fine = True
        print("\nWhat happened, and what became of it\n")
        for what, who, first, last in self.incidents:
            fine &= last is not None
            if last is not None:
                print(f"  ok      {what:<38} {who:<20} {seconds(first, last):>6.1f} s   loopctl why {first['id']}")
            else:
                print(f"  MISSING {what:<38} {who:<20} {'seen, not resolved' if first else 'not seen'}")
        print()
        for what, holds in self.checks():
            fine &= holds
            print(f"  {'ok     ' if holds else 'NO     '} {what}")
        print(f"\nLook around: cd {self.demo.repository} && {self.demo.binaries / 'loopctl'} status")
        print(f"The agents worked in {self.demo.repository}-loops/loops/")
        return 0 if fine else 1


def seconds(first, last):
    at = lambda event: time.mktime(time.strptime(event["timestamp"][:19], "%Y-%m-%d %H:%M:%S")) + float("0" + (event["timestamp"][19:] or ".0"))
    return at(last) - at(first)


def report(demo):
    return Report(demo).print()


def main():
    acts = {"set-up": set_up, "direct": direct, "report": report}
    if len(sys.argv) != 4 or sys.argv[1] not in acts:
        sys.exit(__doc__)
    sys.exit(acts[sys.argv[1]](Demo(sys.argv[2], sys.argv[3])))


main()
