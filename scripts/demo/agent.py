"""A scripted coding agent: reads its prompt, edits code in its workspace, claims success.

It knows nothing of leases, other agents or the gate. Some of its attempts are bad on purpose, as a real agent's are; a
second attempt reads the error of the first one in its prompt.
"""

import os
import pathlib
import signal
import sys
import time

TEST = os.environ["TEST_ID"]
PROMPT = sys.stdin.read()
STAGE = pathlib.Path(os.environ["DEMO_STAGE"])


def say(text):
    print(f"[{TEST}] {text}", flush=True)


def implement(path, body, old=None):
    """Replaces the stub of this test, or an earlier implementation, in one file."""
    file = pathlib.Path("ledger") / path
    text = file.read_text()
    stub = f'raise NotImplementedError("{TEST}")'
    wanted = old if old and old in text else stub
    if wanted not in text:
        say(f"{file} has it already")
        return
    line = next(line for line in text.splitlines() if wanted.splitlines()[0] in line)
    indent = line[: len(line) - len(line.lstrip())]
    lines = body.splitlines()
    replacement = "\n".join([lines[0]] + [indent + line if line else line for line in lines[1:]])
    file.write_text(text.replace(wanted, replacement))
    say(f"changed {file}")


def think(seconds=0.4):
    time.sleep(seconds)


def alive(other):
    """True while the agent of another test is at work."""
    try:
        os.kill(int((STAGE / other).read_text()), 0)
        return True
    except (OSError, ValueError):
        return False


def happened(what):
    """True once the stage manager has seen it happen."""
    return (STAGE / what).exists()


def wait(seconds, until):
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(0.05)


def meet(other, what):
    """Works until the other agent is in the middle of its own test, as happens when two work at once."""
    (STAGE / TEST).write_text(str(os.getpid()))
    wait(45, lambda: alive(other) or happened(what))


def linger(other, what):
    """Works on until it has happened. If the other one dies before, this one crashes too: both come back and meet again."""
    wait(30, lambda: happened(what) or not alive(other))
    if not happened(what) and not alive(other):
        say("crashing")
        os.kill(os.getpid(), signal.SIGKILL)


def core_1_parse():
    implement(
        "money.py",
        'sign = -1 if text.startswith("-") else 1\n'
        'whole, point, cents = text.lstrip("-").partition(".")\n'
        'if not (point and whole.isdigit() and cents.isdigit() and len(cents) == 2):\n'
        '    raise ValueError(f"{text!r} is no amount")\n'
        "return sign * (int(whole) * 100 + int(cents))",
    )


def core_2_show():
    if not happened("agent-was-killed"):
        say("thinking for long")
        wait(20, lambda: happened("agent-was-killed"))
    implement("money.py", 'sign = "-" if cents < 0 else ""\nreturn f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02}"')


def core_3_split():
    wrong = "return [cents // ways] * ways"
    if "check acceptance failed" not in PROMPT:
        implement("money.py", wrong)
        say("all tests pass, done")
        return
    implement("money.py", "share, rest = divmod(cents, ways)\nreturn [share + (at < rest) for at in range(ways)]", wrong)


def core_4_rename():
    implement("account.py", 'if not name:\n    raise ValueError("an account needs a name")\nself.name = name')
    meet("store-3-transfer", "deadlock")
    think(1.0)
    implement("journal.py", 'self.entries.append(("rename", f"{old} is now {new}"))')
    linger("store-3-transfer", "deadlock")


def core_5_total():
    implement("report.py", "return sum(account.balance for account in accounts)")
    meet("report-2-table", "conflict")
    linger("report-2-table", "conflict")
    think(2.0)


def store_1_deposit():
    implement("account.py", 'if cents <= 0:\n    raise ValueError("not a deposit")\nself.balance += cents')


def store_2_withdraw():
    if not happened("loop-was-killed"):
        say("thinking for long")
        wait(20, lambda: happened("loop-was-killed"))
    implement(
        "account.py",
        'if not 0 < cents <= self.balance:\n    raise ValueError("not that much is there")\nself.balance -= cents',
    )


def store_3_transfer():
    implement("journal.py", 'self.entries.append(("transfer", f"{cents} from {source} to {target}"))')
    meet("core-4-rename", "deadlock")
    think(1.0)
    implement("account.py", "return 0 < cents <= self.balance")
    linger("core-4-rename", "deadlock")


def store_4_interest():
    implement("money.py", "return (cents * percent + 50) // 100")
    money = pathlib.Path("ledger/money.py")
    text = money.read_text()
    tidy, grouped = "{abs(cents) // 100}", "{abs(cents) // 100:,}"
    if "regress" in PROMPT.lower():
        money.write_text(text.replace(grouped, tidy))
        say("put the form of amounts back as it was")
    else:
        money.write_text(text.replace(tidy, grouped))
        say("made large amounts easier to read, too")


def report_1_line():
    implement("report.py", "from ledger import money\n\nreturn name + money.show(cents).rjust(30 - len(name))")


def report_2_table():
    implement(
        "report.py",
        'rows = sorted(accounts, key=lambda account: account.name)\n'
        'return "\\n".join(f"{account.name} {account.balance}" for account in rows)',
    )
    meet("core-5-total", "conflict")
    linger("core-5-total", "conflict")
    think(2.0)


def report_3_csv():
    implement(
        "report.py",
        'rows = sorted(accounts, key=lambda account: account.name)\n'
        'return "name,cents\\n" + "".join(f"{account.name},{account.balance}\\n" for account in rows)',
    )


def report_4_perpetual():
    say("cannot see how a list of different balances can rise and fall at once")
    sys.exit(1)


say("reading the task")
think()
globals()[TEST.replace("-", "_")]()
think()
say("done")
