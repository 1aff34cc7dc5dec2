"""The processes of a run: their shares, and what is refused."""

import os

import pytest

from hillstart.system.errors import InputError
from hillstart.training.distributed import Ranks, connect, launch, on_first_rank

SLURM = {
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_JOB_NAME": "toy",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "2",
}


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 64, 1000])
def test_shares_are_even_and_cover_all_starts(size: int, n: int) -> None:
    shares = [list(range(n))[Ranks(size, rank).share(n)] for rank in range(size)]
    assert [start for share in shares for start in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_needs_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    launch(1, 1)
    ranks = connect(1, 1)
    assert ranks == Ranks() and ranks.is_first and on_first_rank()
    assert ranks.from_first("x") == "x"


@pytest.mark.parametrize(("devices", "nodes"), [(1, 1), (3, 1), (1, 2)])
def test_other_numbers_than_the_launchers_are_refused(
    devices: int, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    launch(devices, nodes)  # srun has started the processes already
    assert not on_first_rank()
    with pytest.raises(InputError, match=rf"^trainer\.devices={devices} trainer\.num_nodes={nodes}"):
        connect(devices, nodes)


def test_several_hosts_need_a_launcher_on_each() -> None:
    with pytest.raises(InputError, match=r"^trainer\.num_nodes=2"):
        launch(1, 2)
