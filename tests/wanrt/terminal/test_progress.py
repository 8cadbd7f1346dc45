"""What long work shows: bars on a terminal, lines elsewhere, nothing if asked for quiet."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from commands import wanexport, wanrt, write_config
from rich.console import Console
from studies import config

from wanrt.terminal.progress import LONG_S, Reporter

MIB = 1 << 20


class World:
    """A terminal or a file to report to, and a clock that stands still until it is moved."""

    def __init__(self, *, terminal: bool, **options: bool) -> None:
        self.seconds = 0.0
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=terminal, width=100)
        self.reporter = Reporter(console=self.console, clock=lambda: self.seconds, **options)

    @property
    def text(self) -> str:
        """All that was written, without what moves cursors and colours."""
        return plain(self.file.getvalue())

    def look(self) -> str:
        """Return the bars as they are now: rich draws them again below a line."""
        self.file.truncate(0)
        self.reporter.log("now:")
        return self.text.rpartition("now:")[2]


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch, _no_hurry: None) -> None:
    monkeypatch.setattr("wanrt.terminal.progress.LONG_S", LONG_S)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_bytes_have_speed_and_time_left() -> None:
    world = World(terminal=True)
    with world.reporter.bytes("hashing", 300 * MIB) as piece:
        world.seconds = 1
        piece.advance(100 * MIB)
        assert "hashing" not in world.look()  # it may be over in no time
        world.seconds = 3
        piece.advance(100 * MIB)
        shown = world.look()
    assert "hashing" in shown
    assert "━" in shown
    assert "200.0/300.0 MiB  50.0 MiB/s  0:00:02 left" in shown


def test_work_without_an_end_shows_the_time_it_has_taken() -> None:
    world = World(terminal=True)
    with world.reporter.work("tracing"):
        world.seconds = 84
        assert re.search(r"tracing +━+ +0:01:24", world.look())


def test_steps_are_counted_and_become_known() -> None:
    world = World(terminal=True)
    with world.reporter.steps("bench", None, "rounds") as piece:
        world.seconds = 3
        piece.advance()
        assert "1 rounds  0:00:03" in world.look()
        piece.tell("bench", 5)
        for world.seconds in (10, 20):
            piece.advance()
        assert "3/5 rounds  0:00:20 left" in world.look()


def test_one_piece_within_another() -> None:
    world = World(terminal=True, still=True)
    with world.reporter.steps("bench", 9, "rounds"):
        with world.reporter.bytes("load 1", 4 * MIB) as load:
            load.tell("load 1: full")
            both = world.look()
        assert "load 1" not in world.look()
    assert "0/9 rounds" in both
    assert "load 1: full" in both


def test_a_long_name_gives_way_to_the_figures() -> None:
    world = World(terminal=True, still=True)
    world.console.width = 80
    with world.reporter.bytes(f"{'wan2.1-i2v-14b-' * 5}: verifying", 30 << 30) as piece:
        for world.seconds in (100, 200):
            piece.advance(2 << 30)
        shown = world.look()
    assert "4.0/30.0 GiB  20.5 MiB/s  0:21:40 left" in shown
    assert re.search(r"wan2\.1.*….*verifying", shown)


def test_an_error_leaves_the_terminal_clean() -> None:
    world = World(terminal=True)
    with pytest.raises(ValueError, match="no"), world.reporter.bytes("outer", 10):
        world.seconds = 10
        with world.reporter.work("inner"):
            world.look()
            raise ValueError("no")
    written = world.file.getvalue()
    assert written.rindex("\x1b[?25h") > written.rfind("\x1b[?25l")  # the cursor is back
    assert not plain(written[written.rindex("\x1b[2K") :]).strip()  # below the last erased line
    assert " s\n" not in world.text
    with world.reporter.work("more"):  # and the next piece shows as if nothing had been
        world.seconds = 20
        assert "more" in world.look()
        assert "outer" not in world.look()


def test_elsewhere_a_line_tells_what_took_long() -> None:
    world = World(terminal=False)
    with world.reporter.bytes("hashing", 300 * MIB) as piece:
        world.seconds = 4.06
        piece.advance(300 * MIB)
    with world.reporter.work("tracing"):
        world.seconds += 24.34
    with world.reporter.steps("bench", 9, "rounds") as piece:
        world.seconds += 650
        piece.advance(9)
    with world.reporter.work("blinking"):
        world.seconds += 1.99
    assert world.file.getvalue().splitlines() == [
        "hashing: 300.0 MiB in 4.1 s",
        "tracing: 24.3 s",
        "bench: 9 rounds in 650.0 s",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_says_nothing(terminal: bool) -> None:
    world = World(terminal=terminal, quiet=True)
    with world.reporter.bytes("hashing", 3) as piece:
        world.seconds = 60
        piece.advance(3)
        world.reporter.log("a line")
    assert not world.file.getvalue()


def test_a_builder_s_phases_come_and_go() -> None:
    world = World(terminal=True)
    with world.reporter.phases("e: building its plan") as show:
        show("Building engine", 0, 4)
        show("Tactics", 0, 9)
        world.seconds = 5
        show("Tactics", 6, 9)
        shown = world.look()
        show("Tactics", 9, 9)
        assert "Tactics" not in world.look()
    assert re.search(r"building its plan +━+ +0:00:05", shown)
    assert "0/4 steps" in shown
    assert "6/9 steps" in shown


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, _plain_terminal: None) -> None:
    """Count everything as long."""
    monkeypatch.setattr("wanrt.terminal.progress.LONG_S", 0.0)


def pieces(err: str) -> list[str]:
    """Return the lines of pieces, their figures left out."""
    took = r": (?:\d[\d.]* (?:[KMG]iB|rounds) in )?[\d.]+ s"
    lines = [re.split(took, line)[0] for line in err.splitlines() if re.search(took + "$", line)]
    return [line.rpartition(": ")[2] if line.startswith("tiny-") else line for line in lines]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Build two engines with the command, on what it takes for a terminal."""
    folder = tmp_path_factory.mktemp("built")
    path = write_config(folder / "tiny.toml", config(dtype="bf16"))
    base = ("--config", path, "--base", "random", "--rank", 4, "--out", folder / "engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wanrt.terminal.progress.LONG_S", 0.0)
        patch.setenv("FORCE_COLOR", "1")
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "160")
        code, out, err = wanexport("build", *base, "--mode", "merged", "--mode", "swappable")
    assert code == 0, err
    assert "\x1b" not in out
    return folder, plain(err)


@pytest.mark.torch
def test_a_build_shows_all_that_can_take_long(built: tuple[Path, str]) -> None:
    engine = ["tracing", "weights", "tracing at 48 tokens"]
    assert pieces(built[1]) == [
        "loading torch and diffusers", "random weights", "random adapter r4", "reading the LoRA",
        "hashing the LoRA", "hashing the checkpoint",
        "asking who else can read tiny-lora-r4-seed0.safetensors",
        *engine, "reference, merged r4 fp32", "reference, base fp32",
        "reference, merged r4 bf16", "verifying",
        *engine, "reference, unmerged r4 fp32", "reference, unmerged r4 bf16", "verifying",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "what", ["random weights", "random adapter", "hashing the LoRA", "hashing the checkpoint",
             "weights", "reference, unmerged r4", "verifying"],
)  # fmt: skip
@pytest.mark.torch
def test_the_bytes_of_a_build_add_up(what: str, built: tuple[Path, str]) -> None:
    number = r"([\d.]+)"
    last = re.findall(rf"{what}[^━╸╺\n]*[━╸╺]+ +{number}/{number} [KM]iB", built[1])[-1]
    done, total = map(float, last)
    if what == "weights":  # an estimate, of so small an engine a rough one
        assert 0 < done <= total
    else:
        assert done == total > 0


@pytest.mark.usefixtures("told")
@pytest.mark.torch
def test_an_adapter_shows_its_progress(built: tuple[Path, str]) -> None:
    folder = built[0]
    (lora,) = (folder / "engines" / ".made").glob("*-lora-r4-*.safetensors")
    (engine,) = (folder / "engines").glob("*swappable*")
    convert = ("adapter", lora, "--for", engine, "-o", folder / "a.safetensors", "--force")
    code, out, err = wanexport(*convert)
    assert code == 0, err
    assert pieces(err) == ["hashing the LoRA", "reading the LoRA", "writing a.safetensors"]
    assert wanexport(*convert, "--quiet") == (0, out, "")


@pytest.mark.usefixtures("told")
def test_estimate_shows_that_it_measures() -> None:
    estimate = ("estimate", "--rank", 8, "--device", "cpu")
    assert pieces(wanexport(*estimate).err) == ["measuring the device"]
    assert not wanexport(*estimate, "--quiet").err


RUNTIME: dict[str, tuple[list[str], list[str]]] = {
    "run": (
        ["run", "{e}/tiny-swappable", "--save", "{tmp}/o.safetensors"],
        ["loading", "running"],
    ),
    "run with an adapter": (
        ["run", "{e}/tiny-swappable", "--save", "{tmp}/o.safetensors", "--adapter",
         "{e}/tiny-swappable/adapters/r4.safetensors"],
        ["loading", "loading the adapter", "running"],
    ),
    "verify": (["verify", "{e}"], ["rehashing"]),
    "bench": (
        ["bench", "{e}", "--loads", "2", "--rounds", "2"],
        ["probing", "measuring the device", "load 1", "load 2", "tiny 64x32x1"],
    ),
    "report": (["report", "{results}", "-o", "{tmp}/r.html"], ["plotting"]),
}  # fmt: skip


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("case", RUNTIME)
@pytest.mark.usefixtures("scripted")
def test_what_the_runtime_shows(case: str, family: Path, tmp_path: Path) -> None:
    argv, expected = RUNTIME[case]
    results = tmp_path / "results.json"
    wanrt("bench", family, "--loads", 2, "--rounds", 2, "--json", results)
    places = {"e": family, "tmp": tmp_path, "results": results}
    command = [arg.format(**places) for arg in argv]
    code, _, err = wanrt(*command)
    assert code == 0, err
    assert [re.sub(r" [\d.]+ [KM]iB$", "", piece) for piece in pieces(err)] == expected
    assert not pieces(wanrt(*command, "-q").err)


@pytest.mark.usefixtures("told")
@pytest.mark.usefixtures("scripted")
def test_bars_stay_out_of_stdout(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    command = ("bench", family, "--loads", 2, "--rounds", 2, "--json", "-")
    code, out, err = wanrt(*command)
    assert code == 0
    assert json.loads(out)["groups"]
    assert "4/4 rounds" in plain(err)
    assert re.search(r"probing .*━+ [\d.]+/[\d.]+ KiB", plain(err))
    code, out, err = wanrt("verify", family)
    assert code == 0
    assert "\x1b" not in out
    assert out.endswith("4 engines ok\n")
    assert re.search(r"rehashing ━+ ([\d.]+)/\1 KiB", plain(err))
