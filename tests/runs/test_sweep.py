"""A multirun as users type it: a folder, a row and a value for each job, and the table over all of them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

import made
from hillstart.data import lion_duck
from hillstart.runs import experiment
from hillstart.runs.sweep import check_objective, close, finished
from hillstart.system.errors import InputError
from launching import train_in
from made import rows

pytestmark = pytest.mark.usefixtures("empty_folder", "hydra_restore_singletons")
SMALL = [*made.SMALL, "hydra.sweep.dir=sweep"]


def sweep(*options: str) -> None:
    GlobalHydra.instance().clear()
    train_in(Path.cwd(), "-m", *SMALL, *options)


def test_each_job_has_its_folder_and_the_sweep_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    sweep("seed=0,1", "descent.eta=0.1,0.5")
    for job in range(4):
        for name in ("config.yaml", "overrides.yaml", "hydra.yaml"):
            assert Path(f"sweep/{job}/.hydra/{name}").is_file()
        for name in ("starts.csv", "history.csv", "summary.json", "network.safetensors"):
            assert Path(f"sweep/{job}/{name}").is_file()
        assert "chosen by val cost: seed" in Path(f"sweep/{job}/train.log").read_text()
        (row,) = rows(f"sweep/{job}/starts.csv")
        assert (int(row["seed"]), float(row["eta"])) == (job // 2, (0.1, 0.5)[job % 2])
        assert json.loads(Path(f"sweep/{job}/summary.json").read_text())["best_seed"] == job // 2
    table = rows("sweep/starts.csv")
    assert [row["rank"] for row in table] == ["1", "2", "3", "4"]
    assert sorted(row["job"] for row in table) == list("0123")
    costs = [float(row["val_cost"]) for row in table]
    assert costs == sorted(costs)
    whole = json.loads(Path("sweep/summary.json").read_text())
    assert (whole["jobs"], whole["starts"], whole["best_job"]) == (4, 4, table[0]["job"])
    assert [setting["starts"] for setting in whole["settings"]] == [2, 2]
    medians = [setting["val_cost"]["median"] for setting in whole["settings"]]
    assert medians == sorted(medians)
    shown = capsys.readouterr()
    assert "Launching 4 jobs" in shown.out
    assert "val accuracy of 4 starts in 4 jobs: median" in shown.out
    assert shown.out.count("chosen by val cost") == 0
    assert shown.err == ""


def test_a_swept_start_is_the_start_of_a_run() -> None:
    sweep("seed=2,0,1")
    GlobalHydra.instance().clear()
    train_in(Path.cwd(), *SMALL[:-1], "starts=3", "hydra.run.dir=run")
    run = {row["seed"]: row for row in rows("run/starts.csv")}
    for job, seed in enumerate("201"):
        (row,) = rows(f"sweep/{job}/starts.csv")
        assert (row["seed"], row["rank"]) == (seed, "1")
        assert {k: row[k] for k in row if k != "rank"} == {k: run[seed][k] for k in run[seed] if k != "rank"}


def test_a_broken_job_fails_alone_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        sweep("seed=0,-1,1", "descent.eta=0.1")
    sentence = str(end.value.code)
    assert sentence.startswith("hillstart: 1 of 3 jobs failed: #1 ")
    assert "seed is -1; it must be a whole number from 0" in sentence
    assert "Traceback" not in capsys.readouterr().err
    assert {row["seed"] for row in rows("sweep/starts.csv")} == {"0", "1"}


@pytest.mark.filterwarnings("ignore")  # of optuna 2.10 with today's SQLAlchemy
def test_optuna_minimises_the_median_over_the_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra optuna is not installed")
    calls = []
    together = experiment.run_together
    monkeypatch.setattr(experiment, "run_together", lambda *a, **k: calls.append(len(a[1])) or together(*a, **k))
    sweep(
        "hydra/sweeper=optuna",
        "starts=3",
        "descent.eta=interval(0.05,0.5)",
        "hydra.sweeper.n_trials=4",
        "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.sampler.seed=1",
    )
    assert calls == [2, 2]
    found = (Path("sweep") / "optimization_results.yaml").read_text()
    medians = []
    for job in range(4):
        costs = sorted(float(row["val_cost"]) for row in rows(f"sweep/{job}/starts.csv"))
        assert len(costs) == 3
        medians.append(costs[1])
    assert f"best_value: {min(medians)}" in found
    assert len(rows("sweep/starts.csv")) == 12


# ---------------------------------------------------------------- what can be compared


SEEN = {"shape": [1, 28, 28], "sha256": "a", "labels": "l"}


def job(name: str, options: str, cost: str, *starts: tuple[float, float], seen: dict[str, Any] = SEEN) -> None:
    """The files of a job, of whose starts the validation cost and accuracy are given, the lowest cost first."""
    folder = Path("sweep", name)
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/overrides.yaml").write_text(json.dumps(options.split()))
    lines = [
        f"{seed},0.1,3,{'finished' if val < 9 else 'diverged'},1,{val},{accuracy},{seed + 1}"
        for seed, (val, accuracy) in enumerate(starts)
    ]
    head = "seed,eta,epochs,status,train_cost,val_cost,val_accuracy,rank"
    (folder / "starts.csv").write_text("\n".join([head, *lines]) + "\n")
    if starts[0][0] < 9:
        summary = {"cost": cost, "validated_on": seen, "test_accuracy": 1.0, "pictures": {"test": 4}}
        (folder / "summary.json").write_text(json.dumps(summary))


def closed() -> dict[str, Any]:
    close(Path("sweep"))
    return dict(json.loads(Path("sweep/summary.json").read_text()))


def test_costs_of_different_kinds_are_ranked_by_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    job("0", "network.cost=quadratic", "quadratic", (0.1, 0.80), (0.11, 0.82))
    job("1", "network.cost=cross_entropy", "cross_entropy", (0.5, 0.90), (0.51, 0.95))
    found = closed()
    assert (found["ranked_by"], found["costs"]) == ("val_accuracy", ["cross_entropy", "quadratic"])
    # The chosen one first, whose cost is the lowest of its kind: it is the one that the test pictures were shown to.
    assert (found["best_job"], found["best_seed"]) == ("1", 0)
    assert [row["val_accuracy"] for row in rows("sweep/starts.csv")] == ["0.9", "0.95", "0.82", "0.8"]
    assert [s["setting"]["network.cost"] for s in found["settings"]] == ["cross_entropy", "quadratic"]


def test_four_of_four_right_is_told_with_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    job("0", "network.cost=quadratic", "quadratic", (0.1, 0.80))
    with caplog.at_level("INFO"):
        assert closed()["test_interval"] == pytest.approx([0.8, 1.0])
    assert "0.8000 to 1.0000" in caplog.text


def test_over_splits_settings_have_a_spread_and_no_job_is_the_best(caplog: pytest.LogCaptureFixture) -> None:
    costs = {(0.1, 0): (0.30, 0.40), (0.1, 1): (0.50, 0.60), (0.5, 0): (0.20, 0.22), (0.5, 1): (0.70, 0.74)}
    for number, ((mu, split), (one, other)) in enumerate(costs.items()):
        options = f"descent.momentum={mu} data.seed={split}"
        job(str(number), options, "quadratic", (one, 0.5), (other, 0.5), seen=SEEN | {"sha256": str(split)})
    with caplog.at_level("INFO"):
        found = closed()
    assert not {"best_job", "best_seed", "test_accuracy"} & set(found)
    assert found["validation_sets"] == 2
    assert [(s["setting"]["descent.momentum"], s["splits"], s["starts"]) for s in found["settings"]] == [
        ("0.1", 2, 4),
        ("0.5", 2, 4),
    ]
    spread = found["settings"][0]["val_cost"]  # over the medians 0.35 and 0.55 of the two splits
    assert [spread[k] for k in ("n", "min", "median", "max")] == pytest.approx([2, 0.35, 0.45, 0.55])
    assert "data.seed" in caplog.text and "no job is called the best" in caplog.text
    assert [row["rank"] for row in rows("sweep/starts.csv")] == list("12341234")


def test_settings_with_other_pictures_are_not_ranked(capsys: pytest.CaptureFixture[str]) -> None:
    job("0", "data.root=hard", "quadratic", (0.9, 0.5))
    job("1", "data.root=easy", "quadratic", (0.1, 0.9), seen=SEEN | {"sha256": "b"})
    found = closed()
    assert [s["setting"]["data.root"] for s in found["settings"]] == ["hard", "easy"]  # as they came
    assert "best_job" not in found
    assert "not ranked" in " ".join(capsys.readouterr().out.split())


def test_the_same_pictures_at_other_sizes_are_compared() -> None:
    job("0", "data.size=28", "quadratic", (0.9, 0.5))
    job("1", "data.size=14", "quadratic", (0.1, 0.9), seen={"shape": [1, 14, 14], "sha256": "b", "labels": "l"})
    assert closed()["best_job"] == "1"


def test_a_job_whose_starts_all_diverged_counts_in_its_setting() -> None:
    job("0", "descent.momentum=0.9", "quadratic", (0.2, 0.8))
    job("1", "descent.momentum=0.9", "quadratic", (math.inf, 0.1))
    job("2", "descent.momentum=0", "quadratic", (0.3, 0.8))
    found = closed()
    assert [(s["setting"]["descent.momentum"], s["starts"], s["diverged"]) for s in found["settings"]] == [
        ("0.9", 2, 1),
        ("0", 1, 0),
    ]
    assert rows("sweep/starts.csv")[-1]["status"] == "diverged"


def test_what_a_sweeper_minimises_must_be_one_figure() -> None:
    root = Path("sweep")
    check_objective(root, "cross_entropy", SEEN)  # the first job
    job("0", "seed=1", "quadratic", (0.2, 0.8), seen=SEEN)
    check_objective(root, "quadratic", SEEN)
    check_objective(root, "quadratic", SEEN | {"shape": [1, 14, 14], "sha256": "b"})  # the same at another size
    with pytest.raises(InputError, match=r"^network\.cost"):
        check_objective(root, "cross_entropy", SEEN)
    with pytest.raises(InputError, match=r"^data"):
        check_objective(root, "quadratic", SEEN | {"sha256": "b"})
    with pytest.raises(InputError, match=r"^data"):
        check_objective(root, "quadratic", {"shape": [3, 28, 28], "sha256": "b", "labels": "m"})


def test_a_job_is_finished_with_its_summary_and_what_is_left_of_another_is_removed() -> None:
    job("0", "seed=1", "quadratic", (0.2, 0.8))
    summary = Path("sweep/0/summary.json")
    summary.write_text(json.dumps({"val_cost_of_starts": {"median": 0.25}}))
    assert finished(Path("sweep/0"), ["seed=1"], held=True) == 0.25
    assert finished(Path("sweep/0"), ["seed=2"], held=True) is None and summary.is_file()  # another job's folder
    assert finished(Path("sweep/1"), ["seed=1"], held=True) is None
    summary.unlink()
    assert finished(Path("sweep/0"), ["seed=1"], held=False) is None and Path("sweep/0/starts.csv").is_file()
    assert finished(Path("sweep/0"), ["seed=1"], held=True) is None and not Path("sweep/0").exists()


def test_which_pictures_validate_is_known_whatever_else_differs() -> None:
    def seen(**options: Any) -> dict[str, Any]:
        return lion_duck.load(**({"train": 40, "test": 8} | options)).validated_on

    assert seen() == seen(test=20, augment="none", normalise=False) | {"labels": seen()["labels"]}
    assert seen()["sha256"] != seen(seed=1)["sha256"]
    assert (seen(size=14)["sha256"], seen(size=14)["labels"]) != (seen()["sha256"], None)
    assert seen(size=14)["labels"] == seen()["labels"] != seen(size=14, seed=1)["labels"]
