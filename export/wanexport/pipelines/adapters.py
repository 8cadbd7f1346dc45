"""LoRAs of a swappable engine by the names that a pipeline gives them.

Files become canonical adapters in a folder that goes with the process. Those in use are the
engine's stack: another set of names is a swap, other weights alone are `set_strengths`.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from wanexport.errors import PipelineError
from wanexport.lora.convert import make_canonical
from wanexport.lora.find import LoraArgument
from wanexport.storage.dtypes import STORED
from wanexport.storage.tensor_file import StoredTensor, write_safetensors
from wanrt.engine.engine import Engine
from wanrt.terminal.progress import Reporter
from wanrt.terminal.text import first_and_more

__all__ = ["Adapters", "StateDict"]

StateDict = Mapping[str, Tensor]
METADATA = "lora_adapter_metadata"  # the key that diffusers writes a LoRA's configuration under
logger = logging.getLogger(__name__)


class _Notes(Reporter):
    """Passes on what is worth knowing of a file to the log; progress isn't shown."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def log(self, message: str) -> None:
        """Log a note at level INFO."""
        logger.info(message)


@dataclass(frozen=True)
class _State:
    """Which adapters there are (name -> file), which count, and by how much."""

    files: Mapping[str, Path] = field(default_factory=dict)
    active: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    enabled: bool = True


class Adapters:
    """The named LoRAs of one engine; every change is made whole or, with an error, not at all."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self._folder = folder
        self._engine = engine
        self._state = _State()
        self._stack: tuple[str, ...] = ()
        self._strengths: tuple[float, ...] = ()
        self._room: Path | None = None
        self._remove_room: Callable[[], object] = lambda: None
        self._count = 0
        self.revision = 0
        """Another number after every change of what the engine adds to its base."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that are loaded, in the order of loading."""
        return tuple(self._state.files)

    @property
    def active(self) -> tuple[str, ...]:
        """Those that count, unless they are disabled."""
        return self._state.active

    def load(self, name: str | None, make: Callable[[Path], object], *, replacing: bool) -> None:
        """Load an adapter, which becomes the only active one, as diffusers has it.

        Args:
            name: by which it is known; None counts from `default_0`.
            make: writes the canonical adapter to a path.
            replacing: put it in the place of the adapter of that name (diffusers' hotswap).
        """
        self.check_swappable()
        name = f"default_{len(self._state.files)}" if name is None else name
        if replacing and name not in self._state.files:
            raise PipelineError(
                f"there is no adapter {name!r} to replace", f"there are: {self._list()}"
            )
        if not replacing and name in self._state.files:
            raise PipelineError(
                f"there is an adapter {name!r} already",
                "give another adapter_name, or replace it with hotswap=True",
            )
        path = self._next_path()
        make(path)
        state = self._state
        changed = replace(
            state,
            files={**state.files, name: path},
            active=state.active if replacing else (name,),
            weights={**state.weights, name: 1.0},
        )
        try:
            self._become(changed)
        except Exception:
            path.unlink()
            raise
        self._discard(state, changed)

    def set_active(self, names: Sequence[str], weights: Sequence[float]) -> None:
        """Let these adapters count and no others, each by its weight."""
        known = self._known(names)
        if known or self._state.files:
            chosen = {n: w for n, w in zip(names, weights, strict=True) if n in known}
            state = self._state
            self._become(replace(state, active=tuple(chosen), weights={**state.weights, **chosen}))

    def enable(self, *, enabled: bool) -> None:
        """Let the active adapters count, or none of them."""
        self._check_fixed()
        if self._state.files:
            self._become(replace(self._state, enabled=enabled))

    def delete(self, names: Sequence[str]) -> None:
        """Forget adapters; if no active one is left, the first of the others becomes active."""
        known = self._known(names)
        state = self._state
        files = {name: path for name, path in state.files.items() if name not in known}
        active = tuple(name for name in state.active if name in files)
        if state.active and not active and files:
            active = (next(iter(files)),)
            logger.warning("no active adapter is left, so that %s becomes active", active[0])
        self._become(replace(state, files=files, active=active) if files else _State())
        self._discard(state, self._state)

    def clear(self) -> None:
        """Forget all adapters: the engine is its base again."""
        self._check_fixed()
        state = self._state
        self._become(_State())
        self._discard(state, self._state)

    def apply(self, scale: float = 1.0) -> None:
        """Give the engine its strengths, all times `scale`."""
        if scale != 1 and not self._engine.manifest.adapter_inputs:
            self.check_swappable()
        self._apply(self._state, scale)

    def check_swappable(self) -> None:
        """Refuse an engine whose adapters can't be changed."""
        manifest = self._engine.manifest
        if manifest.mode != "swappable":
            raise PipelineError(
                f"{self._folder} is a {manifest.mode} engine, which takes no LoRA",
                "build one that does: wanexport build --mode swappable --max-rank 32",
            )

    def check_rank(self, rank: int) -> None:
        """Refuse an engine that takes no adapters of this rank."""
        self.check_swappable()
        most = self._engine.manifest.max_rank or 0
        if rank > most:
            raise PipelineError(
                f"{self._folder} takes adapters up to rank {most}, {rank} was asked for",
                f"build one that takes it: wanexport build --mode swappable --max-rank {rank}",
            )

    def close(self) -> None:
        """Remove the canonical adapters; a second call does nothing."""
        self._remove_room()
        self._room = None

    def convert_file(self, file: Path | str, output: Path, *, skip_image_keys: bool) -> None:
        """Write the canonical adapter of a LoRA file of any dialect."""
        lora = LoraArgument(str(file))
        make_canonical(
            [lora],
            self._folder,
            output,
            _Notes(),
            skip_image_keys=skip_image_keys,
            force=False,
        )

    def convert_tensors(
        self, tensors: StateDict, metadata: Mapping[str, object] | None, output: Path
    ) -> None:
        """Write the canonical adapter of what diffusers has read of a LoRA."""
        raw = output.with_suffix(".raw.safetensors")
        named = {torch_name: stored for stored, (_, torch_name) in STORED.items()}
        kept = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        specs = [
            StoredTensor(name, named[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape))
            for name, tensor in kept.items()
        ]
        described = {METADATA: json.dumps(dict(metadata), default=list)} if metadata else None
        try:
            write_safetensors(raw, specs, kept.values(), described)
            self.convert_file(raw, output, skip_image_keys=False)
        finally:
            raw.unlink(missing_ok=True)

    def _become(self, state: _State) -> None:
        self._apply(state, 1.0)
        self._state = state

    def _apply(self, state: _State, scale: float) -> None:
        factor = scale if state.enabled else 0.0
        if sorted(self._stack) != sorted(state.active) or self._replaced(state):
            stack = [(state.files[name], state.weights[name] * factor) for name in state.active]
            self._engine.swap(stack or None)
            self._stack = state.active
            self._strengths = tuple(strength for _, strength in stack)
            self.revision += 1
            return
        strengths = tuple(state.weights[name] * factor for name in self._stack)
        if strengths != self._strengths:
            self._engine.set_strengths(strengths)
            self._strengths = strengths
            self.revision += 1

    def _replaced(self, state: _State) -> bool:
        return any(state.files[name] != self._state.files.get(name) for name in self._stack)

    def _known(self, names: Sequence[str]) -> set[str]:
        """Return the names that are loaded; others are the other expert's, or a mistake."""
        unknown = [name for name in names if name not in self._state.files]
        if unknown and self._engine.manifest.expert is None:
            self.check_swappable()
            raise PipelineError(
                f"there is no adapter {first_and_more(unknown)}", f"there are: {self._list()}"
            )
        return set(names) - set(unknown)

    def _check_fixed(self) -> None:
        """Refuse to switch what a merged or separate engine has built in."""
        if self._engine.manifest.mode in ("merged", "separate"):
            self.check_swappable()

    def _list(self) -> str:
        return ", ".join(self._state.files) or "none"

    def _next_path(self) -> Path:
        if self._room is None:
            room = Path(tempfile.mkdtemp(prefix="wanexport-adapters-"))
            self._remove_room = weakref.finalize(self, shutil.rmtree, room, ignore_errors=True)
            self._room = room
        self._count += 1
        return self._room / f"{self._count}.safetensors"

    def _discard(self, before: _State, after: _State) -> None:
        for path in set(before.files.values()) - set(after.files.values()):
            path.unlink(missing_ok=True)
