#!/usr/bin/env python3
"""Runs the test programs of `cargo test --no-run --message-format=json`, whose output it reads, side by side.

Most tests wait for other processes, so one program more runs than there are processors. What a program prints is printed when
it has ended. Exit status 1: one failed.
"""

import concurrent.futures
import json
import os
import subprocess
import sys
import time

# These take longest and start first, so that none is left to run alone.
FIRST = ["coding-loop it", "system-tests demo", "system-tests simulation", "system-tests crash_points", "loopctl it"]


def programs():
    for line in sys.stdin:
        built = json.loads(line)
        if built.get("executable") and built["profile"]["test"]:
            folder = os.path.dirname(built["manifest_path"])
            crate = "system-tests" if os.path.basename(folder) == "tests" else os.path.basename(folder)
            yield f"{crate} {built['target']['name']}", built["executable"], folder


def run(name, program, folder):
    began = time.monotonic()
    ended = subprocess.run([program], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return name, ended, time.monotonic() - began


def main():
    todo = sorted(programs(), key=lambda program: FIRST.index(program[0]) if program[0] in FIRST else len(FIRST))
    failed = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() + 1) as pool:
        for future in concurrent.futures.as_completed([pool.submit(run, *program) for program in todo]):
            name, ended, seconds = future.result()
            print(f"\n     Running {name} ({seconds:.0f} s)", flush=True)
            sys.stdout.buffer.write(ended.stdout)
            sys.stdout.flush()
            if ended.returncode != 0:
                failed.append(name)
    if failed or not todo:
        sys.exit(f"tests failed in: {', '.join(failed) or 'nothing was built'}")


main()
