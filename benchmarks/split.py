"""What splitting off the context is worth on a CPU: time of a forward, and peak memory.

    python benchmarks/split.py [--width 832 --height 480 --frames 9] [--layers 4] [--rounds 7]

Builds a full engine of I2V with 12 heads (1536 wide) as one graph and as two, random weights, and
loads each in a process of its own: as one graph; split, with the context graph kept; split, with it
released after use. Their forwards are timed in turn, round by round. Writes
`benchmarks/results/split.{json,md}`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from wanexport.build.recipe import build_engines
from wanexport.build.request import BuildRequest
from wanexport.model.config import Architecture, Config, Size
from wanrt.machine.describe import describe_machine
from wanrt.terminal.progress import Reporter
from wanrt.terminal.units import show_bytes

RESULTS = Path(__file__).parent / "results"
KINDS = {"one graph": True, "split, context kept": True, "split, context released": False}
CHILD = """
import sys
from pathlib import Path
from wanrt.backends.load import load_engine
from wanrt.engine.inputs import make_inputs
folder, keep = Path(sys.argv[1]), sys.argv[2] == "True"
split = folder.name.endswith("-split")
engine = load_engine(folder, keep_context=keep if split else None)
manifest = engine.manifest
(workload,) = manifest.workloads.values()
given = make_inputs(manifest, workload, 0)
def anonymous(field):
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[field].split()[0]) << 10
engine.bind(**given)
engine.time_forward()
for line in sys.stdin:
    if line.strip() == "time":
        print(engine.time_forward(), flush=True)
    else:
        print(anonymous("RssAnon"), engine.context_s or 0, flush=True)
"""


def main() -> None:
    arguments = _arguments()
    arch = Architecture(
        num_layers=arguments.layers, num_attention_heads=12, ffn_dim=8960, in_channels=36,
        image_dim=1280, added_kv_proj_dim=1536,
    )  # fmt: skip
    size = Size(width=arguments.width, height=arguments.height, frames=arguments.frames)
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        folders = {split: _build(Path(work), arch, size, split=split) for split in (False, True)}
        rows = _race(folders, arguments.rounds)
    machine = describe_machine("cpu", None, rivals=False)
    found = {
        "machine": machine.headline, "python": platform.python_version(),
        "size": size.name, "tokens": size.tokens, "layers": arguments.layers, "rows": rows,
    }  # fmt: skip
    (RESULTS / "split.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "split.md").write_text(_show(found, rows))
    print(_show(found, rows))


def _build(work: Path, arch: Architecture, size: Size, *, split: bool) -> Path:
    config = Config(name="i2v", dtype="fp32", architecture=arch, size=size)
    request = BuildRequest(config=config, modes=("full",), out=work, verify=False, split=split)
    return build_engines(request, Reporter())[0].path


def _race(folders: dict[bool, Path], rounds: int) -> dict[str, dict[str, float]]:
    children = {
        kind: subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folders[kind != "one graph"]), str(keep)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for kind, keep in KINDS.items()
    }  # fmt: skip
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    order = list(KINDS)
    for _ in range(rounds):
        for kind in order:
            times[kind].append(float(_ask(children[kind], "time")))
        order.reverse()
    rows = {}
    for kind, child in children.items():
        held, context_s = _ask(child, "memory").split()
        ratios = [a / b for a, b in zip(times[kind], times["one graph"], strict=True)]
        rows[kind] = {
            "forward_s": statistics.median(times[kind]),
            "to_one_graph": statistics.median(ratios),
            "memory_bytes": int(held),
            "context_s": float(context_s),
        }
        child.communicate()
    return rows


def _ask(child: subprocess.Popen[str], request: str) -> str:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{request}\n")
    child.stdin.flush()
    return child.stdout.readline()


def _show(found: dict[str, object], rows: dict[str, dict[str, float]]) -> str:
    lines = [
        "# Splitting off the context",
        "",
        f"`python benchmarks/split.py`: {found['layers']} layers of width 1536 with image "
        f"cross-attention, {found['size']}, {found['tokens']} tokens, fp32; "
        f"{', '.join(map(str, found['machine']))}. R: random weights.",  # type: ignore[call-overload]
        "",
        "| engine | forward | to one graph | context | memory |",
        "|---|--:|--:|--:|--:|",
    ]
    for kind, row in rows.items():
        context = f"{row['context_s'] * 1e3:.0f} ms" if row["context_s"] else ""
        lines.append(
            f"| {kind} R | {row['forward_s'] * 1e3:.0f} ms | {row['to_one_graph']:.3f} "
            f"| {context} | {show_bytes(int(row['memory_bytes']))} |"
        )
    lines += [
        "",
        "forward: median of rounds in turn; to one graph: median of the ratios within a round;",
        "context: once per prompt, with loading its graph; memory: anonymous, after all forwards.",
    ]
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")))
    return parser.parse_args()


if __name__ == "__main__":
    main()
