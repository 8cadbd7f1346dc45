"""The page of a bench: what it says, what it is made of, and how it looks to a browser."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from benches import (
    COMPILED,
    FULL,
    MERGED,
    SEPARATE,
    THROTTLED,
    UNRESOLVED,
    bench,
    group,
    row,
    study,
    unmeasured,
)
from browser import chromium, complaints
from playwright.sync_api import Browser

from wanrt.report.headline import sentences, summary_lines
from wanrt.report.html.page import render_page
from wanrt.results.json import to_json
from wanrt.results.result import BenchResult
from wanrt.results.values import Advice, Forward, Probe, Ratio

EVIL = """<script>alert("x")</script><img src='x' onerror='y'> $a_b$ & 変換"""


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(bench(study()))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_what_would_be_obeyed_is_written_out() -> None:
    shown = render_page(bench(group(FULL, replace(SEPARATE, label="a\x1b[2J\u202eb"))))
    assert "\\x1b[2J\\u202eb" in shown
    assert not {"\x1b", "\u202e"} & set(shown)


def test_the_page_shows_everything(page: str) -> None:
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for said in (
        "A separate adapter costs 0.9 % (rank 8) to 2.1 % (rank 128) of the speed",
        "A merged adapter costs nothing measurable",
        "merged r32 [random weights] 9.400 s 12.0 GiB 71.99 ms 1.3 videos (1.1 to 1.7)",
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


def test_bytes_of_plans_are_a_plot_of_their_own(page: str) -> None:
    least = {"ffn": 100 * 10**9, "elementwise": 20 * 10**9}
    moved = {**least, "elementwise": 50 * 10**9, "self_attention": 10**9}
    rows = (
        replace(FULL, moved=moved, least_moved=least),
        replace(SEPARATE, moved={**moved, "lora": 3 * 10**9}, least_moved=least),
    )
    text = re.sub(r"<[^>]+>", " ", shown := render_page(bench(group(*rows))))
    assert shown.count("Bytes moved, read from the plans") > page.count("Bytes moved")
    for said in ("151 GB", "154 GB", "120 GB", "the least (formula)", "LoRA alone",
                 "Not measured: read from TensorRT-RTX plans"):  # fmt: skip
        assert said in text, said
    assert "Bytes moved" not in page


def test_speed_against_fidelity_is_a_plot_where_engines_record_it(page: str) -> None:
    rows = (replace(FULL, keeps=1.0), replace(SEPARATE, keeps=0.9812), replace(MERGED, keeps=-0.2))
    text = re.sub(r"<[^>]+>", " ", render_page(bench(group(*rows))))
    for said in ("Speed against fidelity", "keeps, % of the full", "r32", "98.1 %", "-20.0 %"):
        assert said in text, said
    assert "fidelity" not in page


def test_the_answer_comes_first_and_then_the_table(page: str) -> None:
    places = [page.index(part) for part in ("<h1>A separate adapter", "<table>", "<figure>")]
    assert places == sorted(places)


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
        assert line.split(":")[0].split("'")[0].split(" [")[0] in path.read_text()


def test_sixty_candidates(browser: Browser, tmp_path: Path) -> None:
    rows = [
        replace(SEPARATE, label=f"separate r{rank}", rank=rank, forwards=SEPARATE.forwards[:4])
        for rank in range(1, 61)
    ]
    path = tmp_path / "page.html"
    path.write_text(render_page(bench(group(FULL, *rows))), encoding="utf-8")
    assert complaints(browser, path, 360) == []
    assert sentences(group(FULL, *rows))[0].startswith(
        "A separate adapter costs 1.3 % of the speed"
    )


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
