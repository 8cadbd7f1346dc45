"""Over how many cards a model's forward can be split."""

from __future__ import annotations

from wanexport.errors import ConfigError

__all__ = ["check_cards"]

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
