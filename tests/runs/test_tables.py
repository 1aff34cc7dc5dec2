"""The tables of a run: every start and epoch has its row, and what is written is read back to the last bit."""

import math
from pathlib import Path

import pytest
import torch

from hillstart.engine.starts import STOPPED, VAL_COST, History, Hyperparameters, Start, ranking_key
from hillstart.runs.tables import FIGURES, Tables
from hillstart.system.errors import InputError
from made import rows


def made_history(starts: list[Start]) -> History:
    made = History(starts)
    g = torch.Generator().manual_seed(0)
    made.add(torch.rand(len(starts), 3, generator=g, dtype=torch.float64))
    made.end(torch.arange(len(starts)) == 1, STOPPED)
    made.add(torch.rand(len(starts) - 1, 3, generator=g, dtype=torch.float64))
    return made


def test_the_tables_hold_every_start_and_epoch(tmp_path: Path) -> None:
    starts = [Start(seed, Hyperparameters(0.1)) for seed in (5, 6, 7)]
    made, tables = made_history(starts), Tables(tmp_path, starts)
    tables.begin()
    tables.add(made.rows(), made, range(3))
    assert [(row["seed"], row["rank"]) for row in rows(tables.starts)] == [("5", ""), ("6", ""), ("7", "")]
    tables.end(made.rows())
    table = rows(tables.starts)
    results = ["epochs", "status", "train_cost", "val_cost", "val_accuracy", "best_epoch"]
    assert list(table[0]) == ["seed", "eta", *results, "rank"]
    assert [row["rank"] for row in table] == ["1", "2", "3"]
    costs = [float(row["val_cost"]) for row in table]
    assert costs == sorted(costs)
    history = rows(tables.history)
    assert list(history[0]) == ["seed", "epoch", "train_cost", "val_cost", "val_accuracy"]
    assert [(row["seed"], row["epoch"]) for row in history] == [
        ("5", "1"),
        ("6", "1"),
        ("7", "1"),
        ("5", "2"),
        ("7", "2"),
    ]
    assert float(history[-1]["val_cost"]) == made.figures[1, 2, 1].item()


def test_what_varies_has_a_column(tmp_path: Path) -> None:
    starts = [Start(0, Hyperparameters(eta, lmbda=lmbda)) for eta, lmbda in ((0.1, 0.0), (0.2, 3.0))]
    made, tables = made_history(starts), Tables(tmp_path, starts)
    tables.begin()
    tables.add(made.rows(), made, range(2))
    assert [(row["eta"], row["lmbda"]) for row in rows(tables.starts)] == [("0.1", "0.0"), ("0.2", "3.0")]
    assert "momentum" not in rows(tables.starts)[0]
    assert [(row["eta"], row["lmbda"]) for row in rows(tables.history)] == [
        ("0.1", "0.0"),
        ("0.2", "3.0"),
        ("0.1", "0.0"),
    ]


@pytest.mark.parametrize("ended", [False, True])
def test_rows_are_read_back_to_the_last_bit(tmp_path: Path, ended: bool) -> None:
    starts = [Start(seed, Hyperparameters(0.1 + seed, 0.9, 2.0)) for seed in (5, 6, 7)]
    made, tables = made_history(starts), Tables(tmp_path, starts)
    made.figures[0, 2, 0] = math.inf
    tables.begin()
    tables.add(made.rows(), made, range(3))
    whole = tables.starts.stat().st_size
    if ended:
        tables.end(made.rows())
    else:
        tables.starts.write_bytes(tables.starts.read_bytes() + b"9,half a li")
    key = lambda row: row.start.seed  # noqa: E731
    assert sorted(tables.read(None if ended else whole), key=key) == sorted(made.rows(), key=key)


@pytest.mark.parametrize("damage", ["seed\n1\n", "nothing,like,it\n1,2,3\n", "seed,eta\n1,x\n"])
def test_a_damaged_table_is_named(tmp_path: Path, damage: str) -> None:
    tables = Tables(tmp_path, [Start(0, Hyperparameters(0.1))])
    with pytest.raises(InputError, match=r"starts\.csv"):
        tables.read()
    tables.starts.write_text(damage)
    with pytest.raises(InputError, match=r"starts\.csv"):
        tables.read()


def test_the_epochs_of_a_grid_join_their_starts(tmp_path: Path) -> None:
    starts = [Start(seed, Hyperparameters(eta)) for eta in (0.1, 0.2) for seed in (3, 4)]
    made, tables = made_history(starts), Tables(tmp_path, starts)
    made.figures[:, 3, VAL_COST] = math.nan
    tables.add(made.rows(), made, range(4))
    tables.end(made.rows())
    epochs = {(row["start"], row["epoch"]): row for row in rows(tables.history)}
    for row in rows(tables.starts):
        index = int(row["start"])
        assert (int(row["seed"]), float(row["eta"])) == (starts[index].seed, starts[index].hyperparameters.eta)
        if index == 3:
            assert row["best_epoch"] == "0"
        else:
            assert {name: epochs[row["start"], row["best_epoch"]][name] for name in FIGURES}.items() <= row.items()
    assert {row["best_epoch"] for row in rows(tables.starts)} == {"0", "1", "2"}


def test_a_table_that_an_earlier_version_began_keeps_its_columns_until_the_end(tmp_path: Path) -> None:
    starts = [Start(0, Hyperparameters(eta)) for eta in (0.1, 0.2)]
    made, tables = made_history(starts), Tables(tmp_path, starts, test=True)
    made.test = torch.tensor([[0.5, 0.25], [0.75, 0.125]])
    tables.starts.write_text("seed,eta,epochs,status,train_cost,val_cost,val_accuracy,rank\n")
    tables.history.write_text("seed,epoch,train_cost,val_cost,val_accuracy,eta\n")
    tables.cut((tables.starts.stat().st_size, tables.history.stat().st_size))
    tables.add(made.rows(), made, range(2))
    assert [row.best_epoch for row in tables.read()] == [0, 0]
    assert [len(row) for row in rows(tables.history)] == [6, 6, 6]
    tables.end(made.rows())
    assert tables.read() == sorted(made.rows(), key=ranking_key)
    assert rows(tables.starts)[0]["start"] in ("0", "1")
