"""A run's folder while it trains: pack by pack, what is done is written down, and an interrupted run goes on there."""

import json
import logging
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hillstart.engine.starts import ACTIVE, FINISHED, STATUS, History, StartResult
from hillstart.runs.claim import check_free
from hillstart.runs.results import RunResult
from hillstart.runs.tables import Tables
from hillstart.system.errors import InputError
from hillstart.system.files import WritingError, read_text, replacing, sweep_up, writing
from hillstart.system.untrusted import briefly, check_checkpoint, opened
from hillstart.training.packs import FitResult, RunSpec

log = logging.getLogger(__name__)


class RunFolder:
    """The outcome of a run as far as its packs are done, in memory and in `folder`.

    Written in this order, so that a stop in between is noticed: rows are appended to the tables, the kept starts
    replace those of before, and then `checkpoints/packs.json` says that the pack is done and how long the tables are.
    What cannot be written stays in memory and is tried again with the next pack; only at the end it is an error.

    A finished run that goes on for more epochs stays as it is until these are done; until then only its checkpoint
    holds them.

    Args:
        keep: how many of the best starts are kept; None: as many as `RunResult` keeps.
        length: `max_epochs` and `max_steps` of its trainer.

    Attributes:
        run: the id of this run, which its checkpoints name; None in runs of version 0.1.
        packs: starts in each pack.
        done: number of packs that are done.
        checkpoint: of the next pack, if it was begun.
        seconds: for how long that pack was trained, if the folder tells.
    """

    def __init__(self, folder: Path, spec: RunSpec, keep: int | None, length: tuple[int, int]):
        self.folder, self.spec = folder, spec
        # Options of the packs that are done, in the words of conf: they cannot be changed for the other packs alone.
        self._alike = {
            "trainer.max_epochs": length[0],
            "trainer.max_steps": length[1],
            "keep": keep,
            "test": "all" if spec.test_all else "chosen",
        }
        self.outcome = RunResult(keep)
        self.tables = Tables(folder, spec.starts, spec.test_all)
        self.model, self._state = folder / "network.safetensors", folder / "checkpoints" / "packs.json"
        self.run: str | None = None
        self.packs: list[int] = []
        self.done, self.seconds = 0, 0.0
        self.checkpoint: Path | None = None
        self._was_finished = False
        self._unwritten: list[tuple[Sequence[StartResult], History]] = []
        for path in (folder, folder / "checkpoints"):
            sweep_up(path)

    def begin(self, packs: Sequence[int]) -> None:
        """Begin a new run.

        Raises:
            InputError: the folder holds a run already.
            WritingError: the folder cannot be written to.
        """
        self.packs = list(packs)
        check_free(self.folder)
        self.run = uuid.uuid4().hex
        self._write_state()

    def go_on(self, checkpoint: Path) -> None:
        """Go on with an earlier run, from `checkpoint` in this folder's `checkpoints` if it was written.

        Raises:
            InputError: the files in the folder are damaged, or belong to a run with other options than `spec`.
        """
        state, there = self._read(), checkpoint.is_file()
        self._check_alike(state["population"], self._described)
        self.run, self.packs, self.done = state.get("run"), state["packs"], state["done"]
        if self.done == len(self.packs) == 1 and there:  # it may go on for more epochs than before
            self.done, self.seconds, self._was_finished = 0, state["seconds"], True
        elif self.done:
            self._check_alike(state, self._alike, f"{sum(self.packs[: self.done])} starts are done in the folder, and ")
            unfinished = self.done < len(self.packs)
            if unfinished:
                self.tables.cut((state["starts"], state["history"]))
            rows = self.tables.read(state["starts"] if unfinished else None)
            if len(rows) != sum(self.packs[: self.done]):
                raise InputError(
                    f"resume: {self.tables.starts} holds {len(rows)} starts, not the {sum(self.packs[: self.done])} "
                    "that are done; put the file back, or begin a new run."
                )
            self.outcome.rows, self.outcome.seconds = rows, state["seconds"]
            if not all(row.diverged for row in rows):  # else there is no such file
                self.outcome.load(self.model)
        if self.done < len(self.packs) and there:
            stored = _stored(checkpoint)
            if stored.get("run") != self.run:
                raise InputError(
                    f"resume: {checkpoint} was written by another run than the one in {self._state.parent}; put that "
                    "run's own checkpoint back, or remove this one, so that its pack is trained from its beginning."
                )
            if stored["pack"] == self.done + 1:
                self.checkpoint = checkpoint

    def add(self, trained: FitResult) -> None:
        """Add a pack that is done, and write it down."""
        self.outcome.add(trained, range(len(trained.rows)))
        self.done += 1
        self._unwritten.append((trained.rows, trained.history))
        try:
            self._write()
        except WritingError as error:
            if self.done < len(self.packs):
                log.warning(f"pack {self.done} is held in memory, to be written with the next one: {error}")

    def halved(self) -> None:
        """Write down that a pack was halved in `packs`, before a checkpoint of a half, which fits no other plan."""
        try:
            self._write_state()
        except WritingError as error:
            log.warning(f"that a pack was halved is held in memory, to be written when a pack is done: {error}")

    def leave(self, trained: FitResult) -> None:
        """Write the results so far of an interrupted pack, for the user alone; resuming does not need them."""
        if self._was_finished:
            return
        so_far, history = RunResult(2 * self.outcome.most), trained.history
        rows = [replace(r, status=ACTIVE) if r.status == STATUS[FINISHED] else r for r in trained.rows]
        self.tables.add(rows, history, range(len(rows)))
        if self.done:  # else the checkpoint is the model
            so_far.kept, so_far.network = self.outcome.kept, self.outcome.network
            so_far.add(trained, sorted(history.ranking()[: self.outcome.most]))
            so_far.save(self.model, self.spec.data)

    def end(self) -> None:
        """Write what is left to write when all packs are done, and the ranked table.

        Raises:
            WritingError: what is done cannot be written.
        """
        if self._unwritten:
            self._write()
        self.tables.end(self.outcome.rows)

    def _write(self) -> None:
        before = self.tables.sizes
        try:
            for rows, history in self._unwritten:
                self.tables.add(rows, history, range(len(rows)))
            self.tables.sync()
            self.outcome.save(self.model, self.spec.data)
            self._write_state()
        except WritingError:
            self.tables.sizes = before
            raise
        self._unwritten = []

    @cached_property
    def _described(self) -> dict[str, Any]:
        """The description of the spec as it reads back from the file."""
        described: dict[str, Any] = json.loads(json.dumps(self.spec.described()))
        return described

    def _write_state(self) -> None:
        starts, history = self.tables.sizes
        state = {
            "run": self.run,
            "population": self._described,
            "packs": self.packs,
            "done": self.done,
            **self._alike,
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
            if not isinstance(state, dict):
                raise ValueError("it is not a JSON object")
            if "epochs" in state:  # as version 0.1 calls it
                state["trainer.max_epochs"] = state["epochs"]
            state.setdefault("test", "chosen")
            kinds: dict[str, Any] = {"population": dict, "packs": list, "seconds": (int, float)}
            kinds |= dict.fromkeys(("done", "trainer.max_epochs", "starts", "history"), int)
            if not all(isinstance(state[key], kind) for key, kind in kinds.items()):
                raise ValueError(f"not all of {', '.join(kinds)} are there")
            packs, starts = state["packs"], len(self.spec.starts)
            if not all(type(size) is int and size > 0 for size in packs) or not 0 <= state["done"] <= len(packs):
                raise ValueError("its packs do not fit together")
            if min(state["starts"], state["history"]) < 0 or not 0 <= state["seconds"] < math.inf:
                raise ValueError("a length or time in it is none")
            if state["population"].get("starts", starts) == starts != sum(packs):
                raise ValueError(f"its packs are not of the {starts} starts of the run")
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"resume: {self._state} does not tell how far the run had come ({error}); give the folder of a run."
            ) from error
        return dict(state)

    @staticmethod
    def _check_alike(there: Mapping[str, Any], here: Mapping[str, Any], why: str = "") -> None:
        """Refuse to go on with what differs; a run of an earlier version may not have stored all of it."""
        differ = [
            f"{key} ({briefly(there[key])} there, {briefly(here[key])} here)"
            for key in here
            if key in there and there[key] != here[key]
        ]
        if differ:
            raise InputError(
                f"resume: {why}this run differs from the one in the folder in {'; '.join(differ)}; give the same "
                "options and pictures, or begin a new run."
            )


def _stored(checkpoint: Path) -> dict[str, Any]:
    """The entries of a checkpoint that describe its run."""
    try:
        with opened(checkpoint) as file:
            check_checkpoint(checkpoint, file)
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["hillstart"]
        return dict(stored, pack=int(stored["pack"]))
    except Exception as error:  # torch raises whatever the damage leads to
        raise InputError(
            f"resume: {checkpoint} is not a checkpoint of such a training; give the folder of an earlier run."
        ) from error
