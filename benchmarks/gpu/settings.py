"""What a run of the benchmark is asked for, and the models that it measures."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from wanrt.manifest.fields import Dtype

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL = "wan2.1-i2v-14b-480p"
SMALL = "wan2.1-i2v-demo"  # the same architecture, 512 wide


@dataclass(frozen=True)
class Size:
    """Width and height in pixels, and frames."""

    width: int
    height: int
    frames: int

    @property
    def name(self) -> str:
        """As `wanexport build` calls it."""
        return f"{self.width}x{self.height}x{self.frames}"

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read 832x480x81.

        Raises:
            ValueError: it isn't three numbers.
        """
        width, height, frames = map(int, text.split("x"))
        return cls(width, height, frames)


@dataclass(frozen=True)
class Settings:
    """Where results and engines go, and on what to measure how much.

    Args:
        work: engines and results; a later run goes on there.
        device: cuda, or cpu to rehearse.
        small: the demo's width and 120 tokens instead of I2V-14B's 32,760.
        layers: of the model that all candidates are compared on.
        deep_layers: of the model that is measured at true depth.
        seconds: at most, of one bench's measuring.
        asked_sizes: instead of the usual ones.
    """

    work: Path
    device: str = "cuda"
    small: bool = False
    layers: int = 2
    deep_layers: int = 40
    seconds: float = 90.0
    asked_sizes: tuple[Size, ...] = ()

    @property
    def dtype(self) -> Dtype:
        """bf16, which no CPU backend computes."""
        return "bf16" if self.device == "cuda" else "fp32"

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The first for every comparison; the others at true depth."""
        if self.asked_sizes:
            return self.asked_sizes
        if self.small:
            return Size(160, 96, 5), Size(160, 96, 1), Size(96, 160, 5)
        return Size(832, 480, 81), Size(832, 480, 33), Size(1280, 720, 81)

    @property
    def is_measurement(self) -> bool:
        """Whether figures are a GPU's at true width, not a rehearsal's."""
        return self.device == "cuda" and not self.small

    def write_config(self, layers: int) -> Path:
        """Write the model with that many layers as a configuration, and return the file."""
        shipped = CONFIGS / f"{SMALL if self.small else MODEL}.toml"
        text = shipped.read_text(encoding="utf-8")
        values = tomllib.loads(text)
        name = f"{values['name']}-{layers}-layers"
        depth = values["architecture"]["num_layers"]
        text = text.replace(f'name = "{values["name"]}"', f'name = "{name}"')
        text = text.replace(f"num_layers = {depth}", f"num_layers = {layers}")
        text, _, _ = text.partition("[[dynamic_sizes]]")
        file = self.work / f"{name}.toml"
        file.write_text(text, encoding="utf-8")
        return file
