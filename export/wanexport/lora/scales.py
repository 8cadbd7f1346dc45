"""The scale of a LoRA: metadata, else the alpha tensor over the rank, else 1.

Metadata is what PEFT trained with: diffusers keeps it in the file's header, PEFT in
adapter_config.json beside the file. Without it nothing marks rsLoRA.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from wanexport.errors import AdapterError
from wanexport.storage.tensor_file import SafetensorsFile
from wanrt.storage.regular import read_regular

__all__ = [
    "LARGEST",
    "PeftSettings",
    "find_alpha",
    "find_scale",
    "has_metadata",
    "read_settings",
]

# The square root of what fp32 and bf16 hold: the product of two such values overflows.
LARGEST = 2.0**64

DIFFUSERS_KEY = "lora_adapter_metadata"
DIFFUSERS_PREFIX = "transformer."
JSON_BYTES, PATTERNS = 1 << 20, 2_048  # of settings; I2V-14B has 413 modules
PATTERN_CHARACTERS = 1_000
MATCH_S, MATCHES_S = 0.2, 5.0  # of one match, and of all of a file
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Other ways to initialize take something off the base weights, which the file doesn't record.
HARMLESS_INITS = (True, False, "gaussian", "eva", "orthogonal")
# Variants that compute something else than W + s B A from the same tensors.
REFUSED_OPTIONS = (
    "fan_in_fan_out", "use_qalora", "layer_replication", "alora_invocation_tokens", "use_bdlora",
    "arrow_config", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip


class PeftSettings(BaseModel):
    """The part of PEFT's configuration that decides how its tensors are applied."""

    model_config = ConfigDict(extra="allow", frozen=True)

    peft_type: Literal["LORA", "LOHA", "LOKR"] = "LORA"
    r: int | None = Field(None, ge=1)
    lora_alpha: float | None = Field(None, allow_inf_nan=False)
    alpha: float | None = Field(None, allow_inf_nan=False)  # LoHa's and LoKr's name of it
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: tuple[str, ...] | None = None
    init_lora_weights: bool | str | None = True
    _source: str = PrivateAttr("the metadata")
    _spent: list[float] = PrivateAttr(default_factory=list)  # seconds, on patterns

    @property
    def source(self) -> str:
        """What people call the place that it was read from."""
        return self._source

    @property
    def says_nothing(self) -> bool:
        """Whether nothing in it could scale anything."""
        values = (self.r, self.lora_alpha, self.alpha, self.rank_pattern, self.alpha_pattern)
        return all(value is None or value == {} for value in values)

    def find_rank(self, names: Sequence[str]) -> int | None:
        """Return the rank that a module of any of these names was trained with."""
        found = self._match(self.rank_pattern, names)
        return self.r if found is None else int(found)

    def find_alpha(self, names: Sequence[str]) -> float | None:
        """Return the alpha that a module of any of these names was trained with."""
        found = self._match(self.alpha_pattern, names)
        if found is not None:
            return found
        return self.lora_alpha if self.lora_alpha is not None else self.alpha

    def _match(self, patterns: Mapping[str, float], names: Sequence[str]) -> float | None:
        """Look a module up as PEFT's `get_pattern_key` does: a pattern fits a name's end.

        Raises:
            ValueError: a pattern isn't one.
            TimeoutError: a pattern takes for ever.
        """
        started, pattern = time.monotonic(), ""
        try:
            for pattern, value in patterns.items():
                compiled = _compile(pattern)
                if any(compiled.match(name, timeout=MATCH_S) for name in names):
                    return value
        except TimeoutError:
            raise TimeoutError(
                f"the metadata's pattern {pattern[:100]!r} takes longer than {MATCH_S} s to match"
            ) from None
        finally:
            self._spent.append(time.monotonic() - started)
        if sum(self._spent[-PATTERNS:]) > MATCHES_S:
            raise TimeoutError(f"the metadata's patterns take longer than {MATCHES_S:g} s to match")
        return None


def find_alpha(
    settings: PeftSettings | None, names: Sequence[str], tensor: float | None
) -> float | None:
    """Return a module's alpha: the metadata's, else the file's alpha tensor's, if it has one."""
    stated = settings.find_alpha(names) if settings else None
    return tensor if stated is None else stated


def find_scale(
    settings: PeftSettings | None, names: Sequence[str], rank: int | None, alpha: float | None
) -> float:
    """Return what a module's change is multiplied by.

    Args:
        settings: the file's metadata.
        names: the module's names, to be matched with the metadata's patterns.
        rank: what the tensors say; None for LoKr of two whole factors.
        alpha: what the file's alpha tensor says.

    Raises:
        ValueError: metadata and tensors contradict each other, or the scale isn't a number to
            multiply by.
        TimeoutError: the metadata's patterns take for ever.
    """
    trained = settings.find_rank(names) if settings else None
    if settings and rank is not None and trained is not None and trained != rank:
        raise ValueError(f"{settings.source} says rank {trained}, the tensors have {rank}")
    stated = settings.find_alpha(names) if settings else None
    if stated is None and alpha is None and settings is not None:
        raise ValueError(f"{settings.source} says no lora_alpha, and there is no alpha tensor")
    if stated is None:
        if alpha is None or rank is None:  # LyCORIS gives whole factors the scale 1
            return 1.0
        stated = alpha
    if stated == 0 or not math.isfinite(stated):
        raise ValueError(f"alpha is {stated:g}")
    rank = rank or trained
    if rank is None:
        return 1.0
    scale = stated / (math.sqrt(rank) if settings and settings.use_rslora else rank)
    if not 1 / LARGEST < abs(scale) < LARGEST:
        raise ValueError(f"alpha {stated:g} makes a scale of {scale:g}, which fp32 can't multiply")
    return scale


def read_settings(file: SafetensorsFile) -> PeftSettings | None:
    """Return the PEFT settings in a file's header or beside it, if there are any.

    Raises:
        AdapterError: they can't be read, or describe something other than LoRA, LoHa and LoKr.
    """
    text: str | bytes | None = file.metadata.get(DIFFUSERS_KEY)
    where = f"{file.path}: {DIFFUSERS_KEY}"
    beside = file.path.with_name(PEFT_CONFIG)
    is_beside = text is None and os.path.lexists(beside) and _belongs(beside, file)
    if is_beside:
        where = str(beside)
        try:
            text = read_regular(beside, JSON_BYTES)  # of any encoding that JSON has
        except OSError as error:
            raise AdapterError(f"{where} can't be read: {error.strerror}") from None
    if text is None:
        return None
    settings = _parse(text, where)
    if settings.says_nothing:
        raise AdapterError(
            f"{where} says neither r nor alpha of this model, so the LoRA's scale isn't known",
            "save it again with its configuration, or remove that entry if its scale is 1",
        )
    _refuse_variants(settings, where)
    if is_beside:
        settings._source = where
    return settings


def _belongs(beside: Path, file: SafetensorsFile) -> bool:
    """Tell whether settings beside a file are its own; where nobody can tell, refuse.

    Raises:
        AdapterError: several files lie there, and this one says nothing of its scale itself.
    """
    if file.path.name == PEFT_FILE or len(list(beside.parent.glob("*.safetensors"))) == 1:
        return True
    if any(name.endswith("alpha") for name in file.tensors):
        return False
    raise AdapterError(
        f"{file.path} states no alpha, and {beside} may belong to another LoRA file in its folder",
        "move the file away from it for scale 1, or into a folder with its own adapter_config.json",
    )


def has_metadata(file: SafetensorsFile) -> bool:
    """Tell whether a file's own header has PEFT's settings."""
    return DIFFUSERS_KEY in file.metadata


def _parse(text: str | bytes, where: str) -> PeftSettings:
    if len(text) > JSON_BYTES:
        raise AdapterError(f"{where} is larger than {JSON_BYTES:,} bytes")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{where} is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise AdapterError(f"{where} is not a JSON object")
    ours = {
        key.removeprefix(DIFFUSERS_PREFIX): value
        for key, value in raw.items()
        if key.startswith(DIFFUSERS_PREFIX) or "." not in key
    }
    try:
        settings = PeftSettings.model_validate({k: v for k, v in ours.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise AdapterError(f"{where}: {place}: {first['msg']}") from None
    if max(len(settings.rank_pattern), len(settings.alpha_pattern)) > PATTERNS:
        raise AdapterError(f"{where} holds more than {PATTERNS:,} patterns")
    return settings


def _refuse_variants(settings: PeftSettings, where: str) -> None:
    if settings.init_lora_weights not in (None, *HARMLESS_INITS):
        raise AdapterError(
            f"{where} says init_lora_weights {settings.init_lora_weights!r}: it belongs to changed "
            "base weights that the file doesn't hold",
            "save it again with PEFT's path_initial_model_for_weight_conversion",
        )
    for option in REFUSED_OPTIONS:
        if (settings.model_extra or {}).get(option):
            raise AdapterError(f"{where} says {option}, which isn't supported")


@lru_cache(maxsize=2 * PATTERNS)
def _compile(pattern: str) -> regex.Pattern[str]:
    if len(pattern) > PATTERN_CHARACTERS:
        raise ValueError(f"{pattern[:40]!r}... in the metadata is too long for a pattern")
    try:
        return regex.compile(rf"(.*\.)?({pattern})$")
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise ValueError(f"{pattern!r} in the metadata isn't a valid pattern: {error}") from None
