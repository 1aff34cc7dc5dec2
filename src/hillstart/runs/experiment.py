"""One experiment from starts to summary: train, choose by validation, look at the test pictures once."""

import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from hillstart.engine.starts import STATUS, STOPPED, History, Start, varying
from hillstart.runs.claim import check_free
from hillstart.runs.results import RunResult, evaluate, with_test_figures
from hillstart.runs.summary import of_rows, report, settings
from hillstart.runs.tables import TEST, Tables
from hillstart.runs.writer import RunFolder
from hillstart.system import interrupts
from hillstart.system.errors import InputError
from hillstart.system.files import relative, replacing
from hillstart.system.machine import commit, device_name, versions
from hillstart.system.statistics import accuracy_interval, quantiles, standard_error
from hillstart.training.distributed import Ranks
from hillstart.training.packs import RunSpec, train

log = logging.getLogger(__name__)

Summary = dict[str, Any]


def run(
    spec: RunSpec,
    make_trainer: Callable[..., pl.Trainer],
    folder: Path,
    keep: int | None = None,
    pack: int | None = None,
    checkpoint: Path | None = None,
    accepted: Callable[[], None] | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - it cannot be changed
) -> Summary | None:
    """Train, choose the best start by validation cost, test it once, and write all of it to `folder`.

    Args:
        make_trainer: a new trainer for each pack.
        keep: how many of the best starts are kept and vote together; None: all, but at most `starts.VOTERS`.
        pack: how many starts are trained side by side at most; None: as many as fit the memory.
        checkpoint: where an earlier run in this folder stopped, to go on from there.
        accepted: called when it is known that the run can go on from there.
        ranks: of this process; the first writes, and has the results of all.

    Returns:
        What `summary.json` holds; None on ranks other than the first.

    Raises:
        InputError: `checkpoint` is not of this run, or there is none and the folder holds a run already,
            every start diverged, or another process is lost.
    """
    trainer = make_trainer()
    device, most = trainer.strategy.root_device, RunResult(keep).most
    if not ranks.is_first:
        packs, done = ranks.from_first(None)
        fits = train(spec, make_trainer, packs, done, ranks=ranks)
        for trained in with_test_figures(fits, spec, device):
            trained.gathered(ranks, most)
        ranks.end()
        return None
    run_folder = RunFolder(folder, spec, keep, (trainer.max_epochs or -1, trainer.max_steps))
    if checkpoint:
        run_folder.go_on(checkpoint)
        if accepted:
            accepted()
        if pack is not None and (largest := max(run_folder.packs)) > pack:
            log.warning(f"resume: pack={pack} changes nothing, for a run keeps its packs: up to {largest} starts each.")
    else:
        run_folder.begin(spec.packs(device, ranks.size, pack))
    onward = run_folder.checkpoint if ranks.size == 1 else None  # a checkpoint holds whole packs, not shares
    _announce(spec, device, ranks, run_folder.packs, onward or checkpoint)
    ranks.from_first((run_folder.packs, run_folder.done))
    with interrupts.deferred():
        where = (run_folder.packs, run_folder.done, onward, run_folder.run, run_folder.seconds)
        fits = train(spec, make_trainer, *where, ranks, run_folder.halved)
        for trained in with_test_figures(fits, spec, device):
            if trained.whole:
                run_folder.add(trained if ranks.size == 1 else trained.gathered(ranks, most) or trained)
            elif ranks.size == 1:
                run_folder.leave(trained)
        ranks.end()
        run_folder.end()
    outcome = run_folder.outcome
    _check_sound(outcome, spec, folder)
    measured = evaluate([outcome], spec.data, device)[0]
    summary = summarise(outcome, spec, device, ranks, measured)
    summary["packs"] = len(run_folder.packs)
    outcome.save(run_folder.model, spec.data)
    _write(summary, folder)
    report(outcome, summary, folder, spec)
    return summary


@dataclass(frozen=True)
class JobResult:
    """A job of a sweep whose starts are all trained: what is left to do is to write it down in its own folder."""

    job: int
    outcome: RunResult
    histories: Sequence[tuple[History, Sequence[int]]]
    summary: Summary | None
    spec: RunSpec

    def write(self, folder: Path) -> Summary:
        """Tables, kept starts and summary.

        Raises:
            InputError: every start diverged, or the folder holds a run already.
        """
        check_free(folder)
        tables = Tables(folder, self.spec.starts, self.spec.test_all)
        for history, indices in self.histories:
            tables.add((), history, indices)
        tables.end(self.outcome.rows)
        _check_sound(self.outcome, self.spec, folder)
        assert self.summary is not None
        self.outcome.save(folder / "network.safetensors", self.spec.data)
        _write(self.summary, folder)
        report(self.outcome, self.summary, folder, self.spec, table=False)
        return self.summary


def run_together(
    spec: RunSpec,
    jobs: Sequence[Sequence[Start]],
    make_trainer: Callable[..., pl.Trainer],
    keep: int | None = None,
    pack: int | None = None,
    done: Set[int] = frozenset(),
) -> Iterator[JobResult]:
    """Train the starts of many jobs together, and yield each job when its last start is trained.

    The order in which jobs are given changes nothing: they are trained by their hyperparameters and seeds.

    Args:
        spec: what the jobs share; its starts do not count.
        jobs: the starts of each job.
        done: indices of jobs that are not yielded. They are trained again only beside jobs that are not done, so that
            these get the same bits.

    Raises:
        InputError: a start that is in two jobs.
    """
    order = sorted(range(len(jobs)), key=lambda j: [(start.hyperparameters, start.seed) for start in jobs[j]])
    whole = replace(spec, starts=[start for j in order for start in jobs[j]])
    _check_different(whole.starts)
    trainer = make_trainer()
    device = trainer.strategy.root_device
    packs = whole.packs(device, most=pack)
    ends = list(itertools.accumulate(len(jobs[j]) for j in order))
    lead = sum(len(jobs[j]) for j in itertools.takewhile(done.__contains__, order))
    firsts = [0, *itertools.accumulate(packs)]
    # Skip only up to the end of a job: the number of starts evaluated together decides the last bits.
    skipped = max(k for k, first in enumerate(firsts) if first <= lead and first in {0, *ends})
    if skipped == len(packs):
        return
    left = [(j, len(jobs[j])) for j, end in zip(order, ends, strict=True) if end > firsts[skipped]]
    _announce(whole, device, Ranks(), packs[skipped:], None)
    outcome, histories = RunResult(keep), list[tuple[History, Sequence[int]]]()
    with interrupts.deferred():
        fits = train(whole, make_trainer, packs, skipped)
        for trained in with_test_figures(fits, whole, device):
            if not trained.whole:  # none of its jobs is done
                continue
            ended: list[tuple[int, RunResult, list[tuple[History, Sequence[int]]]]] = []
            at, size = 0, len(trained.rows)
            while at < size:
                job, starts = left[0]
                indices = range(at, min(size, at + starts))
                outcome.add(trained, indices)
                histories.append((trained.history, indices))
                at = indices.stop
                left[0] = (job, starts - len(indices))
                if len(indices) == starts:
                    left.pop(0)
                    ended.append((job, outcome, histories))
                    outcome, histories = RunResult(keep), []
            measured = iter(
                evaluate([result for _, result, _ in ended if result.network is not None], whole.data, device)
            )
            for job, result, of in ended:
                own = replace(spec, starts=jobs[job])
                summary = None
                if result.network is not None:
                    summary = summarise(result, own, device, Ranks(), next(measured))
                interrupts.check_interrupt()
                if job not in done:  # those were evaluated too, for how many are evaluated together decides last bits
                    yield JobResult(job, result, of, summary, own)


def summarise(
    outcome: RunResult, spec: RunSpec, device: torch.device, ranks: Ranks, measured: dict[str, Any]
) -> Summary:
    """The content of `summary.json`, for an outcome with at least one start that did not diverge.

    Args:
        measured: what `evaluate` found.
    """
    rows, best, data = outcome.rows, outcome.kept[0], spec.data
    sound = [row for row in rows if not row.diverged]
    stopped = sum(row.status == STATUS[STOPPED] for row in rows)
    longest = max(row.epochs for row in rows)
    pictures = {name: len(getattr(data, name).y) for name in ("train", "val", "test")}
    test, vote = measured["test_accuracy"], measured["vote_test_accuracy"]
    measured = measured | {
        "test_standard_error": standard_error(test, pictures["test"]),
        "test_interval": list(accuracy_interval(test, pictures["test"])),
        "vote_test_interval": list(accuracy_interval(vote, pictures["test"])),
    }
    of_starts = quantiles([row.val_accuracy for row in sound])
    names = TEST if spec.test_all else ()
    tested = {f"{name}_of_starts": quantiles([getattr(row, name) for row in sound]) for name in names}
    grid = {"settings": settings(of_rows(rows))[0]} if varying(row.start for row in rows) else {}
    return {
        "best_seed": best.start.seed,
        "best_hyperparameters": asdict(best.start.hyperparameters),
        "starts": len(rows),
        "kept": len(outcome.kept),
        "finished": len(sound) - stopped,
        "stopped": stopped,
        "diverged": len(rows) - len(sound),
        "epochs": longest,
        "epochs_trained": sum(row.epochs for row in rows),
        "epochs_saved": sum(longest - row.epochs for row in rows if row.status == STATUS[STOPPED]),
        "val_cost": best.val_cost,
        "val_accuracy": best.val_accuracy,
        **measured,
        "val_cost_of_starts": quantiles([row.val_cost for row in sound]),
        "val_accuracy_of_starts": of_starts,
        "val_standard_error": standard_error(of_starts["median"], pictures["val"]),
        **tested,
        **grid,
        **({"start_from": dict(spec.start_from)} if spec.start_from else {}),
        "cost": outcome.network.cost if outcome.network else None,
        "validated_on": data.validated_on,
        "pictures": pictures,
        "classes": list(data.classes),
        "seconds": round(outcome.seconds, 2),
        "device": device_name(device),
        "ranks": ranks.size,
        "versions": versions(),
        "commit": commit(),
    }


def _announce(spec: RunSpec, device: torch.device, ranks: Ranks, packs: Sequence[int], checkpoint: Path | None) -> None:
    data, S = spec.data, len(spec.starts)
    count = {name: len(getattr(data, name).y) for name in ("train", "val", "test")}
    log.info(
        f"{data.preprocessing.noun}s: {data.source}; {count['train']} to train, {count['val']} to validate, "
        f"{count['test']} to test; classes {_listed(data.classes)}"
    )
    if not data.augment.is_none:
        log.info(f"augmentation of the training pictures in each epoch: {data.augment}")
    starts = f"{S} start" + "s" * (S > 1) + (f" in {len(packs)} packs of up to {max(packs)}" if len(packs) > 1 else "")
    where = device.type + (f", shared by {ranks.size} ranks" if ranks.size > 1 else "")
    onward = f", going on from {relative(checkpoint)}" if checkpoint else ""
    log.info(f"network {list(spec.sizes)}: {starts} on {where}{onward}")
    if spec.start_from:
        log.info(
            f"a new run that begins at the networks of {spec.start_from['model']}, with the mean and deviation "
            "of the pictures they were trained on; to go on with that run itself, use resume="
        )


def _check_sound(outcome: RunResult, spec: RunSpec, folder: Path) -> None:
    if not outcome.kept:
        # By the starts' own numbers: jobs that are trained together share the descent of the first of them.
        etas = sorted({start.hyperparameters.eta for start in spec.starts})
        given = f"={etas[0]:g}" if len(etas) == 1 else f" from {etas[0]:g} to {etas[-1]:g}"
        raise InputError(
            f"descent.eta{given}: every start diverged, so a smaller eta is needed; "
            f"the costs are in {relative(folder)}."
        )


def _check_different(starts: Sequence[Start]) -> None:
    seen: set[Start] = set()
    for start in starts:
        if start in seen:
            point = ", ".join(f"{name} {value:g}" for name, value in asdict(start.hyperparameters).items())
            raise InputError(
                f"seed {start.seed} ({point}) is in two jobs of the sweep; with starts=k a job trains the seeds seed, "
                "seed + 1, ..., seed + k - 1, so step by k, as in seed=range(0,100,k)."
            )
        seen.add(start)


def _write(summary: Summary, folder: Path) -> None:
    with replacing(folder / "summary.json", sync=False) as new:
        new.write_text(json.dumps(summary, indent=2) + "\n")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:9])} and {len(names) - 9} more"
