"""Named workloads: those that ship, and files that aren't right."""

from __future__ import annotations

from pathlib import Path

import pytest

from wanexport.model.config import load_config
from wanrt.errors import ResultsError
from wanrt.results.workloads import load_workloads

GOOD = """
[toy]
model = "Toy"
size = { width = 64, height = 32, frames = 1 }
experts = false
steps = 4
forwards_per_step = 2
architecture = { num_layers = 2 }

[[toy.published]]
who = "Somebody"
figure = 1.5
unit = "seconds per step"
hardware = "a card"
source = "a page"
"""

BROKEN: dict[str, tuple[str, str, str]] = {
    "unknown key": ("steps =", "step =", "toy.step: unknown key"),
    "missing steps": ("steps = 4\n", "", "toy.steps: missing key"),
    "no steps": ("steps = 4", "steps = 0", "toy.steps: is 0; it should be greater than or equal"),
    "endless steps": ("steps = 4", "steps = 1000000000", "toy.steps: is 1000000000; it should be"),
    "steps as text": ("steps = 4", 'steps = "4"', "toy.steps: is '4'; it should be a valid int"),
    "half a forward": ("step = 2", "step = 0.5", "toy.forwards_per_step: is 0.5; it should be"),
    "no width": ("width = 64, ", "", "toy.size.width: missing key"),
    "width 0": ("width = 64", "width = 0", "toy.size.width: is 0; it should be greater than"),
    "unknown unit": (
        "seconds per step",
        "fps",
        "toy.published.0.unit: is 'fps'; it should",
    ),
    "infinite figure": ("1.5", "inf", "toy.published.0.figure: is inf; it should be"),
    "figure without source": ('source = "a page"', "", "toy.published.0.source: missing key"),
    "unknown key of a figure": ("who =", "whom =", "toy.published.0.whom: unknown key"),
    "layers as text": ("num_layers = 2", 'num_layers = "2"', "toy.architecture.num_layers: is '2'"),
    "no table": ("[toy]", "toy = 3\n[other]", "is not TOML: "),
    "a number": (GOOD, "toy = 3", "toy: is 3; it should be a table"),
    "not TOML": ("[toy]", "[toy", "is not TOML: "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_in_a_line(case: str, tmp_path: Path) -> None:
    old, new, message = BROKEN[case]
    path = tmp_path / "workloads.toml"
    path.write_text(GOOD)
    assert load_workloads(path)["toy"].size_name == "64x32x1"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ResultsError) as caught:
        load_workloads(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"workloads\.toml can't be read: No such file"):
        load_workloads(tmp_path / "workloads.toml")


# steps, forwards per step, figures
SHIPPED = {
    "lightx2v-i2v-480p-40": (40, 2, [5.18, 6.13, 7.35, 9.77]),
    "lightning-4": (4, 1, []),
    "mlperf-v6-wan2.2": (20, 2, [0.059]),
}


def test_the_shipped_workloads() -> None:
    found = {
        name: (w.steps, w.forwards_per_step, [p.figure for p in w.published])
        for name, w in load_workloads().items()
    }
    assert found == SHIPPED


@pytest.mark.parametrize("name", ["lightx2v-i2v-480p-40", "mlperf-v6-wan2.2"])
def test_a_workload_is_what_its_configuration_builds(name: str) -> None:
    workload = load_workloads()[name]
    assert workload.config is not None
    config = load_config(workload.config)
    assert config.size.name == workload.size_name
    assert (config.experts is not None) == workload.experts
    built = config.architecture.model_dump()
    assert workload.architecture is not None
    assert workload.architecture.items() <= built.items()
    # what tells text from image to video, and Wan2.1's image to video from 2.2's
    assert workload.architecture.get("image_dim") == built["image_dim"]
