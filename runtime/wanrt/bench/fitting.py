"""Which engines a named workload may be measured with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from wanrt.errors import ResultsError
from wanrt.manifest.folder import EngineFolder, OpenedFolder
from wanrt.results.workloads import NamedWorkload
from wanrt.terminal.text import first_three

__all__ = ["require_fit"]


def require_fit(folders: Sequence[OpenedFolder], workload: NamedWorkload) -> None:
    """Refuse engines of another size or architecture, and name those that fit.

    Raises:
        ResultsError: an engine doesn't fit. What can't be read is for the bench to say.
    """
    engines = [folder for folder in folders if isinstance(folder, EngineFolder)]
    fitting = [engine for engine in engines if workload.fits(engine.manifest)]
    others = [engine for engine in engines if not workload.fits(engine.manifest)]
    if not others:
        return
    names = first_three([str(engine.path) for engine in others])
    paths = shlex.join(str(engine.path) for engine in fitting)
    hint = f"these fit: wanrt bench {paths} --workload {workload.name}"
    if not fitting:
        hint = "none of the engines fits"
        if workload.config:
            hint += f"; build them: wanexport build --config {workload.config}"
    raise ResultsError(
        f"workload {workload.name} wants engines of {workload.wants}, unlike {names}", hint
    )
