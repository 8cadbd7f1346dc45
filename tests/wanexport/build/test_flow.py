"""Data goes through a build once: the request is resolved, and what follows is handed targets."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import wanexport
from wanexport.build.request import BuildRequest
from wanexport.build.resolve import resolve_targets
from wanexport.build.sources import gather
from wanexport.model.config import load_config
from wanexport.model.names import module_shapes
from wanrt.terminal.progress import Reporter

ROOT = Path(wanexport.__file__).parent
TAKING = {
    "build/request.py",  # checks it
    "build/sources.py",  # opens what it names
    "build/resolve.py",  # and here it ends
    "build/experts.py",  # makes one of each expert of it
    "build/recipe.py",
    "compiled.py",  # makes requests of a layer or two of it
    "cli/build.py",
    "cost.py",  # which builds nothing
    "study/cells.py",  # asks of what a command would make of a cell
}


def takes_request(path: Path) -> list[str]:
    """Return the functions of a module that take a request."""
    return [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        for argument in (*node.args.args, *node.args.kwonlyargs)
        if argument.annotation and "BuildRequest" in ast.unparse(argument.annotation)
    ]


def test_no_stage_after_resolving_takes_the_request() -> None:
    taking = {
        path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if takes_request(path)
    }
    assert taking == TAKING
    assert takes_request(ROOT / "build/recipe.py") == ["build_engines"]


def test_a_model_s_shapes_are_worked_out_once(tmp_path: Path) -> None:
    config = load_config("wan2.1-i2v-demo")
    wider = config.architecture.model_copy(update={"ffn_dim": 1111})  # no other test's
    request = BuildRequest(
        config=config.model_copy(update={"architecture": wider}), ranks=(4, 8), out=tmp_path
    )
    before = module_shapes.cache_info().misses
    sources = gather(request, Reporter(quiet=True), dry_run=True)
    targets = resolve_targets(replace(request, dynamic=True), sources)
    assert module_shapes.cache_info().misses == before + 1
    assert len(targets) == 6
    assert all(target.shapes is sources.shapes for target in targets)
