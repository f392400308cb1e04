# SPDX-License-Identifier: Apache-2.0
"""How surprising the scores inside a slice are, if they might have fallen to any of the units of
their stratum alike.

units     observations within examples, else examples, whose observations are averaged
sum       Σ x y, x whether a unit is in the slice, y its score, both less their stratum's mean. Its
          variance and skewness over all permutations within strata are known in closed form, and a
          Pearson III distribution of these gives p (Mielke and Berry, 2007, “Permutation Methods”,
          chapter 2), so that rare failures are judged as what they are
"""

import math
from typing import NamedTuple

import numpy as np

MIN_SKEWNESS = 1e-6  # below it Pearson III is the normal distribution


class Dispersion(NamedTuple):
    """How much more slices vary than by chance."""

    factor: float  # of the variance, at least 1
    df: float  # of Student's t: from how many slices that was learned


class Moments(NamedTuple):
    total: float  # the sum
    size: float  # Σ x²: the sum is this times the difference of means
    variance: float  # of the sum by chance
    skewness: float
    rest: float  # variance of the sum by what the difference leaves unexplained
    error: float  # standard error of the difference, whatever the truth

    @property
    def difference(self) -> float:
        """Mean inside the slice less mean outside, over strata."""
        return self.total / self.size

    @property
    def z(self) -> float:
        return self.total / math.sqrt(self.variance)

    @property
    def t(self) -> float:
        """The difference by its own error, as that of a regression: unlike `z` it grows without
        bound where a slice is nothing but worse, so that it can be held against a dispersion."""
        return (
            self.total / math.sqrt(self.rest) if self.rest else math.copysign(math.inf, self.total)
        )

    def p(self, dispersion: Dispersion | None = None) -> float:
        """Of a sum as small by chance: the lower tail. Beside a dispersion, also of a difference
        as small where slices vary so much: the larger of the two."""
        from scipy.special import ndtr, stdtr
        from scipy.stats import pearson3

        exact = abs(self.skewness) <= MIN_SKEWNESS
        p = float(ndtr(self.z) if exact else pearson3.cdf(self.z, self.skewness))
        if dispersion is None:
            return p
        t = self.t / math.sqrt(dispersion.factor)
        return max(p, float(ndtr(t) if dispersion.df == math.inf else stdtr(dispersion.df, t)))


def varies_within(holds: np.ndarray, units: np.ndarray, least: float = 0.25) -> bool:
    """Whether a slice tells apart what stands within units: at least a share `least` of its
    variance."""
    sizes = np.maximum(np.bincount(units), 1)
    inside = np.bincount(units, weights=holds)
    share = float(holds.mean())
    within = float((inside * (1 - inside / sizes)).sum())
    return within > least * len(holds) * share * (1 - share)


def moments(x: np.ndarray, y: np.ndarray, stratum: np.ndarray, unit: np.ndarray) -> Moments:
    """Of Σ x y under permutation within strata.

    Args:
        x, y: float [n].
        stratum: int [n].
        unit: int [n]; what varies together, for the standard error.
    """
    n = np.bincount(stratum).astype(float)

    def centred(v: np.ndarray) -> np.ndarray:
        return v - (np.bincount(stratum, weights=v) / np.maximum(n, 1))[stratum]

    def power(v: np.ndarray, k: int) -> np.ndarray:
        return np.bincount(stratum, weights=v**k)

    dx, dy = centred(x), centred(y)

    def by_chance(of: np.ndarray) -> float:
        return float((power(dx, 2) * power(of, 2) / np.maximum(n - 1, 1))[n > 1].sum())

    total, size = float(dx @ dy), float(dx @ dx)
    variance, residual = by_chance(dy), dy - (total / size if size else 0.0) * dx
    third = n * power(dx, 3) * power(dy, 3) / np.maximum((n - 1) * (n - 2), 1)
    skewness = float(third[n > 2].sum()) / variance**1.5 if variance > 0 else 0.0
    by_unit = np.bincount(unit, weights=dx * residual)
    error = math.sqrt(float(by_unit @ by_unit)) / size if size else math.inf
    return Moments(total, size, variance, skewness, by_chance(residual), error)
