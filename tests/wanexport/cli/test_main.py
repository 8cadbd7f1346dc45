"""The wanexport command: what it asks the library for, what it says, and how it exits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from commands import wanexport, write_config
from studies import I2V, config
from typer.main import get_command

from wanexport.build.recipe import Built
from wanexport.build.request import MODES, BuildRequest
from wanexport.build.sources import AdapterSet, Weights
from wanexport.build.targets import Target
from wanexport.cli.main import app
from wanexport.errors import BuildError, ConfigError
from wanexport.lora.find import LoraArgument, parse_lora
from wanexport.model.config import Size, load_config
from wanrt.manifest.origin import Verification

DEMO = load_config("wan2.1-i2v-demo")
PLAIN = BuildRequest(config=DEMO, ranks=(32,))


def sized(**changes: int) -> BuildRequest:
    size = DEMO.size.model_copy(update=changes)
    return replace(PLAIN, config=DEMO.model_copy(update={"size": size}))


REQUESTS: dict[str, tuple[str, BuildRequest]] = {
    "rank": ("--rank 32", PLAIN),
    "ranks": ("--rank 8 --rank 32 --rank 8", replace(PLAIN, ranks=(8, 32))),
    "full needs no rank": ("--mode full", replace(PLAIN, modes=("full",), ranks=())),
    "modes in the order asked": (
        "--rank 32 --mode swappable --mode merged --mode swappable",
        replace(PLAIN, modes=("swappable", "merged")),
    ),
    "all modes by default": ("--rank 32", replace(PLAIN, modes=MODES)),
    "dtype": (
        "--rank 32 --dtype bf16",
        replace(PLAIN, config=DEMO.model_copy(update={"dtype": "bf16"})),
    ),
    "backend": ("--rank 32 --backend onnxruntime", PLAIN),
    "width": ("--rank 32 --width 832", sized(width=832)),
    "height": ("--rank 32 --height 480", sized(height=480)),
    "frames": ("--rank 32 --frames 81", sized(frames=81)),
    "batch": (
        "--rank 32 --batch 2",
        replace(
            PLAIN,
            config=DEMO.model_copy(
                update={
                    "size": DEMO.size.model_copy(update={"batch": 2}),
                    "dynamic_sizes": tuple(
                        size.model_copy(update={"batch": 2}) for size in DEMO.dynamic_sizes
                    ),
                }
            ),
        ),
    ),
    "a size among the dynamic ones": (
        "--rank 32 --width 320 --height 192 --frames 9",
        replace(
            PLAIN,
            config=DEMO.model_copy(
                update={
                    "size": Size(width=320, height=192, frames=9),
                    "dynamic_sizes": DEMO.dynamic_sizes[1:],
                }
            ),
        ),
    ),
    "dynamic": ("--rank 32 --dynamic", replace(PLAIN, dynamic=True)),
    "max rank": ("--rank 32 --max-rank 64", replace(PLAIN, max_rank=64)),
    "merge rest": (
        "--lora l.safetensors --merge-rest",
        replace(PLAIN, ranks=(), loras=(LoraArgument("l.safetensors"),), merge_rest=True),
    ),
    "copied weights": ("--rank 32 --weights copy", replace(PLAIN, copy=True)),
    "linked weights": ("--rank 32 --weights link", PLAIN),
    "unverified": ("--rank 32 --verify none", replace(PLAIN, verify=False)),
    "verified": ("--rank 32 --verify diffusers", PLAIN),
    "out": ("--rank 32 --out elsewhere", replace(PLAIN, out=Path("elsewhere"))),
    "force": ("--rank 32 --force", replace(PLAIN, force=True)),
    "base": ("--rank 32 --base some/where", replace(PLAIN, base="some/where")),
    "random base": ("--rank 32 --base random", PLAIN),
    "finetuned": ("--rank 32 --finetuned ft", replace(PLAIN, finetuned="ft")),
    "finetuned alone": (
        "--mode full --finetuned ft",
        replace(PLAIN, modes=("full",), ranks=(), finetuned="ft"),
    ),
    "finetuned alone, of a shipped model": (
        "--config wan2.1-t2v-1.3b-480p --mode full --finetuned ft",
        BuildRequest(
            load_config("wan2.1-t2v-1.3b-480p"), modes=("full",), base=None, finetuned="ft"
        ),
    ),
    "flags that one of several modes uses": (
        "--mode full --mode swappable --lora l --max-rank 8 --merge-rest --finetuned ft --base b",
        replace(
            PLAIN,
            modes=("full", "swappable"),
            ranks=(),
            loras=(LoraArgument("l"),),
            max_rank=8,
            merge_rest=True,
            finetuned="ft",
            base="b",
        ),
    ),
    "config": (
        "--config wan2.1-t2v-1.3b-480p --base random --rank 32",
        replace(PLAIN, config=load_config("wan2.1-t2v-1.3b-480p")),
    ),
    "lora": (
        "--lora style.safetensors",
        replace(PLAIN, ranks=(), loras=(LoraArgument("style.safetensors"),)),
    ),
    "loras with strengths": (
        "--lora style.safetensors:0.8 --lora org/name:-1",
        replace(
            PLAIN,
            ranks=(),
            loras=(LoraArgument("style.safetensors", 0.8), LoraArgument("org/name", -1.0)),
        ),
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_flags_become_a_request(case: str, asked: list[BuildRequest]) -> None:
    flags, expected = REQUESTS[case]
    outcome = wanexport("build", *flags.split())
    assert outcome.code == 0, outcome.err
    assert asked == [expected]


def test_a_configuration_file(asked: list[BuildRequest], tmp_path: Path) -> None:
    wanted = config(I2V, "fp16")
    path = write_config(tmp_path / "mine.toml", wanted)
    assert wanexport("build", "--config", path, "--base", "b", "--mode", "full").code == 0
    assert asked[0].config == wanted


LORAS: dict[str, LoraArgument] = {
    "a.safetensors": LoraArgument("a.safetensors"),
    "a.safetensors:0.8": LoraArgument("a.safetensors", 0.8),
    "a.safetensors:-.5": LoraArgument("a.safetensors", -0.5),
    "a.safetensors:1e-1": LoraArgument("a.safetensors", 0.1),
    "a.safetensors:0": LoraArgument("a.safetensors", 0.0),
    "runs/12:30/a.safetensors": LoraArgument("runs/12:30/a.safetensors"),
    "runs/12:30/a.safetensors:2": LoraArgument("runs/12:30/a.safetensors", 2.0),
    "a:b.safetensors": LoraArgument("a:b.safetensors"),
    "org/name": LoraArgument("org/name"),
    "org/name:0.5": LoraArgument("org/name", 0.5),
    "org/name/a.safetensors:0.5": LoraArgument("org/name/a.safetensors", 0.5),
    ":0.5": LoraArgument(":0.5"),
}


@pytest.mark.parametrize("argument", LORAS)
def test_a_lora_and_its_strength(argument: str) -> None:
    assert parse_lora(argument) == LORAS[argument]


def test_a_file_whose_name_ends_like_a_strength(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take:2").mkdir()
    assert parse_lora("take:2") == LoraArgument("take:2")
    assert parse_lora("take:2:0.5") == LoraArgument("take:2", 0.5)


@pytest.mark.parametrize("strength", ["strong", "nan", "inf", "-inf", "", "0,8"])
def test_what_is_no_strength(strength: str) -> None:
    with pytest.raises(ConfigError, match=r"^a\.safetensors:.*strength"):
        parse_lora(f"a.safetensors:{strength}")


FLAGS = {
    "build": {
        "--rank", "--mode", "--config", "--base", "--finetuned", "--lora", "--lora-high",
        "--lora-low", "--skip-image-keys", "--expert", "--targets", "--prefuse", "--dtype",
        "--quantize", "--quantize-exclude",
        "--backend",
        "--width", "--height", "--frames", "--batch", "--dynamic", "--max-rank", "--merge-rest",
        "--weights", "--verify", "--out", "--force", "--dry-run", "--json",
        "--refit", "--bake", "--compute-capability", "--builder-optimization-level", "--workspace",
        "--max-aux-streams", "--hardware-compatibility-level", "--version-compatible",
        "--allow-weight-streaming", "--allow-unfused", "--lora-form", "--pad-rank", "--split",
        "--cards",
        "--memory-limit", "--no-build-control", "--quiet", "-q",
    },
    "estimate": {
        "--config", "--rank", "--mode", "--targets", "--dtype", "--width", "--height", "--frames",
        "--batch", "--device", "--compiled", "--cards", "--json", "--force", "--quiet", "-q",
    },
    "inspect": {
        "--config", "--expert", "--skip-image-keys", "--headers-only", "--json", "--quiet", "-q",
    },
    "compare": {
        "--blocks", "--adapter", "--workload", "--device", "--seed", "--tolerance", "--quiet", "-q",
    },
    "study": {"--out", "--dry-run", "--ray", "--quiet", "-q"},
    "extract": {
        "--base", "--finetuned", "--rank", "--targets", "--dtype", "--expert", "-o", "--output",
        "--force", "--json", "--quiet", "-q",
    },
    "resize": {
        "--rank", "-o", "--output", "--config", "--dtype", "--force", "--json", "--quiet", "-q",
    },
    "detach": {"-o", "--output", "--force", "--quiet", "-q"},
    "env": {"--json"},
    "adapter": {"--for", "-o", "--output", "--skip-image-keys", "--force", "--quiet", "-q"},
}  # fmt: skip


def test_the_flags_are_these() -> None:
    """A new flag is a decision: it belongs into this list, the README and the changelog."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    found = {
        name: {
            flag
            for parameter in command.params
            for flag in (*parameter.opts, *parameter.secondary_opts)
            if flag.startswith("-")
        }
        for name, command in commands.items()
    }
    assert found == FLAGS


@pytest.mark.parametrize("command", FLAGS)
def test_help_explains_every_flag(command: str) -> None:
    outcome = wanexport(command, "--help")
    assert outcome.code == 0
    assert not outcome.err
    for flag in FLAGS[command]:
        assert flag in outcome.out
    for line in outcome.out.splitlines():
        assert len(line) <= 80
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for parameter in commands[command].params:
        assert parameter.help or parameter.name == "help", parameter.name


@pytest.mark.parametrize(
    "flags",
    [("--builderOptimizationLevel", "3"), ("--memPoolSize", "workspace:4GiB"),
     ("--maxAuxStreams", "0"), ("--hardwareCompatibilityLevel", "ampere+"),
     ("--versionCompatible",), ("--allowWeightStreaming",)],
    ids=lambda flags: flags[0],
)  # fmt: skip
def test_trtexec_spells_flags_in_another_way(flags: tuple[str, ...]) -> None:
    outcome = wanexport("build", "--mode", "full", *flags)
    assert outcome.code == 2
    assert (
        "applies to TensorRT engines only" in outcome.err
    )  # understood, and of no use to ONNX Runtime


def test_help_lists_the_commands() -> None:
    outcome = wanexport("--help")
    assert outcome.code == 0
    for command in FLAGS:
        assert f"\n  {command} " in outcome.out


def test_without_a_command_help_is_shown() -> None:
    outcome = wanexport()
    assert outcome.code == 2
    assert "Usage: wanexport" in outcome.out + outcome.err


def raising(error: BaseException) -> object:
    def build(*_: object) -> list[Built]:
        raise error

    return build


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanexport.build.recipe.build_engines", raising(KeyboardInterrupt()))
    code, out, err = wanexport("build", "--rank", 4)
    assert (code, out, err) == (130, "", "interrupted; nothing half-made is left\n")


def test_an_error_is_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanexport.build.recipe.build_engines", raising(BuildError("no", "so")))
    assert wanexport("build", "--rank", 4) == (1, "", "error: no\nhint: so\n")
    monkeypatch.setattr("wanexport.build.recipe.build_engines", raising(BuildError("no")))
    assert wanexport("build", "--rank", 4) == (1, "", "error: no\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanexport.build.recipe.build_engines", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        wanexport("build", "--rank", 4)


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "export"), ("onnx_ir.passes", "export"), ("onnxruntime", "cpu")],
)
def test_a_missing_package_names_its_extra(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)
    monkeypatch.setattr("wanexport.build.recipe.build_engines", raising(error))
    code, _, err = wanexport("build", "--rank", 4)
    assert code == 1
    hint = f"pip install '.[{extra}]', in a checkout of wanexport"
    assert err == f"error: {module} isn't installed\nhint: {hint}\n"


def built(**figures: float | str) -> Built:
    adapters = AdapterSet("", {"m": 4}, (), (), (), (), True)
    base = Weights("base", None, ())
    target = Target("e", Path("engines"), DEMO, "separate", base, {}, (adapters,), {"m": 4})
    return Built(target.folder, target, Verification(method="blocks", **figures))  # type: ignore[arg-type]


def test_reports_each_engine_and_warns_of_an_adapter_without_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = built(dtype="fp32", error=2e-6, tolerance=1e-5, adapter_effect=0.05)
    lost = built(dtype="fp32", error=2e-6, tolerance=1e-5, adapter_effect=1e-6)
    plain = replace(seen, verification=Verification(method="none"))
    there = replace(seen, verification=None)
    monkeypatch.setattr(
        "wanexport.build.recipe.build_engines", lambda *_: [seen, lost, plain, there]
    )
    code, out, err = wanexport("build", "--rank", 4)
    assert code == 0
    assert out.splitlines() == [
        "engines",
        "  e  error 2.0e-06 (at most 1.0e-05), adapter's effect 5.0e-02",
        "  e  error 2.0e-06 (at most 1.0e-05), adapter's effect 1.0e-06",
        "  e  unverified: outputs not compared, linked weights not read",
        "  e  up to date",
    ]
    assert err.count("warning[no-effect]: e: the adapter moves the output by 1.0e-06") == 1


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (MemoryError(), 1, "error: this machine has too little memory for that\n"),
        (KeyboardInterrupt(), 130, "interrupted; nothing half-made is left\n"),
    ],
)
def test_what_ends_a_command_early_is_no_traceback(
    raised: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("wanexport.cli.main.app", end)
    assert wanexport("inspect", "x") == (code, "", said)
