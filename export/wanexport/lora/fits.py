"""Which of the shipped configurations a LoRA file fits in full."""

from __future__ import annotations

from wanexport.lora.resolve import resolve_file
from wanexport.model.config import list_configs, load_config
from wanexport.model.names import module_shapes
from wanexport.storage.tensor_file import SafetensorsFile

__all__ = ["find_fits"]


def find_fits(file: SafetensorsFile) -> tuple[str, ...]:
    """Return the names of the shipped configurations whose models take every key of a file.

    Raises:
        AdapterError: the file's metadata can't be read or asks for what isn't supported.
    """
    named = {name: load_config(name).architecture for name in list_configs()}
    fits = {
        arch: not resolve_file(file, module_shapes(arch)).problems
        for arch in dict.fromkeys(named.values())
    }
    return tuple(name for name, arch in named.items() if fits[arch])
