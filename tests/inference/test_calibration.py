"""The vote of many starts, and probabilities that mean what they say."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hillstart.cli.reliability import main as reliability_command
from hillstart.inference.calibration import (
    COLDEST,
    HOTTEST,
    before_and_after,
    calibrate,
    error_by_chance,
    expected_calibration_error,
    reliability,
    temperature_of,
)
from hillstart.inference.voting import agreement, probabilities, vote


def overconfident(N: int = 20_000, classes: int = 4, T: float = 2.0) -> tuple[Tensor, Tensor]:
    """Softmax outputs that are too sure by the temperature T: the right classes are drawn from softmax(z/T)."""
    g = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(N, classes, generator=g)
    return torch.softmax(z, -1), torch.multinomial(torch.softmax(z / T, -1), 1, generator=g).squeeze(1)


def test_vote_and_agreement_by_hand() -> None:
    outputs = torch.tensor([[[0.9, 0.2], [0.4, 0.6]], [[0.1, 0.2], [0.2, 0.7]], [[0.8, 0.3], [0.9, 0.1]]])
    torch.testing.assert_close(vote(outputs), torch.tensor([[0.6, 0.7 / 3], [0.5, 1.4 / 3]]))
    # Of the first picture two say class 0, as the vote does; of the second one does, though two say class 1.
    torch.testing.assert_close(agreement(outputs), torch.tensor([2 / 3, 1 / 3]))


def test_on_softmax_outputs_it_is_temperature_scaling() -> None:
    z = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    for T in (0.3, 1.0, 4.0):
        torch.testing.assert_close(probabilities(torch.softmax(z, -1), T), torch.softmax(z / T, -1))
    outputs = torch.softmax(z, -1).expand(2, 50, 5)
    a_T_each = probabilities(outputs, torch.tensor([0.5, 2.0]).view(2, 1, 1))
    torch.testing.assert_close(a_T_each[1], probabilities(outputs[1], 2.0))


def test_probabilities_sum_to_one_keep_the_order_and_survive_0_and_1() -> None:
    outputs = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.7, 0.7, 0.1], [1.0, 0.9, 1e-30]])
    for T in (1 / 64, 0.5, 1.0, 64.0):
        p = probabilities(outputs, T)
        torch.testing.assert_close(p.sum(-1), torch.ones(4))
        assert (p.isfinite()).all()
        assert (p[0, 1] >= p[0, [0, 2]]).all() and (p[1] == 1 / 3).all() and p[2, 0] == p[2, 1] > p[2, 2]
        assert p[3, 0] > p[3, 1] > p[3, 2] or T < 0.1


@pytest.mark.parametrize("T", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(T: float) -> None:
    outputs, y = overconfident(T=T)
    assert temperature_of(outputs, y) == pytest.approx(T, rel=0.03)


def test_the_temperature_makes_the_right_classes_most_likely() -> None:
    outputs, y = overconfident(N=300)
    N, classes = outputs.shape
    wanted = torch.full((N, classes), 1 / (N + 2) / (classes - 1), dtype=torch.float64)
    wanted[torch.arange(N), y] = (N + 1) / (N + 2)

    def cost(T: float) -> float:
        return float(-(wanted * probabilities(outputs.double(), T).log()).sum(-1).mean())

    best = temperature_of(outputs, y)
    assert cost(best) < min(cost(best * 1.01), cost(best / 1.01))


def test_few_pictures_all_right_or_all_wrong_give_a_finite_temperature() -> None:
    outputs = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).repeat(20, 1)
    T = temperature_of(outputs, torch.tensor([0, 1]).repeat(20))
    assert T > COLDEST
    assert probabilities(outputs, T)[0, 0] == pytest.approx(41 / 42, abs=1e-4)  # Laplace's rule
    assert temperature_of(outputs, torch.tensor([1, 0]).repeat(20)) == HOTTEST  # always wrong
    assert temperature_of(torch.full((4, 2), 0.5), torch.tensor([0, 1, 0, 1])) in (HOTTEST, COLDEST)


def test_calibration_of_the_vote_and_of_each_start() -> None:
    outputs, y = overconfident(T=3)
    sharper = probabilities(outputs, 0.5)
    found = calibrate(torch.stack([outputs, sharper]), y)
    assert found.starts == pytest.approx((3, 6), rel=0.05)
    assert found.vote == temperature_of(vote(torch.stack([outputs, sharper])), y)
    alone = calibrate(outputs.unsqueeze(0), y)
    assert alone.starts == (alone.vote,) == (temperature_of(outputs, y),)


def test_calibration_error_by_hand() -> None:
    # Two bins: in one 0.9 and 0.95 are said and one of two is right, in the other 0.6, which is right.
    p = torch.tensor([[0.9, 0.1], [0.05, 0.95], [0.6, 0.4]])
    y = torch.tensor([0, 0, 0])
    separate = abs(0.9 - 1) + abs(0.95 - 0) + abs(0.6 - 1)  # 0.9 and 0.95 lie on both sides of 14/15 = 0.933
    assert expected_calibration_error(p, y) == pytest.approx(separate / 3, abs=1e-6)
    p[0] = torch.tensor([0.94, 0.06])
    together = 2 * abs((0.94 + 0.95) / 2 - 1 / 2) + abs(0.6 - 1)
    assert expected_calibration_error(p, y) == pytest.approx(together / 3, abs=1e-6)


def test_the_diagram_and_the_error_tell_the_same() -> None:
    outputs, y = overconfident(N=999)
    bins = reliability(outputs, y)
    assert sum(b.pictures for b in bins) == 999
    assert all(b.low <= b.confidence <= b.high and 0 <= b.accuracy <= 1 for b in bins)
    by_bins = sum(b.pictures * abs(b.confidence - b.accuracy) for b in bins) / 999
    assert by_bins == pytest.approx(expected_calibration_error(outputs, y), abs=1e-6)
    sure = reliability(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 0]))
    assert [(b.high, b.pictures, b.accuracy) for b in sure] == [(pytest.approx(8 / 15), 1, 1), (1, 1, 1)]


def test_a_temperature_mends_overconfidence_on_other_pictures() -> None:
    outputs, y = overconfident()
    T = calibrate(outputs[None, :10_000], y[:10_000]).vote
    found = before_and_after(outputs[None, 10_000:], y[10_000:], T)
    before, after = (found[when]["expected_calibration_error"] for when in ("before", "after"))
    assert before > 0.1 and after < 0.02
    assert math.isclose(sum(b["pictures"] for b in found["after"]["reliability"]), 10_000)


# ---------------------------------------------------------------- the diagram of a run


def summary(folder: Path) -> dict[str, Any]:
    outputs, y = overconfident(N=500)
    T = calibrate(outputs.unsqueeze(0), y).vote
    calibration = {"temperature": T, "val": {}, "test": before_and_after(outputs.unsqueeze(0), y, T)}
    (folder / "summary.json").write_text(json.dumps({"calibration": calibration}))
    return calibration


def test_the_diagram_of_a_run_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = summary(tmp_path)
    monkeypatch.setattr("sys.argv", ["reliability.py", str(tmp_path)])
    reliability_command()
    drawn = (tmp_path / "reliability.svg").read_text()
    shown = capsys.readouterr().out
    for when in ("before", "after"):
        found = calibration["test"][when]
        assert f"off by {found['expected_calibration_error']:.3f}" in drawn
        for b in found["reliability"]:
            assert f"{b['confidence']:.3f}" in shown and f"{b['accuracy']:.3f}" in shown
    assert "500 test pictures" in drawn
    reliability_command()
    assert (tmp_path / "reliability.svg").read_text() == drawn  # no date, no random names


@pytest.mark.parametrize("text", [None, "{}", '{"calibration": {"test": {}}}', "no JSON", "[]"])
def test_a_folder_without_calibration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    if text:
        (tmp_path / "summary.json").write_text(text)
    monkeypatch.setattr("sys.argv", ["reliability.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^hillstart: .*summary\.json.*; give the folder of a run"):
        reliability_command()
    assert not (tmp_path / "reliability.svg").exists()


def test_an_error_by_chance_is_rarely_exceeded_by_true_probabilities_and_always_by_false_ones() -> None:
    for T, low, high in ((1.0, 0.01, 0.1), (2.0, 1.0, 1.0)):
        sets = zip(*(tensor.split(200) for tensor in overconfident(T=T)), strict=True)
        beyond = [expected_calibration_error(p, y) > error_by_chance(p) for p, y in sets]
        assert low <= sum(beyond) / len(beyond) <= high
