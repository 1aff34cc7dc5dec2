"""Differences between two samples, paired or independent: intervals, rank tests, superiority, Holm's correction."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """B - A with its 95% confidence interval."""

    value: float
    low: float
    high: float

    def shown(self) -> bool:
        """True if 0 is outside the interval."""
        return self.low > 0 or self.high < 0


def _rounding(A: np.ndarray, B: np.ndarray) -> float:
    """A difference up to this is rounding: 1e-17 above 0 must not show a difference."""
    return float(1e-12 * max(np.abs(A).max(), np.abs(B).max()))


def _difference(A: np.ndarray, B: np.ndarray, *value_low_high: float) -> Difference:
    return Difference(*(0.0 if abs(x) <= _rounding(A, B) else float(x) for x in value_low_high))


def difference_of_medians(
    A: Float[np.ndarray, " m"], B: Float[np.ndarray, " n"], *, paired: bool = False
) -> Difference:
    """Median of B minus median of A, or the median of the paired differences, with the percentile bootstrap interval.

    Needs two values of each; pairs are resampled as pairs. Efron and Tibshirani, An Introduction to the Bootstrap
    (1993), ch. 13. The BCa interval of ch. 14 is not used: its jackknife fails for medians (ch. 11), and with tied
    values, as of accuracies on few pictures, it was mostly nan. With ties the percentile interval is too wide; below 5
    values it is too narrow (with 2 values it covered the true value in 65% of 400 trials). The random numbers are
    seeded, so the same starts always give the same interval.
    """
    from scipy.stats import bootstrap  # imported here because it takes a second

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        medians = [np.median(sample, axis=axis) for sample in samples]
        return np.asarray(medians[0] if paired else medians[1] - medians[0])

    samples = (B - A,) if paired else (A, B)
    interval = bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, 1_000_000 // max(len(A), len(B))),  # 8 MB at a time
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return _difference(A, B, float(statistic(*samples)), interval.low, interval.high)


def difference_of_means(A: Float[np.ndarray, " m"], B: Float[np.ndarray, " n"], *, paired: bool = False) -> Difference:
    """Mean of B minus mean of A, with Student's interval of pairs (Biometrika 6, 1908) or Welch's (34, 1947).

    Needs two values of each. The interval has no width if neither run's values, or no paired difference, varies.
    """
    from scipy.stats import ttest_ind, ttest_rel

    value = float(B.mean() - A.mean())
    if max(map(np.ptp, (B - A,) if paired else (A, B))) <= _rounding(A, B):
        return _difference(A, B, value, value, value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # if one of the two does not vary
        found = ttest_rel(B, A) if paired else ttest_ind(B, A, equal_var=False)
        interval = found.confidence_interval(CONFIDENCE)
    return _difference(A, B, value, interval.low, interval.high)


def p_value(A: Float[np.ndarray, " m"], B: Float[np.ndarray, " n"], *, paired: bool = False) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test of pairs, or of Mann and Whitney's U test.

    Wilcoxon, Biometrics Bulletin 1 (1945), with Pratt's ranks of zero differences (1959). With 5 pairs the smallest
    possible value is 0.0625.
    """
    from scipy.stats import mannwhitneyu, wilcoxon

    if not paired:
        return float(mannwhitneyu(B, A).pvalue)
    d = B - A
    if np.abs(d).max() <= _rounding(A, B):
        return 1.0
    d = np.round(d / np.abs(d).max(), 9)  # 0.3 - 0.2 and 0.2 - 0.1 are a tie
    return float(wilcoxon(d, zero_method="pratt").pvalue)


def superiority(
    A: Float[np.ndarray, " m"], B: Float[np.ndarray, " n"], *, lower_is_better: bool = False, paired: bool = False
) -> float:
    """Share of pairs in which B's value is better than A's; ties count half, so 0.5 means that neither is better.

    Of all pairs of a value of A and one of B it is Mann and Whitney's U / (m n) (1947), also known as Vargha and
    Delaney's A (2000).
    """
    from scipy.stats import mannwhitneyu

    if paired:
        above = float((B > A).mean() + (B == A).mean() / 2)
    else:
        above = float(mannwhitneyu(B, A, method="asymptotic").statistic / (len(A) * len(B)))
    return 1 - above if lower_is_better else above


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of the p-values of several comparisons (Scand. J. Stat. 6, 1979).

    The probability that any true null hypothesis has a corrected p-value below alpha is at most alpha.
    """
    corrected, largest = [0.0] * len(p), 0.0
    for rank, k in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[k]))
        corrected[k] = largest
    return corrected
