"""Export I2V-14B at true scale: time, anonymous memory and bytes written, against `cp`.

    python benchmarks/export_14b.py --work DIR        needs 48 GB of disk, 3 GiB of memory
    python benchmarks/export_14b.py --work DIR --only verified plain      the long ones, 20 minutes

Makes a checkpoint of Wan2.1-I2V-14B's real names and shapes (seeded, bf16, 32.8 GB), builds
`full`, `separate` r32 and `merged` r32 (this one alternating with `cp` of as many bytes, three
times), each in a process of its own, and writes
`benchmarks/results/export_14b.{json,md}`. `verified` builds `separate` r32 again and compares it
with diffusers' model; `plain` is a plain `torch.onnx.export` of T2V-1.3B, the largest Wan2.1 model
that it fits 24 GiB with. With `--only`, the other rows of the results stay as they were. What
reading and decoding a quantised checkpoint takes is `decoding.py`'s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import IO

import onnx

from wanexport.checkpoint.random_weights import checkpoint_specs, ensure_demo_checkpoint
from wanexport.model.config import load_config
from wanexport.tensorrt.protocol import BuilderJob
from wanrt.manifest.read import read_manifest

CONFIG = "wan2.1-i2v-14b-480p"
NEEDED = 48_000_000_000
PAIRS = 3
RESULTS = Path(__file__).parent / "results"
TRACE = """
from wanexport.lora.targets import select_modules
import onnx

from wanexport.model.config import load_config
from wanexport.graph.trace import GraphSpec, trace_graph
config = load_config({config!r})
ranks = dict.fromkeys(select_modules(config.architecture, "cross-attention"), 32)
trace_graph(GraphSpec(config.architecture, config.size, "bf16", ranks))
"""
PLAIN = """
import sys, torch
import onnx

from wanexport.model.config import load_config
from wanexport.graph.dit import make_model
from wanexport.graph.trace import model_inputs
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
    specs = checkpoint_specs(config.architecture, "bf16")
    ensure_demo_checkpoint(checkpoint, config.architecture, "bf16", 0)
    results = _earlier_results() if arguments.only else {}
    results["machine"] = _machine()
    results["checkpoint"] = {"bytes": sum(spec.nbytes for spec in specs), "tensors": len(specs)}
    for name in arguments.only or QUICK:
        results[name] = MEASURES[name](work)
        _save(results)
    print(_table(results))
    if not arguments.keep:
        shutil.rmtree(work)


def _trace(_: Path) -> dict[str, object]:
    return _run([sys.executable, "-W", "ignore", "-c", TRACE.format(config=CONFIG)])


def _hash(work: Path) -> dict[str, object]:
    _forget(*(work / "checkpoint").glob("*.safetensors"))
    code = (
        "from pathlib import Path; from wanexport.storage.hashes import sha256_file\n"
        f"for p in sorted(Path({str(work / 'checkpoint')!r}).glob('*.safetensors')): sha256_file(p)"
    )
    shutil.rmtree(work / "empty-cache", ignore_errors=True)
    return _run([sys.executable, "-c", code], XDG_CACHE_HOME=str(work / "empty-cache"))


def _merged(work: Path) -> dict[str, object]:
    """Alternate `merged` and `cp`, since a disk's speed changes; keep the median of the ratios."""
    pairs = []
    for _ in range(PAIRS):
        _forget(*(work / "checkpoint").glob("*.safetensors"))  # both read from the disk
        os.sync()  # and neither waits for what others wrote
        merged = _build(work, "merged")
        pairs.append(merged | {"cp": _copy(work)})
    pairs.sort(key=_speed_to_cp)
    return pairs[PAIRS // 2] | {"speeds_to_cp": [_speed_to_cp(pair) for pair in pairs]}


def _speed_to_cp(pair: dict[str, object]) -> float:
    copied, writing = _as_dict(pair["cp"])["seconds"], pair["writing_s"]
    assert isinstance(copied, float)
    assert isinstance(writing, float)
    return copied / writing


def _copy(work: Path) -> dict[str, object]:
    """Copy what `merged` wrote, as it does: from the disk into the page cache."""
    source = next((work / "engines").glob("*-merged-r32*")) / "weights" / "merged.safetensors"
    target = source.with_suffix(".cp")
    os.sync()
    _forget(source)
    result = _run(["cp", "--reflink=never", str(source), str(target)])
    result["bytes"] = target.stat().st_size
    target.unlink()
    return result


def _parse(work: Path) -> dict[str, object]:
    """Let TensorRT-RTX parse the full engine's graph, every initializer marked for a refit."""
    (folder,) = (work / "engines").glob(f"{CONFIG}-*-full")
    manifest = read_manifest(folder)
    tensors = (*manifest.forward.inputs, *manifest.forward.outputs)
    model = onnx.load(folder / manifest.forward.file, load_external_data=False).graph
    job = BuilderJob(
        backend="tensorrt-rtx",
        model=str((folder / manifest.forward.file).resolve()),
        plan=None,
        refit="all",
        refittable=tuple(i.name for i in model.initializer if i.external_data),
        capabilities=("8.9",),
        dtypes={spec.name: spec.dtype for spec in tensors},
        attentions=sum(node.op_type == "Attention" for node in model.node),
    )
    question = work / "job.json"
    question.write_text(job.model_dump_json())
    code = f"sys.stdin = open({str(question)!r}); main()"
    imports = "import sys; from wanexport.tensorrt.worker import main"
    return _run([sys.executable, "-c", f"{imports}; {code}"])


def _plain(work: Path) -> dict[str, object]:
    folder = work / "plain"
    folder.mkdir(exist_ok=True)
    result = _run([sys.executable, "-W", "ignore", "-c", PLAIN, str(folder / "model.onnx")])
    shutil.rmtree(folder)
    return result


QUICK = ("trace", "hash", "full", "parse", "separate", "merged")
MEASURES: dict[str, Callable[[Path], dict[str, object]]] = {
    "trace": _trace,
    "hash": _hash,
    "full": lambda work: _build(work, "full"),
    "parse": _parse,
    "separate": lambda work: _build(work, "separate"),
    "merged": _merged,
    "verified": lambda work: _build(work, "separate", verify=True),
    "plain": _plain,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Export I2V-14B at true scale.")
    parser.add_argument("--work", type=Path, required=True, help="a folder with 48 GB of room")
    parser.add_argument("--only", nargs="+", choices=MEASURES, help="rows to measure")
    parser.add_argument("--keep", action="store_true", help="keep checkpoint and engines")
    return parser.parse_args()


def _build(work: Path, mode: str, *, verify: bool = False) -> dict[str, object]:
    out = work / "engines"
    for stale in out.glob(f"*-{mode}*"):
        shutil.rmtree(stale)
    command = [sys.executable, "-m", "wanexport", "build", "--config", CONFIG, "--out", str(out)]
    command += ["--base", str(work / "checkpoint"), "--mode", mode, "--dtype", "bf16"]
    command += ["--rank", "32"] if mode != "full" else []
    command += [] if verify else ["--verify", "none"]
    log = work / "build.log"
    result = _run(command, log)
    told = re.findall(r"weights: .* in ([0-9.]+) s$", log.read_text(), re.MULTILINE)
    result["writing_s"] = float(told[0]) if told else None
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


def _run(
    command: Sequence[str],
    log: Path | None = None,
    stdout: IO[bytes] | None = None,
    **environment: str,
) -> dict[str, object]:
    """Run a process and watch it: seconds, peak anonymous memory, bytes passed to write()."""
    start = time.perf_counter()
    with log.open("wb") if log else nullcontext() as stderr:
        process = subprocess.Popen(
            command, stdout=stdout, stderr=stderr, env=os.environ | environment
        )
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


def _forget(*paths: Path) -> None:
    """Drop files from the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


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
        **{package: metadata.version(package) for package in packages},
    }


def _earlier_results() -> dict[str, object]:
    path = RESULTS / "export_14b.json"
    return _as_dict(json.loads(path.read_text())) if path.exists() else {}


def _save(results: dict[str, object]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "export_14b.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "export_14b.md").write_text(_table(results))


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
        "hash": "sha256 of the checkpoint, from the disk",
        "full": "`full`, unverified",
        "parse": "TensorRT-RTX parses that graph, weights mapped, all marked refittable",
        "separate": "`separate` r32, unverified, adapter made",
        "merged": "`merged` r32, unverified",
        "cp": "`cp` of the file that merged wrote",
        "verified": "`separate` r32, verified block by block",
        "plain": "plain `torch.onnx.export` of T2V-1.3B, fp32",
    }
    merged = _as_dict(results.get("merged", {}))
    rows = results | {"cp": merged["cp"]} if merged else results
    for key, name in names.items():
        if key not in rows:
            continue
        row = _as_dict(rows[key])
        written = row.get("engine_written_bytes", row["written_bytes"])
        assert isinstance(written, int)
        memory = row["peak_anonymous_bytes"]
        assert isinstance(memory, int)
        if row.get("writing_s"):
            name += f" (reading, merging, hashing and writing: {row['writing_s']} s)"
        lines.append(
            f"| {name} | {row['seconds']:.1f} | {memory / 2**30:.2f} GiB | {written / 1e9:.3f} GB |"
        )
    if merged:
        speeds = merged["speeds_to_cp"]
        assert isinstance(speeds, list)
        told = ", ".join(f"{speed:.2f}" for speed in speeds)
        lines += [
            "",
            f"Reading, merging, hashing and writing against `cp` of as many bytes, {PAIRS} times "
            f"one after the other: {told} of its speed; the table has the median.",
        ]
    return "\n".join(lines) + "\n"


def _as_dict(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


if __name__ == "__main__":
    main()
