"""Numbers that overflow or are not finite are noticed and named, and change no bit of another start."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hillstart.engine.tiling
from hillstart.data import images
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.starts import FINISHED, Hyperparameters
from hillstart.engine.tiling import Tiling
from hillstart.network import GradientDescent, Momentum, Nesterov, Network
from hillstart.runs.results import FLAT, saturated
from hillstart.system.errors import InputError
from made import SMALL, blobs, rows, trainer, training

S, SIZES, B, N = 8, [8, 5, 3], 4, 40
DESCENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"step": Momentum},
    "nesterov": {"step": Nesterov},
    "adam": {"optimiser": torch.optim.Adam},
}


@pytest.fixture(params=[S, 4], ids=["one tile", "tiles of four"])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(hillstart.engine.tiling, "TILE_FLOPS", 0)
    monkeypatch.setattr(Tiling, "_cache_sized", lambda self, S, cores, room: request.param)
    return int(request.param)


def descended(
    eta: list[float],
    spoil: float | None = None,
    activation: str = "sigmoid",
    step: type[GradientDescent] = GradientDescent,
    optimiser: Any = None,
) -> tuple[list[Tensor], StartEnsemble]:
    """The starts after some chunks, with their costs, and their pack; `spoil` is a weight of start 4 at first."""
    net = Network.start(SIZES, range(S), activation=activation, cost="cross_entropy")
    if spoil is not None:
        net.w[0][4, 2, 1] = spoil
    pack = StartEnsemble(net, [Hyperparameters(each, 0.9, 0.1) for each in eta], N, B, step, optimiser)
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(N, 8, generator=g), torch.eye(3)[torch.arange(N) % 3]
    for _ in range(3):
        pack.descend(lambda rows: (x[rows], y[rows]), [1.0, 0.5] * 5)
    return [*pack.network().parameters, *pack.evaluate([(x, y)])], pack


def same(these: list[int], p: list[Tensor], q: list[Tensor]) -> bool:
    return all(t[these].numpy().tobytes() == u[these].numpy().tobytes() for t, u in zip(p, q, strict=True))


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize("name", DESCENTS)
def test_neighbours_of_a_start_that_explodes(width: int, name: str, activation: str) -> None:
    good, bad = [0, 2, 4, 6], [1, 3, 5, 7]
    fine, _ = descended([0.1, 0.2] * 4, activation=activation, **DESCENTS[name])
    mixed, pack = descended([0.1, 1e30] * 4, activation=activation, **DESCENTS[name])
    apart = name in ("plain", "adam")  # what has one lr, and what shrinks w by more than a block may
    assert [isinstance(tile.eta, Tensor) for tile in pack.tiles] == [not apart and width == S] * len(pack.tiles)
    assert same(good, fine, mixed)
    assert not same(bad, fine, mixed)
    assert any(not t[bad].isfinite().all() or t[bad].abs().max() > 1e6 for t in mixed)


@pytest.mark.parametrize("name", DESCENTS)
def test_neighbours_of_a_start_that_holds_no_number(width: int, name: str) -> None:
    fine, _ = descended([0.5] * S, **DESCENTS[name])
    mixed, pack = descended([0.5] * S, math.inf, **DESCENTS[name])  # which becomes nan in a product
    assert pack.block > 1 or name != "plain"
    assert same([s for s in range(S) if s != 4], fine, mixed)
    assert not same([4], fine, mixed)
    assert not all(t[4].isfinite().all() for t in mixed)


def test_a_training_of_which_half_explodes(tmp_path: Path) -> None:
    """Starts that explode are ended; the others have the same costs and weights as without them."""
    fine, mixed = (training(4, blobs(), cost="cross_entropy", eta=[0.1, eta]) for eta in (0.2, 1e30))
    for name, made in (("fine", fine), ("mixed", mixed)):
        trainer(tmp_path / name, max_epochs=5).fit(made)
    assert mixed.history.status.tolist() == [FINISHED] * 4 + [2] * 4
    assert fine.history.status.tolist() == [FINISHED] * 8
    assert mixed.history.epochs.tolist() == [5] * 4 + [1] * 4
    good = [fine.history.figures[:, :4], *(t[:4] for t in fine.best.parameters)]
    assert same(
        [0, 1, 2, 3],
        [t.transpose(0, 1).contiguous() if t is good[0] else t for t in good],
        [mixed.history.figures[:, :4].transpose(0, 1).contiguous(), *mixed.best.parameters],
    )


@pytest.fixture
def log(train: Any) -> Any:
    """Returns a function that trains in `run` and returns the log and the exit code or message."""

    def call(*options: str) -> tuple[str, Any]:
        end: Any = None
        try:
            train(*SMALL, "hydra.run.dir=run", *options)
        except SystemExit as exit:
            end = exit.code
        return Path("run/train.log").read_text(), end

    return call


def test_all_explode(log: Any) -> None:
    """The command fails with a sentence that names the key, and the tables are written."""
    _, end = log("descent.eta=1e30", "network.activation=relu", "starts=5", "pack=2")
    assert end.startswith("hillstart: descent.eta=1e+30: ")
    starts = [(row["seed"], row["status"], row["epochs"]) for row in rows("run/starts.csv")]
    assert starts == [(str(s), "diverged", "1") for s in range(5)]
    assert [row["seed"] for row in rows("run/history.csv")] == ["0", "1", "2", "3", "4"]
    assert not Path("run/summary.json").exists()


def test_saturated_nodes_are_logged(log: Any) -> None:
    said, end = log("network.activation=tanh", "descent.eta=100", "trainer.max_epochs=5")
    assert end is None
    (line,) = [line for line in said.splitlines() if "saturated" in line]
    assert "[WARNING]" in line


def test_a_good_training_logs_nothing_about_saturation(log: Any) -> None:
    said, end = log("data.train=400")
    assert end is None
    assert "chosen by val cost" in said
    assert "saturated" not in said


# ---------------------------------------------------------------- saturation by hand


def net(w: float, b: list[float], activation: str = "sigmoid") -> Network:
    """One input, a hidden node for each of these biases, all of weight w, one output."""
    n = len(b)
    return Network(
        [torch.full((1, 1, n), w), torch.ones(1, n, 1)],
        [torch.tensor([b]), torch.zeros(1, 1)],
        activation,
        "cross_entropy",
    )


EDGE = math.log(0.5 + math.sqrt(0.25 - FLAT / 4)) - math.log(0.5 - math.sqrt(0.25 - FLAT / 4))
"""z from which the slope of the sigmoid is below FLAT of its steepest: 4.58."""


@pytest.mark.parametrize(
    ("activation", "b", "share"),
    [
        ("sigmoid", [50.0, -50.0, 0.0, 0.0], 0.5),
        ("sigmoid", [EDGE + 0.01, -EDGE - 0.01], 1.0),
        ("sigmoid", [EDGE - 0.01, -EDGE + 0.01], 0.0),
        ("tanh", [EDGE / 2 + 0.01, -EDGE / 2 - 0.01, EDGE / 2 - 0.01, 0.0], 0.5),
        ("relu", [-1.0, 0.0, 1.0, 50.0], 0.5),
    ],
)
def test_the_share_by_hand(activation: str, b: list[float], share: float) -> None:
    x = torch.zeros(200, 1)
    assert saturated(net(0.0, b, activation), [x[:120], x[120:]]).tolist() == [share]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_a_node_that_moves_on_one_picture(activation: str) -> None:
    x = torch.full((100, 1), -1.0)
    assert saturated(net(50.0, [0.0], activation), [x]).tolist() == [1.0]
    x[-1] = 0.01
    assert saturated(net(50.0, [0.0], activation), [x]).tolist() == [0.0]


def test_no_hidden_nodes() -> None:
    flat = Network.start([4, 2], [0, 1])
    assert saturated(flat, [torch.rand(5, 4)]).tolist() == [0.0, 0.0]


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_a_picture_of_numbers_out_of_range_is_refused(bad: float) -> None:
    picture = torch.rand(6, 6)
    picture[2, 3] = bad
    for given in (picture, picture.numpy()):
        with pytest.raises(InputError, match="outside 0 to 1"):
            images.read_picture(given, Preprocessing(6, 1))


def test_pictures_that_are_all_alike_are_not_divided_by_nothing() -> None:
    x = torch.full((5, 1, 6, 6), 77, dtype=torch.uint8)
    assert Preprocessing(6, 1).fitted(x).normalise(x).isfinite().all()
