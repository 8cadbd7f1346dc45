"""What stands around a DiT's parameter names, taken off again."""

import pytest

from wanexport.model.wrappers import find_roots, strip_wrappers, unwrap

NAME = "blocks.0.self_attn.q.weight"


@pytest.mark.parametrize(
    "wrapper",
    ["model.", "module.", "_orig_mod.", "transformer.", "pipe.dit.", "dit.", "net.",
     "_checkpoint_wrapped_module.", "model.diffusion_model.", "module._orig_mod."],
)  # fmt: skip
def test_a_known_wrapper_comes_off(wrapper: str) -> None:
    stripped, rest = strip_wrappers(wrapper + NAME)
    assert rest == NAME
    assert sorted(stripped.split(".")) == sorted(wrapper.split("."))


def test_a_name_without_a_wrapper_stays() -> None:
    assert strip_wrappers(NAME) == ("", NAME)
    assert strip_wrappers("modulation.net.weight") == ("", "modulation.net.weight")


def test_wrappers_inside_a_name_come_off() -> None:
    wrapped = "blocks.0._checkpoint_wrapped_module.self_attn._fsdp_wrapped_module.q.weight"
    assert unwrap(wrapped) == NAME


def test_any_common_prefix_of_a_whole_model_is_its_root() -> None:
    names = ["my.own.wan.patch_embedding.weight", "my.own.wan.blocks.0.ffn.0.weight", "vae.x"]
    assert find_roots(names) == ["my.own.wan."]


def test_two_models_have_two_roots() -> None:
    parts = ("patch_embedding.weight", NAME)
    names = [f"{root}.{part}" for root in ("ema", "model") for part in parts]
    assert find_roots(names) == ["ema.", "model."]


def test_parts_of_a_model_say_their_root() -> None:
    assert find_roots([f"generator.{NAME}"]) == ["generator."]
    assert find_roots(["encoder.conv1.weight"]) == []
