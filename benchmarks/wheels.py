"""Carry wheels to a machine without a network, in pieces that small channels take.

    python benchmarks/wheels.py split WHEELS PIECES --megabytes 60
    python benchmarks/wheels.py install PIECES

`split` copies the wheels of a folder, the large ones in numbered pieces. `install` puts them
together again and installs them beside what is there, without asking an index or touching the torch
that the machine has. Needs Python and pip alone.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PIECE = re.compile(r"(?P<wheel>.+\.whl)\.(?P<number>\d{3})-of-(?P<count>\d{3})")
BLOCK = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    splitting = commands.add_parser("split", help="copy wheels, the large ones in pieces")
    splitting.add_argument("wheels", type=Path)
    splitting.add_argument("pieces", type=Path)
    splitting.add_argument("--megabytes", type=int, default=60, help="of a piece, at most")
    installing = commands.add_parser("install", help="put pieces together and install the wheels")
    installing.add_argument("pieces", type=Path)
    installing.add_argument("--target", type=Path, help="a folder for PYTHONPATH instead")
    asked = parser.parse_args()
    if asked.command == "split":
        split(asked.wheels, asked.pieces, asked.megabytes * 1_000_000)
    else:
        install(asked.pieces, asked.target)


def split(wheels: Path, pieces: Path, size: int) -> None:
    """Copy every wheel of a folder, in pieces if it is larger than `size` bytes."""
    pieces.mkdir(parents=True, exist_ok=True)
    for wheel in sorted(wheels.glob("*.whl")):
        count = -(-wheel.stat().st_size // size)
        if count == 1:
            shutil.copy(wheel, pieces)
            continue
        with wheel.open("rb") as source:
            for number in range(1, count + 1):
                name = f"{wheel.name}.{number:03}-of-{count:03}"
                (pieces / name).write_bytes(source.read(size))


def join(pieces: Path, into: Path) -> list[Path]:
    """Put together the wheels of a folder of pieces, and return them and the whole ones."""
    found: dict[str, dict[int, Path]] = {}
    counts: dict[str, int] = {}
    for path in sorted(pieces.iterdir()):
        if piece := PIECE.fullmatch(path.name):
            found.setdefault(piece["wheel"], {})[int(piece["number"])] = path
            counts[piece["wheel"]] = int(piece["count"])
    for wheel, parts in found.items():
        missing = set(range(1, counts[wheel] + 1)) - set(parts)
        if missing:
            sys.exit(f"error: {pieces}: of {wheel} the pieces {sorted(missing)} are missing")
        with (into / wheel).open("wb") as whole:
            for _, part in sorted(parts.items()):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, whole, BLOCK)
    return [*sorted(pieces.glob("*.whl")), *sorted(into.glob("*.whl"))]


def install(pieces: Path, target: Path | None) -> None:
    """Install the wheels, replacing other versions of the same packages."""
    with tempfile.TemporaryDirectory() as folder:
        wheels = join(pieces, Path(folder))
        if not wheels:
            sys.exit(f"error: there are no wheels in {pieces}")
        if target is None and any(w.name.startswith("onnxruntime_gpu-") for w in wheels):
            # both install the same files; the CPU's would hide the GPU's
            subprocess.run([*PIP, "uninstall", "-q", "-y", "onnxruntime"], check=True)
        flags = ["-q", "--no-index", "--no-deps", "--no-compile", "--force-reinstall"]
        where = [] if target is None else ["--target", str(target), "--upgrade"]
        done = subprocess.run([*PIP, "install", *flags, *where, *map(str, wheels)])
        sys.exit(done.returncode)


PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]

if __name__ == "__main__":
    main()
