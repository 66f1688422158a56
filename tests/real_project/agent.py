"""A scripted agent: puts what was prepared for its test and attempt into its worktree, and claims success."""

import os
import pathlib
import shutil
import sys

TASK, ATTEMPT = os.environ["TEST_ID"], os.environ["ATTEMPT"]
prepared = pathlib.Path(sys.argv[1], TASK)
sys.stdin.read()
if (prepared / "file").exists():
    file = pathlib.Path((prepared / "file").read_text())
    good, bad = (prepared / "good").read_text(), (prepared / "bad").read_text()
    text = file.read_text()
    # Asked again, it mends what it has broken.
    old, new = (bad, good) if bad in text else (good, bad)
    assert old in text, f"{file} has neither"
    file.write_text(text.replace(old, new))
else:
    attempt = prepared / ATTEMPT
    shutil.copytree(attempt if attempt.exists() else prepared / "good", ".", dirs_exist_ok=True)
