"""What a LoRA file holds, and what of it which configuration's model would take."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from wanexport.errors import AdapterError
from wanexport.inspection.contents import count_dtypes, count_parameters, is_random
from wanexport.inspection.description import Description, Range
from wanexport.lora.choose import Choice, choose_keys
from wanexport.lora.delta import Delta
from wanexport.lora.fits import find_fits
from wanexport.lora.keys import ModuleIndex, split_keys
from wanexport.lora.problems import LoraProblem
from wanexport.lora.resolve import Resolution, resolve_file
from wanexport.model.config import Architecture, Config
from wanexport.model.names import module_shapes
from wanexport.storage.tensor_file import SafetensorsFile
from wanexport.storage.values import one_thread

__all__ = ["describe_lora"]

Shapes = Mapping[str, tuple[int, ...]]

SIDES = {"A": 1, "B": 0}  # which axis of a low-rank matrix is its module's, by role
NEAR = 0.5  # a configuration is near whose matrices are, on average, within a factor of 2 ** 0.5


@dataclass(frozen=True)
class _Fit:
    """A file held against one architecture.

    Args:
        result: what of it is applied.
        skipped: the keys that were left out.
        factors: of each matrix, the factors of two between its size and its module's; None where
            the model has no such module.
    """

    result: Resolution
    skipped: tuple[str, ...]
    factors: tuple[float | None, ...]

    @property
    def unapplied(self) -> int:
        """How many keys aren't applied."""
        return sum(max(1, len(problem.keys)) for problem in self.result.problems)

    @property
    def misfit(self) -> float:
        """By how many factors of two a matrix misses, on average; one if its module is missing."""
        known = [1.0 if factor is None else factor for factor in self.factors]
        return sum(known) / len(known) if known else 0.0

    @property
    def knows_modules(self) -> bool:
        """Whether most of its matrices are of modules that the model has."""
        return self.factors.count(None) * 2 < len(self.factors)


def describe_lora(
    file: SafetensorsFile, configs: Sequence[Config], choice: Choice, *, read_values: bool
) -> Description:
    """Describe a LoRA by the configuration that it fits best.

    Args:
        file: the LoRA.
        configs: what it may be for; a single one was asked for.
        choice: which of its keys are meant.
        read_values: whether to look for values that aren't finite, one tensor at a time.

    Raises:
        AdapterError: its metadata can't be read, or it is of the other expert.
    """
    fits: dict[Architecture, _Fit] = {}
    for arch in dict.fromkeys(config.architecture for config in configs):
        fits[arch] = _fit(file, arch, choice)
    best = min(configs, key=lambda c: (fits[c.architecture].unapplied, fits[c.architecture].misfit))
    fit = fits[best.architecture]
    result = fit.result
    asked, fitting = len(configs) == 1, [c for c in configs if not fits[c.architecture].unapplied]
    near = asked or bool(fitting) or fit.misfit <= NEAR
    problems = result.problems if near else _explain_far(file, fit)
    ranks = [delta.rank for delta in result.deltas if "A" in delta.tensors]
    modules = {delta.module for delta in result.deltas}
    suffixes = Counter(re.sub(r"^blocks\.\d+\.", "", module) for module in sorted(modules))
    return Description(
        path=file.path,
        what="LoRA",
        dialect=result.dialect,
        tensors=len(file.tensors),
        parameters=count_parameters([file]),
        dtypes=count_dtypes([file]),
        random_weights=is_random([file]),
        fits=tuple(c.name for c in fitting) or (find_fits(file) if asked else ()),
        config=best.name if near else "",
        nearest=near and not asked and not fitting,
        stripped=(result.stripped,) if result.stripped else (),
        left_aside=dict.fromkeys(result.left_aside, 1),
        targets=dict(suffixes),
        ranks=(min(ranks), max(ranks)) if ranks else None,
        alphas=_range(result.alphas),
        scales=_range(delta.scale for delta in result.deltas if delta.is_product),
        low_rank=tuple(delta.title for delta in result.deltas if delta.is_low_rank),
        rest=tuple(delta.title for delta in result.deltas if not delta.is_low_rank),
        skipped=fit.skipped,
        values_read=read_values,
        problems=(*problems, *(_find_bad_values(result.deltas) if read_values else ())),
        notes=result.notes,
    )


def _fit(file: SafetensorsFile, arch: Architecture, choice: Choice) -> _Fit:
    shapes = module_shapes(arch)
    chosen, skipped = choose_keys(file, shapes, choice)
    return _Fit(resolve_file(chosen, shapes), skipped, tuple(_find_factors(chosen, shapes)))


def _find_factors(file: SafetensorsFile, shapes: Shapes) -> Iterator[float | None]:
    index = ModuleIndex(shapes)
    for key in split_keys(file.tensors).values():
        shape = file.tensors[key.text].shape if key else ()
        if key is None or key.role not in SIDES or len(shape) < 2:
            continue
        wanted = shapes.get(f"{index.find(key)}.weight", ())
        here = shape[SIDES[key.role]]
        there = wanted[SIDES[key.role]] if len(wanted) > 1 else 0
        yield abs(math.log2(here / there)) if here and there else None


def _explain_far(file: SafetensorsFile, fit: _Fit) -> tuple[LoraProblem, ...]:
    """Say of a LoRA that is near nothing shipped what it is, not how it differs from that."""
    if not fit.knows_modules:
        return fit.result.problems
    first = next(ref for ref in file.tensors.values() if len(ref.shape) > 1)
    return (
        LoraProblem(
            tuple(file.tensors),
            "its matrices have other sizes than any shipped configuration's: "
            f"{first.name} is {list(first.shape)}",
            "give its model's configuration with --config FILE",
        ),
    )


def _find_bad_values(deltas: Iterable[Delta]) -> list[LoraProblem]:
    """Return the changes whose values aren't finite or would overflow; one is read at a time."""
    problems = []
    with one_thread():
        for delta in deltas:
            try:
                delta.check_values()
            except AdapterError as error:
                names = tuple(ref.name for ref in delta.tensors.values())
                problems.append(LoraProblem(names, str(error), error.hint))
    return problems


def _range(values: Iterable[float]) -> Range | None:
    known = sorted(values)
    return (known[0], known[-1]) if known else None
