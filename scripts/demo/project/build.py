"""Builds dist/ledger.pyz and asks it for its version."""

import pathlib
import subprocess
import sys
import tempfile
import zipapp

here = pathlib.Path(__file__).parent
target = here / "dist" / "ledger.pyz"
target.parent.mkdir(exist_ok=True)
with tempfile.TemporaryDirectory() as folder:
    package = pathlib.Path(folder) / "ledger"
    package.mkdir()
    for source in (here / "ledger").glob("*.py"):
        text = source.read_text()
        compile(text, source.name, "exec")
        (package / source.name).write_text(text)
    (pathlib.Path(folder) / "__main__.py").write_text("import ledger\nprint(ledger.VERSION)\n")
    zipapp.create_archive(folder, target)
sys.exit(subprocess.run([sys.executable, str(target)], check=False).returncode)
