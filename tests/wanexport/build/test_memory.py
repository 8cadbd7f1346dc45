"""A model larger than the memory a build may use; run as a script, this file is that build."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpointfiles import write_hollow
from studies import build

from wanexport.model.config import Architecture
from wanexport.model.names import module_shapes
from wanrt.manifest.read import read_manifest

ROOM = 256 << 20  # for the trace, on top of what importing torch takes
EXCESS = 1.5
ARCH = Architecture(num_layers=1, num_attention_heads=8, ffn_dim=4096, in_channels=16, text_dim=256)


def layers_of(nbytes: float) -> int:
    """Return how many layers make a bf16 checkpoint of that size."""
    shapes = module_shapes(ARCH)
    block = sum(2 * math.prod(s) for name, s in shapes.items() if name.startswith("blocks."))
    return math.ceil(nbytes / block)


def private_bytes() -> int:
    """Return this process' private writable memory, which RLIMIT_DATA bounds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    raise OSError("no VmData")


def build_within_limit(root: Path) -> dict[str, int]:
    import torch

    import wanexport.build.recipe  # noqa: F401 (all imports before the limit)

    torch.set_num_threads(1)
    limit = private_bytes() + ROOM
    arch = ARCH.model_copy(update={"num_layers": layers_of(EXCESS * limit)})
    base = root / "base.safetensors"
    write_hollow(base, arch)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for mode in ("separate", "merged"):
        build(
            root / "engines", arch, dtype="bf16", base=str(base), modes=(mode,), ranks=(8,),
            verify=False,
        )  # fmt: skip
    try:
        bytearray(base.stat().st_size)
    except MemoryError:
        return {"limit": limit, "weights": base.stat().st_size}
    raise AssertionError("the limit doesn't hold")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds maps on Linux only")
def test_a_model_larger_than_memory_is_built(tmp_path: Path) -> None:
    here = Path(__file__)
    paths = [str(here.parents[3] / name) for name in ("tests/support", "export", "runtime")]
    child = subprocess.run(
        [sys.executable, "-W", "ignore", str(here), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout)
    assert found["weights"] >= EXCESS * found["limit"]
    modes = {}
    for folder in (tmp_path / "engines").glob("tiny-*"):
        manifest = read_manifest(folder)
        modes[manifest.mode] = sum(file.bytes for file in manifest.files)
    assert modes.keys() == {"separate", "merged"}
    assert all(size > found["weights"] for size in modes.values())
    shutil.rmtree(tmp_path / "engines")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(build_within_limit(Path(sys.argv[1]))))
