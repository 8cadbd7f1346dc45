"""pytest finds every test file, whatever its folder is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEN = """
def pytest_collect_file(file_path):
    print("saw", file_path)
"""


def test_every_test_file_is_collected(tmp_path: Path) -> None:
    (tmp_path / "seen.py").write_text(SEEN)
    argv = (sys.executable, "-m", "pytest", "--collect-only", "--capture=no", "-p", "seen",
            "-p", "no:python", "-p", "no:cacheprovider")  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    said = [line.partition(" ")[2] for line in done.stdout.splitlines() if line.startswith("saw ")]
    seen = {Path(path) for path in said if Path(path).name.startswith("test_")}
    assert seen == set((ROOT / "tests").rglob("test_*.py")), done.stdout + done.stderr
