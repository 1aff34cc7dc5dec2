"""The rules that end a start early: it has diverged, it no longer improves, or it has lost a race."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool
from torch import Tensor

from hillstart.engine.starts import DIVERGED, STOPPED, VAL_COST, History
from hillstart.system.schema import check, whole

EXPLODED = 1e6
"""A start with a higher cost per picture has diverged. No start begins so high (unit-normal weights in a deep relu
network give some 10^4), and such a cost is infinite within a few steps."""


@dataclass(frozen=True)
class EarlyStopping:
    """The rules that end a start early. A start that has ended costs no more time and does not affect the others.

    Args:
        patience: end a start after this many epochs in a row without a new lowest validation cost; None: never.
        race: successive halving (Jamieson and Talwalkar 2016): after this many epochs the better half of the pack by
            validation cost goes on, after twice as many the better quarter, and so on down to one; None: no race.

    Raises:
        InputError: a value that is not a whole number of 1 or more.
    """

    patience: Annotated[int | None, *whole(1, of="null, or a whole number of epochs")] = None
    race: Annotated[int | None, *whole(1, of="null, or a whole number of epochs")] = None

    def __post_init__(self) -> None:
        check("stop", type(self), vars(self))

    def after_epoch(self, history: History, last: bool) -> None:
        """End the starts that the newest epoch of `history` ends; after the last epoch only those that diverged."""
        costs = history.figures[-1, :, : VAL_COST + 1]
        history.end(history.active & ~(costs < EXPLODED).all(1), DIVERGED)
        if last:
            return
        if self.patience is not None:
            history.end(history.active & (history.epochs_since_lowest() >= self.patience), STOPPED)
        if self.race is not None:
            history.end(history.active & self._lost(history, self.race), STOPPED)

    @staticmethod
    def _lost(history: History, race: int) -> Bool[Tensor, " S"]:
        """The starts that lose the halving after this epoch; none if there is no halving after it."""
        lost = torch.zeros(len(history.starts), dtype=torch.bool)
        rounds, between = divmod(len(history.figures), race)
        if not between and rounds & (rounds - 1) == 0:  # after race, 2 race, 4 race ... epochs
            winners = max(1, -(-len(history.starts) // (2 * rounds)))
            lost[history.ranking()[winners:]] = True
        return lost
