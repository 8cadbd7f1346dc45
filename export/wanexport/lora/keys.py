"""The keys of LoRA files: which module each one names, and what its tensor is for.

Every writer has its own prefix, separators and suffixes, and some mix them in one file; so each key
is taken apart by itself, with two tables, instead of guessing a dialect for the whole file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from wanexport.model.names import to_diffusers, to_original
from wanexport.model.wrappers import strip_wrappers

__all__ = [
    "Key",
    "ModuleIndex",
    "find_unsupported",
    "name_dialect",
    "split_key",
    "split_keys",
    "split_whole",
]

# Prefix -> its writers, beside the wrappers that checkpoints have, too. An underscored one turns
# the module's dots into underscores. Of two that fit the longer comes first.
PREFIXES = {
    "base_model.model.": "PEFT",
    "model.diffusion_model.": "ComfyUI",
    "diffusion_model.": "ComfyUI",
    "pipe.dit.": "DiffSynth",
    "transformer.": "diffusers",
    "unet.": "diffusers",
    "model.": "PyTorch",
    "lora_unet__": "VideoX-Fun",
    "lora_unet_": "kohya/musubi",
    "lora_transformer_": "kohya",
    "lycoris_": "LyCORIS",
}
_ADAPTER = r"(?:\.(?P<adapter>[^.]+))?"  # PEFT's name of the adapter: `.lora_A.default.weight`

# Suffix -> role. Roles of one module together decide what its change is.
SUFFIXES = tuple(
    (re.compile(rf"(?P<module>.*?)\.?(?P<suffix>(?<![^.]){pattern})"), role)
    for pattern, role in (
        (rf"lora_A{_ADAPTER}\.weight", "A"),
        (rf"lora_B{_ADAPTER}\.weight", "B"),
        (rf"lora_B{_ADAPTER}\.bias", "B_bias"),
        (r"lora_A", "A"),
        (r"lora_B", "B"),
        (r"(?:lora_down|lora\.down|lora_linear_layer\.down)\.weight", "A"),
        (r"(?:lora_up|lora\.up|lora_linear_layer\.up)\.weight", "B"),
        (r"(?:lora_up|lora\.up)\.bias", "B_bias"),
        (r"(?:lora_)?alpha", "alpha"),
        (rf"lora_magnitude_vector{_ADAPTER}\.weight", "magnitude"),
        (rf"lora_magnitude_vector{_ADAPTER}", "magnitude"),
        (r"(?:dora_scale|magnitude)", "magnitude"),
        *((rf"hada_{part}{_ADAPTER}", part) for part in ("w1_a", "w1_b", "w2_a", "w2_b")),
        *(
            (rf"lokr_{part}{_ADAPTER}", f"kron_{part}")
            for part in ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b")
        ),
        (r"(?:diff|w_norm)", "diff"),
        (r"(?:diff_b|b_norm)", "diff_b"),
        (r"diff_m", "diff_m"),
        (r"set_weight", "set"),
        (r"set_bias", "set_b"),
    )
)
# Suffix -> what it belongs to, of changes that are known and can't be applied.
UNSUPPORTED = {
    r"[qkv]_loras\.(?:down|up)\.weight": "Stand-In",
    r"hada_t[12]": "a Tucker core (LoHa)",
    r"lokr_t2": "a Tucker core (LoKr)",
    r"lora_mid\.weight": "a Tucker core (LoCon)",
    r"[ab][12]\.weight": "GLoRA",
    r"(?:oft_|boft_).*": "OFT",
    r"(?:lora_E|ranknum).*": "AdaLoRA",
    r"vera_lambda_.*": "VeRA",
    r"lora_embedding_[AB].*": "LoRA of an embedding",
    r"ia3_l.*|on_input": "IA3",
    r"reshape_weight": "a weight of another shape",
    r"scalar": "a trained scalar (LyCORIS)",
    r"bias_(?:indices|values|size)": "a sparse bias",
}
# PEFT's wrapper of a module that was trained as a whole, and of a layer whose bias was.
_SAVED = re.compile(
    r"\.(?:modules_to_save\.(?:default\.|[^.]+\.(?=(?:weight|bias)$))?|base_layer\.(?=bias$))"
)
_PARAMETER = re.compile(r"(?P<module>.*?)(?:\.(?P<suffix>weight|bias))?", re.DOTALL)
# What stands before a block's name: anything before a dot, one word before an underscore.
_BLOCKS = re.compile(r"((?:.+?\.)?(?:lora_[a-z0-9]+_+)?)blocks[._]\d+(?:[._]|$)")
# Roots of other models' blocks, which a DiT's names may well fit.
_OTHER_ROOT = re.compile(
    r"(^|[._])(vace|te\d*|text_encoder\w*|transformer_2|low_noise_model|"
    r"high_noise_model|vae|clip\w*|\w*encoder|control\w*|\w+_adapter)[._]"
)


@dataclass(frozen=True)
class Key:
    """One key of a LoRA file, taken apart.

    Args:
        text: as it is in the file.
        prefix: what stands before the module's name.
        module: the module's name as written.
        suffix: what stands after it.
        role: the suffix's meaning, the same word in all dialects.
        root: the part of the prefix that no table has; all keys of the file have it.
    """

    text: str
    prefix: str
    module: str
    suffix: str
    role: str
    root: str = ""


def split_key(text: str) -> Key | None:
    """Take a key apart; None if it isn't a LoRA key."""
    for pattern, role in SUFFIXES:
        match = pattern.fullmatch(text)
        if match:
            prefix, module = _split_prefix(match["module"])
            adapter = match.groupdict().get("adapter")
            suffix = match["suffix"]
            if adapter:
                suffix = suffix.replace(f".{adapter}", ".NAME", 1)
            return Key(text, prefix, module, suffix, role)
    return None


def split_keys(names: Iterable[str]) -> dict[str, Key | None]:
    """Take a file's keys apart; a prefix that all of them have comes off, whoever wrote it.

    It has to be the only one that stands before `blocks.N.`.
    """
    keys = {name: split_key(name) for name in names}
    found = [key for key in keys.values() if key]
    roots = {match[1] for key in found if (match := _BLOCKS.match(key.module))}
    root = next(iter(roots), "")
    if len(roots) != 1 or not root or _OTHER_ROOT.search(root):
        return keys
    if not all(key.module.startswith(root) for key in found):
        return keys
    return {name: key and _strip(key, root) for name, key in keys.items()}


def split_whole(text: str) -> tuple[Key, bool]:
    """Take the key of a whole parameter apart; True if it says that PEFT saved it for that."""
    bare = _SAVED.sub(".", text)
    match = _PARAMETER.fullmatch(bare)
    assert match is not None
    prefix, module = _split_prefix(match["module"])
    suffix = match["suffix"] or ""
    role = "set_b" if suffix == "bias" else "set"
    return Key(text, prefix, module, suffix, role), bare != text


def _strip(key: Key, root: str) -> Key:
    return replace(key, prefix=key.prefix + root, module=key.module.removeprefix(root), root=root)


def find_unsupported(text: str) -> str:
    """Return which known but unsupported kind of change a key belongs to, or nothing."""
    for pattern, kind in UNSUPPORTED.items():
        if re.fullmatch(rf".*\.(?:{pattern})", text):
            return kind
    return ""


def _split_prefix(module: str) -> tuple[str, str]:
    """Split a module's name into what its writers put before it, of any nesting, and the rest."""
    stripped, rest = strip_wrappers(module)
    while prefix := next((p for p in PREFIXES if rest.startswith(p)), ""):
        stripped, rest = stripped + prefix, rest.removeprefix(prefix)
        if prefix.endswith("_"):
            break
        more, rest = strip_wrappers(rest)
        stripped += more
    return stripped, rest


Naming = Literal["diffusers", "original"]
_ATTENTION = re.compile(
    r"(?P<block>blocks\.\d+\.)(?P<attention>self_attn|cross_attn)\.(?P<layer>.+)"
)
_SWAPPED = re.compile(r"blocks\.\d+\.norm[23]")


class ModuleIndex:
    """A model's modules and loose parameters by every name a LoRA file may give them."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self._names: dict[str, str] = {}
        for parameter in shapes:
            module = parameter.removesuffix(".weight").removesuffix(".bias")
            for name in (module, to_original(module)):
                if name is not None:
                    self._names[name] = module
        self._underscored = {name.replace(".", "_"): name for name in self._names}
        for module in set(self._names.values()):
            for name in _mixed_names(module):
                self._underscored.setdefault(name, module)

    def find(self, key: Key, namings: Collection[Naming] = ()) -> str | None:
        """Return diffusers' name of the module or loose parameter that a key names.

        Args:
            key: the key.
            namings: whose names the file uses (`detect_namings`); they decide what norm2 and
                norm3 mean, which the two have swapped.
        """
        written = self._dotted(key)
        if key.role == "diff_m":
            return self._find_modulation(written)
        if _SWAPPED.fullmatch(written):
            meant: Naming = "diffusers" if written.endswith("norm2") else "original"
            if namings and meant not in namings:
                return None
        return self._names.get(written)

    def detect_namings(self, keys: Iterable[Key]) -> set[Naming]:
        """Return which writers' names a file uses, judged by names that only one writer has."""
        found: set[Naming] = set()
        for key in keys:
            written = self._dotted(key)
            module = self._names.get(written)
            if module is None or module == to_original(module) or _SWAPPED.fullmatch(written):
                continue
            found.add("diffusers" if written == module else "original")
        return found

    def _dotted(self, key: Key) -> str:
        """Return the module's name as written, but with its dots back."""
        if key.prefix.endswith("_") or key.module not in self._names:
            return self._underscored.get(key.module.replace(".", "_"), key.module)
        return key.module

    def _find_modulation(self, written: str) -> str | None:
        """Return the modulation table of a block, or the model's for its head."""
        module = re.sub(r"^(blocks)_(\d+)$", r"\1.\2", written)
        table = f"{module}.modulation"
        found = to_diffusers(table) or f"{module}.scale_shift_table".lstrip(".")
        return found if found in self.shapes else None

    @property
    def names(self) -> list[str]:
        """Every dotted name that is understood."""
        return list(self._names)

    @property
    def blocks(self) -> int:
        """The number of the model's blocks."""
        return len({name.split(".")[1] for name in self.shapes if name.startswith("blocks.")})

    @property
    def has_image_conditioning(self) -> bool:
        """Whether the model attends to an image, too."""
        return any("add_k_proj" in name for name in self.shapes)


def _mixed_names(module: str) -> Iterator[str]:
    """Yield underscored names of an attention's layer that are half the original's.

    ai-toolkit renames diffusers' names part by part, and leaves the parts that it doesn't know:
    `self_attn_q` beside `self_attn_to_out_0`.
    """
    match = _ATTENTION.fullmatch(to_original(module) or "")
    if match is None:
        return
    layer = module.removeprefix(match["block"]).partition(".")[2]
    yield f"{match['block']}{match['attention']}.{layer}".replace(".", "_")
    number = {"self_attn": "attn1", "cross_attn": "attn2"}[match["attention"]]
    yield f"{match['block']}{number}.{match['layer']}".replace(".", "_")


def name_dialect(keys: Iterable[Key], extras: Iterable[str] = ()) -> str:
    """Return for people what kind of file these keys are of, and what it holds beyond LoRA."""
    labels = dict.fromkeys(_label(key) for key in keys)
    return " + ".join([", ".join(labels), *dict.fromkeys(extras)])


def _label(key: Key) -> str:
    known = key.prefix.removesuffix(key.root)
    prefix = next((p for p in PREFIXES if known.endswith(p)), "")
    writer = PREFIXES.get(prefix)
    wrapped = f", stripped of {key.prefix}" if key.prefix != prefix else ""
    if writer is not None:
        return f"{writer} ({prefix}{wrapped})"
    if key.prefix:
        return f"stripped of {key.prefix}"
    if ".NAME" in key.suffix:
        return "DiffSynth (lora_A.NAME)"
    if key.suffix in ("lora_A", "lora_B"):
        return "canonical adapter"
    original = to_diffusers(key.module) is not None and to_original(key.module) is None
    return f"{'original' if original else 'diffusers'} names without prefix"
