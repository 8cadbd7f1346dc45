"""Over how many cards a model's forward can be split, and what is left for each.

Each card computes an N-th of the tokens and, in self-attention, all tokens of an N-th of the heads.
Text and image are computed on every card, and weights are on every card (`graph/cards.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from wanexport.errors import ConfigError
from wanexport.model.formulas import PATCH_VOLUME, Dims, Lora, count_flops

__all__ = ["check_cards", "count_card_flops", "count_exchanged"]

MOST_CARDS = 64


def check_cards(cards: int, heads: int, tokens: int, batch: int) -> None:
    """Refuse a number of cards that a model or a size can't be split over.

    Raises:
        ConfigError: it names the numbers that can be had.
    """
    if batch != 1:
        raise ConfigError(
            f"--cards {cards} splits the tokens of one video, not --batch {batch}",
            "leave --batch out; guidance takes two forwards",
        )
    if heads % cards == 0 and tokens % cards == 0:
        return
    known = [n for n in range(2, MOST_CARDS + 1) if heads % n == 0 and tokens % n == 0]
    raise ConfigError(
        f"--cards {cards} doesn't divide both {heads} heads and {tokens} tokens",
        f"choose {', '.join(map(str, known))}" if known else "choose another --width or --height",
    )


def count_card_flops(
    dims: Dims, tokens: int, cards: int, lora: Lora | None = None
) -> Mapping[str, int]:
    """Return the flops of one card of several in one forward of one video, by part."""
    parts = count_flops(dims, tokens // cards, lora=lora)
    return parts | {"self_attention": count_flops(dims, tokens)["self_attention"] // cards}


def count_exchanged(dims: Dims, tokens: int, itemsize: int, cards: int) -> int:
    """Return the bytes that a card receives in a forward, and sends.

    q, k, v and attention's output in every layer (all_to_all), and the head's output (all_gather).
    An N-th of what a card ends up with was its own before.
    """
    rows = tokens // cards
    layers = 4 * dims.layers * rows * dims.width
    head = tokens * dims.out_channels * PATCH_VOLUME
    return (layers + head) * itemsize * (cards - 1) // cards
