"""Starts begin at a list of seeds, or at the networks of an earlier run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hillstart.cli.options import with_starts_of_seeds
from hillstart.config.build import build_run_spec
from hillstart.config.options import read_stored_options
from hillstart.inference import model_file
from hillstart.system.errors import InputError
from launching import refused, train_in
from made import SMALL, rows

OTHER_DATA = ["data.train=200", "data.test=40", "data.seed=1", *SMALL[2:]]


def summary(folder: str) -> Any:
    return json.loads(Path(folder, "summary.json").read_text())


def weights(path: str) -> list[torch.Tensor]:
    return model_file.load(Path(path, "network.safetensors")).network.parameters


# ---------------------------------------------------------------- seeds


def test_listed_seeds_begin_and_train_as_they_do_in_a_row(train: Any) -> None:
    train(*SMALL, "seed=[2,0,1]", "hydra.run.dir=list")
    train(*SMALL, "starts=3", "hydra.run.dir=row")
    assert rows("list/starts.csv") == rows("row/starts.csv")
    options = read_stored_options(Path("list"))
    assert [*options.seeds] == [0, 1, 2] and options.starts is None
    spec = build_run_spec(options)
    for p, q in zip(spec.begin([3, 7]).parameters, spec.begin(range(8)).parameters, strict=True):
        assert torch.equal(p, q[[3, 7]])


def test_lists_of_seeds_in_a_multirun(train: Any) -> None:
    train("-m", *SMALL, "seed=[3,7],[1]", "descent.eta=0.1,0.2", "hydra.sweep.dir=sweep")
    assert sorted((row["job"], row["seed"]) for row in rows("sweep/starts.csv")) == [
        *(("0", "3"), ("0", "7"), ("1", "3"), ("1", "7"), ("2", "1"), ("3", "1"))
    ]
    assert [setting["starts"] for setting in summary("sweep")["settings"]] == [3, 3]


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("network.hidden=[[30],[60]]", "-m 'network.hidden=[30],[60]'"),
        ("descent.batch_size=[10,32]", "-m descent.batch_size=10,32"),
    ],
)
def test_a_list_where_one_value_belongs_is_answered_with_m(train: Any, option: str, named: str) -> None:
    assert named in refused(train, *SMALL, option)
    assert not Path("outputs").exists()


def test_a_list_of_seeds_overrules_the_number_of_a_recipe() -> None:
    for typed, more in (
        (["experiment=fashion_best", "seed=[3,7]"], ["starts=null"]),
        (["seed=[3,7]", "starts=3"], []),
        (["-m", "seed=[3,7],[1,2]"], ["starts=null"]),
        (["-m", "seed=3,7"], ["starts=1"]),
        (["-m", "seed=range(0,9)"], ["starts=1"]),
        (["-m", "seed=3,7", "starts=2"], []),
        (["-m", "seed=3"], []),
    ):
        assert with_starts_of_seeds(typed) == [*typed, *more]


# ---------------------------------------------------------------- start_from


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train_in(folder, *SMALL, "seed=[3,7,11]", "hydra.run.dir=model")
    return folder / "model"


@pytest.fixture
def model(empty_folder: None, trained: Path) -> str:
    """The name of a run whose starts have the seeds 3, 7 and 11."""
    return shutil.copytree(trained, "model")


def test_a_run_begins_at_the_networks_of_another(train: Any, model: str) -> None:
    best = [row["seed"] for row in rows("model/starts.csv")]
    train(*OTHER_DATA, "start_from=model", "starts=2", "descent.eta=1e-30", "hydra.run.dir=still")
    assert {row["seed"] for row in rows("still/starts.csv")} == {*best[:2]}
    before, after = (model_file.load(Path(name, "network.safetensors")) for name in ("model", "still"))
    assert after.preprocessing == before.preprocessing
    chosen = [before.seeds.index(seed) for seed in after.seeds]
    for p, q in zip(before.network.pick(chosen).parameters, after.network.parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)  # a step of 1e-30 is none; lmbda shrinks by as little
    assert summary("still")["start_from"]["model"] == "model" and "start_from" not in summary("model")
    grid = ["seed=[7]", "descent.eta=[0.1,0.2]", "network.cost=quadratic", "hydra.run.dir=grid"]
    train(*OTHER_DATA, "start_from=model/checkpoints/last.ckpt", *grid)
    assert [row["seed"] for row in rows("grid/starts.csv")] == ["7", "7"]
    assert model_file.load(Path("grid/network.safetensors")).network.cost == "quadratic"


def test_it_is_resumed_with_the_same_seeds_and_weights_alone(train: Any, model: str) -> None:
    one = [*OTHER_DATA, "start_from=model", "seed=[3,11]", "descent.eta=[0.1,0.2]", "descent.schedule=constant"]
    train(*one, "trainer.max_epochs=3", "hydra.run.dir=whole")
    train(*one, "hydra.run.dir=half")
    assert "seeds" in refused(train, "resume=model", "seed=[3,8,11]")  # the same first and last
    train("resume=half", "trainer.max_epochs=3")
    assert rows("half/starts.csv") == rows("whole/starts.csv") and len(rows("half/starts.csv")) == 4
    assert [setting["starts"] for setting in summary("half")["settings"]] == [2, 2]
    assert all(map(torch.equal, weights("half"), weights("whole")))
    assert "start_from" in refused(train, "resume=half", "start_from=whole", "trainer.max_epochs=4")
    train("-m", *OTHER_DATA, "start_from=model", "seed=[3],[7]", "hydra.sweep.dir=sweep")
    assert {row["seed"] for row in rows("sweep/starts.csv")} == {"3", "7"}
    assert summary("sweep/0")["start_from"]["model"] == "model"


def test_networks_that_do_not_fit_are_refused(train: Any, model: str) -> None:
    for option, named in (
        ("network.hidden=[5]", "network.hidden"),
        ("network.activation=tanh", "network.activation"),
        ("data.size=20", "28 x 28 pixels"),
        ("seed=4", "seed is 4"),
        ("seed=[3,4]", "seed lists 4"),
        ("starts=4", "starts is 4"),
        ("start_from=nowhere", "start_from: nowhere"),
        ("start_from=model/starts.csv", "start_from: model/starts.csv"),
    ):
        assert named in refused(train, *OTHER_DATA, "start_from=model", option, "hydra.run.dir=run")
    options = replace(read_stored_options(Path(model)), start_from=model)
    assert options.model is not None
    object.__setattr__(options.model, "classes", ("duck", "lion"))
    with pytest.raises(InputError, match="classes of model"):
        build_run_spec(options)
