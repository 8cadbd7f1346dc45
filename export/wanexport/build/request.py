"""The user's request, with defaults filled in and contradictions refused; no file is read yet."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from wanexport.errors import ConfigError, UsageError
from wanexport.lora.find import LoraArgument
from wanexport.model.cards import check_cards
from wanexport.model.config import Config, Size
from wanexport.model.quantization import NO_BACKEND, Scheme
from wanexport.tensorrt.settings import PlanSettings, resolve_settings
from wanrt.manifest.schema import Backend, Mode
from wanrt.terminal.progress import Reporter

__all__ = ["MODES", "BuildRequest", "check_usage", "resolve_request"]

MODES: tuple[Mode, ...] = get_args(Mode)
ExpertChoice = Literal["high", "low", "both"]
RANDOM = "random"
SEED = 0


@dataclass(frozen=True)
class BuildRequest:
    """One `wanexport build`: a configuration, and the axes of the study.

    Args:
        config: model, size and dtype, flags applied.
        modes: which engines to make, in this order.
        ranks: ranks of the seeded adapters; empty with `loras`.
        base: the checkpoint, or `random` for seeded weights; None where a fine-tune needs none.
        finetuned: the full fine-tune, or its trained parameters alone, which are laid over the
            base; None puts the base's weights into the full engine.
        loras: files that together are the adapter.
        prefuse: files that are merged into the base of every mode before anything else.
        expert: which of Wan2.2's two models; `both` is split before anything is read.
        targets: names of sets and patterns of the layers that a swappable engine's adapters, and
            those of `ranks`, sit on; empty is cross-attention, or with `loras` what they change.
        skip_image_keys: leave out a LoRA's keys of layers for an image, where the model has none.
        quantize: how the blocks' linear layers are stored and multiplied.
        quantize_exclude: patterns of those that are left as they are.
        max_rank: of the swappable engine; None takes the largest asked.
        merge_rest: merge what a mode can't carry unmerged into its base, instead of refusing it.
        dynamic: leave batch, frames, height and width open.
        split: make a graph of its own of what depends on the prompt and the image alone.
        cards: how many GPUs compute one forward together.
        copy: copy weights into the engines instead of linking them.
        verify: compare every engine with diffusers' model before it exists.
        out: where engines go.
        force: replace engines that were made from something else.
        tensorrt: how TensorRT plans are built; None for engines that run with ONNX Runtime.
        command: the arguments that asked for it, recorded in engine.json; no part of identity.
    """

    config: Config
    modes: tuple[Mode, ...] = MODES
    ranks: tuple[int, ...] = ()
    base: str | None = RANDOM
    finetuned: str | None = None
    loras: tuple[LoraArgument, ...] = ()
    prefuse: tuple[LoraArgument, ...] = ()
    expert: ExpertChoice | None = None
    skip_image_keys: bool = False
    targets: tuple[str, ...] = ()
    quantize: Scheme = "none"
    quantize_exclude: tuple[str, ...] = ()
    max_rank: int | None = None
    merge_rest: bool = False
    dynamic: bool = False
    split: bool = False
    cards: int = 1
    copy: bool = False
    verify: bool = True
    out: Path = Path("engines")
    force: bool = False
    tensorrt: PlanSettings | None = None
    command: tuple[str, ...] = field(default=(), compare=False)

    @property
    def backend(self) -> Backend:
        """What executes the engines."""
        return self.tensorrt.backend if self.tensorrt else "onnxruntime"

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes that every engine takes."""
        dynamic = self.config.dynamic_sizes if self.dynamic else ()
        return (self.config.size, *dynamic)

    @property
    def needs_base(self) -> bool:
        """Whether any engine is made of the base alone; a whole fine-tune brings its own weights.

        One of trained parameters alone is laid over the base all the same.
        """
        return self.finetuned is None or set(self.modes) != {"full"}

    def swaps_in_place(self, mode: Mode) -> bool:
        """Tell whether engines of a mode can exchange an adapter merged into their weights."""
        refit = self.tensorrt.refit if self.tensorrt else None
        return mode == "merged" and refit in ("targets", "all")

    def swap_rank(self, rank: int | None) -> int:
        """Return the rank that a merged engine whose adapter has `rank` can swap in."""
        return self.max_rank or max((*self.ranks, rank or 1))

    @property
    def times_tactics(self) -> bool:
        """Whether building an engine again may change its speed, so that a bench needs to know."""
        settings = self.tensorrt
        return settings is not None and settings.backend == "tensorrt" and settings.control

    def __post_init__(self) -> None:
        for flag, path in (("base", self.base), ("finetuned", self.finetuned)):
            if path is not None and not path.strip():
                raise UsageError(f"{flag} is empty", f"name a checkpoint, or leave {flag} out")
        for target in self.targets:
            if not target.strip():
                raise UsageError("targets is empty", "name a set or a pattern, or leave it out")
        for flag, loras in (("lora", self.loras), ("prefuse", self.prefuse)):
            if any(not lora.path.strip() for lora in loras):
                raise UsageError(f"{flag} is empty", "name a LoRA's file, or leave it out")
        adapted = [mode for mode in self.modes if mode != "full"]
        if adapted and not self.ranks and not self.loras:
            raise UsageError(f"mode {adapted[0]} needs an adapter", "add --rank 32, or --lora FILE")
        if self.ranks and self.loras:
            raise UsageError(
                "--rank makes a random adapter, so it can't be combined with --lora",
                "drop one of the two",
            )
        largest = max(self.ranks, default=1)
        width = self.config.architecture.width
        if largest > width:
            raise ConfigError(
                f"rank {largest} exceeds the model's width, {width}", "use a smaller --rank"
            )
        if self.max_rank is not None and self.max_rank > width:
            raise ConfigError(
                f"--max-rank {self.max_rank} exceeds the model's width, {width}",
                "use a smaller --max-rank",
            )
        if self.max_rank is not None and self.max_rank < largest:
            raise ConfigError(
                f"--max-rank {self.max_rank} is below --rank {largest}", "raise --max-rank"
            )
        if self.cards > 1:
            self._check_cards()
        if self.dynamic and not self.config.dynamic_sizes:
            raise ConfigError(
                f"{self.config.name} names no dynamic_sizes for --dynamic",
                "add [[dynamic_sizes]] to the configuration",
            )

    def _check_cards(self) -> None:
        if self.tensorrt is None:
            raise ConfigError(
                f"--cards {self.cards} needs a backend with exchanges between GPUs, which ONNX "
                "Runtime hasn't",
                "add --backend tensorrt-rtx, or tensorrt",
            )
        if self.dynamic:
            raise ConfigError(
                f"--cards {self.cards} splits the tokens of one size, so it can't be combined with "
                "--dynamic",
                "drop --dynamic: build an engine for each size",
            )
        if self.split:
            raise ConfigError(
                f"--split isn't built for --cards {self.cards} yet", "drop one of the two"
            )
        arch, size = self.config.architecture, self.config.size
        check_cards(self.cards, arch.num_attention_heads, size.tokens, size.batch)


def resolve_request(request: BuildRequest, reporter: Reporter) -> BuildRequest:
    """Fill in what a request leaves open, from this machine's libraries and GPU.

    Raises:
        WanExportError: a library isn't installed, or can't build what is asked.
    """
    if request.tensorrt is None:
        return request
    settings = request.tensorrt
    if request.quantize != "none":
        settings = replace(settings, refit="baked")
    with reporter.work("asking TensorRT"):
        settings = resolve_settings(settings)
    if request.cards > 1 and settings.lacks_exchanges:
        assert settings.toolchain is not None
        raise ConfigError(
            f"--cards {request.cards} needs TensorRT 11, whose engines exchange between GPUs; here "
            f"is {settings.toolchain.library}",
            "upgrade it: pip install 'tensorrt>=11', or use --backend tensorrt-rtx",
        )
    return replace(request, tensorrt=settings)


ADAPTED: tuple[Mode, ...] = ("merged", "separate", "swappable")
FULL: tuple[Mode, ...] = ("full",)
UNMERGED: tuple[Mode, ...] = ("separate", "swappable")


def check_usage(request: BuildRequest) -> None:
    """Refuse a flag that has no effect on any engine of a request.

    Raises:
        UsageError: it names the flag and what it needs.
    """
    if request.ranks:
        _need_mode(request, "--rank", ADAPTED)
    if request.loras:
        _need_mode(request, "--lora", ADAPTED)
    if request.finetuned is not None:
        _need_mode(request, "--finetuned", FULL)
    if request.targets:
        _need_mode(request, "--targets", ADAPTED if request.ranks else ("swappable",))
    if request.expert is not None and request.config.experts is None:
        raise UsageError(
            f"--expert has no effect: {request.config.name} is one model",
            "drop it, or choose a --config of Wan2.2",
        )
    if request.expert != "both" and any(
        lora.expert not in (None, request.expert) for lora in request.loras
    ):
        raise UsageError(
            "--lora-high and --lora-low have no effect on a model that isn't built",
            "add --expert both, with a --config of Wan2.2",
        )
    if request.skip_image_keys and not request.loras and not request.prefuse:
        raise UsageError("--skip-image-keys has no effect without a --lora", "add --lora FILE")
    if request.max_rank is not None:
        swapping = [mode for mode in ADAPTED if mode == "swappable" or request.swaps_in_place(mode)]
        _need_mode(request, "--max-rank", swapping)
    if request.merge_rest:
        if not request.loras:
            raise UsageError("--merge-rest has no effect without a --lora", "add --lora FILE")
        _need_mode(request, "--merge-rest", UNMERGED)
    _check_quantized(request)
    settings = request.tensorrt
    if settings is not None and not settings.control:
        if settings.backend != "tensorrt":
            raise UsageError(
                f"--no-build-control has no effect with --backend {settings.backend}, which times "
                "no kernels when it builds",
                "drop it",
            )
        _need_mode(request, "--no-build-control", FULL)


def _check_quantized(request: BuildRequest) -> None:
    """Refuse a scheme that nothing runs, or not with what else is asked."""
    scheme = request.quantize
    if scheme == "none":
        if request.quantize_exclude:
            raise UsageError(
                "--quantize-exclude has no effect without --quantize", "add --quantize int8"
            )
        return
    if request.tensorrt is not None:
        _check_compiled(request, request.tensorrt)
        return
    if reason := NO_BACKEND.get(scheme):
        raise UsageError(f"--quantize {scheme} isn't built: {reason}", "use --quantize int8")
    if request.config.dtype != "fp32":
        raise UsageError(
            f"--quantize {scheme} runs on ONNX Runtime's CPU, beside fp32 and not "
            f"{request.config.dtype}",
            "add --dtype fp32",
        )


def _check_compiled(request: BuildRequest, settings: PlanSettings) -> None:
    """Refuse what a quantised TensorRT engine can't be."""
    scheme = request.quantize
    if scheme == "nvfp4":
        raise UsageError("--quantize nvfp4 isn't built yet", "use --quantize fp8 or int8")
    if request.config.dtype == "fp32":
        raise UsageError(
            f"--quantize {scheme} runs beside bf16 or fp16 on {request.backend}, not fp32",
            "add --dtype bf16",
        )
    others = {"--dynamic": request.dynamic, "--cards": request.cards > 1}
    if found := [flag for flag, given in others.items() if given]:
        raise UsageError(
            f"--quantize {scheme} isn't built for {found[0]} with TensorRT yet",
            "drop one of the two",
        )
    if settings.refit not in (None, "baked"):
        raise UsageError(
            f"--quantize {scheme} isn't built with --refit {settings.refit}: a plan holds its "
            "weights of 8 bits itself",
            "use --bake",
        )
    if settings.lora_form == "fused":
        raise UsageError(
            f"--lora-form fused isn't built with --quantize {scheme} yet", "use --lora-form branch"
        )


def _need_mode(request: BuildRequest, flag: str, users: Collection[Mode]) -> None:
    if not set(users) & set(request.modes):
        wanted = " or ".join(f"--mode {mode}" for mode in users)
        raise UsageError(
            f"{flag} has no effect on mode {' and '.join(request.modes)}",
            f"drop it, or add {wanted}",
        )
