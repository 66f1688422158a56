#!/usr/bin/env python3
"""Runs the real agent programs through the built coding-loops, against a scripted model on 127.0.0.1.

    tests/agents/run.py                   every case of every agent
    tests/agents/run.py claude            every case of one agent
    tests/agents/run.py claude mended     one case
    tests/agents/run.py --long            also the cases in which an agent retries for minutes
    tests/agents/run.py --keep            keep the folders of failed cases, to look into
    tests/agents/run.py --list            the cases

CODING_LOOPS_BIN names the folder of the programs; the default is target/debug. Exit status: 0 if no case has failed, 77 if nothing can
run here, else 1. A pending case needs something that is not built yet; it is not green.
"""

import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

sys.dont_write_bytecode = True

import install  # noqa: E402
from cases import CASES, EVERY  # noqa: E402
from world import Failed, World, binaries, features, refusal  # noqa: E402

# Some wait for half a minute.
PARALLEL = 3
SKIPPED = 77


def main(arguments):
    words = [word for word in arguments if not word.startswith("--")]
    unknown = [word for word in arguments if word.startswith("--") and word not in ("--long", "--keep", "--list", "--help")]
    agents = [word for word in words if word in EVERY] or list(EVERY)
    names = [word for word in words if word in CASES] or list(CASES)
    if "--help" in arguments:
        print(__doc__.strip())
        return 0
    if unknown or any(word not in EVERY and word not in CASES for word in words):
        print(f"unknown argument; try --help. Agents: {', '.join(EVERY)}. Cases: {', '.join(CASES)}.", file=sys.stderr)
        return 2
    if "--list" in arguments:
        for name in names:
            print(f"{name:12} {CASES[name]['about']} ({', '.join(CASES[name]['agents'])})")
        return 0
    if not (binaries() / "loopctl").exists():
        print(f"{binaries()} has no loopctl: build the programs, or set CODING_LOOPS_BIN", file=sys.stderr)
        return 1
    return Matrix(agents, names, "--long" in arguments, "--keep" in arguments).run()


class Matrix:
    """The cases to run, and their outcomes."""

    def __init__(self, agents, names, is_long, keep):
        self.features = features()
        self.unavailable = {}
        self.outcomes = []
        self._lock = threading.Lock()
        self._is_long, self._keep = is_long, keep
        # An agent's cases one after another would leave the slowest agent to the end.
        self.pairs = [(agent, name) for name in names for agent in agents if agent in CASES[name]["agents"]]

    def run(self):
        begun = time.monotonic()
        for agent in sorted({agent for agent, _ in self.pairs}):
            try:
                install.installed(agent)
                why = refusal(agent)
            except install.Unavailable as error:
                why = str(error)
            if why:
                self.unavailable[agent] = why
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda pair: self._one(*pair), self.pairs))
        count = {outcome: self.outcomes.count(outcome) for outcome in ("passed", "failed", "pending", "skipped")}
        summary = ", ".join(f"{number} {outcome}" for outcome, number in count.items())
        print(f"{summary}; {time.monotonic() - begun:.0f} s")
        if count["failed"]:
            return 1
        return 0 if count["passed"] or count["pending"] else SKIPPED

    def _one(self, agent, name):
        case = CASES[name]
        begun = time.monotonic()
        missing = [need for need in case["needs"] if need not in self.features]
        if agent in self.unavailable:
            outcome, why = "skipped", self.unavailable[agent]
        elif agent in case["slow"] and not self._is_long:
            outcome, why = "skipped", "it retries for minutes; --long runs it"
        elif missing:
            outcome, why = "pending", f"not built: {', '.join(missing)}"
        else:
            outcome, why = self._carry_out(agent, name)
        with self._lock:
            self.outcomes.append(outcome)
            print(f"{outcome:7} {agent:8} {name:12} {time.monotonic() - begun:5.1f} s  {why}".rstrip(), flush=True)

    def _carry_out(self, agent, name):
        with World(agent, name, self.features) as world:
            try:
                world.set_up()
                CASES[name]["run"](world)
            except Exception as error:  # A case that breaks has failed, and the others go on.
                world.keep = self._keep
                what = str(error) if isinstance(error, Failed) else traceback.format_exc()
                return "failed", f"{what}\n{world.evidence()}"
        return ("passed", "") if "usage" in self.features else ("pending", "all but the booked tokens and cost")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
