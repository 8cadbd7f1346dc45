"""From a LoRA file's keys to changes of parameters; what doesn't resolve is a named problem."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from wanexport.errors import AdapterError
from wanexport.lora.delta import Delta, Kind
from wanexport.lora.keys import Key, ModuleIndex, name_dialect, split_keys, split_whole
from wanexport.lora.problems import (
    LoraProblem,
    explain_unmatched,
    find_foreign,
    find_not_lora,
)
from wanexport.lora.scales import PeftSettings, find_alpha, find_scale, has_metadata, read_settings
from wanexport.model.names import to_original
from wanexport.model.wrappers import is_stray
from wanexport.storage.tensor_file import SafetensorsFile, TensorRef
from wanrt.engine.adapter import FORMAT
from wanrt.manifest.origin import ScaleFrom

__all__ = ["Resolution", "resolve_file"]

Shapes = Mapping[str, tuple[int, ...]]
Roles = dict[str, tuple[Key, TensorRef]]

_FAMILIES: dict[Kind, tuple[str, ...]] = {
    "lora": ("A", "B"),
    "loha": ("w1_a", "w1_b", "w2_a", "w2_b"),
    "lokr": ("kron_w1", "kron_w1_a", "kron_w1_b", "kron_w2", "kron_w2_a", "kron_w2_b"),
}
MOST_KEYS = 65_536
# Role of a change of whole values -> what its parameter is called after the module, and its kind.
_WHOLE: dict[str, tuple[str, Kind]] = {
    "diff": (".weight", "diff"),
    "diff_b": (".bias", "diff"),
    "diff_m": ("", "diff"),
    "set": (".weight", "set"),
    "set_b": (".bias", "set"),
}
_STATES_ALPHA = re.compile(r"(\w+_)?alpha")  # ss_network_alpha, lora_alpha
_SAYS_SCALE = re.compile(r"alpha|scale|rank|strength|multiplier")


@dataclass(frozen=True)
class Resolution:
    """A LoRA file's keys, resolved against one model.

    Args:
        dialect: for people.
        settings: PEFT's, from the file's metadata or beside it.
        deltas: the changes of the model's parameters.
        alphas: of its products, where metadata or an alpha tensor says it.
        scale_from: what says so.
        problems: what couldn't be applied; every key is in a delta, here or left aside.
        notes: what people should know of its scale.
        stripped: a prefix of all its keys that no table has, which was taken off.
        left_aside: stray tensors that say something of the file and change nothing.
    """

    dialect: str
    settings: PeftSettings | None
    deltas: tuple[Delta, ...]
    alphas: tuple[float, ...]
    scale_from: ScaleFrom
    problems: tuple[LoraProblem, ...]
    notes: tuple[str, ...] = ()
    stripped: str = ""
    left_aside: tuple[str, ...] = ()


def resolve_file(file: SafetensorsFile, shapes: Shapes, strength: float = 1.0) -> Resolution:
    """Resolve every key of a file against a model's parameters.

    Raises:
        AdapterError: its metadata can't be read or asks for what isn't supported.
    """
    if len(file.tensors) > MOST_KEYS:
        count = f"{len(file.tensors):,} tensors"
        raise AdapterError(f"{file.path} holds {count}, at most {MOST_KEYS:,}")
    settings = read_settings(file)
    index = ModuleIndex(shapes)
    keys, aside, problems = _read_keys(file, index, settings)
    namings = index.detect_namings(key for key in keys.values() if key)
    groups: dict[str, Roles] = {}
    unmatched = []
    for name, key in ((name, key) for name, key in keys.items() if key):
        target = index.find(key, namings)
        if target is None:
            unmatched.append(name)
        elif key.role in groups.setdefault(target, {}):
            other = groups[target][key.role][0].text
            problems.append(LoraProblem((name,), f"{other} and {name} are both for {target}"))
        else:
            groups[target][key.role] = (key, file.tensors[name])
    problems += explain_unmatched(unmatched, index, len(keys), file.path)
    builder = _Builder(index, settings, strength)
    for target, roles in groups.items():
        try:
            builder.build(target, roles)
        except ValueError as error:
            problems.append(LoraProblem(tuple(key.text for key, _ in roles.values()), str(error)))
        except TimeoutError as error:
            raise AdapterError(f"{file.path}: {error}") from None
    dialect = name_dialect([key for key in keys.values() if key], _extras(builder, settings))
    scale_from: ScaleFrom = "alpha" if builder.has_alpha_tensors else "none"
    if builder.has_stated_alphas:
        scale_from = "metadata" if has_metadata(file) else "sidecar"
    return Resolution(
        dialect,
        settings,
        tuple(builder.deltas),
        tuple(builder.alphas),
        scale_from,
        tuple(problems),
        _note_scale(file, keys, builder) if scale_from == "none" else builder.note_conflict(),
        next((key.root for key in keys.values() if key and key.root), ""),
        tuple(aside),
    )


def _read_keys(
    file: SafetensorsFile, index: ModuleIndex, settings: PeftSettings | None
) -> tuple[dict[str, Key | None], list[str], list[LoraProblem]]:
    """Take a file's names apart: its keys, the names left aside, and what neither is."""
    problems = find_foreign(file.tensors, index)
    known = {name for problem in problems for name in problem.keys}
    keys = split_keys(name for name in file.tensors if name not in known)
    keys |= {name: key for name in keys if (key := keys[name] or _find_set(name, settings))}
    aside = sorted(name for name in keys if _is_aside(file, name, keys[name]))
    keys |= dict.fromkeys(aside)
    not_lora = [name for name, key in keys.items() if key is None and name not in aside]
    if not_lora or not file.tensors:
        problems += find_not_lora(not_lora, keys, file.path)
    return keys, aside, problems


def _find_set(name: str, settings: PeftSettings | None) -> Key | None:
    """Return the key of a whole parameter that PEFT saved beside its LoRA, if it is one."""
    key, is_marked = split_whole(name)
    saved = (settings.modules_to_save if settings else None) or ()
    is_named = any(f".{module}." in f".{key.module}." for module in saved)
    is_saved = is_marked or is_named or "base_model.model." in key.prefix
    return key if is_saved and ".base_layer.weight" not in name else None


def _is_aside(file: SafetensorsFile, name: str, key: Key | None) -> bool:
    """Tell whether a tensor changes nothing: a stray marker, or what PEFT's bias="all" repeats.

    It saves a whole module's bias three times: plainly, once more, and as it was before.
    """
    if key is None:
        return is_stray(name, math.prod(file.tensors[name].shape)) and not _SAYS_SCALE.search(name)
    again = name.replace(".modules_to_save.", ".")
    return ".original_module." in name or (again != name and again in file.tensors)


def _note_scale(
    file: SafetensorsFile, keys: Mapping[str, Key | None], builder: _Builder
) -> tuple[str, ...]:
    """Return what people should know where a file states no alpha, so that 1 is assumed."""
    if not builder.assumed_scale or file.metadata.get("format") == FORMAT:
        return ()
    notes = ["the file states no alpha: scale 1"]
    for name, stated in sorted(file.metadata.items()):
        if _STATES_ALPHA.fullmatch(name):
            notes.append(
                f"warning: its metadata says {name} {stated[:40]}, but it has no alpha "
                "tensors; tools that load it read only those, and take scale 1, too"
            )
    if any(key and "base_model.model." in key.prefix for key in keys.values()):
        notes.append(
            "warning: PEFT's adapter_config.json isn't beside it, and holds the alpha it was "
            "trained with; without it ComfyUI takes scale 1, WanVideoWrapper rsLoRA of alpha = r"
        )
    return tuple(notes)


class _Builder:
    """Makes the changes of one module after the other."""

    def __init__(self, index: ModuleIndex, settings: PeftSettings | None, strength: float) -> None:
        self._index, self._settings, self._strength = index, settings, strength
        self.deltas: list[Delta] = []
        self.alphas: list[float] = []
        self.has_alpha_tensors = False
        self.has_stated_alphas = False
        self.assumed_scale = False
        self._conflict: tuple[str, float, float] | None = None

    def build(self, target: str, roles: Roles) -> None:
        """Add a module's changes; raise ValueError, and add none, if its keys make none."""
        refs = {role: ref for role, (_, ref) in roles.items()}
        kinds = [kind for kind, members in _FAMILIES.items() if any(m in refs for m in members)]
        made = []
        if len(kinds) > 1:
            raise ValueError(f"{target} has tensors of {' and '.join(kinds)}")
        if kinds:
            made += self._build_product(target, kinds[0], roles, refs)
        for role in ("B_bias", "alpha", "magnitude"):
            if role in refs and not kinds:
                raise ValueError(f"{refs[role].name} has no LoRA tensors beside it")
        for role in (role for role in _WHOLE if role in refs):
            suffix, kind = _WHOLE[role]
            made.append(self._delta(target, suffix, kind, {kind: refs[role]}))
        replaced = [delta.parameter for delta in made if delta.kind == "set"]
        twice = [name for name in replaced if sum(name == delta.parameter for delta in made) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is both replaced and changed")
        self.deltas += made

    def note_conflict(self) -> tuple[str, ...]:
        """Return what people should know where metadata and alpha tensors say different things."""
        if self._conflict is None or self._settings is None:
            return ()
        name, alpha, stated = self._conflict
        source = self._settings.source
        return (
            f"warning: {source} says alpha {stated:g} and {name} {alpha:g}; {source} is taken, as "
            "in diffusers and PEFT, and ComfyUI takes the tensors",
        )

    def _build_product(
        self, target: str, kind: Kind, roles: Roles, refs: dict[str, TensorRef]
    ) -> list[Delta]:
        _check_complete(kind, refs)
        tensors = {role: refs[role] for role in _FAMILIES[kind] if role in refs}
        if "magnitude" in refs:
            tensors["magnitude"] = refs["magnitude"]
        elif self._settings and self._settings.use_dora:
            raise ValueError(f"the metadata says DoRA, but {target} has no magnitude")
        delta = self._delta(target, ".weight", kind, tensors)
        rank = _rank(kind, refs)
        whole = kind == "lokr" and rank is None  # its trainers write any alpha, and apply none
        alpha = _read_alpha(refs["alpha"]) if "alpha" in refs and not whole else None
        self.has_alpha_tensors |= alpha is not None
        written = next(iter(roles.values()))[0].module
        names = (target, written, to_original(target) or target)
        try:
            scale = find_scale(self._settings, names, rank, alpha)
        except ValueError as error:
            raise ValueError(f"{target}: {error}") from None
        self.has_stated_alphas |= find_alpha(self._settings, names, None) is not None
        stated = find_alpha(self._settings, names, alpha)
        self.alphas += [] if stated is None else [stated]
        if alpha is not None and stated is not None and alpha != stated and not self._conflict:
            self._conflict = (refs["alpha"].name, alpha, stated)
        self.assumed_scale |= stated is None and not whole
        made = [replace(delta, scale=scale)]
        if "B_bias" in refs:
            made.append(self._delta(target, ".bias", "diff", {"diff": refs["B_bias"]}, scale))
        return made

    def _delta(
        self,
        target: str,
        suffix: str,
        kind: Kind,
        tensors: dict[str, TensorRef],
        scale: float = 1.0,
    ) -> Delta:
        shapes = self._index.shapes
        parameter = target if target in shapes and suffix != ".bias" else f"{target}{suffix}"
        if parameter not in shapes:
            name = next(iter(tensors.values())).name
            raise ValueError(f"{name} would change {parameter}, which the model doesn't have")
        delta = Delta(target, parameter, shapes[parameter], kind, tensors, scale, self._strength)
        odd = next(
            (ref for ref in tensors.values() if ref.dtype[0] not in "FB" or ref.dtype == "BOOL"),
            None,
        )
        if odd is not None:
            raise ValueError(f"{odd.name} is {odd.dtype}, which holds no weights")
        misfit = delta.find_misfit()
        if misfit:
            raise ValueError(f"{misfit}: {parameter} is {list(delta.shape)}")
        return delta


def _check_complete(kind: Kind, refs: Mapping[str, TensorRef]) -> None:
    present = next(refs[role].name for role in _FAMILIES[kind] if role in refs)
    if kind != "lokr":
        absent = [role for role in _FAMILIES[kind] if role not in refs]
        if absent:
            raise ValueError(f"{present} lacks its other half ({absent[0]})")
        return
    for factor in ("kron_w1", "kron_w2"):
        halves = [f"{factor}_{half}" in refs for half in "ab"]
        if any(halves) != all(halves) or (factor in refs) == any(halves):
            raise ValueError(f"{present} needs either {factor[5:]} or both its halves")


def _rank(kind: Kind, refs: Mapping[str, TensorRef]) -> int | None:
    """Return the rank that alpha is divided by; of LoKr's two LyCORIS takes the second factor's."""
    roles = {"lora": ("A",), "loha": ("w1_b",), "lokr": ("kron_w2_b", "kron_w1_b")}
    return next((refs[role].shape[0] for role in roles[kind] if role in refs), None)


def _read_alpha(ref: TensorRef) -> float:
    if math.prod(ref.shape) != 1:
        raise ValueError(f"{ref.name} is {list(ref.shape)}, it should be one number")
    alpha = float(ref.read().item())
    if not math.isfinite(alpha) or alpha == 0:
        raise ValueError(f"{ref.name} is {alpha}")
    return alpha


def _extras(builder: _Builder, settings: PeftSettings | None) -> list[str]:
    kinds = {delta.kind for delta in builder.deltas}
    dora = any("magnitude" in delta.tensors for delta in builder.deltas)
    found = {
        "metadata": settings is not None,
        "alpha": builder.has_alpha_tensors,
        "rsLoRA": settings is not None and settings.use_rslora,
        "DoRA": dora,
        "LoHa": "loha" in kinds,
        "LoKr": "lokr" in kinds,
        "diff": "diff" in kinds,
        "whole parameters": "set" in kinds,
    }
    return [name for name, present in found.items() if present]
