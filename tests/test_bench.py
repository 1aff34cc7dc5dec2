"""The bench measures what it says: the right counts, every contestant, a JSON with all of it."""

import json
import sys
from pathlib import Path

import pytest
import torch

from hillstart import bench


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SIZES", ([36, 5, 3],))
    monkeypatch.setattr(bench, "BATCHES", (50,))
    monkeypatch.setattr(bench, "STARTS", (2,))


def test_flops_are_those_of_the_design() -> None:
    """2 (n_0 n_1 + n_1 n_2) 2 + 2 n_1 n_2: the first layer needs no error of its inputs."""
    assert bench.flops([784, 30, 10]) == 2 * (784 * 30 + 30 * 10) * 2 + 2 * 30 * 10


def test_every_contestant_does_the_same_work(small: None) -> None:
    """From the same starts over the same pictures, the pack alone and the full path end in the same place."""
    data = bench.made_up([36, 5, 3], pictures=200)
    cpu, ends = torch.device("cpu"), []
    for make in bench.CONTESTANTS.values():
        contestant = make(data, [36, 5, 3], 50, 2, cpu)
        contestant.run()
        ends.append(contestant.ends())
    for p, q in zip(ends[0].parameters, ends[1].parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


def test_the_json_holds_machine_versions_peak_and_rows(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", "--quick", "--json", str(tmp_path / "bench.json")])
    bench.main()
    found = json.loads((tmp_path / "bench.json").read_text())
    assert set(found) == {"machine", "versions", "peak_gflops", "rows"}
    assert found["peak_gflops"] > 0
    assert [row["contestant"] for row in found["rows"]] == ["hillstart-engine", "hillstart"]
    for row in found["rows"]:
        assert (row["sizes"], row["batch"], row["starts"]) == ([36, 5, 3], 50, 2)
        assert 0 < row["low"] <= row["net_samples_per_second"] <= row["high"]
        share = row["net_samples_per_second"] * bench.flops([36, 5, 3]) / (found["peak_gflops"] * 1e9)
        assert row["fraction_of_peak"] == pytest.approx(share)
    assert "hillstart-engine" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", "--device", "cuda"])
    with pytest.raises(SystemExit) as end:
        bench.main()
    assert end.value.code == 2
    assert "no CUDA device here" in capsys.readouterr().err
