"""Starts begin at a list of seeds, or at the networks of an earlier run."""

import json
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
from made import SMALL, rows

OTHER_DATA = ["data.train=200", "data.test=40", "data.seed=1", *SMALL[2:]]


def refused(call: Any, *options: str) -> str:
    with pytest.raises(SystemExit) as end:
        call(*options)
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    return end.value.code


def summary(folder: str) -> Any:
    return json.loads(Path(folder, "summary.json").read_text())


def weights(path: str) -> list[torch.Tensor]:
    return model_file.load(Path(path, "network.safetensors")).network.parameters


# ---------------------------------------------------------------- seeds


def test_listed_seeds_begin_and_train_as_they_do_in_a_row(train: Any) -> None:
    """The same bits as the same pack; in other company the starting points are equal, and the rest but for rounding."""
    train(*SMALL, "seed=[2,0,1]", "hydra.run.dir=list")
    train(*SMALL, "starts=3", "hydra.run.dir=row")
    assert rows("list/starts.csv") == rows("row/starts.csv")
    train(*SMALL, "seed=[3,7]", "hydra.run.dir=few")
    train(*SMALL, "starts=8", "keep=8", "hydra.run.dir=many")
    many = {row["seed"]: row for row in rows("many/starts.csv")}
    for row in rows("few/starts.csv"):
        assert float(row["train_cost"]) == pytest.approx(float(many[row["seed"]]["train_cost"]), rel=1e-4)
    few, eight = (read_stored_options(Path(name)) for name in ("few", "many"))
    assert [*few.seeds] == [3, 7] and few.starts is None
    begun, in_a_row = (build_run_spec(of).begin(of.seeds).parameters for of in (few, eight))
    for p, q in zip(begun, in_a_row, strict=True):
        assert torch.equal(p, q[[3, 7]])


def test_listed_seeds_are_resumed_and_told_from_others(train: Any) -> None:
    one = [*SMALL, "seed=[3,7,11]", "descent.eta=[0.1,0.2]", "descent.schedule=constant"]
    train(*one, "trainer.max_epochs=3", "hydra.run.dir=whole")
    train(*one, "hydra.run.dir=half")
    assert "seeds" in refused(train, "resume=half", "seed=[3,8,11]")  # the same first and last
    train("resume=half", "trainer.max_epochs=3")
    assert rows("half/starts.csv") == rows("whole/starts.csv") and len(rows("half/starts.csv")) == 6
    assert [setting["starts"] for setting in summary("half")["settings"]] == [3, 3]


def test_lists_of_seeds_in_a_multirun(train: Any) -> None:
    train("-m", *SMALL, "seed=[3,7],[1]", "descent.eta=0.1,0.2", "hydra.sweep.dir=sweep")
    assert sorted((row["job"], row["seed"]) for row in rows("sweep/starts.csv")) == [
        *(("0", "3"), ("0", "7"), ("1", "3"), ("1", "7"), ("2", "1"), ("3", "1"))
    ]
    assert [setting["starts"] for setting in summary("sweep")["settings"]] == [3, 3]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["seed=[3,7]", "starts=3"], "starts is 3"),
        (["seed=[3,3]"], "seed is [3, 3]"),
        (["seed=[]"], "seed is []"),
        (["seed=[3,-1]"], "seed is [3, -1]"),
        (["network.hidden=[[30],[60]]"], "-m 'network.hidden=[30],[60]'"),
        (["descent.batch_size=[10,32]"], "-m descent.batch_size=10,32"),
    ],
)
def test_what_contradicts_is_named(train: Any, options: list[str], named: str) -> None:
    assert named in refused(train, *SMALL, *options)
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


@pytest.fixture
def model(train: Any) -> str:
    train(*SMALL, "seed=[3,7,11]", "hydra.run.dir=model")
    return "model"


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
    train(
        *OTHER_DATA, "start_from=model/network.safetensors", "seed=[7]", "network.cost=quadratic", "hydra.run.dir=one"
    )
    assert [row["seed"] for row in rows("one/starts.csv")] == ["7"]
    assert model_file.load(Path("one/network.safetensors")).network.cost == "quadratic"
    train(*OTHER_DATA, "start_from=model/checkpoints/last.ckpt", "descent.eta=[0.1,0.2]", "hydra.run.dir=grid")
    assert len(rows("grid/starts.csv")) == 6


def test_it_is_resumed_with_the_same_weights_alone(train: Any, model: str) -> None:
    one = [*OTHER_DATA, "start_from=model", "descent.schedule=constant"]
    train(*one, "trainer.max_epochs=3", "hydra.run.dir=whole")
    train(*one, "hydra.run.dir=half")
    train("resume=half", "trainer.max_epochs=3")
    assert rows("half/starts.csv") == rows("whole/starts.csv")
    assert all(map(torch.equal, weights("half"), weights("whole")))
    assert "start_from" in refused(train, "resume=half", "start_from=whole", "trainer.max_epochs=4")
    train("-m", *one, "seed=[3],[7]", "hydra.sweep.dir=sweep")
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
