"""What split engines take once per prompt has columns of its own, where there is any."""

from __future__ import annotations

from dataclasses import replace

from benches import FULL, MERGED, bench, group

from wanrt.report.contexts import context_lines
from wanrt.report.csv import to_csv
from wanrt.report.markdown import to_markdown
from wanrt.report.table import render_bench
from wanrt.results.values import Probe

SPLIT = replace(FULL, probe=Probe(context_s=0.25, context_bytes=3 << 20))
OTHER = replace(MERGED, probe=Probe(context_s=0.5, context_bytes=1 << 20))


def test_the_table() -> None:
    found = group(SPLIT, OTHER)
    assert context_lines(found, found.candidates) == [
        "  once per prompt   context      moved",
        "  full             250.0 ms  3.000 MiB",
        "  merged r32       500.0 ms  1.000 MiB",
    ]
    plain = group(FULL, MERGED)
    assert context_lines(plain, plain.candidates) == []


def test_every_report_has_it() -> None:
    result = bench(group(SPLIT, OTHER))
    assert "  full             250.0 ms  3.000 MiB\n" in render_bench(result)
    assert "| merged r32 | 500.0 ms | 1.000 MiB |" in to_markdown(result)
    assert ",0.25,3145728," in to_csv(result)
    assert "once per prompt" not in render_bench(bench(group(FULL, MERGED)))
