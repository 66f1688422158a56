"""A scripted agent: puts what was prepared for its test and attempt into its worktree, and claims success."""

import os
import pathlib
import shutil
import sys

TASK, ATTEMPT = os.environ["TEST_ID"], os.environ["ATTEMPT"]
prepared = pathlib.Path(sys.argv[1], TASK)
prompt = sys.stdin.read()
if (prepared / "file").exists():
    file = pathlib.Path((prepared / "file").read_text())
    good, bad = (prepared / "good").read_text(), (prepared / "bad").read_text()
    text = file.read_text()
    if "Error of the previous attempt:" in prompt:
        # Told what it broke, it does it in a way that breaks nothing.
        sign = "#" if file.suffix == ".toml" else "//"
        text = text.replace(bad, good) + f"{sign} {TASK}, done with care\n"
    else:
        assert good in text, f"{file} has it no more"
        text = text.replace(good, bad)
    file.write_text(text)
else:
    attempt = prepared / ATTEMPT
    shutil.copytree(attempt if attempt.exists() else prepared / "good", ".", dirs_exist_ok=True)
