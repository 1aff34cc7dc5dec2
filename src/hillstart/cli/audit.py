"""Audit a folder of pictures before training: `hillstart-audit` and `scripts/audit.py`."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from hillstart.data.audit import KINDS, NOTED, REFUSED, Finding, by_kind
from hillstart.data.folder import examine
from hillstart.system.console import end, visible
from hillstart.system.errors import InputError

SHOWN = 5
"""Findings of a kind that are listed without --all."""


def parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Is this folder of pictures fit to train on? Exit code 0: yes; 1: training would refuse something, "
        "or something spoils the measurement; 2: wrong use."
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="as data.root: FOLDER/CLASS or FOLDER/train/CLASS")
    parser.add_argument("--size", type=int, default=32, help="as data.size: copies are compared at it (%(default)s)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object with every finding")
    form.add_argument("--all", action="store_true", help=f"list every finding, not the first {SHOWN} of a kind")
    return parser


def main() -> None:
    """Exit code 0 if nothing is wrong, 1 if training would refuse something or something spoils the measurement, 2 if
    the options or the folder cannot be used.
    """
    options = parser().parse_args()
    try:
        findings, counts = examine(root=options.folder, size=options.size)
    except InputError as error:
        end(error, 2)
    if options.json:
        print(_json(options.folder, findings, counts))
    else:
        for line in _lines(options.folder, findings, counts, None if options.all else SHOWN):
            print(visible(line))
    sys.exit(1 if any(finding.weight != NOTED for finding in findings) else 0)


def _lines(folder: Path, findings: list[Finding], counts: dict[str, dict[str, int]], most: int | None) -> Iterator[str]:
    for split, of_split in counts.items():
        where = split if len(counts) > 1 else str(folder)
        yield f"{where}: {sum(of_split.values())} pictures, {', '.join(f'{name} {n}' for name, n in of_split.items())}"
    if "test" not in counts and any(finding.kind == "copies" for finding in findings):
        yield "The test is drawn from these pictures: of the copies below, one may be learned and the other tested."
    for kind, found in by_kind(findings).items():
        weight, heading = KINDS[kind]
        yield ""
        yield f"{weight}: {heading}: {len(found)}"
        yield from (f"  {finding.text}" for finding in found[:most])
        if most is not None and len(found) > most:
            yield f"  and {len(found) - most} more; --all lists them"
    weights = [finding.weight for finding in findings]
    refused, spoils = weights.count(REFUSED), len(weights) - weights.count(REFUSED) - weights.count(NOTED)
    yield ""
    if refused or spoils:
        yield f"{refused} findings that training refuses, {spoils} that spoil the measurement."
    else:
        yield "All is well."


def _json(folder: Path, findings: list[Finding], counts: dict[str, dict[str, int]]) -> str:
    """JSON in ASCII, so that any file name survives any pipe: `os.fsencode(path)` restores its bytes."""
    listed = [
        {"kind": kind, "weight": finding.weight, "paths": list(map(str, finding.paths)), "said": finding.text}
        for kind, found in by_kind(findings).items()
        for finding in found
    ]
    return json.dumps({"folder": str(folder), "pictures": counts, "findings": listed})
