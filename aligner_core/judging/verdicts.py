"""From verdicts to a comparison: omega, order bias, and agreement with others. Pure functions, no torch.

A verdict is +1, 0 or -1, seen from A. A judge may be asked in both orders: `a_first` where A's text stands first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligner_core.statistics import Array, Interval, wilson_interval

KINDS = (-1, 0, 1)  # lose, tie, win: the order of every table here
RESAMPLES = 2000


@dataclass(frozen=True)
class Judged:
    """The verdicts on one pair. An order that was not asked is absent from `orders`; None is no verdict.

    `identical` texts tie without being asked about.
    """

    orders: dict[str, int | None]  # "a_first", "b_first"
    identical: bool = False

    @property
    def outcome(self) -> int | None:
        """Win, tie or loss of A: what both orders say together. Orders that contradict each other are a tie.

        None where any reply gave no verdict: a pair judged in one order alone would carry that order's bias.
        """
        if self.identical:
            return 0
        verdicts = list(self.orders.values())
        return None if None in verdicts else int(np.sign(sum(v for v in verdicts if v is not None)))

    @property
    def in_both(self) -> tuple[int, int] | None:
        """The two orders' verdicts, where there are two."""
        first, second = self.orders.get("a_first"), self.orders.get("b_first")
        return None if self.identical or first is None or second is None else (first, second)


@dataclass(frozen=True)
class OrderBias:
    """How a judge that sees every pair in both orders leans to a place.

    Attributes:
        pairs: judged in both orders.
        agreement: share of them with the same verdict in both, with its Wilson interval.
        leaning: pairs in which the verdicts favour one place.
        to_first: share of those that favour the first place; 0.5 without bias.
    """

    pairs: int
    agreement: Interval
    leaning: int
    to_first: Interval

    @property
    def is_biased(self) -> bool:
        return self.leaning > 0 and self.to_first.excludes(0.5)

    def in_words(self) -> str:
        shares = (
            f"{100 * self.agreement.value:.1f} % [{100 * self.agreement.low:.1f}, {100 * self.agreement.high:.1f}]"
        )
        agreed = f"Both orders agree on {shares} of {self.pairs:,} pairs."
        if not self.is_biased:
            return f"{agreed} No order bias can be told."
        place = "first" if self.to_first.value > 0.5 else "second"
        share = max(self.to_first.value, 1 - self.to_first.value)
        return (
            f"{agreed} The judge has an order bias: it favours the answer shown {place}, in {100 * share:.1f} % of "
            f"the {self.leaning:,} pairs where the place decided. Asked in both orders this cancels out of omega, and "
            "hides differences."
        )


def order_bias(judged: Sequence[Judged]) -> OrderBias | None:
    """None where no pair has a verdict in both orders."""
    both = [verdicts for item in judged if (verdicts := item.in_both)]
    if not both:
        return None
    leanings = [a_first - b_first for a_first, b_first in both if a_first != b_first]
    return OrderBias(
        len(both), _share(len(both) - len(leanings), len(both)),
        len(leanings), _share(sum(lean > 0 for lean in leanings), len(leanings)),
    )  # fmt: skip


def omega_interval(outcomes: Sequence[int]) -> Interval:
    """Omega of A in percent, with its interval over the pairs."""
    return resampled(omega_of_table, np.array([outcomes.count(kind) for kind in KINDS]))


def omega_of_table(table: Array) -> Array:
    """Omega in percent of counts (..., 3): lose, tie, win."""
    return np.asarray(100.0 * (table[..., 2] - table[..., 0]) / table.sum(axis=-1))


def resampled(
    statistic: Callable[[Array], Array], table: NDArray[np.int64], confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile bootstrap over pairs, of which only the kinds are known: drawing pairs is drawing their counts.

    Args:
        statistic: of tables (..., *table.shape), one value for each.
        table: how many pairs there are of each kind.

    Returns:
        the statistic of the data, and its interval; NaN values of resamples are left out.
    """
    total = int(table.sum())
    drawn = np.random.default_rng(seed).multinomial(total, table.ravel() / total, size=RESAMPLES)
    values = statistic(drawn.reshape(-1, *table.shape).astype(float))
    values = values[np.isfinite(values)]
    point = float(statistic(table.astype(float)))
    if not len(values):
        return Interval(point, float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(point, float(low), float(high))


@dataclass(frozen=True)
class Agreement:
    """How often two sources of outcomes say the same, and Cohen's kappa: the same beyond chance."""

    pairs: int
    share: Interval
    kappa: Interval

    def row(self) -> dict[str, Any]:
        return {"pairs": self.pairs, "share": interval_row(self.share), "kappa": interval_row(self.kappa)}

    def in_words(self) -> str:
        share, kappa = self.share, self.kappa
        beyond = (
            "kappa is not defined: each says one thing throughout" if np.isnan(kappa.value)
            else f"kappa {kappa.value:.2f} [{kappa.low:.2f}, {kappa.high:.2f}]"
        )  # fmt: skip
        return (
            f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}] of {self.pairs:,} pairs, "
            f"{beyond}"
        )


def agreement(first: Sequence[int], second: Sequence[int]) -> Agreement:
    """Of two sequences of outcomes on the same pairs; of no pair there is no number."""
    pairs = list(zip(first, second, strict=True))
    if not pairs:
        return Agreement(0, _share(0, 0), _share(0, 0))
    table = np.array([[pairs.count((one, two)) for two in KINDS] for one in KINDS])
    return Agreement(len(pairs), _share(int(np.trace(table)), len(pairs)), resampled(cohens_kappa, table))


def interval_row(interval: Interval) -> dict[str, float | None]:
    """For JSON, which has no NaN."""
    return {key: None if np.isnan(value) else value for key, value in asdict(interval).items()}


def cohens_kappa(table: Array) -> Array:
    """(observed - expected) / (1 - expected) agreement (Cohen 1960) of counts (..., 3, 3).

    NaN where each source says one thing throughout, and the same: there is nothing to agree on beyond chance.
    """
    shares = table / table.sum(axis=(-2, -1), keepdims=True)
    observed = np.trace(shares, axis1=-2, axis2=-1)
    expected = (shares.sum(axis=-1) * shares.sum(axis=-2)).sum(axis=-1)
    room = np.where(expected < 1 - 1e-12, 1 - expected, np.nan)
    return np.asarray((observed - expected) / room)


def _share(count: int, total: int) -> Interval:
    if not total:
        return Interval(float("nan"), float("nan"), float("nan"))
    return Interval(count / total, *wilson_interval(count, total))
