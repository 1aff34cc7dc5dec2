"""Train the starts that the options ask for: `hillstart-train` and `scripts/train.py`, by Hydra."""

import logging
import math
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from hillstart.cli.help import page
from hillstart.cli.mistakes import USER_ERRORS, explain, one_sentence, wants_traceback
from hillstart.cli.options import (
    give_own_folders,
    resumed_checkpoint,
    resumed_options,
    resumed_sweeps,
    resuming,
    with_quiet_rank,
    with_resumed_folder,
    with_starts_of_seeds,
)
from hillstart.cli.words import readable
from hillstart.config.build import (
    PER_START,
    build_callbacks,
    build_logger,
    build_run_spec,
    check_devices,
    composed_options,
    plain,
    trainer_maker,
)
from hillstart.config.code import targets
from hillstart.config.conf import conf_folder
from hillstart.config.options import STARTS, RunOptions, read_options
from hillstart.report.box import check_shown
from hillstart.runs import experiment, sweep
from hillstart.runs.claim import check_free, claim, remove_run
from hillstart.runs.loggers import begin_parent, end, log_options, log_results
from hillstart.runs.reader import OPTIONS, OVERRIDES
from hillstart.system import interrupts
from hillstart.system.console import outlive, silence_libraries
from hillstart.system.errors import InputError
from hillstart.system.files import WritingError, relative, replacing
from hillstart.training.distributed import connect, launch, on_first_rank
from hillstart.training.packs import RunSpec

log = logging.getLogger(__name__)

STARTS_A_WORKER = 64
"""The number of starts in a pack of a multirun that another launcher distributes, unless `pack` gives it."""


class TrainingTask:
    """The function that Hydra runs: one job, or the jobs of a multirun together (see hydra_plugins.hillstart_packs).

    Args:
        callbacks: of Lightning, for a single job, beside those that the options name.

    Attributes:
        mistakes: wrong options of a single job, in one sentence each; in a multirun they are raised to its launcher.
    """

    per_start = PER_START
    per_pack = ("logger",)

    def __init__(self, traceback: bool, callbacks: Sequence[pl.Callback] = ()):
        self.mistakes: list[str] = []
        self._traceback, self._callbacks = traceback, callbacks

    def __call__(self, cfg: DictConfig) -> float | None:
        """Train one job; return the median over its starts of the lowest validation cost, for sweepers."""
        # If it were raised, Hydra would print the mistake of a single job in its own format.
        try:
            silence_libraries()
            return self._train(cfg)
        except USER_ERRORS as error:
            if self._traceback or HydraConfig.get().mode is RunMode.MULTIRUN:
                raise
            self.mistakes.append(explain(error))
            _claims.callback(_remove_refused, _output_folder())
            return None

    def together(
        self, cfgs: Iterable[DictConfig], done: Collection[int]
    ) -> Iterator[tuple[int, Callable[[DictConfig], float] | Exception]]:
        """Train the starts of all jobs that are not done as they would be trained with these; each job writes its own
        result, in its own Hydra context."""
        silence_libraries()
        jobs: dict[int, RunOptions] = {}
        for index, cfg in enumerate(cfgs):
            try:
                options = composed_options(cfg)
                _check_multirun(options)
                jobs[index] = options
            except USER_ERRORS as error:
                yield index, error
        if not jobs:
            return
        numbers, first = list(jobs), next(iter(jobs.values()))
        trainer = trainer_maker(
            first.trainer, _output_folder(), checkpoints=False, callbacks=partial(build_callbacks, first.callbacks)
        )
        try:
            build_logger(first.logger, _output_folder())  # each job has its own; a wrong option is found now
            spec = build_run_spec(first)
            _check_objective(first, spec)
        except USER_ERRORS as error:
            yield from ((index, error) for index in jobs if index not in done)
            return
        starts, trained = [of.all_starts for of in jobs.values()], {numbers.index(index) for index in done}
        keep = first.keep and max(of.keep or 0 for of in jobs.values())  # keep=all: jobs may differ in number of starts
        for result in experiment.run_together(spec, starts, trainer, keep, first.pack, trained):
            yield numbers[result.job], partial(_write_job, result)

    def jobs_per_pack(self, cfg: DictConfig, distributed: bool) -> int | None:
        """The number of jobs whose starts `pack` allows to train together."""
        most = cfg.pack or (STARTS_A_WORKER if distributed else None)
        starts = cfg.starts or (STARTS if isinstance(cfg.seed, int) else len(cfg.seed))
        return max(1, most // starts) if isinstance(most, int) and isinstance(starts, int) else None

    def finished(self, folder: Path, overrides: Sequence[str], held: bool) -> float | None:
        """The result of a job that an interrupted multirun has finished in this folder."""
        return sweep.finished(folder, overrides, held)

    def holding(self, folder: Path) -> AbstractContextManager[None]:
        """Keep other processes from training the same pack."""
        return claim(folder, resume=True)

    def _train(self, cfg: DictConfig) -> float:
        folder, options = _output_folder(), composed_options(cfg)
        alone = HydraConfig.get().mode is not RunMode.MULTIRUN
        if alone:
            interrupts.set_advice(partial(_onward, folder))
        else:
            _check_multirun(options)
        checkpoint = None if options.resume is None else resumed_checkpoint(options.resume)
        if not alone and (folder / "checkpoints" / "packs.json").is_file():  # of a multirun that was interrupted
            checkpoint = resumed_checkpoint(str(folder))
        if options.report:
            check_shown(options.network.activation, options.network.cost)  # not only when all is trained
        ranks = connect(options.trainer.devices, options.trainer.num_nodes)
        if alone:
            _mention_gpu(options.trainer.accelerator, HydraConfig.get().overrides.task)
        logger = build_logger(options.logger, folder, _multirun()) if ranks.is_first else None
        # A rank knows the epochs of its share alone; those of all starts are logged at the end.
        of_run = logger if ranks.size == 1 else None
        callbacks = lambda: [*build_callbacks(options.callbacks), *self._callbacks]  # noqa: E731
        make_trainer = trainer_maker(options.trainer, folder, ranks=ranks, logger=of_run, callbacks=callbacks)
        spec = build_run_spec(options)
        if not alone:
            _check_objective(options, spec)
        accepted = partial(_store_options, folder, cfg)
        if logger:
            log_options(logger, plain(cfg))
        try:
            summary = experiment.run(
                spec, make_trainer, folder, options.keep, options.pack, checkpoint, accepted, ranks
            )
        except WritingError as error:
            raise InputError(
                f"{error} When that is mended, resume={relative(folder)} goes on with this run."
            ) from error
        if summary is None:
            return math.nan
        if options.report and alone:
            interrupts.set_advice(
                lambda: f"only its page is missing: {interrupts.command('report', str(relative(folder)))}"
            )
            _open_the_box(folder, spec)
        if logger:
            log_results(logger, folder, options.descent.batch_size, options.curves)
        return float(summary["val_cost_of_starts"]["median"])


def _check_objective(options: RunOptions, spec: RunSpec) -> None:
    """Refuse objectives that a sweeper cannot compare; Hydra's own sweepers try all jobs and compare nothing."""
    hydra = HydraConfig.get()
    if hydra.runtime.choices.get("hydra/sweeper") not in ("hillstart", "basic"):
        sweep.check_objective(Path(str(hydra.sweep.dir)), options.network.cost, spec.data.validated_on)


def _write_job(done: experiment.JobResult, cfg: DictConfig) -> float:
    folder, options = _output_folder(), composed_options(cfg)
    summary = done.write(folder)
    if logger := build_logger(options.logger, folder, _multirun()):
        log_options(logger, plain(cfg))
        log_results(logger, folder, options.descent.batch_size, options.curves)
    return float(summary["val_cost_of_starts"]["median"])


def _multirun() -> Path | None:
    """The root of the multirun that the job belongs to."""
    hydra = HydraConfig.get()
    return Path(str(hydra.sweep.dir)) if hydra.mode is RunMode.MULTIRUN else None


def _open_the_box(folder: Path, spec: RunSpec | None = None) -> None:
    from hillstart.report import write  # imports Matplotlib, which training does not need

    log.info("writing the page that opens the box ...")
    log.info(f"open it in a browser: {relative(write.write(folder, spec))}")


def _onward(folder: Path) -> str:
    """The advice that resumes the interrupted run in `folder`."""
    if (folder / "checkpoints" / "packs.json").is_file():
        return f"go on with it by: {interrupts.command('train', resuming(relative(folder)))}"
    return "nothing was trained yet."


def _output_folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def _check_multirun(options: RunOptions) -> None:
    of = options.trainer
    if of.devices != 1 or of.num_nodes != 1:
        raise InputError(
            f"trainer.devices={of.devices} trainer.num_nodes={of.num_nodes}: the jobs of a multirun are trained on one "
            "device; without -m, starts=N shares N starts among many."
        )


def _store_options(folder: Path, cfg: DictConfig) -> None:
    """Write the options of a resumed run, once training begins: a refused one must leave the folder unchanged."""
    typed = HydraConfig.get().overrides.task
    for path, content in ((OPTIONS, OmegaConf.to_yaml(cfg)), (OVERRIDES, OmegaConf.to_yaml(typed))):
        with replacing(folder / path) as new:
            new.write_text(content, encoding="utf-8")


class BeforeTraining(Callback):
    """Callback of Hydra (`hydra.callbacks` in conf) that checks options and folder before anything is written."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check all options; those of a resumed run come from its folder."""
        outlive()
        with _exit_with_sentence():
            _check_subfolder(config)
            options = plain(config)
            trusted = set(targets(options))
            if options["resume"] is None:
                checked = read_options(options, trusted)
                _launch(checked)
                _claim(config.hydra.run.dir, overwrite=checked.overwrite)
                return
            folder, typed = Path(str(config.hydra.run.dir)), list(config.hydra.overrides.task)
            options, typed = resumed_options(folder, options, typed)
            _launch(read_options(options, trusted))
            _claim(folder, resume=True)
            with read_write(config), open_dict(config), read_write(config.hydra), open_dict(config.hydra):
                for key, value in options.items():
                    config[key] = value
                config.hydra.overrides.task = typed
                config.hydra.output_subdir = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the folder of the sweep; options are checked when each job is composed."""
        outlive()
        with _exit_with_sentence():
            _check_subfolder(config)
            root, typed = Path(str(config.hydra.sweep.dir)).absolute(), config.hydra.overrides.task
            _mention_gpu(str(config.trainer.accelerator), typed)
            overwrite = any(re.fullmatch(r"\+*overwrite=true", o, re.IGNORECASE) for o in typed)
            _claim(root, overwrite=overwrite, sweep=True, resume=root in resumed_sweeps)
            interrupts.set_advice(lambda: sweep.left(root, interrupts.command("train", resuming(relative(root)))))
            parent = begin_parent(build_logger(plain(config)["logger"], root), root)
            _claims.callback(_close, root, parent, report=bool(config.report))


def _mention_gpu(accelerator: str, typed: Sequence[str]) -> None:
    """Say that there is a GPU, unless the device was chosen by the user."""
    was_chosen = any(re.match(r"\+*trainer\.accelerator=", word) for word in typed)
    if accelerator == "cpu" and not was_chosen and torch.cuda.is_available():
        log.info(
            "a GPU was found but is not used, because training has not yet been proved on one; "
            "trainer.accelerator=cuda uses it."
        )


def _close(root: Path, parent: Logger | None, report: bool) -> None:
    """Write the table and the page of a multirun, however it ended."""
    sweep.close(root)
    if report and sys.exception() is None and (root / "summary.json").is_file():
        try:
            _open_the_box(root)
        except InputError as error:  # for example data that conf does not name; the results are complete
            log.warning(f"the page is left out: {error}")
    if parent:
        end(parent, root)


def _launch(options: RunOptions) -> None:
    check_devices(options.trainer)
    launch(options.trainer.devices, options.trainer.num_nodes)


_claims = ExitStack()
"""The claims of this process on folders."""


def _claim(folder: str | Path, **how: bool) -> None:
    """Claim the folder that this command writes into, until it ends; only the first rank writes."""
    if on_first_rank():
        place = Path(str(folder)).absolute()
        _claims.callback(_remove_empty, place)  # called after the claim has ended
        _claims.enter_context(claim(place, **how))


def _remove_refused(folder: Path) -> None:
    """Remove what a run left that was refused before it trained anything."""
    with suppress(InputError):  # it holds results
        check_free(folder)
        remove_run(folder)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _check_subfolder(config: DictConfig) -> None:
    given, needed = config.hydra.output_subdir, str(OPTIONS.parent)
    if given != needed and on_first_rank():
        raise InputError(
            f"hydra.output_subdir is {given}; it must stay {needed}, where resume= and the report find a run's options."
        )


@contextmanager
def _exit_with_sentence() -> Iterator[None]:
    """Exit with one sentence, or on a bug with its traceback: Hydra would only warn and continue the run."""
    try:
        yield
    except USER_ERRORS as error:
        sys.exit(f"hillstart: {explain(error)}")
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def run(task: TrainingTask, words: Sequence[str]) -> None:
    """Let Hydra run the task with these words, as they would be typed, in place of the arguments of this process."""
    give_own_folders()
    arguments = sys.argv[1:]
    try:
        sys.argv[1:] = with_quiet_rank(with_starts_of_seeds(with_resumed_folder(readable(list(words)))))
        with _claims:
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")(task)()
    finally:
        sys.argv[1:] = arguments


def train() -> None:
    """Run the command; exit with one sentence for each mistake in the options."""
    task, typed = TrainingTask(wants_traceback()), sys.argv[1:]
    with one_sentence():
        if {"-h", "--help"} & set(typed):
            print(page(readable(typed)), end="")
            return
        if "--version" in typed:
            print(f"hillstart {version('hillstart')}")
            return
        run(task, typed)
    if task.mistakes:
        sys.exit("\n".join(f"hillstart: {mistake}" for mistake in task.mistakes))
