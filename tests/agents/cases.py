"""What must hold for each agent: one function for each case, with a world that is ready. It raises Failed if a fact does not hold."""

import json
import os
import time
from datetime import datetime, timezone

from world import LOOP, Failed

EVERY = ("claude", "codex", "opencode", "gemini", "aider")
WITH_SESSIONS = ("claude", "codex", "opencode", "gemini")
WITH_HOOKS = ("claude", "codex", "gemini")
# What these print before they are ended from outside does not include their use.
SILENT_UNTIL_THE_END = ("claude", "gemini", "aider")

READ = {"do": "read", "file": "calc.py"}
RIGHT = {"do": "edit", "file": "calc.py", "old": "    return None", "new": "    return a * a"}
WRONG = {"do": "edit", "file": "calc.py", "old": "    return None", "new": "    return a + a"}
MENDED = {"do": "edit", "file": "calc.py", "old": "    return a + a", "new": "    return a * a"}
DONE = {"do": "say", "text": "The work is complete."}
WORK = [READ, RIGHT, DONE]

CASES = {}


def case(agents=EVERY, needs=(), slow=()):
    """Registers a case for these agents. It is pending while a feature that it needs is missing; `slow` agents take minutes."""

    def register(function):
        CASES[function.__name__] = {"run": function, "agents": agents, "needs": needs, "slow": slow, "about": function.__doc__.splitlines()[0]}
        return function

    return register


def expect(holds, what):
    if not holds:
        raise Failed(what)


def expect_booked(world):
    """The usage report has the tokens and the cost that the model served, to the unit."""
    if "usage" not in world.features:
        return
    names = ("input", "cache reads", "cache writes", "output", "micro-dollars")
    booked, served = world.booked(), world.served()
    wrong = [f"{name}: {mine} booked, {theirs} served" for name, mine, theirs in zip(names, booked, served) if abs(mine - theirs) > (name == "micro-dollars")]
    expect(not wrong, "; ".join(wrong))


def expect_one_session(world):
    sessions = {session for (session,) in world.sql("SELECT session FROM runs WHERE kind = 'agent'")}
    expect(len(sessions) == 1 and None not in sessions, f"the agent's runs had the sessions {sessions}")


# The others show it in `mended` and `untidy`.
@case(agents=("aider",))
def fresh(world):
    """A test lands, in one attempt."""
    world.add_test("t-1", WORK)
    world.start_loop()
    expect(world.wait_passed("t-1") == 1, "it took more than one attempt")
    expect("return a * a" in world.landed("calc.py"), "the change has not landed")
    expect_booked(world)


@case()
def preset(world):
    """The installed version is the tested one, knows each flag of its preset, and gets its key: doctor has no other word about it."""
    found = json.loads(world.loopctl("--json", "doctor"))
    known = next(finding["agent"] for finding in found if "agent" in finding)
    expect(known["version"] == known["tested_version"], f"version {known['version']}, tested with {known['tested_version']}")
    complaints = [finding["detail"] for finding in found if finding["check"] in ("agent", "login") and finding["grade"] != "ok"]
    expect(not complaints, "; ".join(complaints))


@case(agents=WITH_SESSIONS, needs=("sessions",))
def mended(world):
    """A red gate goes back to the same session, and the test lands in one attempt."""
    # A new session would begin with the wrong edit again.
    world.add_test("t-1", [READ, WRONG, DONE, MENDED, DONE])
    world.start_loop()
    expect(world.wait_passed("t-1") == 1, "it took more than one attempt")
    expect("return a * a" in world.landed("calc.py"), "the right change has not landed")
    expect(world.model.heard("AssertionError: 6"), "the model has not received the output of the check")
    expect_one_session(world)
    expect_booked(world)


@case(agents=WITH_SESSIONS, needs=("mcp",))
def mcp(world):
    """Our tools work from inside the agent's own sandbox: it waits for a file of another loop, and works on what that has landed."""
    # What the agent edits is there only after the other loop has landed.
    edit = {"do": "edit", "file": "calc.py", "old": "    return None  # by other", "new": "    return a * a"}
    lock = {"do": "mcp", "tool": "lock", "args": {"paths": ["calc.py"], "wait_seconds": 60}}
    learn = {"do": "mcp", "tool": "learn", "args": {"content": "Squares are products.", "areas": ["calc.py"]}}
    workspace = _other_loop_holds_the_file(world)
    world.add_test("t-1", [lock, READ, edit, learn, DONE])
    world.start_loop()
    world.wait(lambda: world.sql("SELECT 1 FROM wait_graph WHERE waiter = ?", LOOP), "the agent waits for the other loop")
    text = open(f"{workspace}/calc.py").read()
    with open(f"{workspace}/calc.py", "w") as file:
        file.write(text.replace("return None", "return None  # by other"))
    world.loopctl("submit", "o-1")
    expect(world.wait_passed("t-1") == 1, "it took more than one attempt")
    expect("return a * a" in world.landed("calc.py"), "the change has not landed")
    known = world.sql("SELECT loop_id FROM knowledge WHERE content = 'Squares are products.'")
    expect(known == [(LOOP,)], f"the knowledge is recorded {len(known)} times")
    expect_booked(world)


@case(agents=WITH_HOOKS, needs=("hooks",))
def hook(world):
    """An edit of a file that another loop holds is refused before it is written, with the reason; other work lands."""
    _other_loop_holds_the_file(world)
    other = {"do": "write", "file": "square.py", "text": "def square(a):\n    return a * a\n"}
    world.add_test("t-1", [READ, RIGHT, other, DONE])
    world.start_loop()
    expect(world.wait_passed("t-1") == 1, "it took more than one attempt")
    expect("return None" in world.landed("calc.py"), "the refused edit has landed")
    expect(world.model.heard("This edit is refused"), "the model has not received the reason")
    expect_booked(world)


def _other_loop_holds_the_file(world):
    """A loop that is driven by hand holds calc.py. Returns its workspace."""
    # Work in either file is right.
    world.repository.joinpath("check.sh").write_text(
        "set -e\ntest -n \"$TEST_ID\"\ntest \"$TEST_ID\" = o-1 ||\n  python3 -B -c 'from square import square; assert square(3) == 9' 2>/dev/null ||\n"
        "  python3 -B -c 'import calc; assert calc.square(3) == 9, calc.square(3)'\n"
    )
    world.git("commit", "-qam", "the check")
    world.loopctl("sync")
    world.loopctl("loop", "add", "other")
    world.loopctl("test", "add", "o-1", "--loop", "other")
    claimed = json.loads(world.loopctl("--json", "next", "--loop", "other"))
    world.loopctl("lock", "calc.py", "--loop", "other")
    return claimed["workspace"]


CONTRADICTION = "The specification and check.sh contradict each other."


@case(agents=WITH_SESSIONS, needs=("mcp",))
def give_up(world):
    """An agent gives up over MCP, whatever its exit status is: nothing lands, and its reason is recorded."""
    give_up = {"do": "mcp", "tool": "give_up", "args": {"reason": CONTRADICTION}}
    world.add_test("t-1", [READ, RIGHT, give_up, DONE], max_attempts=1)
    world.start_loop()
    _expect_given_up(world)


@case()
def exit_3(world):
    """A program that exits with 3 after its last words has given up: nothing lands, and these are the reason."""
    # The real programs cannot choose their exit status; a program of the same name that runs them can.
    real = world.environment["PATH"]
    own = world.folder / "own"
    own.mkdir()
    own.joinpath(world.agent).write_text(f"#!/bin/sh\nPATH='{real}'\n{world.agent} \"$@\"\nexit 3\n")
    own.joinpath(world.agent).chmod(0o755)
    world.environment["PATH"] = f"{own}:{real}"
    world.add_test("t-1", [READ, RIGHT, {"do": "say", "text": CONTRADICTION}], max_attempts=1)
    world.start_loop()
    _expect_given_up(world)


def _expect_given_up(world):
    failed = world.wait(lambda: world.sql("SELECT payload FROM events WHERE event_type = 'test_failed'"), "the attempt has ended")
    failed = json.loads(failed[0][0])
    expect(failed["error_category"] == "spec", f"the category is {failed['error_category']}: {failed['error_message']}")
    expect("gave up" in failed["error_message"] and CONTRADICTION in failed["error_message"], f"the reason is {failed['error_message']!r}")
    expect(not world.sql("SELECT 1 FROM events WHERE event_type = 'test_passed'"), "the work has landed")
    world.wait(lambda: not world.agent_processes(), "the agent has ended", 20)
    expect_booked(world)


# OpenCode waits for the reset by itself and prints nothing.
@case(agents=("claude", "codex", "gemini", "aider"), slow=("aider",))
def limit(world):
    """A usage limit costs no attempt; all loops of the agent rest, until the reset where the agent prints it."""
    kind = {"codex": {"kind": "plan"}, "aider": {"kind": "quota"}}.get(world.agent, {})
    world.add_test("t-1", [{"do": "http", "status": 429, "times": 999, "reset": 3600, **kind}, *WORK])
    begun = time.time()
    world.start_loop()
    subject, _, until = world.wait_held("limit", 150)
    expect(subject.startswith("agent:"), f"{subject} rests, and not every loop with that agent")
    rest = datetime.fromisoformat(until).replace(tzinfo=timezone.utc).timestamp() - begun
    if world.agent in ("codex", "gemini"):
        # Codex prints minutes.
        expect(3500 < rest < 3700, f"it rests for {rest:.0f} s and not until the reset")
    else:
        expect(rest > 30, f"it rests for {rest:.0f} s only")
    _expect_given_back(world)
    expect_booked(world)


@case(slow=("opencode", "aider"))
def outage(world):
    """A service that stays overloaded costs no attempt; the loop tries again later."""
    world.add_test("t-1", [{"do": "http", "status": 529, "times": 999}, *WORK])
    world.start_loop()
    _, _, until = world.wait_held("outage", 200)
    expect(until, "the loop does not try again by itself")
    _expect_given_back(world)
    expect_booked(world)


@case()
def bad_key(world):
    """A refused key costs no attempt; every loop of the agent stops until the human has answered."""
    world.add_test("t-1", [{"do": "http", "status": 401, "times": 999}, *WORK])
    world.start_loop()
    subject, reason, until = world.wait_held("human", 120)
    expect(not until, "the loop goes on without an answer")
    expect(subject.startswith("agent:"), f"{subject} stops, and not every loop with that agent")
    expect(len(world.questions()) == 1, f"the human is asked {len(world.questions())} questions")
    expect("key" in reason.lower() or "401" in reason, f"the reason does not name the key: {reason}")
    _expect_given_back(world)
    expect_booked(world)


def _expect_given_back(world):
    state = world.sql("SELECT status, attempts FROM tests WHERE id = 't-1'")
    expect(state == [("pending", 0)], f"the test is {state}")


@case()
def context(world):
    """A prompt that is too long for the model counts as an attempt, with the reason in words."""
    world.add_test("t-1", [{"do": "http", "status": 400, "times": 999, "attempt": 1}, *WORK])
    world.start_loop()
    expect(world.wait_passed("t-1") == 2, "the first attempt does not count, or more than one failed")
    ((failure,),) = world.sql("SELECT payload FROM events WHERE event_type = 'test_failed'")
    failure = json.loads(failure)
    words = failure["error_message"].lower()
    expect(failure["error_category"] == "code", f"the category is {failure['error_category']}")
    expect(any(word in words for word in ("too long", "context", "token limit", "token count", "tokens")), f"the reason is {words!r}")
    expect_booked(world)


@case(agents=WITH_SESSIONS)
def untidy(world):
    """An agent commits by itself on a branch of its own and leaves a server behind: its files land, and no process is left."""
    commands = "git checkout -q -b mine && git add -A && git commit -q -m mine; (exec -a left-behind sleep 600) >/dev/null 2>&1 &"
    world.add_test("t-1", [READ, RIGHT, {"do": "bash", "command": commands}, DONE])
    world.start_loop()
    expect(world.wait_passed("t-1") == 1, "it took more than one attempt")
    expect("return a * a" in world.landed("calc.py"), "the change has not landed")
    branches = world.git("for-each-ref", "--format=%(refname:short)", "refs/heads")
    expect("mine" not in branches.splitlines(), "the agent's branch is in the repository")
    world.wait(lambda: not world.agent_processes(), "no process of the agent is left", 20)
    expect_booked(world)


@case(agents=WITH_SESSIONS)
def interrupted(world):
    """A loop that is killed or paused leaves no agent behind; started again or resumed, it goes on with the work and the session."""
    pause = {"do": "hold", "name": "pause"}
    # Twice: some agents count an interrupted answer as one, and are a step further.
    world.add_test("t-1", [READ, RIGHT, {"do": "hold", "name": "kill"}, pause, READ, pause, DONE])
    world.start("heartbeat")
    loop = world.start_loop()
    world.model.wait_reached("kill")
    ((pid,),) = world.sql("SELECT pid FROM loops WHERE id = ?", LOOP)
    os.kill(pid, 9)
    loop.wait(20)
    world.wait(lambda: not world.agent_processes(), "the agent has ended")
    world.model.abandon("kill")
    world.start_loop()
    world.model.wait_reached("pause")
    world.loopctl("pause", LOOP)
    world.wait(lambda: world.sql("SELECT 1 FROM loops WHERE id = ? AND status = 'paused'", LOOP), "the loop is paused")
    world.wait(lambda: not world.agent_processes(), "the agent has ended")
    world.model.abandon("pause")
    world.loopctl("resume", LOOP)
    expect(world.wait_passed("t-1") == 1, "an interruption has cost an attempt")
    expect("return a * a" in world.landed("calc.py"), "the change has not landed")
    if "sessions" in world.features:
        expect_one_session(world)
    if "usage" in world.features and world.agent in SILENT_UNTIL_THE_END:
        expect(all(mine <= theirs for mine, theirs in zip(world.booked(), world.served())), f"booked {world.booked()}, served {world.served()}")
    else:
        expect_booked(world)
