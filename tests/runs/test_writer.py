"""A run's folder: whose it is, what may change when its run goes on, and that a refusal leaves all of it as it was."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from hillstart.data.augment import Augment
from hillstart.data.dataset import PictureSet, Split
from hillstart.inference import model_file
from hillstart.network import Network
from hillstart.runs.claim import claim
from hillstart.runs.writer import RunFolder
from hillstart.system import interrupts
from hillstart.system.errors import InputError
from hillstart.training.packs import RunSpec
from hillstart.training.stopping import EarlyStopping
from made import blobs
from training.test_packs import Interrupt, run, run_spec

LAST = Path("checkpoints/last.ckpt")
RESULTS = ("starts.csv", "history.csv", "network.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupted(folder: Path, of: RunSpec, epochs: int, **options: Any) -> None:
    with pytest.raises(InterruptedError):
        run(folder, of, more_callbacks=[Interrupt(epochs)], **options)


def go_on(folder: Path, of: RunSpec, **options: Any) -> dict[str, Any]:
    return run(folder, of, checkpoint=folder / LAST, **options)


def same(folder: Path, other: Path) -> bool:
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in RESULTS)


def notes(folder: Path) -> Any:
    return json.loads((folder / "checkpoints/packs.json").read_text())


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what a checkpoint or packs.json holds."""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    else:
        content = torch.load(path, weights_only=True)
        change(content["hillstart"])
        path.unlink()  # which may be best.ckpt by another name
        torch.save(content, path)


@pytest.fixture(autouse=True)
def saving_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hillstart.training.callbacks.SHARE", float("inf"))


# ---------------------------------------------------------------- whose it is


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A run of `run_spec()` that is finished, and one that was cut in its second pack."""
    folders = {finished: tmp_path_factory.mktemp("run") for finished in (True, False)}
    run(folders[True], run_spec())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hillstart.training.callbacks.SHARE", float("inf"))
        interrupted(folders[False], run_spec(), 6, pack=4, keep=2)
    return folders.__getitem__


@pytest.fixture
def begun(tmp_path: Path, template: Callable[[bool], Path]) -> Callable[[bool], Path]:
    """Returns a function that gives a copy of the finished or the cut run."""
    return lambda finished: shutil.copytree(template(finished), tmp_path / "run")


def test_a_folder_that_holds_a_run_takes_no_other(begun: Callable[[bool], Path]) -> None:
    folder = begun(True)
    before = contents(folder)
    with pytest.raises(InputError, match=r"packs\.json"):
        run(folder, run_spec(3, seed=5))
    assert contents(folder) == before


def test_checkpoints_name_their_run(template: Callable[[bool], Path]) -> None:
    ids = {notes(template(finished))["run"] for finished in (True, False)}
    for file in ("last", "best"):
        stored = torch.load(template(True) / f"checkpoints/{file}.ckpt", weights_only=True)
        assert stored["hillstart"]["run"] == notes(template(True))["run"]
    assert len(ids) == 2


def test_no_run_goes_on_from_the_checkpoint_of_another(tmp_path: Path, template: Callable[[bool], Path]) -> None:
    interrupted(tmp_path, run_spec(), 2)
    (tmp_path / LAST).write_bytes((template(True) / LAST).read_bytes())
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"last\.ckpt"):
        go_on(tmp_path, run_spec())
    assert contents(tmp_path) == before
    (tmp_path / LAST).unlink()
    go_on(tmp_path, run_spec())
    assert same(tmp_path, template(True))


def test_a_run_begun_in_an_emptied_folder_and_killed_at_once_ends_as_itself(tmp_path: Path) -> None:
    """Before its first checkpoint: nothing of the earlier run may come back under its name."""
    run(tmp_path / "run", run_spec(4))
    other = run_spec(3, eta=0.1, batch_size=20)
    run(tmp_path / "alone", other)
    with claim(tmp_path / "run", overwrite=True):
        RunFolder(tmp_path / "run", other, None, (4, -1)).begin([3])
    assert list(contents(tmp_path / "run")) == ["checkpoints/packs.json"]
    go_on(tmp_path / "run", other)
    assert same(tmp_path / "run", tmp_path / "alone")


# ---------------------------------------------------------------- what may change when a run goes on


def with_split(name: str, change: Callable[[Split], Split]) -> RunSpec:
    data = blobs()
    return replace(run_spec(), data=replace(data, **{name: change(getattr(data, name))}))


def one_more(split: Split) -> Split:
    return Split(torch.cat([split.x, split.x[:1]]), torch.cat([split.y, split.y[:1]]))


def one_pixel(split: Split) -> Split:
    x = split.x.clone()
    x[0, 0, 0, 0] ^= 1
    return replace(split, x=x)


def one_label(split: Split) -> Split:
    y = split.y.clone()
    y[0] = (y[0] + 1) % 3
    return replace(split, y=y)


def swapped(data: PictureSet) -> PictureSet:
    return replace(data, train=data.train.take(torch.arange(len(data.train.y)).flip(0)))


def begun_as(**of: str) -> RunSpec:
    return replace(run_spec(), begin=partial(Network.start, [36, 5, 3], **of))


DATA = blobs()
OTHERS: dict[str, tuple[RunSpec, list[str]]] = {
    "starts": (run_spec(11), ["starts (10 there, 11 here)"]),
    "seeds": (run_spec(seed=3), ["seeds ([0, 9] there, [3, 12] here)"]),
    "eta": (run_spec(eta=0.1), ["[eta, momentum, lmbda] ([[0.5, "]),
    "activation": (begun_as(activation="tanh"), ["network.activation (sigmoid there, tanh here)"]),
    "cost": (begun_as(cost="cross_entropy"), ["network.cost (quadratic there, cross_entropy here)"]),
    "start": (begun_as(start="xavier"), ["network.start (unit_normal there, xavier here)"]),
    "batch": (run_spec(batch_size=20), ["descent.batch_size (10 there, 20 here)"]),
    "schedule": (run_spec(schedule="linear"), ["descent.schedule (constant there, linear here)"]),
    "order": (replace(run_spec(), descent=replace(run_spec().descent, seed=9)), ["descent.seed (0 there, 9 here)"]),
    "stop": (run_spec(stopping=EarlyStopping(patience=1)), ["stop.patience (None there, 1 here)"]),
    "more of train": (with_split("train", one_more), ["train pictures (103, SHA-256", "104, SHA-256"]),
    "pixel of train": (with_split("train", one_pixel), ["train pictures (103, SHA-256"]),
    "label of train": (with_split("train", one_label), ["train pictures (103, SHA-256"]),
    "order of train": (replace(run_spec(), data=swapped(DATA)), ["train pictures (103, SHA-256"]),
    "pixel of val": (with_split("val", one_pixel), ["val pictures (40, SHA-256"]),
    "more of test": (with_split("test", one_more), ["test pictures (50, SHA-256", "51, SHA-256"]),
    "normalise": (
        replace(run_spec(), data=replace(DATA, preprocessing=DATA.preprocessing.fitted(DATA.train.x))),
        ["data.normalise"],
    ),
    "background": (
        replace(run_spec(), data=replace(DATA, preprocessing=replace(DATA.preprocessing, background=0))),
        ["data.background (255 there, 0 here)"],
    ),
    "balance": (replace(run_spec(), data=replace(DATA, balance="sampling")), ["data.balance"]),
    "augment": (replace(run_spec(), data=replace(DATA, augment=Augment.preset("photo", 32))), ["data.augment"]),
    "all of it": (
        replace(with_split("train", one_more), data=replace(DATA, train=one_more(DATA.train), val=one_more(DATA.val))),
        ["train pictures", "val pictures"],
    ),
}


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "cut"])
@pytest.mark.parametrize("what", OTHERS)
def test_a_run_does_not_go_on_with_anything_else(what: str, finished: bool, begun: Callable[[bool], Path]) -> None:
    other, named = OTHERS[what]
    folder = begun(finished)
    before = contents(folder)
    with pytest.raises(InputError) as refused:
        go_on(folder, other, keep=2)
    assert all(word in str(refused.value) for word in named)
    assert contents(folder) == before


def test_other_options_of_an_optimiser_are_refused(tmp_path: Path) -> None:
    run(tmp_path, run_spec(2, optimiser=partial(torch.optim.Adam, betas=(0.9, 0.99))))
    go_on(tmp_path, run_spec(2, optimiser=partial(torch.optim.Adam, betas=(0.9, 0.99))))
    with pytest.raises(InputError, match=r"descent\.optimiser"):
        go_on(tmp_path, run_spec(2, optimiser=partial(torch.optim.Adam, betas=(0.5, 0.99))))


def test_the_same_pictures_may_come_from_elsewhere(tmp_path: Path) -> None:
    run(tmp_path, run_spec(2))
    go_on(tmp_path, replace(run_spec(2), data=replace(blobs(), source="moved", files=["elsewhere/1.png"])))


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "cut"])
def test_less_than_what_is_done_is_refused(finished: bool, begun: Callable[[bool], Path]) -> None:
    """`run_spec` take 11 mini-batches an epoch, 4 epochs."""
    folder = begun(finished)
    before = contents(folder)
    for options in ({"max_epochs": 3}, {"max_steps": 43}, {"max_epochs": 1, "max_steps": 44}):
        with pytest.raises(InputError, match=r"trainer\.max_(epochs|steps)"):
            go_on(folder, run_spec(), keep=2, **options)
        assert contents(folder) == before, options


def test_what_packs_that_are_done_were_trained_with_stays(begun: Callable[[bool], Path]) -> None:
    folder = begun(False)
    for options, key in (({"max_epochs": 9}, "max_epochs"), ({"max_steps": 50}, "max_steps"), ({"keep": 3}, "keep")):
        with pytest.raises(InputError, match=key):
            go_on(folder, run_spec(), **({"keep": 2} | options))


def test_one_pack_may_keep_other_starts_when_it_goes_on(begun: Callable[[bool], Path]) -> None:
    folder = begun(True)
    go_on(folder, run_spec(), keep=5)
    assert len(model_file.load(folder / "network.safetensors").origins) == 5


def test_other_packs_than_the_run_has_are_told_to_change_nothing(
    begun: Callable[[bool], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = begun(False)
    go_on(folder, run_spec(), pack=2, keep=2)
    assert "pack=2 changes nothing" in caplog.text
    assert notes(folder)["packs"] == [4, 4, 2]


@pytest.mark.parametrize(
    ("schedule", "finished"), [("constant", True), ("linear", True), ("cosine", False)], ids=["constant", "", "cut"]
)
def test_a_longer_schedule_is_told_to_differ(
    tmp_path: Path, schedule: str, finished: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if finished:
        run(tmp_path, run_spec(2, schedule=schedule))
    else:
        interrupted(tmp_path, run_spec(2, schedule=schedule), 2)
    go_on(tmp_path, run_spec(2, schedule=schedule))
    assert "descent.schedule" not in caplog.text
    go_on(tmp_path, run_spec(2, schedule=schedule), max_epochs=6)
    assert (f"descent.schedule={schedule}" in caplog.text) is (schedule != "constant")


# ---------------------------------------------------------------- more epochs for a finished run


def test_a_finished_run_stays_one_until_it_has_its_further_epochs(
    tmp_path: Path, begun: Callable[[bool], Path]
) -> None:
    """Cut by a signal after one of them, and by a power cut after two."""

    class Signal(pl.Callback):
        def on_train_epoch_end(self, *args: Any) -> None:
            raise interrupts.Interrupted(130)

    run(tmp_path / "whole", run_spec(), max_epochs=8)
    folder = begun(True)
    before = contents(folder)
    for end, how in ((SystemExit, Signal()), (InterruptedError, Interrupt(2))):
        with pytest.raises(end):
            go_on(folder, run_spec(), max_epochs=8, more_callbacks=[how])
        after = contents(folder)
        assert {name for name in after if after[name] != before[name]} <= {str(LAST), "checkpoints/best.ckpt"}
    go_on(folder, run_spec(), max_epochs=8)
    assert same(folder, tmp_path / "whole")


@pytest.mark.parametrize(
    ("epochs", "steps"), [(None, 38), (2, 44), (None, 50)], ids=["within", "at the end, cut", "behind"]
)
def test_a_run_may_go_on_for_so_many_mini_batches(tmp_path: Path, epochs: int | None, steps: int) -> None:
    """33 are done, or 22; the limit lies within the fourth epoch, at its end and behind it."""
    run(tmp_path / "whole", run_spec(3), max_epochs=4, max_steps=steps)
    if epochs:
        interrupted(tmp_path / "run", run_spec(3), epochs)
    else:
        run(tmp_path / "run", run_spec(3), max_epochs=3)
    go_on(tmp_path / "run", run_spec(3), max_steps=steps)
    assert same(tmp_path / "run", tmp_path / "whole")


# ---------------------------------------------------------------- seconds


def test_seconds_are_those_of_the_whole_training(tmp_path: Path) -> None:
    """Kept in the checkpoint over an interruption, and in packs.json from one end to the next."""
    interrupted(tmp_path, run_spec(3), 2)
    edit(tmp_path / LAST, lambda stored: stored.update(seconds=1000.0 + stored["seconds"]))
    first = go_on(tmp_path, run_spec(3))["seconds"]
    assert first >= 1000
    edit(tmp_path / "checkpoints/packs.json", lambda state: state.update(seconds=5000.0 + state["seconds"]))
    assert go_on(tmp_path, run_spec(3), max_epochs=6)["seconds"] >= 6000
    assert notes(tmp_path)["seconds"] >= 6000


def test_seconds_of_packs_add_up_over_an_interruption(begun: Callable[[bool], Path]) -> None:
    folder = begun(False)
    edit(folder / LAST, lambda stored: stored.update(seconds=1000.0 + stored["seconds"]))
    edit(folder / "checkpoints/packs.json", lambda state: state.update(seconds=5000.0 + state["seconds"]))
    assert 6000 <= go_on(folder, run_spec(), keep=2)["seconds"] < 7000  # not again for the pack after


# ---------------------------------------------------------------- runs of version 0.1, and damaged ones


def as_of_version_0_1(folder: Path) -> None:
    def state(of: dict[str, Any]) -> None:
        of["epochs"] = of.pop("trainer.max_epochs")
        for key in ("run", "trainer.max_steps", "keep"):
            del of[key]
        known = ("network", "classes", "optimiser", "starts", "seeds", "[eta, momentum, lmbda]")
        of["population"] = {key: of["population"][key] for key in known}

    def checkpoint(of: dict[str, Any]) -> None:
        for key in ("run", "total_steps", "seconds"):
            del of[key]

    edit(folder / "checkpoints/packs.json", state)
    edit(folder / LAST, checkpoint)


@pytest.mark.parametrize("cut", [2, 6], ids=["in the first pack", "in the second"])
def test_a_run_of_version_0_1_goes_on(tmp_path: Path, cut: int) -> None:
    run(tmp_path / "whole", run_spec(), pack=4)
    folder = tmp_path / "run"
    interrupted(folder, run_spec(), cut, pack=4)
    as_of_version_0_1(folder)
    with pytest.raises(InputError, match=r"network\.activation"):
        go_on(folder, begun_as(activation="tanh"))
    if cut > 4:
        with pytest.raises(InputError, match=r"trainer\.max_epochs"):
            go_on(folder, run_spec(), max_epochs=9)
    with pytest.raises(InterruptedError):
        go_on(folder, run_spec(), more_callbacks=[Interrupt(1)])
    go_on(folder, run_spec())
    assert same(folder, tmp_path / "whole")


@pytest.mark.parametrize(
    "damage",
    [
        *({"packs": []}, {"packs": [4, "3", 3]}, {"packs": [0, 10]}, {"packs": [4, 3]}, {"done": 4}, {"done": -1}),
        *({"starts": -1}, {"seconds": -1.0}, {"seconds": "nan"}, {"population": []}, {"keep": {}}, {"run": 7}),
        *("", "{}", "[1, 2]"),
    ],
    ids=str,
)
def test_notes_that_do_not_fit_together_are_refused(
    begun: Callable[[bool], Path], damage: dict[str, Any] | str
) -> None:
    folder = begun(False)
    text = damage if isinstance(damage, str) else json.dumps(notes(folder) | damage)
    (folder / "checkpoints/packs.json").write_text(text)
    with pytest.raises(InputError, match=r"packs\.json|keep|last\.ckpt"):
        go_on(folder, run_spec(), keep=2)


def test_a_table_that_has_lost_rows_is_refused(begun: Callable[[bool], Path]) -> None:
    folder = begun(False)
    lines = (folder / "starts.csv").read_text().splitlines(keepends=True)
    (folder / "starts.csv").write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=r"starts\.csv"):
        go_on(folder, run_spec(), keep=2)


def test_a_copy_made_of_hard_links_keeps_what_it_has(begun: Callable[[bool], Path]) -> None:
    folder = begun(False)
    copy = shutil.copytree(folder, folder.with_name("copy"), copy_function=os.link)
    before = contents(copy)
    go_on(folder, run_spec(), keep=2)
    assert contents(copy) == before
