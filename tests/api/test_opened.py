"""Runs opened from Python: tables as data frames, networks as they were kept and as they began, the page."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hillstart
import made
from hillstart.inference import model_file
from hillstart.network import Network
from hillstart.runs.reader import RunRecord

SMALL = [*made.SMALL, "logger=none", "hydra.run.dir=run", "hydra.sweep.dir=sweep"]


def test_a_run_is_its_tables_and_its_networks(train: Callable[..., None]) -> None:
    train(*SMALL, "starts=3", "seed=5", "keep=2", "descent.eta=[0.1,0.2]")
    run, record = hillstart.open_run("run"), RunRecord(Path("run"))
    assert list(run.starts["val_cost"]) == [row.result.val_cost for row in record.starts]
    assert run.starts["val_cost"].is_monotonic_increasing
    assert len(run.history) == 2 * 6
    assert set(run.history.columns) >= {"seed", "epoch", "train_cost", "val_cost", "val_accuracy", "eta"}
    assert run.summary["best_seed"] == run.starts["seed"][0]
    assert run.options["descent"]["eta"] == [0.1, 0.2]
    best = int(run.starts["seed"][0])
    assert torch.equal(run.network(best).w[0], run.classifier.network.w[0][:1])
    began = Network.start([784, 6, 2], [best], cost="cross_entropy", start="scaled_normal")
    for here, there in zip(run.initial(best).parameters, began.parameters, strict=True):
        assert torch.equal(here, there)
    assert "6 starts" in repr(run) and str(run.summary["best_seed"]) in repr(run)
    assert "<table" in run._repr_html_()
    assert "2 starts of [784, 6, 2]" in repr(run.classifier) and "lion, duck" in repr(run.classifier)
    Path("run/report.html").write_text('<p title="a">&amp;</p>')
    assert 'srcdoc="&lt;p title=&quot;a&quot;&gt;&amp;amp;&lt;/p&gt;"' in run.report()._repr_html_()


def test_all_starts_are_kept_and_read_one_by_one(train: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    train(*SMALL, "starts=9", "keep=all", "descent.eta=[0.1,0.2]", "trainer.max_epochs=1")
    run, read = hillstart.open_run("run"), list[int | None]()
    assert run.classifier.network.starts == run.summary["kept"] == 18
    of_all, load = hillstart.open_run("run"), model_file.load
    monkeypatch.setattr(model_file, "load", lambda path, seed=None: read.append(seed) or load(path, seed))
    for seed in (8, 0):
        for here, there in zip(
            of_all.network(seed).parameters, run.classifier.only(seed).network.parameters, strict=True
        ):
            assert torch.equal(here, there)
        assert of_all.initial(seed).starts == 1
    assert read == [8, 0]


def test_all_starts_of_the_jobs_of_a_multirun_are_kept(train: Callable[..., None]) -> None:
    train(*SMALL, "-m", "seed=[1,2],[5,6,7]", "keep=all", "trainer.max_epochs=1")
    assert [hillstart.load(f"sweep/{job}").network.starts for job in range(2)] == [2, 3]


def test_a_multirun_has_the_varied_options_as_columns(train: Callable[..., None]) -> None:
    train(*SMALL, "-m", "seed=1,2", "descent.eta=0.1,0.2", "descent.batch_size=16,32")
    run = hillstart.open_run("sweep")
    assert len(run.starts) == 8 and {"descent.batch_size", "eta"} <= set(run.varied)
    mean = run.history.groupby(["eta", "descent.batch_size", "epoch"])["val_cost"].count()
    assert mean.index.size == 2 * 2 * 2 and (mean == 2).all()
    for _, row in run.starts.iterrows():
        of = run.history[run.history["job"] == row["job"]]
        assert (of["seed"] == row["seed"]).all() and (of["eta"] == row["eta"]).all()
        assert of["val_cost"].min() == row["val_cost"]
    assert run.classifier.seeds == (run.summary["best_seed"],)
    with pytest.raises(hillstart.InputError, match="sweep: is a multirun"):
        run.initial(1)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(hillstart.InputError, match="nowhere: holds no starts"):
        hillstart.open_run(tmp_path / "nowhere")
