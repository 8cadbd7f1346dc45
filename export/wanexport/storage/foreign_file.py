"""Files that aren't safetensors, recognised by their first bytes: what they are, and the way out.

Nothing here is unpickled: of a pickle only its strings are read, to name what it holds.
"""

from __future__ import annotations

import json
import pickletools
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["PICKLES", "describe_foreign", "show_conversion", "show_rewrite"]

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
HEAD_BYTES = 512
MAX_PICKLE_BYTES = 64 << 20
AGAIN = "download it again: the site may want a login or a token"
# what training scripts keep a model's parameters under, the best one to take first
STATES = ("generator_ema", "ema", "ema_model", "state_dict", "model_state_dict", "generator",
          "model", "module")  # fmt: skip


def describe_foreign(path: Path) -> tuple[str, str] | None:
    """Return what a file is and what to do, if it is known not to be safetensors.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head[8:9] == b"{":  # safetensors: a length, then JSON; the length may begin like a pickle
        return None
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself", "run git lfs pull in its repository"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not the file itself", AGAIN
    if head.startswith(b"GGUF"):
        return "a GGUF file, not safetensors", "GGUF is read as a checkpoint, not as a LoRA"
    if head.startswith((b"PK\x03\x04", b"\x80")) or path.suffix in PICKLES:
        return "a pickle; loading one can run whatever code it holds", show_conversion([path])
    return None


def show_conversion(pickles: Sequence[Path]) -> str:
    """Return the command that makes one safetensors file of a checkpoint's pickles, and no more.

    torch loads tensors alone (`weights_only`), so that no code of the file runs.
    """
    first = pickles[0]
    out = first.with_suffix(".safetensors")
    if out == first:
        out = first.with_name(f"{first.stem}-converted.safetensors")
    states = _find_states(first)
    part = f"[{json.dumps(states[0])}]" if states else ""
    files = json.dumps([str(path) for path in pickles], ensure_ascii=False)
    load = f'torch.load(f, map_location="cpu", weights_only=True){part}.items()'
    code = (
        "import torch; from safetensors.torch import save_file; "
        f"save_file({{k: v.clone().contiguous() for f in {files} for k, v in {load} "
        f"if torch.is_tensor(v)}}, {json.dumps(str(out), ensure_ascii=False)})"
    )
    held = f" (it holds {', '.join(states)}: put the one you mean)" if len(states) > 1 else ""
    return f"convert it{held}: python -c {shlex.quote(code)}"


def show_rewrite(path: Path, name: str, condition: str = "True") -> str:
    """Return the command that writes a safetensors file's tensors again, metadata and all.

    Args:
        path: the file; `-rewritten` is put after its stem.
        name: a Python expression for a tensor's new name, of its old one, `k`.
        condition: a Python expression for whether it is kept.
    """
    out = path.with_name(f"{path.stem}-rewritten.safetensors")
    source, target = (json.dumps(str(file), ensure_ascii=False) for file in (path, out))
    code = (
        "import re; from safetensors import safe_open; from safetensors.torch import save_file; "
        f'f = safe_open({source}, "pt"); '
        f"save_file({{{name}: f.get_tensor(k) for k in f.keys() if {condition}}}, {target}, "
        "f.metadata())"
    )
    return f"python -c {shlex.quote(code)}"


def _find_states(path: Path) -> list[str]:
    """Return the names in a pickle that training scripts keep parameters under."""
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
            with archive.open(name) as file:
                content = file.read(MAX_PICKLE_BYTES)
        strings = {arg for _, arg, _ in pickletools.genops(content) if isinstance(arg, str)}
    except (OSError, ValueError, zipfile.BadZipFile):
        return []
    return [state for state in STATES if state in strings]
