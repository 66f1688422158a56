#!/usr/bin/env python3
"""A scripted loop on top of coding_loops.py: no agent, but a worktree, leases, a gate, and landing.

    loop.py DATABASE REPOSITORY LOOP PRIORITY FIRST SECOND

Each test: lease FIRST, tell so (`holds FIRST`, one line), wait for a line on stdin, lease SECOND, write both files, commit,
gate, land on the integration branch. Ends when the queue is empty. Commands are its own; none comes from the database.
"""

import hashlib
import os
import subprocess
import sys
import time

from coding_loops import Client, Refused

database, repository, loop_id, priority, first, second = sys.argv[1:]
INTEGRATION = "refs/heads/coding-loops/integration"
worktree = os.path.join(repository, "coding-loops", "worktrees", loop_id)
loop = Client(database, loop_id)


class Victim(Exception):
    """Told to give everything up."""


def git(*arguments, at=None):
    identity = ["-c", "user.name=python", "-c", "user.email=python@example.org"]
    command = ["git", *identity, "-C", at or worktree, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


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
    """Proves the commit in the worktree. One check: both files name the test."""
    begun = time.monotonic()
    check = subprocess.run(["grep", "-l", test, first, second], cwd=worktree, capture_output=True)
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
    base = git("rev-parse", INTEGRATION, at=repository)
    git("reset", "--quiet", "--hard", base)
    for name in (first, second):
        with open(os.path.join(worktree, name), "a", encoding="utf-8") as file:
            file.write(f"{test} by {loop_id}\n")
    git("add", "--all")
    git("commit", "--quiet", "--message", f"{test}\n\nLoop: {loop_id}\nTest: {test}")
    # Landing is everyone's: one at a time, and what is judged is what lands.
    token = lease(["git:integration"], test)
    if git("rev-parse", INTEGRATION, at=repository) != base:
        base = git("rev-parse", INTEGRATION, at=repository)
        git("rebase", "--quiet", base)
    proof = gate(test)
    if proof["exit_code"] != 0:
        loop.failed(test, "code", f"check {proof['check_name']} failed")
        return
    commit = git("rev-parse", "HEAD")
    loop.renew(token)
    git("update-ref", INTEGRATION, commit, base, at=repository)
    loop.passed(test, commit, [proof], int(time.monotonic() - begun), [first, second], token)
    say(f"passed {test}")


attempt.told = False

loop.register(int(priority))
loop.start()
if not os.path.isdir(worktree):
    try:
        git("rev-parse", "--verify", "--quiet", INTEGRATION, at=repository)
    except subprocess.CalledProcessError:
        git("update-ref", INTEGRATION, "HEAD", at=repository)
    git("worktree", "add", "--quiet", "-B", f"coding-loops/{loop_id}", worktree, INTEGRATION, at=repository)
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
        # The work is kept under a ref before anything is given up.
        saved = git("stash", "create") or git("rev-parse", "HEAD")
        git("update-ref", f"refs/coding-loops/saved/{loop_id}/{event}", saved)
        loop.obey_force_release(event, test, reason)
        say(f"gave up {test}: {reason}")
    except Refused as refused:
        loop.failed(test, "conflict", str(refused))
loop.stop()
