"""Jobs of a multirun, sorted into groups that differ in nothing but per-start values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import HydraException


@dataclass
class Job:
    """One job: its number in the sweep, its overrides as written and as parsed, and which are per-start values."""

    number: int
    lines: list[str]
    parsed: list[Override]
    own: list[Override]

    @property
    def others(self) -> list[Override]:
        return [override for override in self.parsed if override not in self.own]

    @property
    def of_task(self) -> list[Override]:
        return [override for override in self.parsed if not override.is_hydra_override()]


@dataclass
class Group:
    """Jobs with the same overrides but for the values of `keys`; `legible` is False where Hydra cannot parse them."""

    jobs: list[Job]
    keys: tuple[str, ...]
    legible: bool

    def __str__(self) -> str:
        if len(self.jobs) == 1:
            return f"1 job: {' '.join(self.jobs[0].lines)}" if self.jobs[0].lines else "1 job"
        common = " ".join(str(override.input_line) for override in self.jobs[0].others)
        return f"{len(self.jobs)} jobs with {common}" if common else f"{len(self.jobs)} jobs"


def grouped(jobs: Mapping[int, Sequence[str]], per_start: Sequence[str]) -> list[Group]:
    """The groups of jobs, given as overrides by number; everything stays in the order in which it was given."""
    parser = OverridesParser.create()
    known: dict[str, Override] = {}  # parsing takes half a millisecond, and most lines come again in the next job
    groups: dict[object, Group] = {}
    for number, lines in jobs.items():
        try:
            for line in lines:
                if line not in known:
                    known[line] = parser.parse_override(line)
            parsed = [known[line] for line in lines]
        except HydraException:
            groups.setdefault(None, Group([], (), False)).jobs.append(Job(number, list(lines), [], []))
            continue
        own = [override for override in parsed if _is_own(override, per_start)]
        job = Job(number, list(lines), parsed, own)
        keys = tuple(key for key in per_start if any(override.key_or_group == key for override in own))
        # A job that leaves a key out keeps conf's value, so it cannot be made from one that sets it.
        hydra = tuple(str(override.input_line) for override in job.others if override.is_hydra_override())
        task = sorted(str(override.input_line) for override in job.others if not override.is_hydra_override())
        groups.setdefault((keys, hydra, tuple(task)), Group([], keys, True)).jobs.append(job)
    return list(groups.values())


def overlap(one: str, other: str) -> bool:
    """True if one dotted key is the other, or lies within it."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _is_own(override: Override, per_start: Sequence[str]) -> bool:
    """True if an override sets a per-start key to a plain value; anything else counts as common to a group."""
    value = override.value()
    return (
        override.key_or_group in per_start
        and override.type is OverrideType.CHANGE
        and override.package is None
        and override.value_type is ValueType.ELEMENT
        and not isinstance(value, dict | list)
        and not (isinstance(value, str) and ("${" in value or value == "???"))
    )
