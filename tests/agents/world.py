"""A repository with coding-loops and one agent program, which reaches the scripted model only; and facts to wait for."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

import agents
import install
from scripted_model import ScriptedModel

LOOP = "loop-1"
# Claude Code refuses the superuser.
AS_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
PROJECT = Path(__file__).resolve().parents[2]
FILES = {
    "calc.py": "def add(a, b):\n    return a + b\n\n\ndef square(a):\n    return None\n",
    "check.sh": "set -e\ntest -n \"$TEST_ID\"\npython3 -B -c 'import calc; assert calc.square(3) == 9, calc.square(3)'\n",
}


class Failed(Exception):
    """A fact that did not hold."""


def binaries():
    """The folder of the built programs."""
    return Path(os.environ.get("CODING_LOOPS_BIN") or PROJECT / "target/debug").resolve()


def refusal(agent):
    """Why this agent cannot run here, although it is installed; or None."""
    if agent == "claude" and os.geteuid() == 0:
        try:
            subprocess.run([*AS_USER, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return "it refuses the superuser, and no user namespace can be made here"
    return None


def features():
    """What the built programs can do, of what some cases need."""
    loopctl = binaries() / "loopctl"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        project = Path(folder) / "project"
        subprocess.run(["git", "init", "-q", project], check=True)
        subprocess.run([loopctl, "init"], cwd=project, check=True, capture_output=True)
        settings = (project / "coding-loops/config.toml").read_text()
    names = {"sessions": "fix_rounds" in settings, "usage": "usd_per_day" in settings}
    for name, command in (("mcp", "mcp"), ("hooks", "hook")):
        names[name] = subprocess.run([loopctl, command, "--help"], capture_output=True).returncode == 0
    return {name for name, is_there in names.items() if is_there}


class World:
    """A context manager. What it has started is ended, and its folder removed unless it has to be kept."""

    def __init__(self, agent, name, features, keep=False):
        self.agent, self.features, self.keep = agent, features, keep
        # Codex works without its sandbox below /tmp, and lets commands write there.
        self.folder = Path(tempfile.mkdtemp(prefix=f"coding-loops-{agent}-{name}-", dir="/var/tmp"))
        self.home, self.repository = self.folder / "home", self.folder / "project"
        self._started, self._database = [], None
        self.model = ScriptedModel()
        self.url = self.model.url
        program = install.installed(agent)
        path = f"{binaries()}:{program}:/usr/local/bin:/usr/bin:/bin"
        self.environment = {"PATH": path, "HOME": str(self.home), "USER": "dev", "LANG": "C.UTF-8", "TERM": "dumb"}
        self.home.mkdir()

    def __enter__(self):
        self.model.__enter__()
        return self

    def __exit__(self, *_):
        for process in reversed(self._started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in reversed(self._started):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        self.model.__exit__()
        if self._database is not None:
            self._database.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def set_up(self):
        """Makes the repository, its settings and one loop."""
        for name, text in FILES.items():
            (self.repository / name).parent.mkdir(parents=True, exist_ok=True)
            (self.repository / name).write_text(text)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Dev")
        self.git("config", "user.email", "dev@example.com")
        self.git("add", ".")
        self.git("commit", "-qm", "start")
        settings = agents.prepare(self.agent, self.home, self.url)
        self.environment |= settings
        self.loopctl("init", "--agent", self.agent)
        self._configure(settings)
        self.loopctl("loop", "add", LOOP)

    def _configure(self, settings):
        config = self.repository / "coding-loops/config.toml"
        text = config.read_text()
        text = re.sub(r"^set = \{\}", f"set = {_inline_table(settings)}", text, count=1, flags=re.M)
        text += '\n[[gate.check]]\nname = "square"\ncommand = ["sh", "check.sh"]\n'
        if "[price]" in text and self.agent in agents.PRICES:
            # Codex does not print its model.
            name = self.agent if self.agent == "codex" else agents.MODELS[self.agent]
            text += f'\n[price."{name}"]\n' + "".join(f"{kind} = {price}\n" for kind, price in agents.PRICES[self.agent].items())
        config.write_text(text)

    # ---- commands

    def _command(self, words):
        return [*AS_USER, *words] if self.agent == "claude" and os.geteuid() == 0 else words

    def git(self, *arguments):
        done = subprocess.run(["git", "-C", self.repository, *arguments], capture_output=True, text=True, env=self.environment, check=True)
        return done.stdout.strip()

    def loopctl(self, *arguments, input=None):
        command = self._command([str(binaries() / "loopctl"), *arguments])
        done = subprocess.run(command, cwd=self.repository, env=self.environment, input=input, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise Failed(f"loopctl {' '.join(arguments)}: exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout

    def start(self, program, *arguments):
        """Starts one of the programs; its log is in the world's folder."""
        log = open(self.folder / f"{program}.log", "a")
        command = self._command([str(binaries() / program), *arguments])
        process = subprocess.Popen(command, cwd=self.repository, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self._started.append(process)
        return process

    def start_loop(self):
        return self.start("coding-loop", LOOP)

    def add_test(self, test, steps, **fields):
        """Queues a test whose specification is the model's script."""
        script = "".join(f"SCRIPT: {json.dumps(step)}\n" for step in steps)
        row = {"id": test, "loop": LOOP, "spec": f"Make square() of calc.py right.\n{script}", **fields}
        self.loopctl("test", "import", "-", input=json.dumps(row))

    # ---- facts

    def sql(self, query, *values):
        """Rows of the database, read only."""
        if self._database is None:
            # Once: to read the schema takes longer than most queries.
            self._database = sqlite3.connect(f"file:{self.repository}/coding-loops/coordination.db?mode=ro", uri=True, timeout=10)
        return self._database.execute(query, values).fetchall()

    def wait(self, fact, what, seconds=240):
        """Waits until `fact()` is true, and returns it."""
        end = time.monotonic() + seconds
        while not (value := fact()):
            if time.monotonic() > end:
                raise Failed(f"not within {seconds} s: {what}")
            time.sleep(0.1)
        return value

    def questions(self):
        """The open questions to the human."""
        return [summary for (summary,) in self.sql("SELECT summary FROM decisions WHERE status = 'pending'")]

    def wait_held(self, kind, seconds):
        """Waits until no attempt starts, for a reason of this kind. Returns whom it holds, the reason, and until when."""

        def held():
            self.expect_hope("t-1")
            return self.sql("SELECT subject, reason, until FROM holds WHERE kind = ?", kind)

        return self.wait(held, f"no attempt starts: {kind}", seconds)[0]

    def expect_hope(self, test):
        ((status, attempts, error),) = self.sql("SELECT status, attempts, last_error FROM tests WHERE id = ?", test)
        if status in ("failed", "blocked", "skipped"):
            raise Failed(f"{test} is {status} after {attempts} attempts: {error}")

    def wait_passed(self, test, seconds=300):
        """Waits until the test has landed, and fails at once if it never will. Returns its attempts."""

        def ended():
            self.expect_hope(test)
            held = self.sql("SELECT kind, reason FROM holds")
            if held:
                raise Failed(f"no attempt starts: {held}")
            if questions := self.questions():
                raise Failed(f"it asks the human: {questions[0]}")
            ((status, attempts),) = self.sql("SELECT status, attempts FROM tests WHERE id = ?", test)
            return status == "passed" and attempts

        return self.wait(ended, f"{test} has landed", seconds)

    def landed(self, file):
        """The text of a file as it has landed."""
        return self.git("show", f"coding-loops/integration:{file}")

    def booked(self):
        """The tokens and the cost in the usage report, summed over its rows."""
        rows = json.loads(self.loopctl("--json", "usage", "report"))
        names = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "cost_microusd")
        return tuple(sum(row.get(name) or 0 for row in rows) for name in names)

    def served(self):
        """The same numbers as the model has served them, and as the agent's prices make them."""
        tokens = self.model.served() + self.model.served(helper=True)
        counted = (tokens.input, tokens.cache_read, tokens.cache_write, tokens.output)
        cost = sum(count * price for count, price in zip(counted, agents.price_of(self.agent)))
        if self.agent == "aider":
            # It does not distinguish what came from the cache.
            counted = (tokens.prompt, 0, tokens.cache_write, tokens.output)
        return (*counted, round(cost))

    def agent_processes(self):
        """The processes that work in this world's workspaces."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "cwd").startswith(f"{self.folder}/project-loops/loops/"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def evidence(self):
        """What helps to understand a failure."""
        logs = sorted((self.repository / "coding-loops/logs").rglob("*.log")) if (self.repository / "coding-loops/logs").exists() else []
        parts = [f"folder: {self.folder}", *(f"model: {line}" for line in self.model.log[-6:])]
        for log in [*sorted(self.folder.glob("*.log")), *logs[-1:]]:
            parts += [f"{log.name}: {line[:300]}" for line in log.read_text(errors="replace").splitlines()[-6:]]
        return "\n".join("    " + part for part in parts)


def _inline_table(settings):
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in settings.items()) + " }"
