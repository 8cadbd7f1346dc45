"""A study's grid as cells, one an engine, and the groups that are measured together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from wanexport.build.request import BuildRequest, check_usage
from wanexport.errors import ConfigError, UsageError, WanExportError
from wanexport.lora.find import find_lora, name_lora, parse_lora, resolve_adapters
from wanexport.lora.targets import choose_targets, name_smallest
from wanexport.model.config import Config, load_config, override
from wanexport.model.names import module_shapes
from wanexport.model.quantization import Scheme
from wanexport.storage.names import safe_name
from wanexport.study.file import SIZE, Study
from wanexport.tensorrt.settings import PlanSettings
from wanrt.manifest.schema import Backend, Mode
from wanrt.terminal.progress import Reporter

__all__ = ["AdapterChoice", "Cell", "Group", "list_groups"]


@dataclass(frozen=True)
class AdapterChoice:
    """One adapter of a study.

    Args:
        rank: its rank; of a file, its largest.
        targets: what was asked of the grid: names of sets and patterns; of a file, the smallest
            set that holds its layers.
        set_name: what the layers are called.
        label: tells it from the others.
        file: a LoRA that is given; None for one that is made.
    """

    rank: int
    targets: tuple[str, ...]
    set_name: str
    label: str
    file: str | None = None


@dataclass(frozen=True)
class Cell:
    """One engine of a study.

    `merged` is one for all ranks of a set of layers: what an engine computes there doesn't depend
    on the rank, so its speed is every rank's; its weights' values are those of the largest.
    """

    group: str
    mode: Mode
    request: BuildRequest
    quantize: Scheme
    adapter: AdapterChoice | None = None

    @property
    def label(self) -> str:
        """What tells it from the others of its group."""
        return self.mode if self.adapter is None else f"{self.mode}-{self.adapter.label}"

    @property
    def name(self) -> str:
        """What it is called in files."""
        return f"{self.group}-{self.label}"


@dataclass(frozen=True)
class Group:
    """Cells that are measured beside each other: of one model, size, dtype, backend and scheme."""

    name: str
    config: Config
    backend: Backend
    quantize: Scheme
    cells: tuple[Cell, ...]

    @cached_property
    def adapters(self) -> tuple[AdapterChoice, ...]:
        """Its cells' adapters, each once."""
        return tuple(dict.fromkeys(cell.adapter for cell in self.cells if cell.adapter))


def list_groups(study: Study) -> tuple[Group, ...]:
    """Return a study's groups, every cell checked as a build would.

    Raises:
        WanExportError: a value doesn't go with the model or with another value; it is named.
    """
    grid = study.grid
    config = _load(study)
    adapters = list_adapters(study, config)
    groups = []
    dtypes, sizes = grid.dtypes or (config.dtype,), grid.sizes or (config.size.name,)
    for size, dtype, backend, scheme in product(sizes, dtypes, grid.backends, grid.quantize):
        resized = _resize(config, size).model_copy(update={"dtype": dtype})
        group = _make_group(study, resized, backend, scheme, adapters)
        if group.cells:
            groups.append(group)
    if not groups:
        raise ConfigError("grid.skip leaves no engine", "skip less")
    if bare := [group.name for group in groups if group.cells[0].mode != "full"]:
        raise ConfigError(f"grid.skip leaves {bare[0]} without its full engine", "skip less of it")
    return tuple(groups)


def list_adapters(study: Study, config: Config) -> tuple[AdapterChoice, ...]:
    """Return the adapters of a study, by targets and then by rank."""
    if study.adapters.source == "files":
        return tuple(_read_file(file, config) for file in study.adapters.files)
    found = []
    for asked in study.grid.targets:
        names = tuple(asked.split("+"))
        try:
            targets = choose_targets(config.architecture, names)
        except UsageError as error:
            raise ConfigError(f"grid.targets: {error}", error.hint) from None
        for rank in sorted(study.grid.ranks):
            label = "-".join(filter(None, (f"r{rank}", targets.label)))
            found.append(AdapterChoice(rank, names, targets.name, label))
    return tuple(found)


def _load(study: Study) -> Config:
    config = load_config(study.config)
    if config.experts is not None and study.expert is None:
        raise ConfigError(f"{study.config} is two models", "add expert = 'high' or 'low'")
    if config.experts is None and study.expert is not None:
        raise ConfigError(f"expert has no effect: {study.config} is one model", "leave it out")
    return config


def _resize(config: Config, size: str) -> Config:
    found = SIZE.fullmatch(size)
    assert found is not None
    names = ("width", "height", "frames", "batch")
    try:
        return override(
            config, None, dict(zip(names, (int(part or 1) for part in found.groups()), strict=True))
        )
    except ConfigError as error:
        raise ConfigError(f"grid.sizes: {size}: {error}", error.hint) from None


def _read_file(file: str, config: Config) -> AdapterChoice:
    """Read a LoRA's header: which layers it changes, at which rank."""
    given = parse_lora(file)
    path = find_lora(given.path)
    shapes = module_shapes(config.architecture)
    (adapter,) = resolve_adapters([(path, given.strength)], shapes, Reporter(quiet=True))
    if not adapter.ranks:
        raise ConfigError(f"adapters.files: {path} has no low-rank part", "give another file")
    modules = tuple(adapter.ranks)
    smallest = name_smallest(modules)
    strength = "" if given.strength == 1 else f"-x{given.strength:g}"
    return AdapterChoice(
        rank=adapter.max_rank,
        targets=(smallest,) if smallest else modules,
        set_name=smallest or name_lora(path),
        label=safe_name(name_lora(path)) + strength,
        file=file,
    )


def _make_group(
    study: Study,
    config: Config,
    backend: Backend,
    scheme: Scheme,
    adapters: Sequence[AdapterChoice],
) -> Group:
    of = f"-{study.expert}" if study.expert else ""
    stored = "" if scheme == "none" else f"-{scheme}"
    name = f"{config.name}{of}-{config.size.name}-{config.dtype}{stored}-{backend}"
    plain = BuildRequest(
        config=config,
        modes=("full",),
        base=study.base,
        finetuned=study.finetuned,
        prefuse=tuple(parse_lora(file) for file in study.prefuse),
        quantize=scheme,
        expert=study.expert,
        verify=study.verify,
        tensorrt=None if backend == "onnxruntime" else PlanSettings(backend=backend),
    )
    cells = []
    for mode in study.grid.modes:
        for adapter in _carried(mode, adapters):
            cell = Cell(name, mode, _adapt(plain, mode, adapter), scheme, adapter)
            if not _skipped(study, cell, backend):
                _check(cell)
                cells.append(cell)
    cells.sort(key=lambda cell: cell.mode != "full")
    return Group(name, config, backend, scheme, tuple(cells))


def _carried(mode: Mode, adapters: Sequence[AdapterChoice]) -> Iterator[AdapterChoice | None]:
    """Yield what the engines of a mode carry: of merged ones, the largest of each set of layers."""
    if mode == "full":
        yield None
    elif mode == "merged":
        largest: dict[str, AdapterChoice] = {}
        for adapter in adapters:
            known = largest.get(adapter.set_name)
            if known is None or adapter.rank > known.rank:
                largest[adapter.set_name] = adapter
        yield from largest.values()
    else:
        yield from adapters


def _adapt(plain: BuildRequest, mode: Mode, adapter: AdapterChoice | None) -> BuildRequest:
    if adapter is None:
        return plain
    return replace(
        plain, modes=(mode,), ranks=(adapter.rank,), targets=adapter.targets, finetuned=None
    )


def _skipped(study: Study, cell: Cell, backend: Backend) -> bool:
    adapter = cell.adapter
    facts = {
        "mode": cell.mode,
        "rank": adapter.rank if adapter else None,
        "targets": "+".join(adapter.targets) if adapter else None,
        "size": cell.request.config.size.name,
        "dtype": cell.request.config.dtype,
        "backend": backend,
        "quantize": cell.quantize,
    }
    return any(
        all(facts[key] == value for key, value in wish.model_dump(exclude_none=True).items())
        for wish in study.grid.skip
    )


def _check(cell: Cell) -> None:
    """Refuse what a build of the cell would refuse, before anything is built."""
    try:
        check_usage(cell.request)
    except WanExportError as error:
        hint = re.sub(r"^drop it, or ", "", error.hint)
        raise ConfigError(
            f"grid: {cell.label} of {cell.group}: {error}", f"{hint}; or skip it in [[grid.skip]]"
        ) from None
