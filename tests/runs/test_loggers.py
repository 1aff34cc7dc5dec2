"""Loggers hold what a run's tables hold, read back by their own readers; a logger that fails ends no training."""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import made
from hillstart.runs.reader import RunRecord

SMALL = [*made.SMALL, "trainer.max_epochs=3", "hydra.run.dir=run", "hydra.sweep.dir=sweep"]
STEPS = [3, 6, 9]
"""Mini-batches until the end of each epoch: 96 training pictures, 32 in each."""


def rows(metrics: Path) -> list[dict[str, float]]:
    return [{key: float(cell) for key, cell in row.items() if cell} for row in made.rows(metrics)]


def history(folder: Path) -> Any:
    record = RunRecord(folder)
    return record.history(sorted(record.starts, key=lambda row: row.rank or 0)).tolist()


def check(metrics: list[dict[str, float]], folder: Path, curves: int = 0) -> None:
    """The metrics of a run are those of its tables and its summary."""
    of_best = history(folder)
    epochs = [row for row in metrics if "median_val_cost" in row]
    assert [(row["step"], row["epoch"]) for row in epochs] == list(zip(STEPS, (1, 2, 3), strict=True))
    for epoch, row in enumerate(epochs):
        costs = [start[epoch][1] for start in of_best]
        assert row["median_val_cost"] == pytest.approx(statistics.median(costs))
        assert row["lower_quartile_val_cost"] <= row["median_val_cost"] <= row["upper_quartile_val_cost"]
        assert row["val_cost"] == pytest.approx(min(start[k][1] for start in of_best for k in range(epoch + 1)))
    for rank in range(1, curves + 1):
        curve = [row[f"rank_{rank}/val_cost"] for row in metrics if f"rank_{rank}/val_cost" in row]
        assert curve == pytest.approx([figures[1] for figures in of_best[rank - 1]])
    summary, last = json.loads((folder / "summary.json").read_text()), metrics[-1]
    for key in ("test_accuracy", "vote_test_accuracy", "best_seed", "val_cost"):
        assert last[f"final/{key}"] == pytest.approx(summary[key])
    assert last["final/calibration.temperature"] == pytest.approx(summary["calibration"]["temperature"])


@pytest.mark.parametrize("pack", ["null", "2"])
def test_csv_has_options_epochs_and_results(train: Callable[..., None], pack: str) -> None:
    train(*SMALL, "starts=3", "curves=2", f"pack={pack}", "descent.eta=[0.1,0.2]", "logger=csv")
    (metrics,) = Path("run/csv").glob("*/metrics.csv")
    check(rows(metrics), Path("run"), curves=2)
    assert ("pack_3/val_cost" in metrics.read_text()) == (pack == "2")
    options = yaml.safe_load((metrics.parent / "hparams.yaml").read_text())
    assert (options["descent.eta"], options["starts"], options["network.hidden"]) == ([0.1, 0.2], 3, [6])


def test_each_job_of_a_multirun_has_its_own_run_in_tensorboard(train: Callable[..., None]) -> None:
    train(*SMALL, "-m", "seed=4", "descent.eta=0.1,0.2", "logger=tensorboard")
    for job, eta in enumerate((0.1, 0.2)):
        (folder,) = Path(f"sweep/{job}/tensorboard").iterdir()
        events = EventAccumulator(str(folder)).Reload()
        by_step: dict[int, dict[str, float]] = {}
        final: dict[str, float] = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                (final if tag.startswith("final/") else by_step.setdefault(event.step, {"step": event.step}))[tag] = (
                    event.value
                )
        check([*by_step.values(), final], Path(f"sweep/{job}"))
        options = yaml.safe_load((folder / "hparams.yaml").read_text())
        assert (options["seed"], options["descent.eta"]) == (4, eta)
    assert not list(Path("sweep/packs").rglob("events*"))


def test_a_logger_that_fails_ends_no_training(
    train: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(CSVLogger, "log_metrics", fail)
    train(*SMALL, "starts=2", "logger=csv")
    assert RunRecord(Path("run")).finished
    assert len(re.findall("no route to host", Path("run/train.log").read_text())) == 1


def test_a_logger_that_cannot_begin_is_refused(train: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: CSVLogger) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(CSVLogger, "experiment", property(fail))
    with pytest.raises(SystemExit, match="logger: CSVLogger cannot begin: no route to host"):
        train(*SMALL, "starts=2", "logger=csv")
    assert not Path("run/starts.csv").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of its libraries
def test_mlflow_nests_the_jobs_of_a_multirun(train: Callable[..., None]) -> None:
    mlflow = pytest.importorskip("mlflow")
    train(*SMALL, "-m", "seed=4,5", "logger=mlflow", "report=true")
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("hillstart").experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    jobs = sorted((run for run in runs if run is not parent), key=lambda run: run.info.run_name)
    assert [run.info.run_name for run in jobs] == ["sweep/0", "sweep/1"]
    for job, run in enumerate(jobs):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.data.params["seed"], run.info.status) == (str(4 + job), "FINISHED")
        by_step = {step: {"step": float(step)} for step in STEPS}
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                by_step[metric.step][name] = metric.value
        check(list(by_step.values()), Path(f"sweep/{job}"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of its libraries
def test_wandb_groups_the_jobs_of_a_multirun(train: Callable[..., None]) -> None:
    pytest.importorskip("wandb")
    train(*SMALL, "-m", "seed=4,5", "logger=wandb", "logger.offline=true", "report=true")
    for job in (0, 1):
        (stored,) = Path(f"sweep/{job}").glob("wandb/offline-run-*/*.wandb")
        content = stored.read_bytes()  # wandb has no public reader of it
        for part in (f"sweep/{job}", "descent.eta", "median_val_cost", "final/test_accuracy"):
            assert part.encode() in content
        assert Path.cwd().name.encode() + b"/sweep" in content  # the group
    assert Path("sweep/report.html").is_file()  # although wandb leaves links that lead out of the folder
