#!/usr/bin/env python3
"""Runs the test programs of `cargo test --no-run --message-format=json`, whose output it reads, and the real agents, side by side.

Most tests wait for other processes, so two programs more run than there are processors. What a program prints is printed when
it has ended. Exit status 1: one failed. Arguments are for the real agents.

The programs of IN_MEMORY have their temporary files in memory if there is room: git and SQLite wait for the disk at each step
(git's tests take 36 s instead of 88 s, beside builds). Other programs test units and sandboxes, which have a /dev of their own.

The programs of ON_A_SERVER run once more with their databases on PostgreSQL.

A program that has not ended after LIMIT_SECONDS is killed, and has failed.
"""

import concurrent.futures
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
AGENTS = "real agents"
# These take longest and start first, so that none is left to run alone.
FIRST = [
    AGENTS,
    "coding-loop it",
    "loopctl it",
    "system-tests machines",
    "system-tests simulation",
    "coord-db models on PostgreSQL",
    "regression-checker it",
    "system-tests crash_points",
    "system-tests demo",
    "system-tests dashboard",
    "git it",
    "coord-db it on PostgreSQL",
    "system-tests systemd",
]

if "--long" in sys.argv:
    FIRST = ["system-tests kills", "system-tests browser", *FIRST]

IN_MEMORY = ["coding-loop it", "git it", "loopctl it", "regression-checker it"]
ON_A_SERVER = ["coord-db it", "coord-db models"]
MEMORY = "/dev/shm"
NEEDED_BYTES = 4 << 30
SKIPPED = 77
# Tests and demo projects start it hundreds of times. Version managers put a script before it and packages into it, with which a
# start takes ten times as long.
PYTHON = "/usr/bin/python3"
# --long sets it to more.
LIMIT_SECONDS = int(os.environ.get("TEST_PROGRAM_SECONDS", 2400))


def programs():
    """Yields for each program its name, command, folder and environment."""
    yield AGENTS, [f"{ROOT}/tests/agents/run.py", *sys.argv[1:]], ROOT, {}
    for line in sys.stdin:
        built = json.loads(line)
        if built.get("executable") and built["profile"]["test"]:
            folder = os.path.dirname(built["manifest_path"])
            crate = "system-tests" if os.path.basename(folder) == "tests" else os.path.basename(folder)
            name = f"{crate} {built['target']['name']}"
            yield name, [built["executable"]], folder, {}
            if name in ON_A_SERVER and has_server():
                yield f"{name} on PostgreSQL", [built["executable"]], folder, {"CODING_LOOPS_TEST_ENGINE": "postgres"}


def is_as_good(python):
    """True if it is not older than this one, and whole."""
    code = f"import sys, unittest; sys.exit(sys.version_info < {sys.version_info[:2]})"
    return os.access(python, os.X_OK) and subprocess.run([python, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def has_server():
    return shutil.which("initdb") or glob.glob("/usr/lib/postgresql/*/bin/initdb")


def has_room():
    try:
        there = os.statvfs(MEMORY)
    except OSError:
        return False
    return os.access(MEMORY, os.W_OK) and there.f_bavail * there.f_frsize >= NEEDED_BYTES


def run(name, command, folder, settings, first):
    began = time.monotonic()
    # The agents make an environment with theirs, for which the system's own may lack a package.
    path = os.environ["PATH"] if name == AGENTS else f"{first}:{os.environ['PATH']}"
    where = MEMORY if (name in IN_MEMORY or settings) and has_room() else None
    with tempfile.TemporaryDirectory(prefix="tests-", dir=where, ignore_cleanup_errors=True) as temporary:
        # Some tests act as another user.
        os.chmod(temporary, 0o755)
        # Not a pipe, which what it has started could hold open.
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **settings, "PATH": path, **({"TMPDIR": temporary} if where else {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                status = process.wait(LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = f"it has not ended after {LIMIT_SECONDS} s"
            output.seek(0)
            printed = output.read()
    return name, status, printed, time.monotonic() - began


def main():
    todo = sorted(programs(), key=lambda program: FIRST.index(program[0]) if program[0] in FIRST else len(FIRST))
    failed = []
    with tempfile.TemporaryDirectory(prefix="python-") as first, concurrent.futures.ThreadPoolExecutor(os.cpu_count() + 2) as pool:
        os.chmod(first, 0o755)
        if is_as_good(PYTHON):
            os.symlink(PYTHON, f"{first}/python3")
        for future in concurrent.futures.as_completed([pool.submit(run, *program, first) for program in todo]):
            name, status, printed, seconds = future.result()
            print(f"\n     Running {name} ({seconds:.0f} s)", flush=True)
            sys.stdout.buffer.write(printed)
            sys.stdout.flush()
            if name == AGENTS and status == SKIPPED:
                print("SKIPPED, NOTHING WAS TESTED: the agent programs cannot be installed here")
            elif status != 0:
                print(f"{name} failed: {status}", flush=True)
                failed.append(name)
    if not has_server():
        print("SKIPPED, NOTHING WAS TESTED ON POSTGRESQL: it is not installed")
    if failed or len(todo) == 1:
        sys.exit(f"tests failed in: {', '.join(failed) or 'nothing was built'}")


main()
