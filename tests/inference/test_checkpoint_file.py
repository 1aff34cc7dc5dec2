"""A checkpoint gives its best starts bit-equal; any other file is refused, runs no code and takes no memory.

`test_checkpoint_bombs.py` has zips and pickles that torch.save would not write.
"""

import math
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from hillstart.engine.starts import DIVERGED, VOTERS
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.training.module import Training
from hillstart.training.stopping import EarlyStopping
from made import trainer, training
from stored import assert_same, flipped, measured, refused, refused_or_sound


def trained(folder: Path, **how: Any) -> tuple[Path, Training]:
    fitted = training(**how)
    trainer(folder).fit(fitted)
    return folder / "checkpoints/last.ckpt", fitted


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three starts."""
    return trained(tmp_path_factory.mktemp("run"))[0]


# ---------------------------------------------------------------- sound checkpoints


@pytest.mark.parametrize(
    ("how", "sound"),
    [
        ({}, 3),
        ({"momentum": 0.9, "starts": 20}, 20),
        ({"optimiser": torch.optim.Adam, "eta": 0.01, "cost": "log_likelihood"}, 3),
        ({"starts": 7, "stopping": EarlyStopping(race=1)}, 7),
        ({"starts": 2, "eta": [1e30, 0.1, 0.5], "cost": "cross_entropy"}, 4),
    ],
    ids=["plain", "more than vote", "an optimiser of torch", "stopped", "diverged"],
)
def test_a_checkpoint_gives_its_best_starts_as_in_their_best_epochs(
    tmp_path: Path, how: dict[str, Any], sound: int
) -> None:
    path, fitted = trained(tmp_path, **how)
    rows = fitted.history.rows()
    best = sorted((s for s in range(len(rows)) if not rows[s].diverged), key=lambda s: rows[s].val_cost)[:VOTERS]
    assert len(best) == min(VOTERS, sound)
    kept = fitted.best
    network = Network([w[best] for w in kept.w], [b[best] for b in kept.b], kept.activation, kept.cost)
    origins = tuple(fitted.history.starts[s] for s in best)
    accuracies = tuple(rows[s].val_accuracy for s in best)
    expected = Classifier(network, origins, ("a", "b", "c"), fitted.data.preprocessing, val_accuracies=accuracies)
    loaded = model_file.load_checkpoint(path)
    assert_same(loaded, expected)
    path.write_bytes(bytes(path.stat().st_size))
    assert_same(loaded, expected)
    model_file.save(tmp_path / "m.safetensors", loaded)
    assert_same(model_file.load(tmp_path / "m.safetensors"), expected)


NONE_USABLE = "every start diverged or was not validated yet"


def test_a_checkpoint_without_a_usable_start_is_refused(tmp_path: Path) -> None:
    path, fitted = trained(tmp_path, eta=1e30, cost="cross_entropy")
    assert all(row.diverged for row in fitted.history.rows())
    assert NONE_USABLE in refused(path)

    class Early(pl.Callback):
        """Save before the first validation, when the starts are still at their starting points."""

        def on_train_batch_end(self, trainer: pl.Trainer, *rest: object) -> None:
            trainer.save_checkpoint(tmp_path / "early.ckpt")

    trainer(tmp_path, more_callbacks=[Early()], max_epochs=1).fit(training())
    assert len(torch.load(tmp_path / "early.ckpt", weights_only=True)["hillstart"]["history"]) == 0
    assert NONE_USABLE in refused(tmp_path / "early.ckpt")


def test_torch_is_told_not_to_run_code_either(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, asked = torch.load, []
    monkeypatch.setattr(torch, "load", lambda path, **how: (asked.append(how), load(path, **how))[1])
    model_file.load_checkpoint(last)
    assert [how["weights_only"] for how in asked] == [True]


# ---------------------------------------------------------------- changed entries

# Changes to `h`, the description that training wrote, and to `s`, the tensors, by what the error message names.
Edit = Callable[[dict[str, Any], dict[str, Any]], object]


def nested(depth: int) -> list[Any]:
    """A list of 2^depth lists, in little memory."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found, found]
    return found


def widened(h: dict[str, Any], s: dict[str, Any]) -> None:
    """10^6 nodes whose weights are one stored number."""
    h.update(sizes=[36, 10**6, 3])
    for name, shape in (("w1", (3, 36, 10**6)), ("b1", (3, 10**6)), ("w2", (3, 10**6, 3))):
        s[f"best.{name}"] = torch.zeros(1).expand(*shape)


def prolonged(h: dict[str, Any], s: dict[str, Any]) -> None:
    """A history of 10^7 epochs that stores one."""
    h.update(history=h["history"][:1].clone().expand(10**7, 3, 3))


def entangled(h: dict[str, Any], s: dict[str, Any]) -> None:
    h.update(cost=nested(22))


EDITS: dict[str, dict[str, Edit]] = {
    **{
        f"the entry {key} is missing": {f"without {key}": lambda h, s, key=key: h.pop(key)}
        for key in ("sizes", "activation", "cost", "seeds", "rolls", "classes", "preprocessing")
    },
    "the entry rolls is not": {
        "an integer too large for a float": lambda h, s: h["rolls"][0].__setitem__(0, 10**400),
        "nan": lambda h, s: h["rolls"][0].__setitem__(1, math.nan),
    },
    "the entry preprocessing is not": {
        "a mean too large for a float": lambda h, s: h["preprocessing"].update(mean=[10**400]),
        "names of another type": lambda h, s: h["preprocessing"].update({1: 2}),
    },
    "the entry seeds is not": {"a tensor for a list": lambda h, s: h.update(seeds=torch.arange(3))},
    "tensor history": {
        "no history": lambda h, s: h.pop("history"),
        "history as a list": lambda h, s: h.update(history=[[[0.0] * 3]]),
        "history of one number": lambda h, s: h.update(history=torch.tensor(1.0)),
        "history of other starts": lambda h, s: h.update(history=h["history"][:, :2]),
        "history in float32": lambda h, s: h.update(history=h["history"].float()),
    },
    "tensor epochs": {"no epochs": lambda h, s: h.pop("epochs")},
    "tensor status": {"no status": lambda h, s: h.pop("status")},
    "status holds": {
        "a later status": lambda h, s: h["status"].fill_(3),
        "a negative status": lambda h, s: h["status"].fill_(-1),
    },
    NONE_USABLE: {
        "costs nan": lambda h, s: h["history"].fill_(math.nan),
        "costs -inf": lambda h, s: h["history"].fill_(-math.inf),
        "all diverged": lambda h, s: h["status"].fill_(DIVERGED),
    },
    "two tensors for each of its layers": {"a tensor missing": lambda h, s: s.pop("best.w2")},
    "tensor w2": {"a tensor by another name": lambda h, s: s.update({"best.w3": s.pop("best.w2")})},
    "tensor w1": {
        "transposed": lambda h, s: s.update({"best.w1": s["best.w1"].transpose(1, 2)}),
        "in float64": lambda h, s: s.update({"best.w1": s["best.w1"].double()}),
        "requiring a gradient": lambda h, s: s["best.w1"].requires_grad_(),
    },
    "not a finite number": {
        "a weight nan": lambda h, s: s["best.w1"][1, 35].fill_(math.nan),
        "a bias inf": lambda h, s: s["best.b2"][2].fill_(math.inf),
    },
    "larger than the file": {"widened": widened, "prolonged": prolonged},
    "in two places": {"entangled": entangled},
    "": {  # loaded
        "other names": lambda h, s: (h.update({1: 2}), s.update({1: 2})),
        "another pack": lambda h, s: h.update(pack=9, optimiser="none"),
        "the best networks alone": lambda h, s: [s.pop(key) for key in list(s) if not key.startswith("best.")],
        "a diverged start nan": lambda h, s: (h["status"][0].fill_(DIVERGED), s["best.w1"][0].fill_(math.nan)),
    },
}


def edited(last: Path, edit: Edit, path: Path) -> Path:
    checkpoint = torch.load(last, weights_only=True)
    edit(checkpoint["hillstart"], checkpoint["state_dict"])
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize(
    ("named", "edit"),
    [pytest.param(named, edit, id=name) for named, edits in EDITS.items() for name, edit in edits.items()],
)
def test_a_changed_checkpoint(last: Path, tmp_path: Path, named: str, edit: Edit) -> None:
    path = edited(last, edit, tmp_path / "changed.ckpt")
    if named:
        assert named in refused(path)
    else:
        assert model_file.load_checkpoint(path).network.sizes == [36, 5, 3]


@pytest.mark.slow
def test_a_changed_checkpoint_takes_no_memory(last: Path, tmp_path: Path) -> None:
    paths = [edited(last, edit, tmp_path / f"{edit.__name__}.ckpt") for edit in (widened, prolonged, entangled)]
    for path, message, bytes_, _ in measured(last, *paths):
        assert (message is None) == (path == last)
        assert bytes_ < 8 << 20, message
    large = edited(last, lambda h, s: s.update({"velocity.w1": torch.zeros(2 * 10**7)}), tmp_path / "large.ckpt")
    ((_, message, _, used),) = measured(large)
    assert message is None and used < large.stat().st_size / 2  # tensors that are not needed are not read


# ---------------------------------------------------------------- damage


def test_a_checkpoint_cut_anywhere(last: Path, tmp_path: Path) -> None:
    data, path = last.read_bytes(), tmp_path / "cut.ckpt"
    for length in [*range(0, len(data) - 2000, 97), *range(len(data) - 2000, len(data), 11), len(data) - 1]:
        path.write_bytes(data[:length])
        assert "not a whole checkpoint" in refused(path), length


def test_a_damaged_checkpoint_is_refused_or_the_same(last: Path, tmp_path: Path) -> None:
    """Checksums detect what is damaged; some fields, such as a date, have none."""
    whole, data, path = model_file.load_checkpoint(last), last.read_bytes(), tmp_path / "damaged.ckpt"
    rng, loaded = random.Random(0), 0
    with zipfile.ZipFile(last) as archive:
        directory = archive.start_dir
    for k in range(120):
        path.write_bytes(flipped(data, directory if k % 2 else 0, len(data), rng))
        model = refused_or_sound(path)
        if model is not None:
            assert_same(model, whole)
            loaded += 1
    assert 0 < loaded < 60


def test_every_flip_in_the_pickle_and_in_the_weights_is_noticed(last: Path, tmp_path: Path) -> None:
    data, path, rng = last.read_bytes(), tmp_path / "flipped.ckpt", random.Random(0)
    with zipfile.ZipFile(last) as archive:
        entries = [e for e in archive.infolist() if e.filename.endswith("data.pkl") or "/data/" in e.filename]
    for entry in entries:
        names = data[entry.header_offset + 26 : entry.header_offset + 30]
        first = entry.header_offset + 30 + sum(struct.unpack("<2H", names))
        for at in rng.sample(range(first, first + entry.file_size), min(20, entry.file_size)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
            assert "not a whole checkpoint" in refused(path), (entry.filename, at)
