"""What the tests of ranks launch: fits, one after another, of a module without parameters, over all the ranks.

What was gathered is written to `folder`; in the middle of fit `lose`, ranks `victims` are lost: kill, stop or error.
"""

import argparse
import atexit
import os
import signal
import traceback
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from hillstart.training import distributed
from hillstart.training.distributed import AcrossRanks, Ranks, leave, ranks_of

STARTS = 7


class Descent(torch.optim.Optimizer):
    def __init__(self, w: Tensor):
        super().__init__([w], {"lr": 0.5})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for w in self.param_groups[0]["params"]:
            w.mul_(self.param_groups[0]["lr"])


class Toy(pl.LightningModule):
    """Halves the weights of its share eight times."""

    def __init__(self, ranks: Ranks, options: argparse.Namespace, fit: int):
        super().__init__()
        self.automatic_optimization = False
        self.ranks, self.options, self.fit = ranks, options, fit
        self.w = (torch.arange(STARTS, dtype=torch.float64) + 100 * fit)[ranks.share(STARTS, options.unit)]

    def configure_optimizers(self) -> Descent:
        return Descent(self.w)

    def train_dataloader(self) -> range:
        return range(4)

    def val_dataloader(self) -> range:
        return range(1)

    def training_step(self, batch: int, index: int) -> None:
        options = self.options
        if options.lose == self.fit and self.ranks.rank in options.victims and self.current_epoch == 1:
            if options.how == "error":
                raise ValueError(f"a mistake of rank {self.ranks.rank}")
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[options.how])
        self.optimizers().step()  # type: ignore[union-attr]

    def validation_step(self, batch: int, index: int) -> None:
        everyone = self.ranks.gather(self.w)
        self.log("highest", everyone.max().float(), sync_dist=True, batch_size=1)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return {"w": self.ranks.gather(self.w)}


def run(options: argparse.Namespace) -> None:
    distributed.GRACE = options.grace
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")
    with (options.folder / "processes").open("a") as file:
        file.write(f"{os.getpid()}\n")
    for fit in range(options.fits):
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=options.devices,
            num_nodes=options.nodes,
            strategy=AcrossRanks("the rest is kept.", interval=0.2, limit=options.limit),
            callbacks=[pl.callbacks.ModelCheckpoint(options.folder / f"fit{fit}", monitor="highest", save_last=True)],
            max_epochs=2,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        ranks = ranks_of(trainer)
        toy = Toy(ranks, options, fit)
        trainer.fit(toy)
        assert trainer.model is toy
        w = ranks.gather_first(toy.w)
        told = ranks.from_first([ranks.rank, "told", 0.5, True])
        if ranks.is_first:
            torch.save({"size": ranks.size, "told": told, "w": w}, options.folder / f"{fit}.pt")
        else:
            assert w is None
        if fit == options.fits - 1:
            torch.save(various(ranks, ranks.rank), options.folder / f"various{ranks.rank}.pt")
    leave()


def various(ranks: Ranks, rank: int) -> dict[str, Tensor]:
    """Tensors of every type, of which rank 0 holds 0 rows, rank 1 2, rank 2 4 ..., gathered."""
    generator = torch.Generator().manual_seed(rank)
    t = torch.randn(2 * rank, 3, generator=generator, dtype=torch.float64)
    t[:, 0] = torch.nan
    kinds = {"float32": t.float(), "float64": t, "int64": t.view(torch.int64), "bool": t > 0, "turned": t.T.clone().T}
    return {name: ranks.gather(kind) for name, kind in kinds.items()} | {"flat": ranks.gather(t[:, 1])}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--unit", type=int, default=2)
    parser.add_argument("--lose", type=int, default=-1, help="the fit")
    parser.add_argument("--victims", type=int, nargs="+", default=[1], metavar="RANK")
    parser.add_argument("--how", default="kill")
    busy = "seconds, which a busy machine does not reach"
    parser.add_argument("--limit", type=float, default=600, help=f"for a sign of life: {busy}")
    parser.add_argument("--grace", type=float, default=600, help=f"for a rank to end with its own error: {busy}")
    return parser.parse_args(arguments)


def as_slurm_task(rank: int, size: int, port: int, arguments: list[str]) -> None:
    """`run`, as srun would start it, with what it says in a file."""
    task = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0, "SLURM_NODELIST": "127.0.0.1"}
    job = {"SLURM_JOB_ID": 7, "SLURM_JOB_NAME": "toy", "SLURM_NNODES": 1, "MASTER_PORT": port}
    job |= {"SLURM_NTASKS": size, "SLURM_NTASKS_PER_NODE": size}
    os.environ.update({name: str(value) for name, value in (task | job).items()})
    options = parse(arguments)
    with (options.folder / f"stderr{rank}").open("w") as file:
        os.dup2(file.fileno(), 2)
    try:
        run(options)
    except ValueError:
        # As at the end of any program; multiprocessing spares its children that.
        traceback.print_exc()
        atexit._run_exitfuncs()
        os._exit(1)


if __name__ == "__main__":
    run(parse())
