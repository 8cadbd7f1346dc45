"""LoRAs of several ranks out of a full fine-tune, module by module."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

import wanexport
from wanexport import __version__
from wanexport.checkpoint.locate import find_expert
from wanexport.checkpoint.open import Checkpoint, complete, is_partial, lay_over, open_checkpoint
from wanexport.checkpoint.read import read_checkpoint
from wanexport.errors import AdapterError, BuildError, CheckpointError, UsageError
from wanexport.extraction.change import measure_change
from wanexport.extraction.decompose import ITERATIONS, OVERSAMPLING, SEED, decompose
from wanexport.extraction.lora_file import Carried, lora_bytes, write_lora
from wanexport.extraction.parts import Part, Parts
from wanexport.extraction.report import (
    REPORT,
    ExtractReport,
    FileReport,
    captured_by,
    describe_module,
    read_report,
    sum_outside,
    total_energy,
)
from wanexport.lora.canonical import round_finite
from wanexport.lora.targets import Targets, choose_targets
from wanexport.model.names import module_shapes
from wanexport.storage.disk import check_disk, check_out
from wanexport.storage.dtypes import ENGINE_DTYPES, itemsize
from wanexport.storage.hashes import hash_files, join_digests, sha256_file, sha256_text
from wanexport.storage.locks import locked
from wanexport.storage.source_hash import hash_packages
from wanexport.storage.tensor_file import StoredTensor, open_safetensors
from wanexport.storage.values import one_thread
from wanrt.manifest.fields import Dtype
from wanrt.manifest.schema import Expert
from wanrt.storage.dtypes import SAFETENSORS
from wanrt.storage.files import write_text
from wanrt.terminal.progress import Reporter
from wanrt.terminal.text import first_three

__all__ = ["ExtractRequest", "extract_lora"]

PARTS = ".parts"
SMALL = 1 << 22  # values: below, threads wait for one another longer than they compute
MADE: Final = "wanexport.extract"  # in the header of every file of ours


@dataclass(frozen=True)
class ExtractRequest:
    """What to extract.

    Args:
        base: the checkpoint that was trained: a path or a repository in the Hugging Face cache.
        finetuned: what came of it; trained parameters alone are laid over the base.
        ranks: of the files, one each.
        out: their folder.
        targets: sets and patterns of linear layers; cross-attention if empty.
        dtype: of the files; by default the one that most targets of the fine-tune have.
        expert: which of Wan2.2's two models, where a folder holds both.
        force: whether files of another extraction make way.
    """

    base: str
    finetuned: str
    ranks: tuple[int, ...]
    out: Path
    targets: tuple[str, ...] = ()
    dtype: Dtype | None = None
    expert: Expert | None = None
    force: bool = False


@dataclass(frozen=True)
class _Work:
    """A request whose checkpoints were opened and compared."""

    base: Checkpoint
    finetuned: Checkpoint
    targets: Targets
    ranks: tuple[int, ...]
    dtype: Dtype
    inputs: dict[str, str]


def extract_lora(request: ExtractRequest, reporter: Reporter) -> ExtractReport:
    """Write OUT/rank-R.safetensors for every rank, and OUT/extract.json, which is returned.

    Where they are there already, of the same inputs, nothing is done. An interrupted extraction
    goes on where it was: a module's factors are kept once they are whole.

    Raises:
        WanExportError: a checkpoint can't be used, the two aren't of one architecture, a rank is
            larger than a target, no target changed, or OUT holds something else.
    """
    check_out(request.out)
    work = _resolve(request, reporter)
    request.out.mkdir(parents=True, exist_ok=True)
    with locked(request.out / ".extract.lock"):
        report = _find_done(request, work.inputs)
        if report is not None:
            reporter.log(f"{request.out}: up to date")
            return report
        parts = _make_parts(request.out / PARTS, work, reporter)
        report = _write_files(request.out, work, parts, reporter)
        shutil.rmtree(request.out / PARTS)
    return report


def _resolve(request: ExtractRequest, reporter: Reporter) -> _Work:
    base = open_checkpoint(_choose(request.base, request.expert))
    arch = base.architecture
    read = read_checkpoint(_choose(request.finetuned, request.expert))
    partial = is_partial(read, arch)
    finetuned = lay_over(read, base) if partial else complete(read, arch)
    if partial:
        reporter.log(finetuned.laid_over)
    targets = choose_targets(arch, request.targets)
    ranks = tuple(sorted(set(request.ranks)))
    shapes = module_shapes(arch)
    least = min(targets.modules, key=lambda module: min(shapes[f"{module}.weight"]))
    most = min(shapes[f"{least}.weight"])
    if ranks[-1] > most:
        raise UsageError(
            f"--rank {ranks[-1]} is more than {least} has: {list(shapes[f'{least}.weight'])}",
            f"give at most {most}, or leave that layer out with --targets",
        )
    dtype = request.dtype or _usual_dtype(finetuned, targets)
    return _Work(
        base, finetuned, targets, ranks, dtype,
        {
            "base": _hash(base, "the base", reporter),
            "finetuned": _hash(finetuned, "the fine-tune", reporter),
            "targets": sha256_text(" ".join(targets.modules)),
            "ranks": ",".join(map(str, ranks)),
            "dtype": dtype,
            "oversampling": str(OVERSAMPLING),
            "iterations": str(ITERATIONS),
            "seed": str(SEED),
            "wanexport": f"{__version__}+{_code()}",
        },
    )  # fmt: skip


def _choose(path: str, expert: Expert | None) -> str:
    found = find_expert(path, expert) if expert else None
    return path if found is None else str(found)


def _hash(checkpoint: Checkpoint, what: str, reporter: Reporter) -> str:
    paths = sorted({path for ref in checkpoint.tensors.values() for path in ref.paths})
    return join_digests(hash_files(what, paths, reporter).values())


def _code() -> str:
    return hash_packages(Path(wanexport.__file__).parent, ("extraction",))[:12]


def _usual_dtype(finetuned: Checkpoint, targets: Targets) -> Dtype:
    """Return the dtype that most targets have; bf16 if engines can't have that."""
    refs = [finetuned.tensors[f"{module}.weight"] for module in targets.modules]
    usual = Counter(ref.dtype for ref in refs if ref.as_it_lies).most_common(1)
    return ENGINE_DTYPES.get(usual[0][0], "bf16") if usual else "bf16"


def _find_done(request: ExtractRequest, inputs: Mapping[str, str]) -> ExtractReport | None:
    """Return what is in the folder already, if it is what was asked for, and whole.

    Raises:
        BuildError: it is something else, and may not make way.
    """
    out, report = request.out, read_report(request.out)
    names = {f"rank-{rank}.safetensors" for rank in request.ranks}
    if report is not None:
        names |= {one.file for one in report.files}
        whole = all(_is_whole(out / one.file, one) for one in report.files)
        if report.inputs == inputs and whole and not request.force:
            return report
        changed = {key for key, value in inputs.items() if report.inputs.get(key) != value}
        if changed - {"wanexport"} and not request.force:
            raise BuildError(
                f"{out} holds another extraction: other {' and '.join(sorted(changed))}",
                "give another folder with -o, or replace it with --force",
            )
    elif (out / REPORT).exists() and not request.force:
        raise BuildError(f"{out / REPORT} isn't an extraction's report", "give another -o")
    for path in (out / name for name in sorted(names) if (out / name).exists()):
        if not request.force and MADE not in open_safetensors(path, AdapterError).metadata:
            raise BuildError(f"{path} exists, and wasn't extracted", "give another folder with -o")
    return None


def _is_whole(path: Path, said: FileReport) -> bool:
    return path.is_file() and sha256_file(path) == said.sha256


def _make_parts(folder: Path, work: _Work, reporter: Reporter) -> dict[str, Part]:
    """Measure every parameter and decompose the targets; what is done already is kept."""
    shapes = module_shapes(work.base.architecture)
    targets = {f"{module}.weight": shapes[f"{module}.weight"] for module in work.targets.modules}
    sizes = [lora_bytes(targets, rank, itemsize(work.dtype)) for rank in work.ranks]
    folder.mkdir(exist_ok=True)
    kept = Parts(folder, _hash_parts(work.inputs, work.ranks[-1]), SAFETENSORS[work.dtype])
    parts: dict[str, Part] = {}
    for name in shapes:
        if (part := kept.find(name)) is not None:
            parts[name] = part
    done = sum(name in targets for name in parts)
    if done:
        reporter.log(f"going on: {done} of {len(targets)} modules were extracted before")
    check_disk(folder, sum(sizes) + sizes[-1] * (len(targets) - done) // len(targets))
    bytes_of = {n: work.base.tensors[n].nbytes + work.finetuned.tensors[n].nbytes for n in shapes}
    with reporter.bytes("extracting", sum(bytes_of.values())) as piece:
        piece.advance(sum(bytes_of[name] for name in parts))
        for name in (name for name in shapes if name not in parts):
            piece.tell(name)
            parts[name] = _make_part(kept, name, work, is_target=name in targets)
            piece.advance(bytes_of[name])
    return {name: parts[name] for name in shapes}


def _hash_parts(inputs: Mapping[str, str], largest: int) -> str:
    """Return what a part depends on; of the ranks, that is the largest alone."""
    return sha256_text(json.dumps({**inputs, "ranks": str(largest)}, sort_keys=True))


def _make_part(parts: Parts, name: str, work: _Work, *, is_target: bool) -> Part:
    before, after = work.base.tensors[name], work.finetuned.tensors[name]
    if not is_target:
        return parts.write(measure_change(name, before, after), (), ())
    matrix = torch.empty(after.shape)
    change = measure_change(name, before, after, matrix)
    if not change.energy:
        return parts.write(change, (), ())
    small = matrix.numel() < SMALL
    with one_thread() if small else contextlib.nullcontext():
        found = decompose(matrix, work.ranks[-1], name)
    rounded = [
        round_finite(tensor, StoredTensor(f"{name}, extracted,", parts.dtype, tuple(tensor.shape)))
        for tensor in (found.down, found.up)
    ]
    return parts.write(change, found.values.tolist(), rounded)


def _write_files(
    out: Path, work: _Work, parts: Mapping[str, Part], reporter: Reporter
) -> ExtractReport:
    modules = {module: parts[f"{module}.weight"] for module in work.targets.modules}
    moved = {module: part for module, part in modules.items() if part.values}
    described = [describe_module(m, part, work.ranks) for m, part in modules.items()]
    others = [p.change for name, p in parts.items() if name.removesuffix(".weight") not in modules]
    total = total_energy(parts)
    outside = sum_outside(others, total)
    if not moved:
        elsewhere = [group.group for group in outside if group.energy]
        raise CheckpointError(
            f"{work.finetuned.path} has the base's own weights in all targets "
            f"({work.targets.name})",
            f"what changed is {first_three(elsewhere)}: choose it with --targets"
            if elsewhere
            else "the two checkpoints are equal: see that --base and --finetuned aren't one",
        )
    random = work.base.random_weights or work.finetuned.random_weights
    old = read_report(out)  # nothing may say what the folder holds while that changes
    for name in (REPORT, *(one.file for one in (old.files if old else ()))):
        (out / name).unlink(missing_ok=True)
    files = []
    for rank in work.ranks:
        path = out / f"rank-{rank}.safetensors"
        with reporter.work(f"writing {path.name}"):
            digest = write_lora(
                path,
                {module: _carry(part, rank) for module, part in moved.items()},
                SAFETENSORS[work.dtype],
                _header(work, rank, random=random),
            )
        held = captured_by(described, rank)
        files.append(
            FileReport(
                rank=rank,
                file=path.name,
                bytes=path.stat().st_size,
                sha256=digest,
                captured=held / sum(one.energy for one in described),
                captured_of_all=held / total,
            )
        )
    report = ExtractReport(
        inputs=work.inputs,
        base=str(work.base.path),
        finetuned=str(work.finetuned.path),
        dtype=work.dtype,
        targets=work.targets.name,
        random_weights=random,
        files=tuple(files),
        modules=tuple(described),
        outside=outside,
        parameters=tuple(sorted((c for c in others if c.energy), key=lambda c: -c.energy)),
        notes=tuple(_notes(work, modules)),
    )
    write_text(out / REPORT, report.model_dump_json(indent=1) + "\n")
    return report


def _carry(part: Part, rank: int) -> Carried:
    down, up = part.down, part.up
    assert down is not None
    assert up is not None
    return Carried(
        (up.shape[1], down.shape[1]), rank, lambda: (down.read()[:rank], up.read()[:rank])
    )


def _header(work: _Work, rank: int, *, random: bool) -> dict[str, str]:
    said = {**work.inputs, "rank": rank, "alpha": rank}
    del said["ranks"]
    header = {MADE: json.dumps(said, sort_keys=True)}
    return header | ({"wanexport.random": "true"} if random else {})


def _notes(work: _Work, modules: Mapping[str, Part]) -> list[str]:
    """Return what makes the change something else than training alone."""
    notes = []
    still = [module for module, part in modules.items() if not part.values]
    if still:
        notes.append(
            f"{len(still)} of {len(modules)} targets didn't change, and are in no file: "
            f"{first_three(still)}"
        )
    checkpoints: Sequence[tuple[str, Checkpoint]] = (
        ("base", work.base), ("fine-tune", work.finetuned),
    )  # fmt: skip
    for what, checkpoint in checkpoints:
        if (scheme := checkpoint.scheme()) is not None:
            notes.append(
                f"the {what} is quantised ({scheme}): what quantising it lost counts as change"
            )
    names = [f"{module}.weight" for module in modules]
    dtypes = [sorted({c.tensors[name].dtype for name in names}) for _, c in checkpoints]
    if dtypes[0] != dtypes[1]:
        notes.append(
            f"the base is {', '.join(dtypes[0])} and the fine-tune {', '.join(dtypes[1])}: "
            "rounding from one to the other counts as change"
        )
    return notes
