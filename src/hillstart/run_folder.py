"""A run's folder while it trains: pack by pack, what is done is written down, and an interrupted run goes on there."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hillstart.errors import InputError
from hillstart.files import WritingError, read_text, replacing, sweep_up, writing
from hillstart.outcome import Outcome
from hillstart.population import Population, Trained
from hillstart.starts import FINISHED, ROLLING, STATUS, Record, Row
from hillstart.tables import Tables
from hillstart.untrusted import check_checkpoint, opened

log = logging.getLogger(__name__)


class RunFolder:
    """The outcome of a run as far as its packs are done, in memory and in `folder`.

    Written in this order, so that a stop in between is noticed: rows are appended to the tables, the kept starts
    replace those of before, and then `checkpoints/packs.json` says that the pack is done and how long the tables are.
    What cannot be written stays in memory and is tried again with the next pack; only at the end it is an error.
    The first rank writes; the others only keep count.

    Attributes:
        packs: starts in each pack.
        done: how many packs are.
        checkpoint: where the next pack was left, if it was begun.
    """

    def __init__(self, folder: Path, population: Population, keep: int | None, epochs: int, writes: bool = True):
        self.folder, self.population, self.writes, self.epochs = folder, population, writes, epochs
        self.outcome = Outcome(keep)
        self.tables = Tables(folder, population.starts)
        self.model, self._state = folder / "network.safetensors", folder / "checkpoints" / "packs.json"
        self.packs: list[int] = []
        self.done = 0
        self.checkpoint: Path | None = None
        self._unwritten: list[tuple[Sequence[Row], Record]] = []
        if self.writes:
            for place in (folder, folder / "checkpoints"):
                sweep_up(place)

    def begin(self, packs: Sequence[int]) -> None:
        """A new run.

        Raises:
            WritingError: the folder cannot be written to.
        """
        self.packs = list(packs)
        if self.writes:
            self.tables.begin()
            self._note()

    def go_on(self, checkpoint: Path) -> None:
        """An earlier run, which left `checkpoint` in this folder's `checkpoints`, or had not come to write it.

        Raises:
            InputError: what lies in the folder is damaged, or of a run that cannot go on with this population.
        """
        state = self._read()
        stored, here = state["population"], json.loads(json.dumps(self.population.described()))
        for key, value in here.items():
            if stored.get(key) != value:
                raise InputError(
                    f"resume: the run has {key} {stored.get(key)}, this one {value}; give the same options."
                )
        self.packs, self.done = state["packs"], state["done"]
        if self.done == len(self.packs) == 1 and checkpoint.is_file():  # it may go on for more epochs than before
            self.begin(self.packs)
            self.done = 0
        elif self.done and state["epochs"] != self.epochs:
            raise InputError(
                f"resume: {sum(self.packs[: self.done])} starts of this run are done after {state['epochs']} epochs, "
                f"not {self.epochs}; leave trainer.max_epochs as it was, or begin a new run."
            )
        elif self.done:
            if self.writes and self.done < len(self.packs):
                self.tables.cut((state["starts"], state["history"]))
            known = state["starts"] if self.done < len(self.packs) else None
            self.outcome.rows, self.outcome.seconds = self.tables.read(known), state["seconds"]
            if self.writes and not all(row.diverged for row in self.outcome.rows):  # else there is no such file
                self.outcome.load(self.model)
            else:
                self.outcome.keep_rows()
        elif self.writes:
            self.begin(self.packs)
        if self.done < len(self.packs) and checkpoint.is_file() and _pack_of(checkpoint) == self.done + 1:
            self.checkpoint = checkpoint

    def add(self, trained: Trained) -> None:
        """A pack is done; to be called on every rank."""
        self.outcome.add(trained, range(len(trained.rows)))
        self.done += 1
        if self.writes:
            self._unwritten.append((trained.rows, trained.training.record))
            try:
                self._write()
            except WritingError as error:
                if self.done < len(self.packs):
                    log.warning(f"pack {self.done} is held in memory, to be written with the next one: {error}")

    def leave(self, trained: Trained) -> None:
        """A signal met this pack: write down how its starts stand, for whoever looks; to go on needs none of it."""
        if not self.writes:
            return
        so_far, record = Outcome(2 * self.outcome.most), trained.training.record
        rows = [replace(r, status=ROLLING) if r.status == STATUS[FINISHED] else r for r in trained.rows]
        self.tables.add(rows, record, range(len(rows)))
        # Where no pack is done yet, the checkpoint is the model; and other ranks would have to send their weights.
        if self.done and trained.training.ranks.size == 1:
            so_far.kept, so_far.network = self.outcome.kept, self.outcome.network
            so_far.add(trained, sorted(record.ranking()[: self.outcome.most]))
            so_far.save(self.model, self.population.data)

    def end(self) -> None:
        """All packs are done.

        Raises:
            WritingError: what is done cannot be written.
        """
        if self.writes:
            if self._unwritten:
                self._write()
            self.tables.end(self.outcome.rows)

    def _write(self) -> None:
        before = self.tables.sizes
        try:
            for rows, record in self._unwritten:
                self.tables.add(rows, record, range(len(rows)))
            self.tables.sync()
            self.outcome.save(self.model, self.population.data)
            self._note()
        except WritingError:
            self.tables.sizes = before
            raise
        self._unwritten = []

    def _note(self) -> None:
        starts, history = self.tables.sizes
        state = {
            "population": self.population.described(),
            "packs": self.packs,
            "done": self.done,
            "epochs": self.epochs,
            "starts": starts,
            "history": history,
            "seconds": self.outcome.seconds,
        }
        with writing(self._state):
            self._state.parent.mkdir(exist_ok=True)
        with replacing(self._state) as new:
            new.write_text(json.dumps(state) + "\n")

    def _read(self) -> dict[str, Any]:
        try:
            state = json.loads(read_text(self._state))
            kinds: dict[str, Any] = {"population": dict, "packs": list, "seconds": (int, float)}
            kinds |= dict.fromkeys(("done", "epochs", "starts", "history"), int)
            if not all(isinstance(state[key], kind) for key, kind in kinds.items()):
                raise ValueError(f"not all of {', '.join(kinds)} are there")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"resume: {self._state} does not tell how far the run had come ({error}); give the folder of a run."
            ) from error
        return dict(state)


def _pack_of(checkpoint: Path) -> int:
    try:
        with opened(checkpoint) as file:
            check_checkpoint(checkpoint, file)
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["hillstart"]["pack"])
    except Exception as error:  # torch raises whatever the damage leads to
        raise InputError(
            f"resume: {checkpoint} is not a checkpoint of such a training; give the folder of an earlier run."
        ) from error
