"""Find out whether a file is a LoRA or a checkpoint, and describe it."""

from __future__ import annotations

from pathlib import Path

from wanexport.checkpoint.foreign import has_base
from wanexport.checkpoint.gguf_file import open_weights
from wanexport.checkpoint.locate import find_expert, locate_checkpoint
from wanexport.errors import UsageError
from wanexport.inspection.checkpoint import describe_checkpoint
from wanexport.inspection.description import Description
from wanexport.inspection.lora import describe_lora
from wanexport.lora.choose import SKIP_FLAG, Choice
from wanexport.lora.keys import find_unsupported, split_key
from wanexport.model.config import Config, list_configs, load_config
from wanrt.manifest.schema import Expert
from wanrt.terminal.progress import Reporter

__all__ = ["describe_file"]

NOTHING = Choice()


def describe_file(
    path: Path,
    config: Config | None = None,
    choice: Choice = NOTHING,
    *,
    read_values: bool = True,
    reporter: Reporter | None = None,
) -> Description:
    """Describe a LoRA or a checkpoint; keys that can't be applied are listed, not refused.

    Args:
        path: a safetensors or GGUF file, or a checkpoint's folder.
        config: what it is meant for; without it, the shipped configuration that fits best.
        choice: which expert, and which of a LoRA's keys are meant.
        read_values: whether values are looked at, too; without, only headers are.
        reporter: where the reading of values is shown; nowhere by default.

    Raises:
        WanExportError: it can't be read, or a flag has no effect on it.
    """
    configs = _choose_configs(config, choice.expert)
    expert = choice.expert and find_expert(str(path), choice.expert)
    location = locate_checkpoint(str(expert or path))
    files = [open_weights(file) for file in location.files]
    names = [name for file in files for name in file.tensors]
    if any(split_key(name) or find_unsupported(name) for name in names) and not has_base(names):
        return describe_lora(files[0], configs, choice, read_values=read_values)
    if choice.skip_image_keys:
        raise UsageError(f"{SKIP_FLAG} has no effect on a checkpoint", "drop it")
    quiet = reporter or Reporter(quiet=True)
    return describe_checkpoint(location.path, files, configs, quiet, read_values=read_values)


def _choose_configs(config: Config | None, expert: Expert | None) -> list[Config]:
    configs = [config] if config else [load_config(name) for name in list_configs()]
    if expert is None:
        return configs
    pairs = [held for held in configs if held.experts]
    if not pairs and config:
        raise UsageError(
            f"--expert has no effect: {config.name} is one model",
            "drop it, or choose a --config of Wan2.2",
        )
    return pairs
