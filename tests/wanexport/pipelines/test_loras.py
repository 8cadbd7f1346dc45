"""LoRAs through the words of a pipeline: an engine does what diffusers does with PEFT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lorafiles import DIALECTS
from safetensors.torch import load_file, save_file
from studies import build
from tinypipelines import make_pipeline, make_transformer, relative, run, write_lora

from wanexport.errors import AdapterError, PipelineError
from wanexport.lora.find import LoraArgument
from wanexport.pipelines import EngineTransformer
from wanexport.pipelines.adapters import Adapters
from wanrt.errors import AdapterError as StackError

ALIKE = 1e-5
SEEN = 0.02
pytestmark = pytest.mark.filterwarnings(
    "ignore:Already found a `peft_config`",
    "ignore:Adapter .* was active which is now deleted",
    "ignore:While injecting the PEFT adapters",
)


@dataclass
class Both:
    """One pipeline on diffusers' own transformer and one on a swappable engine of its weights."""

    torch: Any
    engine: Any
    base: torch.Tensor

    def do(self, act: Callable[[Any], object]) -> None:
        """Do the same with both pipelines."""
        act(self.torch)
        act(self.engine)

    def check(self, **call: Any) -> torch.Tensor:
        """Compare what both make of the same noise, and return it."""
        want, found = (run(pipe, **STEPS | call) for pipe in (self.torch, self.engine))
        assert relative(found, want) < ALIKE
        assert self.engine.get_active_adapters() == self.torch.get_active_adapters()
        assert self.engine.get_list_adapters() == self.torch.get_list_adapters()
        return found

    def differs(self, latents: torch.Tensor) -> bool:
        return relative(latents, self.base) > SEEN


TWO = torch.ones(2, 256)
LORA = {
    "transformer.blocks.0.attn2.to_q.lora_A.weight": TWO,
    "transformer.blocks.0.attn2.to_q.lora_B.weight": TWO.T,
}
STEPS: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1.0}
Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loras")


@pytest.fixture(scope="module")
def engine(root: Path) -> Iterator[EngineTransformer]:
    make_transformer(root / "base")
    (built,) = build(
        root / "engines", modes=("swappable",), ranks=(4,), max_rank=8, base=str(root / "base"),
        verify=False,
    )  # fmt: skip
    transformer = EngineTransformer(built.path)
    yield transformer
    transformer.close()


@pytest.fixture(scope="module")
def files(root: Path) -> Files:
    return (
        write_lora(root / "a.safetensors", rank=4, seed=1),
        write_lora(root / "b.safetensors", rank=3, seed=2),
    )


@pytest.fixture(scope="module")
def pipes(engine: EngineTransformer, root: Path) -> Both:
    plain, fast = (make_pipeline(one) for one in (make_transformer(root / "base"), engine))
    return Both(plain, fast, run(fast, **STEPS))


@pytest.fixture
def both(pipes: Both) -> Iterator[Both]:
    yield pipes
    pipes.do(lambda pipe: pipe.unload_lora_weights())


def load_both(both: Both, files: Files) -> None:
    for name, file in zip("ab", files, strict=True):
        both.do(lambda pipe, n=name, f=file: pipe.load_lora_weights(f, adapter_name=n))  # type: ignore[misc]


def test_loading_choosing_and_weighing(both: Both, files: Files) -> None:
    both.do(lambda pipe: pipe.load_lora_weights(files[0], adapter_name="a"))
    first = both.check()
    assert both.differs(first)
    both.do(lambda pipe: pipe.load_lora_weights(files[1], adapter_name="b"))
    assert relative(both.check(), first) > SEEN  # the last one loaded is active alone
    for names, weights in ((["a", "b"], [0.5, -0.7]), (["b", "a"], [1.5, 0.25]), ("a", None)):
        both.do(lambda pipe, n=names, w=weights: pipe.set_adapters(n, w))  # type: ignore[misc]
        last = both.check()
    torch.testing.assert_close(last, first)


def test_switching_off_and_on(both: Both, files: Files) -> None:
    load_both(both, files)
    both.do(lambda pipe: pipe.disable_lora())
    torch.testing.assert_close(both.check(), both.base, rtol=0, atol=0)
    both.do(lambda pipe: pipe.set_adapters(["a", "b"], [1.0, 0.3]))
    assert not both.differs(both.check())
    both.do(lambda pipe: pipe.enable_lora())
    assert both.differs(both.check())


def test_deleting_and_unloading(both: Both, files: Files) -> None:
    load_both(both, files)
    both.do(lambda pipe: pipe.set_adapters(["a", "b"], [0.5, 1.0]))
    both.do(lambda pipe: pipe.delete_adapters("a"))
    both.check()
    both.do(lambda pipe: pipe.load_lora_weights(files[0], adapter_name="a"))
    both.do(lambda pipe: pipe.delete_adapters(["a"]))  # the only active one: b becomes active
    assert both.differs(both.check())
    both.do(lambda pipe: pipe.unload_lora_weights())
    torch.testing.assert_close(both.check(), both.base, rtol=0, atol=0)
    both.do(lambda pipe: pipe.load_lora_weights(files[0]))  # unnamed
    both.do(lambda pipe: pipe.load_lora_weights(files[1]))
    both.check()


def test_the_scale_of_a_call(both: Both, files: Files) -> None:
    both.do(lambda pipe: pipe.load_lora_weights(files[0], adapter_name="a"))
    full = both.check()
    part = both.check(attention_kwargs={"scale": 0.4})
    assert relative(part, full) > SEEN
    torch.testing.assert_close(both.check(), full)


def test_replacing_in_place(both: Both, files: Files, tmp_path: Path) -> None:
    both.do(lambda pipe: pipe.load_lora_weights(files[0], adapter_name="a"))
    both.do(lambda pipe: pipe.set_adapters("a", 0.5))
    half = both.check()
    other = write_lora(tmp_path / "other.safetensors", seed=3)
    both.do(lambda pipe: pipe.load_lora_weights(other, adapter_name="a", hotswap=True))
    assert relative(both.check(), half) > SEEN
    both.engine.enable_lora_hotswap(target_rank=8)
    with pytest.raises(PipelineError, match="up to rank 8, 9 was asked for"):
        both.engine.enable_lora_hotswap(target_rank=9)
    with pytest.raises(PipelineError, match="no adapter 'c' to replace"):
        both.engine.load_lora_weights(other, adapter_name="c", hotswap=True)


def test_a_text_model_s_lora_and_alphas(both: Both, tmp_path: Path) -> None:
    """diffusers adds zeros for the image's layers; `alpha / rank` comes with the metadata."""
    tensors = load_file(write_lora(tmp_path / "text.safetensors"))
    text = {name: held for name, held in tensors.items() if ".add_" not in name}
    packed = (
        '{"transformer.r": 4, "transformer.lora_alpha": 2, "transformer.target_modules": ["x"]}'
    )
    save_file(text, tmp_path / "t2v.safetensors", {"lora_adapter_metadata": packed})
    both.do(lambda pipe: pipe.load_lora_weights(tmp_path / "t2v.safetensors"))
    assert both.differs(both.check())


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_the_engine_s_own_reader_takes_every_dialect(
    both: Both, files: Files, tmp_path: Path, dialect: str
) -> None:
    names = DIALECTS[dialect]
    tensors = {}
    for key, held in load_file(files[0]).items():
        module, _, part = key.removeprefix("transformer.").rpartition(".lora_")
        tensors[names.key(module, names.down if part[0] == "A" else names.up)] = held
    save_file(tensors, tmp_path / "x.safetensors")
    transformer: EngineTransformer = both.engine.transformer
    transformer.load_lora(tmp_path / "x.safetensors", adapter_name="x")
    found = run(both.engine, **STEPS)
    transformer.unload_lora()
    transformer.load_lora(files[0])
    torch.testing.assert_close(found, run(both.engine, **STEPS))
    assert both.differs(found)


def test_a_refused_file_changes_nothing(both: Both, files: Files, tmp_path: Path) -> None:
    both.engine.load_lora_weights(files[0], adapter_name="a")
    before = run(both.engine, **STEPS)
    large = write_lora(tmp_path / "large.safetensors", rank=9)
    elsewhere = write_lora(tmp_path / "elsewhere.safetensors", where="attn1")
    for file, problem in ((large, "rank 9"), (elsewhere, "no inputs for blocks.0.attn1")):
        with pytest.raises(AdapterError, match=problem):
            both.engine.load_lora_weights(file, adapter_name="b")
        with pytest.raises(AdapterError, match=problem):
            both.engine.transformer.load_lora(file)
    with pytest.raises(AdapterError, match="doesn't exist"):
        both.engine.transformer.load_lora(tmp_path / "missing.safetensors")
    assert both.engine.get_list_adapters() == {"transformer": ["a"]}
    torch.testing.assert_close(run(both.engine, **STEPS), before, rtol=0, atol=0)


def test_more_ranks_than_the_engine_has(both: Both, tmp_path: Path) -> None:
    """Two of rank 8 may be loaded, but count one at a time."""
    for name in "ab":
        file = write_lora(tmp_path / f"{name}.safetensors", rank=8)
        both.engine.load_lora_weights(file, adapter_name=name)
    before = run(both.engine, **STEPS)
    with pytest.raises(StackError, match=r"ranks 8 \+ 8 = 16, the engine takes up to 8"):
        both.engine.set_adapters(["a", "b"])
    assert both.engine.get_active_adapters() == ["b"]
    torch.testing.assert_close(run(both.engine, **STEPS), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (lambda pipe: pipe.fuse_lora(), "can't be fused"),
        (lambda pipe: pipe.unfuse_lora(), "no LoRA was fused"),
        (lambda pipe: pipe.set_lora_device(["a"], "cpu"), "can't be moved"),
        (lambda pipe: pipe.transformer.set_adapters(["a", "z"]), "no adapter z"),
        (lambda pipe: pipe.transformer.delete_adapters("z"), "no adapter z"),
        (lambda pipe: pipe.set_adapters("a", [{"transformer": {"blocks.0": 1.0}}]), "by layer"),
        (lambda pipe: pipe.transformer.set_adapters("a", [1.0, 2.0]), "but 2 weights"),
        (lambda pipe: pipe.load_lora_weights(LORA, adapter_name="a"), "adapter 'a' already"),
        (
            lambda pipe: pipe.load_lora_weights({"vae.lora_A.weight": TWO}),
            "the transformer's",
        ),
        (lambda pipe: pipe.transformer.load_lora_adapter({}), "holds nothing"),
        (
            lambda pipe: pipe.transformer.load_lora_adapter(LORA, network_alphas={"x": 1.0}),
            "network_alphas",
        ),
    ],
)
def test_wrong_use_is_refused(
    both: Both, files: Files, act: Callable[[Any], object], problem: str
) -> None:
    both.engine.load_lora_weights(files[0], adapter_name="a")
    before = run(both.engine, **STEPS)
    with pytest.raises(PipelineError, match=problem):
        act(both.engine)
    torch.testing.assert_close(run(both.engine, **STEPS), before, rtol=0, atol=0)


def test_a_built_in_adapter_can_not_be_switched(root: Path, files: Files) -> None:
    (built,) = build(
        root / "merged", modes=("merged",), loras=(LoraArgument(str(files[0])),),
        base=str(root / "base"), verify=False,
    )  # fmt: skip
    pipe = make_pipeline(EngineTransformer(built.path))
    for act in (pipe.disable_lora, pipe.enable_lora, pipe.unload_lora_weights):
        with pytest.raises(PipelineError, match="is a merged engine"):
            act()
    pipe.transformer.close()


def test_one_expert_alone_has_the_adapter(root: Path, engine: EngineTransformer) -> None:
    """What a pipeline asks of both, by names that one of them doesn't know."""
    manifest = engine.engine.manifest.model_copy(update={"expert": "low"})
    expert = SimpleNamespace(manifest=manifest, swap=engine.engine.swap)
    adapters = Adapters(root, expert)
    adapters.set_active(["high's"], [1.0])
    adapters.delete(["high's"])
    assert adapters.names == adapters.active == ()
