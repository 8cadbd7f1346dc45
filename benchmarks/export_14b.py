"""Export I2V-14B at true scale: time, anonymous memory and bytes written, against `cp`.

    python benchmarks/export_14b.py --work DIR        needs 48 GB of disk, 3 GiB of memory
    python benchmarks/export_14b.py --work DIR --verify --plain

Makes a checkpoint of Wan2.1-I2V-14B's real names and shapes (seeded, bf16, 32.8 GB), builds
`full`, `separate` r32 and `merged` r32, each in a process of its own, and writes
`benchmarks/results/export_14b.{json,md}`. `--verify` also builds a verified engine, `--plain` runs
a plain `torch.onnx.export` of T2V-1.3B, the largest Wan2.1 model it fits 24 GiB with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from wanexport.checkpoint import open_checkpoint
from wanexport.config import load_config
from wanexport.synthetic import checkpoint_specs, ensure_demo_checkpoint

CONFIG = "wan2.1-i2v-14b-480p"
NEEDED = 48_000_000_000
RESULTS = Path(__file__).parent / "results"
TRACE = """
from wanexport.adapter import cross_attention_targets
from wanexport.config import load_config
from wanexport.trace import GraphSpec, trace_graph
config = load_config({config!r})
ranks = dict.fromkeys(cross_attention_targets(config.architecture), 32)
trace_graph(GraphSpec(config.architecture, config.size, "bf16", ranks))
"""
PLAIN = """
import sys, torch
from wanexport.config import load_config
from wanexport.dit import make_model
from wanexport.trace import model_inputs
config = load_config("wan2.1-t2v-1.3b-480p")
torch.manual_seed(0)
model = make_model(config.architecture, config.architecture.num_layers).eval()
size = config.size.model_copy(update={"frames": 5})
shapes = model_inputs(config.architecture, size, "fp32")
inputs = {name: torch.zeros(shape) for name, (shape, _) in shapes.items()}
torch.onnx.export(model, (), sys.argv[1], kwargs={**inputs, "return_dict": False}, dynamo=True)
"""


def main() -> None:
    arguments = _arguments()
    config = load_config(CONFIG)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint"
    free = shutil.disk_usage(work).free + (_disk_bytes(checkpoint) if checkpoint.exists() else 0)
    if free < NEEDED:
        sys.exit(f"skipped: {work} has {free / 1e9:.0f} GB, this needs {NEEDED / 1e9:.0f} GB")
    results: dict[str, object] = {"machine": _machine()}
    total = sum(spec.nbytes for spec in checkpoint_specs(config.architecture, "bf16"))
    start = time.perf_counter()
    made = ensure_demo_checkpoint(checkpoint, config.architecture, "bf16", 0)
    results["checkpoint"] = {
        "bytes": total,
        "tensors": len(open_checkpoint(str(checkpoint), config.architecture).tensors),
        "made_s": time.perf_counter() - start if made else None,
    }
    results["trace"] = _run([sys.executable, "-W", "ignore", "-c", TRACE.format(config=CONFIG)])
    results["hash"] = _run([sys.executable, "-c", _hash_code(checkpoint)])
    out = work / "engines"
    shutil.rmtree(out, ignore_errors=True)
    for mode in ("full", "separate", "merged"):
        _forget(*checkpoint.glob("*.safetensors"))  # both merge and cp read from the disk
        results[mode] = _build(out, checkpoint, mode, verify=False)
    results["cp"] = _copy(next(out.glob("*-merged-r32*")) / "weights" / "merged.safetensors")
    if arguments.verify:
        results["verified"] = _build(out, checkpoint, "separate", verify=True)
    if arguments.plain:
        plain = work / "plain"
        plain.mkdir(exist_ok=True)
        command = [sys.executable, "-W", "ignore", "-c", PLAIN, str(plain / "model.onnx")]
        results["plain"] = _run(command)
        shutil.rmtree(plain)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "export_14b.json").write_text(json.dumps(results, indent=1) + "\n")
    text = _table(results)
    (RESULTS / "export_14b.md").write_text(text)
    print(text)
    if not arguments.keep:
        shutil.rmtree(work)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Export I2V-14B at true scale.")
    parser.add_argument("--work", type=Path, required=True, help="a folder with 48 GB of room")
    parser.add_argument("--verify", action="store_true", help="also verify an engine (long)")
    parser.add_argument("--plain", action="store_true", help="also run a plain export (long)")
    parser.add_argument("--keep", action="store_true", help="keep checkpoint and engines")
    return parser.parse_args()


def _build(out: Path, checkpoint: Path, mode: str, *, verify: bool) -> dict[str, object]:
    command = [sys.executable, "-m", "wanexport", "build", "--config", CONFIG, "--out", str(out)]
    command += ["--base", str(checkpoint), "--mode", mode, "--dtype", "bf16", "--force"]
    command += ["--rank", "32"] if mode != "full" else []
    command += [] if verify else ["--verify", "none"]
    result = _run(command)
    (folder,) = (f for f in out.glob(f"{CONFIG}-*-{mode}*") if (f / "engine.json").is_file())
    manifest = json.loads((folder / "engine.json").read_text())
    own = [file for file in manifest["weights"] if file["storage"] == "own"]
    result["engine_written_bytes"] = (
        sum(file["bytes"] for file in own)
        + manifest["graphs"]["forward"]["bytes"]
        + (folder / "engine.json").stat().st_size
    )
    result["engine_apparent_bytes"] = sum(file["bytes"] for file in manifest["weights"])
    changed = [f["bytes"] for f in own if f["origin"] in ("merged", "adapter")]
    result["changed_bytes"] = sum(changed) + manifest["graphs"]["forward"]["bytes"]
    result["verification"] = manifest["verification"]
    return result


def _run(command: Sequence[str]) -> dict[str, object]:
    """Run a process and watch it: seconds, peak anonymous memory, bytes passed to write()."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    peak = written = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, *(_kib(line) for line in status.splitlines() if "RssAnon" in line))
            for line in Path(f"/proc/{process.pid}/io").read_text().splitlines():
                if line.startswith("wchar"):
                    written = int(line.split()[1])
        except (OSError, TypeError):
            pass  # it ended between two reads
        time.sleep(0.02)
    if process.returncode:
        sys.exit(f"{' '.join(command[:4])} failed with {process.returncode}")
    return {
        "seconds": time.perf_counter() - start,
        "peak_anonymous_bytes": peak,
        "written_bytes": written,
    }


def _kib(line: str) -> int:
    return int(line.split()[1]) * 1024


def _copy(source: Path) -> dict[str, object]:
    target = source.with_suffix(".cp")
    _forget(source)
    result = _run(["cp", "--reflink=never", str(source), str(target)])
    result["bytes"] = target.stat().st_size
    target.unlink()
    return result


def _forget(*paths: Path) -> None:
    """Drop files from the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _hash_code(checkpoint: Path) -> str:
    return (
        "from pathlib import Path; from wanexport.hashing import sha256_file\n"
        f"for p in sorted(Path({str(checkpoint)!r}).glob('*.safetensors')): sha256_file(p)"
    )


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _machine() -> dict[str, object]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    packages = ("torch", "diffusers", "onnx-ir", "onnxscript", "onnxruntime")
    return {
        "cpu": cpu[0].split(": ")[1],
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
    } | {package: metadata.version(package) for package in packages}


def _table(results: dict[str, object]) -> str:
    lines = [
        "# Exporting Wan2.1-I2V-14B (bf16, 32.8 GB, random weights)",
        "",
        "`python benchmarks/export_14b.py --work DIR` on "
        + ", ".join(f"{key} {value}" for key, value in _as_dict(results["machine"]).items()),
        "",
        "| what | seconds | peak anonymous memory | bytes written |",
        "|---|--:|--:|--:|",
    ]
    names = {
        "trace": "trace and passes alone, rank 32",
        "hash": "sha256 of the checkpoint (cached afterwards)",
        "full": "`full`, unverified",
        "separate": "`separate` r32, unverified, adapter made",
        "merged": "`merged` r32, unverified",
        "cp": "`cp` of the file that merged wrote",
        "verified": "`separate` r32, verified block by block",
        "plain": "plain `torch.onnx.export` of T2V-1.3B, fp32",
    }
    for key, name in names.items():
        if key not in results:
            continue
        row = _as_dict(results[key])
        written = row.get("engine_written_bytes", row["written_bytes"])
        assert isinstance(written, int)
        memory = row["peak_anonymous_bytes"]
        assert isinstance(memory, int)
        lines.append(
            f"| {name} | {row['seconds']:.1f} | {memory / 2**30:.2f} GiB | {written / 1e9:.3f} GB |"
        )
    return "\n".join(lines) + "\n"


def _as_dict(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


if __name__ == "__main__":
    main()
