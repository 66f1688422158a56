"""Installs the real agent programs, by pinned version, into a cache folder outside the repository."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

# name: (package, version, program)
PINNED = {
    "claude": ("@anthropic-ai/claude-code", "2.1.332", "claude"),
    "codex": ("@openai/codex", "0.171.0", "codex"),
    "opencode": ("opencode-ai", "1.18.33", "opencode"),
    "gemini": ("@google/gemini-cli", "0.61.0", "gemini"),
    "aider": ("aider-chat", "0.86.2", "aider"),
}
INSTALL_SECONDS = 900


class Unavailable(Exception):
    """The program cannot be had here; the text says why."""


def cache_folder():
    """The cache that all checkouts on this machine share."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "coding-loops-agents"


def installed(agent):
    """The folder of `agent`'s program, installed now if the cache does not have this version complete.

    Raises Unavailable if a tool or the registry is missing.
    """
    package, version, program = PINNED[agent]
    folder = cache_folder() / f"{agent}-{version}"
    if _is_complete(folder):
        return folder / "bin"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{agent}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
            print(f"installing {package} {version} into {folder}", file=sys.stderr)
            (_install_from_pypi if agent == "aider" else _install_from_npm)(folder, package, version)
            _check_version(folder / "bin" / program, version)
            (folder / "complete").touch()
    return folder / "bin"


def _is_complete(folder):
    # Written last: a folder without it is what an interrupted installation left.
    return (folder / "complete").exists()


def _install_from_npm(folder, package, version):
    if not shutil.which("npm"):
        raise Unavailable("npm is not installed")
    _run(["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "--loglevel=error", f"{package}@{version}"])
    (folder / "bin").symlink_to("node_modules/.bin")


def _install_from_pypi(folder, package, version):
    uv = shutil.which("uv")
    if uv:
        _run([uv, "venv", "--quiet", "--python", "3.11", folder])
        _run([uv, "pip", "install", "--quiet", "--python", folder / "bin/python", f"{package}=={version}"])
    else:
        _run([sys.executable, "-m", "venv", folder])
        _run([folder / "bin/python", "-m", "pip", "install", "--quiet", f"{package}=={version}"])


def _check_version(program, version):
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    if version not in answer.stdout:
        raise Unavailable(f"{program.name} reports {answer.stdout.strip() or answer.stderr.strip()!r} and not {version}")


def _run(command):
    command = [str(word) for word in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as slow:
        raise Unavailable(f"`{' '.join(command)}` took longer than {INSTALL_SECONDS} s") from slow
    if done.returncode:
        raise Unavailable(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-400:]}")


if __name__ == "__main__":
    for name in sys.argv[1:] or PINNED:
        print(installed(name))
