"""`wanrt report`: what the page says, what it is made of, and how it looks to a browser."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from benches import THROTTLED, bench, row, study
from browser import chromium, complaints
from commands import wanrt
from playwright.sync_api import Browser
from tinyengines import make_family

from wanrt import bench_engines
from wanrt.bench import BenchOptions
from wanrt.errors import ResultsError
from wanrt.fake import FakeLab, Script
from wanrt.formats import read_results, to_json
from wanrt.headline import headline, headlines, summary_lines
from wanrt.page import render_page
from wanrt.results import BenchResult, GroupResult
from wanrt.values import Advice, Forward, Probe, Ratio

FULL = row("full", "full", None, (1.0, 1.0, 1.0), "baseline")
SEPARATE = row("separate r32", "separate", 32, (0.987, 0.981, 0.992))
MERGED = row("merged r32", "merged", 32, (1.001, 0.998, 1.004), "same")
COMPILED = row("torch-compile", "full", None, (0.909, 0.906, 0.911), rival="torch-compile")
EVIL = """<script>alert("x")</script><img src='x' onerror='y'> $a_b$ & 変換"""


def group(*rows: object, **fields: object) -> GroupResult:
    return replace(study(), candidates=rows, **fields)  # type: ignore[arg-type]


def unmeasured(name: str, reason: str) -> object:
    nothing = {"forwards": (), "ratio": None, "probe": Probe(), "predicted_s": None}
    return replace(row(name, "separate", 8), **nothing, skipped=reason)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(bench(study()))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "bench.json"
    path.write_text(to_json(bench(group(FULL, SEPARATE))), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


SLOW = "separate r32 runs at 0.987 x the full fine-tune, 95 % interval 0.981 to 0.992"
UNRESOLVED = replace(SEPARATE, ratio=Ratio(0.99, None, None, 1, 3, None, "unresolved"))
SENTENCES = {
    "slower": (group(FULL, SEPARATE), f"{SLOW} [random weights]"),
    "with merged": (
        group(FULL, MERGED, SEPARATE),
        f"{SLOW}; merged r32 shows no measurable difference [random weights]",
    ),
    "all merged": (
        group(FULL, MERGED, replace(MERGED, label="merged r8", rank=8)),
        "merged shows no measurable difference [random weights]",
    ),
    "no difference": (
        group(FULL, MERGED, replace(SEPARATE, ratio=MERGED.ratio)),
        "separate r32 shows no measurable difference to the full fine-tune; "
        "merged r32 shows no measurable difference [random weights]",
    ),
    "real and verified": (
        group(*(replace(one, random_weights=False) for one in (FULL, SEPARATE))),
        SLOW,
    ),
    "some unverified": (
        group(FULL, replace(SEPARATE, verified=False)),
        "separate r32 [random weights, unverified] runs at 0.987 x the full fine-tune, "
        "95 % interval 0.981 to 0.992",
    ),
    "unresolved": (group(FULL, UNRESOLVED), "separate r32 stays unresolved [random weights]"),
    "a rival": (
        group(FULL, COMPILED),
        "torch-compile runs at 0.909 x the full fine-tune, 95 % interval 0.906 to 0.911 "
        "[random weights]",
    ),
    "many": (
        study(),
        "separate runs at 0.979 x the full fine-tune (r128, 95 % interval 0.974 to 0.985) to "
        "0.991 x (r8, 0.986 to 0.996); swappable at 0.966 x (r128, 0.959 to 0.971) to 0.972 x "
        "(r8, 0.966 to 0.977); merged shows no measurable difference; torch-compile runs at "
        "0.909 x the full fine-tune, 95 % interval 0.906 to 0.911; torch-eager at 0.781 x, "
        "0.776 to 0.785 [random weights]",
    ),
    "no baseline": (
        group(replace(SEPARATE, ratio=None, baseline=None)),
        "separate r32 runs at 13.40 k tokens per second, no ratios: no `full` engine was measured "
        "beside it [random weights]",
    ),
    "one alone": (
        group(FULL),
        "full runs at 13.59 k tokens per second, nothing was compared with it [random weights]",
    ),
    "nothing": (
        group(unmeasured("separate r8", "no"), replace(FULL, forwards=(), failed="x", ratio=None)),
        "nothing was measured: 1 skipped, 1 failed",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_the_headline_answers_in_words_with_numbers(case: str) -> None:
    found, sentence = SENTENCES[case]
    assert headline(found) == sentence


def test_sentences_of_a_terminal_say_random_weights_each() -> None:
    assert all(line.endswith("[random weights]") for line in headlines(study()))
    assert headlines(group(FULL)) == []
    assert summary_lines(bench()) == ["nothing was measured: no engine could be read"]


def test_an_interval_that_excludes_one_never_reads_as_one() -> None:
    near = replace(SEPARATE, ratio=Ratio(0.9998, 0.9997, 0.99992, 3, 36, 0.001, "slower"))
    assert "0.9998 x the full fine-tune, 95 % interval 0.9997 to 0.9999" in headline(
        group(FULL, near)
    )


def test_the_page_shows_everything(page: str) -> None:
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for said in (
        "separate runs at 0.979 x the full fine-tune (r128",
        "shaded: controls (A/A, merged), 0.997 to 1.004",
        "tokens per second, x full fine-tune",
        "below this scale: torch-compile 0.909, torch-eager 0.781",
        "k tokens per second",
        "rounds, shaded by load",
        "on disk; pale: shared with full",
        "0.1 of 31.0 GiB",
        "2.411 s, at best 1.830 s: 76 %",
        "separate r32 fp8: skipped: built for SM 89, this GPU is SM 90",
        "Fake H200 · driver 580.1 · onnxruntime 1.2.3",
        "CUDA events around the forward",
        "predictions are for h200",
        "--time-budget 600.0",
        "asked for: intervals of a half-width of 0.5 % at most",
    ):
        assert said in text, said
    assert page.count("<svg") == 5 * 2  # each plot for a desk and for a phone
    assert page.count('role="img" aria-label="') == 5 * 2
    assert page.count("random weights</small>") == len(study().candidates)


def test_every_forward_is_on_the_page(page: str) -> None:
    for candidate in study().candidates:
        for forward in candidate.forwards:
            cells = f"<td>{forward.load}<td>{forward.round}<td>{forward.seconds}"
            assert cells in page


def test_the_results_are_in_the_page(page: str) -> None:
    encoded = re.search(r'href="data:application/json;base64,([^"]+)"', page)
    assert encoded is not None
    assert base64.b64decode(encoded[1]).decode() == to_json(bench(study()))


def test_the_page_is_one_file_without_scripts(page: str) -> None:
    references = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {one[:5] for one in references if not one.startswith("#")} == {"data:"}
    assert not re.search(r"<script|@import|url\((?!#)", page)


def test_colours_are_the_page_s_in_both_schemes(page: str) -> None:
    drawn = page[page.index("<body>") :]
    assert "var(--separate)" in drawn
    assert not re.search(r"#[0-9a-f]{6}\b", drawn)
    assert "prefers-color-scheme: dark" in page


def test_equal_results_give_equal_bytes() -> None:
    result = bench(group(FULL, SEPARATE))
    assert render_page(result) == render_page(result)


def test_a_hint_s_commands_are_to_be_copied() -> None:
    advice = (Advice("stale", "it changed", "rebuild it:\nwanexport build"), Advice("a", "b", "c"))
    text = " ".join(render_page(bench(group(FULL), advice=advice)).split())
    assert "it changed. Rebuild it:<br><code>wanexport build</code></p>" in text
    assert "<b>a</b> b. C.</p>" in text


def test_what_comes_from_files_is_text() -> None:
    rows = [replace(SEPARATE, label=EVIL, rival=EVIL), unmeasured("r8", EVIL)]
    found = group(FULL, *rows, model=EVIL, workload=EVIL, notes=(EVIL,))
    advice = (Advice(EVIL, EVIL, EVIL),)
    result = bench(found, machine={"gpu": EVIL}, broken={EVIL: EVIL}, timed=EVIL, advice=advice)
    text = render_page(result, EVIL)
    assert "<script" not in text
    assert "<img" not in text
    assert "変換" in text
    assert "$a_b$" in text


DEGENERATE: dict[str, BenchResult] = {
    "nothing": bench(),
    "only broken": bench(broken={"engines/x": "engine.json is not JSON"}),
    "one candidate": bench(group(FULL)),
    "no baseline": bench(group(replace(SEPARATE, ratio=None, baseline=None, baseline_dtype=None))),
    "all skipped": bench(group(unmeasured("separate r8", "no"), unmeasured("separate r32", "no"))),
    "one rank": bench(group(FULL, MERGED, SEPARATE, band=None)),
    "no interval": bench(group(FULL, UNRESOLVED, band=None)),
    "rivals alone": bench(group(FULL, COMPILED)),
    "one round of one load": bench(
        group(row("full", "full", None, (1, 1, 1), "baseline", loads=1, rounds=1, probe=Probe()))
    ),
    "no time, no bytes": bench(
        group(FULL, replace(SEPARATE, forwards=(Forward(0, 0, 0.0),), probe=Probe(memory_bytes=0)))
    ),
    "failed midway": bench(group(FULL, replace(SEPARATE, failed="no memory", clocks=THROTTLED))),
    "a failed control": bench(
        group(FULL, replace(FULL, label="full A/A", control=True, ratio=Ratio(
            0.9, 0.88, 0.92, 3, 36, 0.001, "slower")), SEPARATE)
    ),
    "two of a kind": bench(group(FULL, SEPARATE, replace(SEPARATE, label="separate r32 x0.5"))),
    "dtypes": bench(group(FULL, SEPARATE, replace(SEPARATE, dtype="fp16", label="separate r32"))),
    "interrupted": bench(group(FULL, SEPARATE), interrupted=True),
    "many groups": bench(group(FULL), group(FULL, SEPARATE, model="wan2.1-t2v-1.3b")),
    "long names": bench(group(FULL, replace(SEPARATE, label="separate r32 " + "変換-lora" * 12))),
}  # fmt: skip


@pytest.mark.parametrize("case", DEGENERATE)
def test_unusual_results_give_a_page_too(browser: Browser, tmp_path: Path, case: str) -> None:
    result = DEGENERATE[case]
    path = tmp_path / "page.html"
    path.write_text(render_page(result), encoding="utf-8")
    for width in (1280, 360):
        assert complaints(browser, path, width) == []
    for line in summary_lines(result):
        assert line.split(":")[0].split(";")[0].split(" [")[0] in path.read_text()


def test_sixty_candidates(browser: Browser, tmp_path: Path) -> None:
    rows = [
        replace(SEPARATE, label=f"separate r{rank}", rank=rank, forwards=SEPARATE.forwards[:4])
        for rank in range(1, 61)
    ]
    path = tmp_path / "page.html"
    path.write_text(render_page(bench(group(FULL, *rows))), encoding="utf-8")
    assert complaints(browser, path, 360) == []
    assert headline(group(FULL, *rows)).startswith("separate runs at 0.987 x")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_a_browser_has_nothing_to_complain_about(
    browser: Browser, page: str, tmp_path: Path, width: int, scheme: str
) -> None:
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    assert complaints(browser, path, width, scheme) == []  # type: ignore[arg-type]


PLANTED = {
    "<script>console.error('planted')</script>": "error: planted",
    "<script>throw new Error('planted')</script>": "error: planted",
    "<script>(</script>": "error: Unexpected",
    "<img src='planted.png'>": "planted.png",
    "<p style='width: 2000px'>planted</p>": "2000 pixels wide",
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_noticed(browser: Browser, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><body style='margin: 0'>{fault}", encoding="utf-8")
    assert any(PLANTED[fault] in found for found in complaints(browser, path))


def test_bench_then_report(tmp_path: Path) -> None:
    root = make_family(tmp_path / "engines")
    lab = FakeLab(Script(forward_s={"tiny-separate-r4": [0.125]}))
    result = bench_engines([root], BenchOptions(rounds=8), lab=lab)
    path = tmp_path / "bench.json"
    path.write_text(to_json(result), encoding="utf-8")
    assert read_results(path) == result
    code, out, err = wanrt("report", path)
    assert (code, err) == (0, f"saved {path.with_suffix('.html')}\n")
    assert out.startswith("separate r4 runs at 0.800 x the full fine-tune, 95 % interval 0.800 to ")
    assert out.endswith("[random weights]\n")
    assert "separate r4 runs at 0.800 x" in path.with_suffix(".html").read_text()


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    result = bench(
        replace(study(), notes=("a",)), group(replace(SEPARATE, clocks=THROTTLED), model="b")
    )
    path.write_text(to_json(result), encoding="utf-8")
    assert read_results(path) == result


def test_plots_are_saved_as_svg_and_png(saved: Path) -> None:
    output, plots = saved.with_name("out.html"), saved.parent / "a" / "plots"
    assert wanrt("report", saved, "-o", output, "--plots", plots)[0] == 0
    stem = "wan2.1-i2v-14b-832x480x81"
    names = ("memory", "prediction", "rate", "ratio", "rounds")
    assert sorted(path.name for path in plots.iterdir()) == sorted(
        f"{stem}-{name}.{kind}" for name in names for kind in ("png", "svg")
    )
    svg, png = (plots / f"{stem}-ratio.{kind}" for kind in ("svg", "png"))
    assert "<svg" in svg.read_text()
    assert "var(" not in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
    assert int.from_bytes(png.read_bytes()[16:20]) == 2 * 920  # its width
    assert output.is_file()


BROKEN = {
    "cut short": (lambda text: text[:-200], "is not JSON, or cut short"),
    "empty": (lambda _: "", "is not JSON, or cut short"),
    "no text": (lambda _: "\udcff", "is not JSON, or cut short"),
    "a list": (lambda _: "[]", "is no bench's results"),
    "another program's": (lambda _: '{"results": []}', "is no bench's results"),
    "of another schema": (
        lambda text: text.replace('"schema": 3', '"schema": 99', 1),
        "is of results schema 99",
    ),
    "without groups": (lambda _: '{"schema": 3}', "is no bench's results"),
    "of wrong types": (
        lambda text: text.replace('"tokens": 32760', '"tokens": "many"'),
        "tokens: Input should be a valid integer",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_results_are_one_clear_line(saved: Path, case: str) -> None:
    change, said = BROKEN[case]
    text = change(saved.read_text(encoding="utf-8"))
    saved.write_text(text, encoding="utf-8", errors="surrogateescape")
    code, out, err = wanrt("report", saved)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {saved}")
    assert said in err
    assert len(err.splitlines()) == 2
    assert err.splitlines()[1].startswith("hint: ")
    assert not saved.with_suffix(".html").exists()


@pytest.mark.parametrize("name", ["nowhere.json", "folder"])
def test_results_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    code, _, err = wanrt("report", tmp_path / name)
    assert code == 1
    assert "can't be read" in err


def test_outputs_that_cannot_be_written(saved: Path) -> None:
    code, _, err = wanrt("report", saved, "-o", saved.parent / "nowhere" / "out.html")
    assert code == 1
    assert "can't be written" in err
    code, _, err = wanrt("report", saved, "--plots", saved)
    assert code == 1
    assert "can't be made" in err
    code, _, err = wanrt("report", saved, "-o", saved)
    assert code == 2
    assert json.loads(saved.read_text())


def test_without_matplotlib_the_extra_is_named(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("wanrt.page", "wanrt.canvas"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = wanrt("report", saved)
    assert code == 1
    assert err == (
        "error: a report needs matplotlib, which isn't installed\n"
        "hint: pip install 'wanexport[report]'\n"
    )


def test_results_of_the_schema_before_can_be_read(saved: Path) -> None:
    now = read_results(saved)
    value = json.loads(saved.read_text(encoding="utf-8"))
    value["schema"] = 2
    for name in ("gpu_utilisation", "torch"):
        del value["context"]["machine"][name]
    for one in value["results"]:
        del one["forward_s"]["enqueued"]
    saved.write_text(json.dumps(value), encoding="utf-8")
    assert read_results(saved) == now


def test_results_error_is_the_package_s() -> None:
    with pytest.raises(ResultsError, match="can't be read"):
        read_results(Path("nowhere.json"))
