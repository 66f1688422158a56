#!/usr/bin/env python3
"""A scripted loop on top of coding_loops.py: no agent, but a clone of the store, leases, a gate, landing and publishing.

    loop.py DATABASE REPOSITORY LOOP PRIORITY FIRST SECOND

Each test: lease FIRST, tell so (`holds FIRST`, one line), wait for a line on stdin, lease SECOND, write both files, commit,
gate, land in the store, publish. Ends when the queue is empty. Commands are its own; none comes from the database.
"""

import hashlib
import os
import subprocess
import sys
import time

from coding_loops import Client, Refused

database, repository, loop_id, priority, first, second = sys.argv[1:]
INTEGRATION = "refs/heads/coding-loops/integration"
# As `[workspace] root` has it where nothing else is set.
store = os.path.join(f"{repository}-loops", "store.git")
clone = f"{repository}-{loop_id}"
loop = Client(database, loop_id)


class Victim(Exception):
    """Asked to release everything."""


def git(*arguments, at=None):
    identity = ["-c", "user.name=python", "-c", "user.email=python@example.org"]
    # A fetch or a moved reference must not run the user's hooks, nor a gc.
    quiet = ["-c", "core.hooksPath=/dev/null", "-c", "maintenance.auto=false"]
    command = ["git", *identity, *quiet, "-C", at or clone, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def bring(name, source, target):
    """Fetches what a reference of one repository names into another one, where no reference names it yet. Gives its hash."""
    found = git("rev-parse", name, at=source)
    git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", source, name, at=target)
    return found


def branch_of(at):
    """Where the integration branch is in a repository; nothing if there is none."""
    try:
        return git("rev-parse", "--verify", "--quiet", INTEGRATION, at=at)
    except subprocess.CalledProcessError:
        return ""


def publish():
    """Brings the user's branch to where the store's is. If somebody else has moved it or has it checked out, the real loops
    see to it: they ask, or wait."""
    if f"branch {INTEGRATION}" in git("worktree", "list", "--porcelain", at=repository).splitlines():
        return
    while True:
        published, landed = branch_of(repository), bring(INTEGRATION, store, repository)
        if published and subprocess.run(["git", "-C", store, "merge-base", "--is-ancestor", published, landed], check=False).returncode:
            return
        try:
            git("update-ref", INTEGRATION, landed, published or "0" * len(landed), at=repository)
            return
        except subprocess.CalledProcessError:
            # A real loop has published meanwhile: look again at what is there.
            if branch_of(repository) == published:
                raise


def say(words):
    print(words, flush=True)


def lease(paths, test):
    """Waits for the leases; obeys while it waits."""
    token, request = loop.acquire(paths, test, wait_seconds=60)
    while token is None:
        obey()
        loop.wait(0.5)
        obey()
        loop.beat()
        token, request = loop.acquire(paths, test, request=request)
    return token


def obey():
    order = loop.order()
    if order:
        raise Victim(*order)


def gate(test):
    """Proves the commit in the clone. One check: both files name the test."""
    begun = time.monotonic()
    check = subprocess.run(["grep", "-l", test, first, second], cwd=clone, capture_output=True)
    return {"check_name": "named", "exit_code": check.returncode, "milliseconds": int((time.monotonic() - begun) * 1000),
            "sha256": hashlib.sha256(check.stdout).hexdigest(), "tail": check.stdout.decode()[-1000:],
            "tree": git("rev-parse", "HEAD^{tree}")}


def attempt(test, begun):
    lease([first], test)
    say(f"holds {first}")
    if not attempt.told:
        sys.stdin.readline()
        attempt.told = True
    lease([second], test)
    base = branch_of(store)
    git("reset", "--quiet", "--hard", base)
    for name in (first, second):
        with open(os.path.join(clone, name), "a", encoding="utf-8") as file:
            file.write(f"{test} by {loop_id}\n")
    git("add", "--all")
    git("commit", "--quiet", "--message", f"{test}\n\nLoop: {loop_id}\nTest: {test}")
    # Landing is everyone's: one at a time, and what is judged is what lands.
    token = lease(["git:integration"], test)
    if branch_of(store) != base:
        base = branch_of(store)
        git("rebase", "--quiet", base)
    proof = gate(test)
    if proof["exit_code"] != 0:
        loop.failed(test, "code", f"check {proof['check_name']} failed")
        return
    commit = bring("HEAD", clone, store)
    loop.renew(token)
    git("update-ref", INTEGRATION, commit, base, at=store)
    publish()
    loop.passed(test, commit, [proof], int(time.monotonic() - begun), [first, second], token)
    say(f"passed {test}")


attempt.told = False

loop.register(int(priority))
loop.start()
if not branch_of(store):
    start = bring("HEAD", repository, store)
    # Another loop may have done it meanwhile.
    subprocess.run(["git", "-C", store, "update-ref", INTEGRATION, start, "0" * len(start)], check=False)
if not os.path.isdir(clone):
    git("clone", "--quiet", "--shared", store, clone, at=repository)
while True:
    loop.beat()
    test = loop.claim()
    if test is None:
        (left,) = loop.rows("SELECT count(*) FROM tests WHERE loop_id = ? AND status IN ('pending', 'in_progress')", loop_id)[0]
        if left == 0:
            break
        loop.wait(0.2)
        continue
    try:
        attempt(test, time.monotonic())
    except Victim as victim:
        event, reason = victim.args
        # The work is kept under a ref of the store before anything is given up.
        git("add", "--all")
        name = f"refs/coding-loops/saved/{loop_id}/{test}/{event}"
        git("update-ref", name, git("stash", "create") or "HEAD")
        git("update-ref", name, bring(name, clone, store), at=store)
        loop.obey_force_release(event, test, reason)
        say(f"gave up {test}: {reason}")
    except Refused as refused:
        loop.failed(test, "conflict", str(refused))
loop.stop()
