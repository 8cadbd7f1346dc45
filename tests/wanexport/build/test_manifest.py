"""What the exporter writes of an engine beside what other tests look at."""

from __future__ import annotations

from pathlib import Path

import folders
from folders import manifests
from safetensors.torch import load_file, save_file
from studies import I2V, SIZE, build

from wanexport.lora.find import LoraArgument
from wanexport.model.formulas import count_activations

sources, study = folders.sources, folders.study  # fixtures


def test_a_study_of_made_adapters(study: Path) -> None:
    found = {manifest.mode: manifest for manifest in manifests(study)}
    forms = {mode: (m.lora_form, m.target_set) for mode, m in found.items()}
    assert forms == {
        "full": (None, None),
        "merged": (None, "cross-attention"),
        "separate": ("branch", "cross-attention"),
        "swappable": ("branch", "cross-attention"),
    }
    for manifest in found.values():
        (workload,) = manifest.workloads.values()
        most = count_activations(I2V.width, I2V.ffn_dim, SIZE.tokens, 4)
        assert workload.activation_bytes == most == 4 * SIZE.tokens * 5 * I2V.width
        assert workload.context is None
        assert manifest.compared_by == {
            "model": "tiny", "expert": "none", "prefuse": "none", "quantization": "none",
            "layout": "one", "cards": "1",
        }  # fmt: skip
        assert (manifest.expert, manifest.prefuse, manifest.quantization) == (None, (), None)
        assert manifest.cards == 1
        assert manifest.command == ()  # nobody gave one


def test_where_scales_come_from(sources: Path, tmp_path: Path) -> None:
    tensors = load_file(sources / "style.safetensors")
    bare = {name: value for name, value in tensors.items() if not name.endswith(".alpha")}
    save_file(bare, tmp_path / "bare.safetensors")
    settings = '{"transformer.r": 4, "transformer.lora_alpha": 8}'
    save_file(bare, tmp_path / "told.safetensors", {"lora_adapter_metadata": settings})
    (tmp_path / "peft").mkdir()
    save_file(bare, tmp_path / "peft" / "adapter_model.safetensors")
    (tmp_path / "peft" / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')
    files = {
        sources / "style.safetensors": "alpha",
        tmp_path / "bare.safetensors": "none",
        tmp_path / "told.safetensors": "metadata",
        tmp_path / "peft" / "adapter_model.safetensors": "sidecar",
    }
    (built,) = build(
        tmp_path / "engines", modes=("merged",), verify=False,
        loras=tuple(LoraArgument(str(path)) for path in files),
    )  # fmt: skip
    (manifest,) = manifests(tmp_path / "engines")
    assert manifest.name == built.path.name
    told = {Path(s.path): s.scale_from for s in manifest.sources if s.strength is not None}
    assert told == files
    assert manifest.target_set is None
