"""A study as one HTML file: the answer of each card, its table, the frontier, when merging pays."""

from __future__ import annotations

from functools import partial

from wanrt.report.html.frontier_plot import draw_frontier
from wanrt.report.html.merging import MERGING_COLUMNS, merging_cells, merging_note
from wanrt.report.html.plots import Plot
from wanrt.report.html.style import COLORS, DARK
from wanrt.report.html.template import draw_plot, load_template, page_css
from wanrt.report.study import (
    BOUND,
    FRONTIER,
    MERGED,
    CardFindings,
    answer,
    card_cells,
    estimate_rows,
    failures,
    find_cards,
    group_title,
)
from wanrt.results.study import Study, StudyGroup

__all__ = ["render_study_page"]

CAPTION = (
    "Filled: nothing is better in speed, rank or fidelity, way of exchange and disk at once. The "
    "lines are the highest speed of at least that rank or fidelity. Larger marks: all linear "
    "layers. What isn't measurably different from the full fine-tune stands at 1."
)


def render_study_page(study: Study) -> str:
    """Return the page."""
    groups = [_group(study, group, n) for n, group in enumerate(study.groups)]
    answers = [card["answer"] for group in groups for card in group["cards"]]
    return load_template("study.html").render(
        study=study,
        groups=groups,
        answers=answers or ["Nothing was measured"],
        failures=failures(study),
        notes=[FRONTIER, MERGED],
        bound=BOUND,
        light=COLORS,
        dark=DARK,
        css=page_css(),
    )


def _group(study: Study, group: StudyGroup, number: int) -> dict[str, list[dict[str, object]]]:
    cards = [_card(f, f"{number}-{n}") for n, f in enumerate(find_cards(study, group))]
    estimates: list[dict[str, object]] = [
        {"device": f"{one.device}, {one.dtype}", "rows": estimate_rows(group, one)}
        for one in group.estimates
    ]
    return {"cards": cards, "estimates": estimates, "title": [{"text": group_title(group)}]}


def _card(found: CardFindings, number: str) -> dict[str, object]:
    drawn = [p for p in found.points if p.cell.mode != "full" and p.speed is not None]
    title = "Speed and the frontier"
    plot = Plot("frontier", title, title, partial(draw_frontier, found))
    return {
        "answer": answer(found),
        "machine": " · ".join(found.bench.machine.headline),
        "finished": found.finished,
        "rows": card_cells(found),
        "plot": draw_plot(plot, number, CAPTION) if drawn else None,
        "merging": [merging_cells(one, found.result) for one in found.break_evens],
        "merging_columns": MERGING_COLUMNS,
        "merging_note": merging_note(found.bench.video),
        "warnings": list(dict.fromkeys(a for row in found.result.candidates for a in row.advice)),
    }
