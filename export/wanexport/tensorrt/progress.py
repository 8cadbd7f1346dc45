"""Progress of long work, as the runtime shows it; a TensorRT builder's phases too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from wanexport.tensorrt.protocol import Phase
from wanrt.terminal import progress

__all__ = ["Reporter"]


class Reporter(progress.Reporter):
    """Says on stderr how far long work is; `wanrt.terminal.progress` says how."""

    @contextmanager
    def phases(self, text: str) -> Iterator[Callable[[Phase], None]]:
        """Show a builder's nested phases, a bar for each that is under way."""
        with self.work(text), ExitStack() as all_of_them:
            under_way: dict[str, tuple[ExitStack, progress.Piece]] = {}

            def show(phase: Phase) -> None:
                if phase.name not in under_way:
                    stack = all_of_them.enter_context(ExitStack())
                    piece = stack.enter_context(self.steps(phase.name, phase.steps))
                    under_way[phase.name] = stack, piece
                stack, piece = under_way[phase.name]
                piece.advance(phase.done - piece.done)
                if phase.done >= phase.steps:
                    del under_way[phase.name]
                    stack.close()

            yield show
