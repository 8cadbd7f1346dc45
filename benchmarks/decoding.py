"""Read and decode a checkpoint of I2V-14B's shapes at true scale, against `cp` of the same bytes.

    python benchmarks/decoding.py --work DIR                 needs 85 GB of disk, 1 GiB of memory
    python benchmarks/decoding.py --work DIR --layers 8      a fifth of it, on a smaller disk

Makes a checkpoint of Wan2.1-I2V-14B's real names and shapes as fp8_scaled files have them: block
linears fp8 with a scale each, all else bf16, random. Then, three times one after the other and each
in a process of its own: decodes it into the pool as bf16, and copies what that wrote with `cp`;
reads the decoded file's and the fp8 file's values as `inspect` does, and copies the decoded file
again. `inspect --headers-only` reads a file of all 40 layers whose values are a hole in the disk.
Writes `benchmarks/results/decoding.{json,md}`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from export_14b import CONFIG, PAIRS, RESULTS, _forget, _machine, _run

from wanexport.model.config import Architecture, load_config
from wanexport.model.names import module_shapes
from wanexport.storage.tensor_file import StoredTensor, write_safetensors

BYTES_A_PARAMETER = 5.2  # fp8, bf16, and a copy of that
DECODE = """
import sys, time
from pathlib import Path
from wanexport.checkpoint.open import open_checkpoint
from wanexport.storage.hashes import sha256_file
from wanexport.storage.tensor_file import StoredTensor
from wanexport.weights.pool import Pool
source, pool = sys.argv[1:]
checkpoint = open_checkpoint(source)
specs = {n: StoredTensor(r.name, "BF16", r.shape) for n, r in checkpoint.tensors.items()}
sha256_file(Path(source))  # a build hashes what it reads beforehand, whatever its dtype
start = time.perf_counter()
Pool(Path(pool)).cast(checkpoint.tensors, specs, "bf16", lambda _: None)
print(time.perf_counter() - start)
"""
INSPECT = (sys.executable, "-m", "wanexport", "inspect")


def main() -> None:
    arguments = _arguments()
    work: Path = arguments.work
    arch = load_config(CONFIG).architecture.model_copy(update={"num_layers": arguments.layers})
    parameters = sum(math.prod(shape) for shape in module_shapes(arch).values())
    work.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(work).free, parameters * BYTES_A_PARAMETER
    if free < needed:
        sys.exit(f"skipped: {work} has {free / 1e9:.0f} GB, this needs {needed / 1e9:.0f} GB")
    source = work / "fp8_scaled.safetensors"
    _write_fp8(source, arch)
    hollow = work / "hollow.safetensors"
    _write_hollow(hollow)
    results: dict[str, object] = {"machine": _machine(), "layers": arguments.layers}
    results["bytes"] = {"fp8": source.stat().st_size, "bf16": 2 * parameters}
    results["pairs"] = [_measure(work, source) for _ in range(PAIRS)]
    results["headers"] = [
        _run([*INSPECT, str(hollow), "--headers-only"], work / "log") for _ in range(PAIRS)
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "decoding.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "decoding.md").write_text(_table(results))
    print(_table(results))
    if not arguments.keep:
        shutil.rmtree(work)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Decode and inspect I2V-14B at true scale.")
    parser.add_argument("--work", type=Path, required=True, help="a folder with 85 GB of room")
    parser.add_argument("--layers", type=int, default=40, help="of 40, on a smaller disk")
    parser.add_argument("--keep", action="store_true", help="keep what was written")
    return parser.parse_args()


def _write_fp8(path: Path, arch: Architecture) -> None:
    """Write a checkpoint whose block linears are fp8, from one block of random codes."""
    specs: list[StoredTensor] = []
    for name, shape in module_shapes(arch).items():
        fp8 = re.match(r"blocks\.\d+\..*weight$", name) and len(shape) == 2
        specs.append(StoredTensor(name, "F8_E4M3" if fp8 else "BF16", shape))
        if fp8:
            specs.append(StoredTensor(name.replace("weight", "scale_weight"), "F32", ()))
    specs.append(StoredTensor("scaled_fp8", "F8_E4M3", (2,)))
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 0x78, (1 << 20,), generator=generator, dtype=torch.uint8)

    def tensors() -> Iterator[torch.Tensor]:
        for spec in specs:
            if spec.dtype == "F32":
                yield torch.tensor(0.01)
            elif spec.dtype == "BF16":
                yield torch.zeros(spec.shape, dtype=torch.bfloat16)
            else:
                count = math.prod(spec.shape)
                repeated = codes.repeat(count // len(codes) + 1)[:count]
                yield repeated.view(torch.float8_e4m3fn).reshape(spec.shape)

    write_safetensors(path, specs, tensors())


def _write_hollow(path: Path) -> None:
    """Write the header of the whole model; its values are a hole."""
    header, offset = {}, 0
    for name, shape in module_shapes(load_config(CONFIG).architecture).items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def _measure(work: Path, source: Path) -> dict[str, object]:
    """Return what decoding, reading and copying took, one after the other, all from the disk."""
    pool, log = work / "pool", work / "log"
    shutil.rmtree(pool, ignore_errors=True)
    _forget(source)
    os.sync()
    with (work / "seconds").open("wb") as output:
        decoding = _run([sys.executable, "-c", DECODE, str(source), str(pool)], log, stdout=output)
    decoding["seconds"] = float((work / "seconds").read_text())
    (decoded,) = pool.glob("*.safetensors")
    copied = _copy(decoded)
    _forget(decoded)
    inspected = _run([*INSPECT, str(decoded)], log)
    _forget(source)
    inspected_fp8 = _run([*INSPECT, str(source)], log)
    return {
        "decode": decoding,
        "cp": copied,
        "inspect": inspected,
        "inspect_fp8": inspected_fp8,
        "cp_again": _copy(decoded),
    }


def _copy(source: Path) -> dict[str, object]:
    target = source.with_suffix(".cp")
    os.sync()
    _forget(source)
    result = _run(["cp", "--reflink=never", str(source), str(target)])
    target.unlink()
    return result


def _table(results: dict[str, object]) -> str:
    pairs, headers = results["pairs"], results["headers"]
    assert isinstance(pairs, list)
    assert isinstance(headers, list)
    sizes = results["bytes"]
    assert isinstance(sizes, dict)
    names = {
        "decode": ("fp8_scaled to bf16, into the pool", "cp"),
        "inspect": ("`inspect` of the bf16 file, all values", "cp_again"),
        "inspect_fp8": ("`inspect` of the fp8 file, all values", "cp_again"),
    }
    lines = [
        f"# Decoding and reading I2V-14B's checkpoint, {results['layers']} of 40 layers",
        "",
        f"`python benchmarks/decoding.py`: {sizes['fp8'] / 1e9:.1f} GB fp8_scaled, "
        f"{sizes['bf16'] / 1e9:.1f} GB in bf16; "
        + ", ".join(f"{k} {v}" for k, v in dict(results["machine"]).items()),  # type: ignore[call-overload]
        "",
        "| what | seconds (median of three) | speed of `cp` of the bf16 bytes, each pair | peak "
        "anonymous memory |",
        "|---|--:|--:|--:|",
    ]
    for key, (name, other) in names.items():
        seconds = statistics.median(pair[key]["seconds"] for pair in pairs)
        ratios = ", ".join(f"{p[other]['seconds'] / p[key]['seconds']:.2f}" for p in pairs)
        memory = max(pair[key]["peak_anonymous_bytes"] for pair in pairs)
        lines.append(f"| {name} | {seconds:.1f} | {ratios} | {memory / 2**30:.2f} GiB |")
    seconds = statistics.median(pair["cp"]["seconds"] for pair in pairs)
    lines.append(f"| `cp` of the bf16 file | {seconds:.1f} | 1 | |")
    seconds = statistics.median(run["seconds"] for run in headers)
    memory = max(run["peak_anonymous_bytes"] for run in headers)
    lines.append(
        f"| `inspect --headers-only` of all 40 layers, a process of its own | {seconds:.1f} | | "
        f"{memory / 2**30:.2f} GiB |"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
