"""Measure everything that a GPU can show, part by part: `make bench-gpu`.

    python -m benchmarks.gpu --work DIR [--part card --part layers ...]
    python -m benchmarks.gpu --work DIR --device cpu --small    # the same on a CPU, as a rehearsal

Every part says how long it should take before it starts: under 9 minutes on an H200, by estimate.
Results are saved after every step in DIR/results.json; a second run does what is left. On a GPU and
at true size they also go to `benchmarks/results/gpu.{json,md}`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from wanrt.storage.files import write_text

from . import card, checks, forms, fusible, kernels, layers
from .record import Record, Step
from .settings import Settings, Size
from .tables import render

RESULTS = Path(__file__).parents[1] / "results"
Work = Callable[[], Step]
BACKENDS = ("onnxruntime", "tensorrt", "tensorrt-rtx")
EXPECTED_S = {
    "card": 10,
    "layers": 400,
    "kernels": 30,
    "forms": 120,
    "fusible": 240,
    "check": 240,
    "deep": 480,
}
"""Estimates in seconds, for an H200 with 16 cores where no engine is built yet; of these `card` and
`kernels` have been timed there."""


def main() -> None:
    settings, parts, again = _arguments()
    settings.work.mkdir(parents=True, exist_ok=True)
    record = Record(settings.work / "results.json", card.context(settings))
    failed = 0
    for part in parts:
        expected = f", about {EXPECTED_S[part]} s" if settings.is_measurement else ""
        _say(f"{part}{expected}")
        for name, work in PARTS[part](settings):
            if not again and record.find(part, name):
                _say(f"  {name}: done before")
                continue
            step = _measure(work)
            failed += "failed" in step
            record.save(part, name, step)
            _say(f"  {name}: {step.get('failed', 'done')} ({step['seconds']:.0f} s)")
    print(text := render(record, settings))
    if settings.is_measurement:
        RESULTS.mkdir(exist_ok=True)
        shutil.copy(record.file, RESULTS / "gpu.json")
        write_text(RESULTS / "gpu.md", text)
    sys.exit(1 if failed else 0)


def _measure(work: Work) -> Step:
    """Return what a step found, or why it found nothing: the steps after it go on."""
    start = time.monotonic()
    try:
        step = work()
    except Exception as error:  # noqa: BLE001 a lent GPU's time isn't lost to one bad step
        step = {"failed": f"{type(error).__name__}: {error}"}
    return step | {"seconds": time.monotonic() - start}


def _card(settings: Settings) -> Iterator[tuple[str, Work]]:
    yield "machine", partial(card.describe, settings)
    yield "matmul", partial(card.matmul_ceiling, settings)
    yield "copy", partial(card.copy_ceiling, settings)
    yield "attention", partial(card.attention_ceiling, settings)


def _layers(settings: Settings) -> Iterator[tuple[str, Work]]:
    at = (settings, settings.layers, settings.sizes[0])
    yield "build", partial(layers.build, *at, layers.BESIDE)
    yield "parity", partial(layers.parity, *at)
    yield "bench", partial(layers.bench, *at)
    for rival in ("torch-eager", "torch-compile"):
        yield rival, partial(layers.race, *at, rival)


def _kernels(settings: Settings) -> Iterator[tuple[str, Work]]:
    at = (settings, settings.layers, settings.sizes[0])
    if not any(layers.engines(*at)):
        yield "build", partial(layers.build, *at, layers.BESIDE)
    for path in layers.engines(*at):
        if path.name.endswith(("full", f"r{layers.RANK}")) and "merged" not in path.name:
            yield path.name, partial(kernels.profile_engine, settings, path)
        if path.name.endswith("full"):
            yield "placement", partial(kernels.placement, settings, path)
            yield "torch-eager", partial(kernels.profile_engine, settings, path, "torch-eager")


def _forms(settings: Settings) -> Iterator[tuple[str, Work]]:
    for name in forms.FORMS:
        yield name, partial(forms.measure, settings, name)


def _fusible(settings: Settings) -> Iterator[tuple[str, Work]]:
    for kind in fusible.KINDS:
        for age in fusible.AGES:
            yield f"build {kind}, {age}", partial(fusible.build, settings, kind, age)
    yield "race", partial(fusible.race, settings)


def _check(settings: Settings) -> Iterator[tuple[str, Work]]:
    for backend in BACKENDS:
        yield backend, partial(checks.check, settings, backend)


def _deep(settings: Settings) -> Iterator[tuple[str, Work]]:
    for size in settings.sizes:
        at = (settings, settings.deep_layers, size)
        yield f"build {size.name}", partial(layers.build, *at, layers.DEEP)
        yield f"bench {size.name}", partial(layers.bench, *at, layers.FEW)


PARTS = {
    "card": _card,
    "layers": _layers,
    "kernels": _kernels,
    "forms": _forms,
    "fusible": _fusible,
    "check": _check,
    "deep": _deep,
}


def _arguments() -> tuple[Settings, list[str], bool]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--work", type=Path, required=True, help="engines and results; kept")
    parser.add_argument("--part", action="append", choices=PARTS, help="all by default")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="the demo's width and size")
    parser.add_argument(
        "--size",
        action="append",
        type=Size.parse,
        metavar="WxHxF",
        help="width, height, frames; the first is for comparisons, all are for true depth",
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--deep-layers", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=90.0, help="of each bench's measuring")
    parser.add_argument("--again", action="store_true", help="measure what is done once more")
    asked = parser.parse_args()
    if asked.device == "cpu" and not asked.small:
        parser.error("a CPU only rehearses: add --small")
    settings = Settings(
        work=asked.work,
        device=asked.device,
        small=asked.small,
        layers=asked.layers,
        deep_layers=asked.deep_layers,
        asked_sizes=tuple(asked.size or ()),
        seconds=asked.seconds,
    )
    return settings, asked.part or list(PARTS), asked.again


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
