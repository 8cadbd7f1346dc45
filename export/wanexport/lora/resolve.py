"""From a LoRA file's keys to changes of parameters; what doesn't resolve is a named problem."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from wanexport.errors import AdapterError
from wanexport.lora.choose import IMAGE_KEY, SKIP_FLAG
from wanexport.lora.delta import Delta, Kind
from wanexport.lora.keys import Key, ModuleIndex, find_unsupported, name_dialect, split_key
from wanexport.lora.scales import PeftSettings, find_alpha, find_scale, has_metadata, read_settings
from wanexport.model.names import to_original
from wanexport.storage.tensor_file import SafetensorsFile, TensorRef
from wanrt.engine.adapter import FORMAT
from wanrt.manifest.origin import ScaleFrom
from wanrt.terminal.text import first_three

__all__ = ["LoraProblem", "Resolution", "resolve_file"]

Shapes = Mapping[str, tuple[int, ...]]
Roles = dict[str, tuple[Key, TensorRef]]

_FAMILIES: dict[Kind, tuple[str, ...]] = {
    "lora": ("A", "B"),
    "loha": ("w1_a", "w1_b", "w2_a", "w2_b"),
    "lokr": ("kron_w1", "kron_w1_a", "kron_w1_b", "kron_w2", "kron_w2_a", "kron_w2_b"),
}
MOST_KEYS = 65_536
_DIFFS = ("diff", "diff_b", "diff_m")
_OTHER_MODELS = {
    r"^(text_encoder|lora_te)": ("the text encoder", "split the file"),
    r"^transformer_2\.": (
        "Wan2.2's second transformer, the low-noise expert",
        "the file holds LoRAs of both experts: add --expert high, low or both, with a --config of "
        "Wan2.2",
    ),
    r"vace_": ("VACE's blocks", "split the file"),
}


@dataclass(frozen=True)
class LoraProblem:
    """Keys that can't be applied, and why."""

    keys: tuple[str, ...]
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Resolution:
    """A LoRA file's keys, resolved against one model.

    Args:
        dialect: for people.
        settings: PEFT's, from the file's metadata or beside it.
        deltas: the changes of the model's parameters.
        alphas: of its products, where metadata or an alpha tensor says it.
        scale_from: what says so.
        notes: what people should know of its scale.
        problems: what couldn't be applied; every key is in a delta or here.
    """

    dialect: str
    settings: PeftSettings | None
    deltas: tuple[Delta, ...]
    alphas: tuple[float, ...]
    scale_from: ScaleFrom
    problems: tuple[LoraProblem, ...]
    notes: tuple[str, ...] = ()


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
    keys = {name: split_key(name) for name in file.tensors}
    namings = index.detect_namings(key for key in keys.values() if key)
    problems = _find_not_lora(keys, len(file.tensors))
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
    problems += _explain_unmatched(unmatched, index, len(keys))
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
        _note_scale(file, keys, builder) if scale_from == "none" else (),
    )


def _note_scale(
    file: SafetensorsFile, keys: Mapping[str, Key | None], builder: _Builder
) -> tuple[str, ...]:
    """Return what people should know where a file states no alpha, so that 1 is assumed."""
    if not builder.assumed_scale or file.metadata.get("format") == FORMAT:
        return ()
    notes = ["the file states no alpha: scale 1"]
    if stated := file.metadata.get("ss_network_alpha"):
        notes.append(
            f"warning: its metadata says ss_network_alpha {stated[:40]}, but it has no alpha "
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
        suffixes = {"diff": ".weight", "diff_b": ".bias", "diff_m": ""}
        for role in (role for role in _DIFFS if role in refs):
            made.append(self._delta(target, suffixes[role], "diff", {"diff": refs[role]}))
        self.deltas += made

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
    roles = {"lora": ("A",), "loha": ("w1_b",), "lokr": ("kron_w2_b", "kron_w1_b"), "diff": ()}
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
    }
    return [name for name, present in found.items() if present]


def _find_not_lora(keys: Mapping[str, Key | None], total: int) -> list[LoraProblem]:
    """Return the problems of keys that aren't LoRA's."""
    not_lora = [name for name, key in keys.items() if key is None]
    if not keys:
        return [LoraProblem((), "holds no tensors")]
    if any(find_unsupported(name) == "Stand-In" for name in not_lora):
        return [
            LoraProblem(
                tuple(not_lora),
                f"is Stand-In ({first_three(not_lora)}): it acts on reference tokens alone, "
                "which no merged weight can do",
                "run it where its own code is, ComfyUI or Stand-In's repository",
            )
        ]
    if len(not_lora) == total and not any(find_unsupported(name) for name in not_lora):
        return [
            LoraProblem(
                tuple(not_lora),
                f"holds no LoRA tensors, but {first_three(not_lora)}: it looks like a checkpoint",
                "give a checkpoint with --base or --finetuned",
            )
        ]
    problems = []
    whole = [name for name in not_lora if not find_unsupported(name)]
    for name in (name for name in not_lora if find_unsupported(name)):
        problems.append(LoraProblem((name,), f"{name} is {find_unsupported(name)}, not supported"))
    if whole:
        problems.append(
            LoraProblem(
                tuple(whole),
                f"{len(whole)} of {total} keys aren't LoRA tensors: {first_three(whole)}",
                "give whole parameters as a checkpoint, with --finetuned",
            )
        )
    return problems


def _explain_unmatched(unmatched: list[str], index: ModuleIndex, total: int) -> list[LoraProblem]:
    """Sort keys that match no module by what is the matter with them."""
    problems, left = [], list(unmatched)

    def take(test: Callable[[str], object], message: str, hint: str) -> None:
        taken = [name for name in left if test(name)]
        if taken:
            left[:] = [name for name in left if not test(name)]
            count = f"{len(taken)} of {total} keys"
            problems.append(
                LoraProblem(tuple(taken), f"{count} {message}: {first_three(taken)}", hint)
            )

    for pattern, (what, hint) in _OTHER_MODELS.items():
        take(re.compile(pattern).search, f"are for {what}, which isn't part of this model", hint)
    if not index.has_image_conditioning:
        take(
            IMAGE_KEY.search,
            "are for image conditioning by CLIP, which this model lacks",
            "it is a LoRA of Wan2.1's image-to-video models; text-to-video models and Wan2.2 have "
            f"no such layers: choose a --config that has, or apply the rest with {SKIP_FLAG}",
        )
    take(
        lambda name: _block(name) >= index.blocks,
        f"are for blocks that the model, of {index.blocks} blocks, doesn't have",
        f"the LoRA is of a model with at least {max(map(_block, left), default=0) + 1} blocks",
    )
    if left:
        hint = "; ".join(f"{name}: nearest is {_nearest(name, index)}" for name in left[:3])
        message = f"{len(left)} of {total} keys match no module of the model: {first_three(left)}"
        problems.append(LoraProblem(tuple(left), message, hint))
    return problems


def _block(name: str) -> int:
    match = re.search(r"blocks[._](\d{1,6})[._]", name)
    return int(match[1]) if match else -1


def _nearest(name: str, index: ModuleIndex) -> str:
    key = split_key(name)
    module = key.module if key else name
    known = [name for name in index.names if name != module]  # norm2 of the wrong naming
    if key and key.prefix.endswith("_"):
        known = [known_name.replace(".", "_") for known_name in known]
    return next(iter(difflib.get_close_matches(module, known, n=1, cutoff=0.3)), "none")
