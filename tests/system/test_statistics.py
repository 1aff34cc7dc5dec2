"""Quantiles, and Wilson's interval of an accuracy, against known answers."""

import pytest
import torch
from scipy.stats import binomtest, norm

from hillstart.system.statistics import accuracy_interval, quantiles, standard_error


def test_spread_is_that_of_the_values() -> None:
    assert quantiles([4.0, 1.0, 3.0, 2.0, 5.0]) == {
        "n": 5,
        "min": 1,
        "lower_quartile": 2,
        "median": 3,
        "upper_quartile": 4,
        "max": 5,
    }
    assert quantiles([]) == {"n": 0}


def test_the_standard_error_is_that_of_so_many_tosses() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05, rel=0.01)
    tosses = torch.rand(4000, 50, generator=torch.Generator().manual_seed(0)) < 0.9
    assert standard_error(0.9, 50) == pytest.approx(tosses.float().mean(1).std().item(), rel=0.03)


@pytest.mark.parametrize(("right", "n"), [(0, 4), (4, 4), (1, 24), (23, 24), (1926, 2000)])
def test_the_interval_of_an_accuracy_is_wilsons(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(norm.cdf(1) - norm.cdf(-1), "wilson")
    assert accuracy_interval(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert standard_error(right / n, n) > 0
