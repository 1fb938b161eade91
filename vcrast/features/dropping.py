"""Choose the tokens of a view that stay: random ones, or whole columns and rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vcrast.features.draws import Draws

Grid = tuple[int, int]
HOW = ("random", "time", "frequency", "time_frequency")


class Dropping:
    """Takes tokens away, equally many from each clip, each clip its own.

    Args:
        drop: what goes: `random` tokens; columns of `time` (all tokens of some frames); rows of `frequency`;
            `time_frequency`: columns of the first view, rows of the second, and so on.
        patch_drop: how much, as a fraction below 1 or a count from 1, of the tokens, columns or rows; 0 keeps all. A
            list has a value for each view.
        crop_frequency: share of the rows that stay, neighbours, anywhere in the clip; 1 keeps all. `patch_drop` takes
            away of what is left.

    Raises:
        ValueError: an option out of its range.

    Source: random tokens He et al. 2021, arXiv:2111.06377; columns and rows arXiv:2605.14231 (AudioMosaic).
    """

    def __init__(self, *, drop: str, patch_drop: float | Sequence[float], crop_frequency: float) -> None:
        if drop not in HOW:
            raise ValueError(f"views.drop={drop}: choose from {', '.join(HOW)}")
        amounts = [patch_drop] if isinstance(patch_drop, int | float) else list(patch_drop)
        if not amounts:
            raise ValueError("views.patch_drop=[]: give a value for each view, for instance [0.6, 0.4]")
        for amount in amounts:
            if amount < 0:
                raise ValueError(f"views.patch_drop={amount}: must not be negative; 0 switches it off")
            if amount >= 1 and amount != int(amount):
                raise ValueError(
                    f"views.patch_drop={amount}: a fraction must be below 1 and a count must be whole; "
                    f"set {int(amount)} to take away that many tokens"
                )
        if not 0 < crop_frequency <= 1:
            raise ValueError(
                f"views.crop_frequency={crop_frequency}: must lie above 0 and up to 1, which keeps all rows"
            )
        self.drop, self.amounts, self.crop_frequency = drop, amounts, crop_frequency

    @property
    def setting(self) -> str:
        """What takes tokens away, as the user wrote it; empty if nothing does."""
        if any(self.amounts):
            given = self.amounts[0] if len(self.amounts) == 1 else f"[{','.join(f'{each:g}' for each in self.amounts)}]"
            return f"views.patch_drop={given}"
        return "" if self.crop_frequency == 1 else f"views.crop_frequency={self.crop_frequency:g}"

    def keep(self, draws: Draws, view: str, grid: Grid, number: int) -> Tensor | None:
        """The tokens that stay, of clips that have all tokens of a time-major grid.

        Args:
            draws: of b clips; names that start with `view/` are read.
            view: name of the view; another name gives another choice.
            grid: (t, f) tokens along time and frequency.
            number: which view it is, from 0.

        Returns:
            (b, Nkeep) int64 places t * F + f in ascending order, or None where all stay.

        Raises:
            ValueError: nothing would be left, or there is one row and rows are to go.
        """
        amount = self.amounts[number % len(self.amounts)]
        if amount == 0 and self.crop_frequency == 1:
            return None
        drop = ("time", "frequency")[number % 2] if self.drop == "time_frequency" else self.drop
        num_rows = max(1, round(grid[1] * self.crop_frequency))
        if grid[1] == 1 and (drop == "frequency" or self.crop_frequency < 1):
            setting = (
                f"views.drop={self.drop}" if drop == "frequency" else f"views.crop_frequency={self.crop_frequency:g}"
            )
            raise ValueError(f"{setting}: there is one row of tokens, patches span all mel bins; set views.drop=time")
        first = self._first_row(draws, view, grid[1] - num_rows)
        if drop == "random":
            chosen = chosen_of(draws, f"{view}/keep", grid[0] * num_rows, amount, "tokens")
            return chosen if first is None else chosen // num_rows * grid[1] + chosen % num_rows + first
        rows = torch.arange(num_rows, device=draws.device).expand(draws.size, -1)
        columns = torch.arange(grid[0], device=draws.device).expand(draws.size, -1)
        if drop == "time":
            columns = chosen_of(draws, f"{view}/keep_time", grid[0], amount, "columns of tokens in time")
        else:
            rows = chosen_of(draws, f"{view}/keep_frequency", num_rows, amount, "rows of tokens in frequency")
        rows = rows if first is None else rows + first
        return (columns.unsqueeze(2) * grid[1] + rows.unsqueeze(1)).flatten(1)

    def _first_row(self, draws: Draws, view: str, room: int) -> Tensor | None:
        """(b, 1) lowest row that stays, each as likely; None where all rows stay."""
        if self.crop_frequency == 1:
            return None
        return draws.integers(f"{view}/crop_frequency", room + 1).unsqueeze(1)


def chosen_of(draws: Draws, name: str, length: int, amount: float, what: str) -> Tensor:
    """(b, kept) ascending int64 places below `length`, a uniformly random subset for each clip.

    Args:
        draws: of b clips.
        name: of the numbers that are drawn.
        length: how many there are.
        amount: to take away, a fraction below 1 or a count.
        what: they are, for the message.

    Raises:
        ValueError: a count that leaves none.
    """
    if amount >= length:
        raise ValueError(
            f"views.patch_drop={amount:g}: a clip has only {length} {what} and one must stay; "
            "set a smaller count, or a fraction such as 0.5"
        )
    num_dropped = min(round(length * amount), length - 1) if amount < 1 else int(amount)
    # Stable, so that equal scores fall the same way on every device.
    order = draws.uniform(name, length).argsort(dim=1, stable=True)
    return order[:, : length - num_dropped].sort(dim=1).values
