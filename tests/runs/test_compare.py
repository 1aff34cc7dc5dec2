"""Runs compared: the statistics against known answers, the sentences, and files as they lie about."""

import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as students_t

from forking import run_forked
from hillstart.cli.compare import main
from hillstart.runs.compare import Comparison, _joined, compare
from hillstart.runs.findings import sentences
from hillstart.runs.significance import difference_of_means, difference_of_medians, holm, p_value, superiority
from launching import refused
from made import SMALL

TOP = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("empty_folder")
HEADINGS = ["seed", "eta", "epochs", "status", "train_cost", "val_cost", "val_accuracy", "rank"]
LOW = [0.60, 0.61, 0.61, 0.62, 0.62, 0.63, 0.63, 0.64, 0.64, 0.65]
HIGH = [value + 0.1 for value in LOW]
ALMOST = [0.708, 0.707, 0.707, 0.708, 0.704, 0.712, 0.709, 0.708, 0.703, 0.697, 0.707, 0.714]
OPTIONS = "{seed: 0, data: {seed: 0, augment: none}, descent: {eta: 0.1}, logger: {save_dir: here}}"


def values(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=float)


def write_run(
    folder: Path,
    accuracies: Sequence[object],
    *,
    diverged: int = 0,
    ranked: bool = True,
    options: str | None = OPTIONS,
    summary: dict[str, Any] | None = None,
    val: int = 100,
    seeds: Sequence[int] = range(1000),
) -> str:
    """The files of a run; the validation cost is 1 less the accuracy where that is a number."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEADINGS)
        for seed, accuracy in zip(seeds, accuracies, strict=False):
            cost = 1 - accuracy if isinstance(accuracy, float) else 1
            table.writerow([seed, 0.1, 3, "finished", 0.1, cost, accuracy, seed + 1 if ranked else ""])
        for seed in seeds[len(accuracies) : len(accuracies) + diverged]:
            table.writerow([seed, 0.1, 3, "diverged", "nan", "inf", 0.1, seed + 1 if ranked else ""])
    if options is not None:
        (folder / ".hydra").mkdir(exist_ok=True)
        (folder / ".hydra/config.yaml").write_text(options)
    about = {"classes": ["lion", "duck"], "pictures": {"train": 400, "val": val, "test": 50}}
    (folder / "summary.json").write_text(json.dumps(about | (summary or {})))
    return str(folder)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
        main()
        return capsys.readouterr().out

    return call


def said(*runs: str, on: str = "val_accuracy", reference: str = "first") -> str:
    return " ".join(sentences(compare([*map(Path, runs)], on, reference)))


def compared(*runs: str) -> list[Comparison]:
    return compare([*map(Path, runs)]).comparisons


# ---------------------------------------------------------------- statistics


def test_the_interval_of_medians_is_that_of_all_resamples() -> None:
    """Of 7^7 resamples of 7 values, 0.9% have the least as median, 10% one of the two least: so the second least."""
    found = difference_of_medians(values(0, 0), values(1, 2, 4, 8, 16, 32, 64))
    assert (found.value, found.low, found.high) == (8, 2, 32)


def test_the_interval_of_means_is_welchs_by_hand() -> None:
    found = difference_of_means(values(1, 2, 3, 4), values(2, 4, 6, 8))
    error, freedom = math.sqrt(25 / 12), (25 / 12) ** 2 / ((5 / 12) ** 2 / 3 + (20 / 12) ** 2 / 3)
    half = error * students_t.ppf(0.975, freedom)
    assert (found.value, found.low, found.high) == pytest.approx((2.5, 2.5 - half, 2.5 + half), abs=1e-12)


@pytest.mark.parametrize("of", [difference_of_medians, difference_of_means])
def test_a_shift_is_found_the_same_each_time_and_nothing_between_equal_runs(of: Any) -> None:
    A, B = values(*LOW), values(*HIGH)
    same, up, down = of(A, A), of(A, B), of(B, A)
    assert same.value == 0 and same.low < 0 < same.high and not same.shown()
    assert 0.05 < up.low < up.value < up.high < 0.15 and up.value == pytest.approx(0.1) and up.shown()
    assert down.high < 0 and down.shown()
    A, B = np.random.default_rng(0).normal(size=(2, 40))  # no ties, so that another resampling gives another interval
    assert of(A, B) == of(A, B)


@pytest.mark.parametrize("of", [difference_of_medians, difference_of_means])
def test_values_that_do_not_vary_and_rounding(of: Any) -> None:
    """Warnings are errors here: scipy's about lost precision must not reach the user."""
    flat, higher = values(*[0.7] * 12), values(*[0.8] * 12)
    assert (of(flat, flat).low, of(flat, flat).high) == (0, 0)
    assert of(flat, higher).low == of(flat, higher).high == pytest.approx(0.1)
    assert of(flat, values(*LOW)).high < 0
    assert not of(values(0.1 + 0.2, 0.1 + 0.2), values(0.3, 0.3)).shown()


@pytest.mark.parametrize(
    ("A", "B", "share"),
    [
        ([1, 2], [2, 3], 3.5 / 4),
        ([1, 2], [1, 2], 0.5),
        ([5, 5, 5], [5], 0.5),
        ([3, 1, 2], [9], 1),
        ([3, 1, 2], [0], 0),
        ([1, 3, 3, 5], [3, 4], (2 / 4 + 3 / 4) / 2),
    ],
)
def test_superiority_counts_pairs_and_ties_by_half(A: list[float], B: list[float], share: float) -> None:
    assert superiority(values(*A), values(*B)) == pytest.approx(share)
    assert superiority(values(*A), values(*B), lower_is_better=True) == pytest.approx(1 - share)
    assert superiority(values(*B), values(*A)) == pytest.approx(1 - share)


def test_pairs_are_resampled_and_tested_as_pairs() -> None:
    """A shift that is the same for every seed is certain, however far the seeds lie apart."""
    A = np.random.default_rng(0).normal(size=20)
    e = np.random.default_rng(1).normal(size=20) / 100
    B = A + 0.1 + e
    alone, paired = difference_of_medians(A, B), difference_of_medians(A, B, paired=True)
    assert not alone.shown() and paired.shown()
    assert paired.value == pytest.approx(np.median(0.1 + e)) and paired.high - paired.low < 0.03
    half = (0.1 + e).std(ddof=1) / math.sqrt(20) * students_t.ppf(0.975, 19)
    found = difference_of_means(A, B, paired=True)
    assert (found.low, found.high) == pytest.approx(((0.1 + e).mean() - half, (0.1 + e).mean() + half), abs=1e-12)
    assert p_value(A, B) > 0.5 and p_value(A, B, paired=True) == pytest.approx(2 / 2**20)  # all 20 signs alike
    assert superiority(values(1, 2, 3), values(2, 2, 1), paired=True) == 0.5
    assert superiority(values(1, 2, 3), values(2, 3, 1), paired=True, lower_is_better=True) == pytest.approx(1 / 3)
    same = values(0.1 + 0.2, 1.1 + 2.2), values(0.3, 3.3)  # equal but for rounding
    assert p_value(*same, paired=True) == 1 and difference_of_means(*same, paired=True).high == 0


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1, 1] and holm([]) == []


# ---------------------------------------------------------------- pairs and many runs


def test_runs_are_paired_where_seeds_and_pictures_are_the_same() -> None:
    """The same accuracies in another order: only pairs show that each seed gained."""
    wide = [0.60, 0.64, 0.68, 0.72, 0.76, 0.80, 0.84, 0.88, 0.92, 0.96]
    gain = [x + 0.01 + 0.001 * (k % 3) for k, x in enumerate(wide)]
    a, b = write_run(Path("a"), wide), write_run(Path("b"), gain, options=OPTIONS.replace("eta: 0.1", "eta: 0.2"))
    (c,) = compared(a, b)
    assert c.paired and c.pairs == 10 and c.shown() and c.superiority == 1
    assert "compared seed by seed, 10 pairs" in said(a, b)
    partly = write_run(Path("partly"), gain[2:], seeds=range(2, 20), diverged=1)
    (c,) = compared(a, partly)
    assert (c.pairs, c.medians.value) == (8, pytest.approx(0.011)) and "2 of A have no partner" in said(a, partly)
    for name, other in {
        "no seeds in common": {"seeds": range(50, 60)},
        "2 seeds in common, which are too few": {"seeds": range(8, 18)},
        "network.hidden differ": {"options": OPTIONS[:-1] + ", network: {hidden: [60]}}"},
        "start_from differ": {"options": OPTIONS[:-1] + ", start_from: model}"},
        "data.seed": {"options": OPTIONS.replace("data: {seed: 0", "data: {seed: 1")},
        "options of both are not known": {"options": None},
    }.items():
        other = write_run(Path(name), gain, **other)
        assert not compared(a, other)[0].paired
        assert "A and B are compared as independent samples: " in said(a, other) and name in said(a, other)
    (c,) = compared(a, other)
    assert not c.shown() and 0.5 < c.superiority < 0.6


def test_many_runs_are_corrected_by_holm(command: Any) -> None:
    rng = np.random.default_rng(0)
    names = [write_run(Path(f"r{k}"), (0.7 + rng.normal(size=12) / 100).tolist()) for k in range(4)]
    better = write_run(Path("better"), (0.75 + rng.normal(size=12) / 100).tolist(), seeds=range(50, 99))
    found = compare([*map(Path, [*names, better])])
    assert [c.names for c in found.comparisons] == [("A", name) for name in "BCDE"]
    assert [c.p_corrected for c in found.comparisons] == holm([c.p for c in found.comparisons])
    assert [c.paired for c in found.comparisons] == [True, True, True, False]
    assert [c.shown() for c in found.comparisons] == [False, False, False, True]
    shown = command(*names, better)
    assert max(map(len, shown.splitlines())) <= 80 and "E - A, medians" in shown
    assert "p, Holm" in shown and "corrected by Holm's method" in " ".join(shown.split())
    best = compare([*map(Path, [*names, better])], reference="best")
    assert best.reference == "E" and [c.names for c in best.comparisons] == [("E", name) for name in "ABCD"]
    assert "by chance" in " ".join(sentences(best)) and "by chance" not in " ".join(sentences(found))
    assert "C and E are the same run" in said(*names, names[2])
    # a difference that one comparison shows, and that four do not
    (alone,) = compared(names[0], almost := write_run(Path("almost"), ALMOST, seeds=range(50, 99)))
    assert alone.shown() and 0.0125 < alone.p < 0.05, alone.p
    last = compared(*names, almost)[-1]
    assert not last.shown() and last.p == alone.p and "leaves 0 out" in said(*names, almost)


def test_test_figures_of_each_start_are_compared_where_they_are(command: Any) -> None:
    a, b = write_run(Path("a"), LOW), write_run(Path("b"), HIGH)
    assert "a/starts.csv: has no column test_accuracy" in refused(command, a, b, "--on", "test_accuracy")
    for run, lead in ((a, 0.0), (b, 0.2)):
        rows = Path(run, "starts.csv").read_text().splitlines()
        more = ["test_accuracy", *(str(0.5 + lead + k / 100) for k in range(len(rows) - 1))]
        Path(run, "starts.csv").write_text("".join(f"{x},{y}\n" for x, y in zip(rows, more, strict=True)))
    assert "B's starts are better than A's by 0.2" in said(a, b, on="test_accuracy")
    assert "same 50 test pictures (standard error of an accuracy 0.07" in said(a, b, on="test_accuracy")


# ---------------------------------------------------------------- sentences


def test_the_better_run_is_named_whichever_way_is_better() -> None:
    low, high = write_run(Path("low"), LOW), write_run(Path("high"), HIGH)
    assert "B's starts are better than A's by 0.1 (95% interval 0.1" in said(low, high)
    assert "A's starts are better than B's by 0.1 (95% interval 0.1" in said(high, low)
    assert "B's starts are better than A's by 0.1 (95% interval 0.1" in said(low, high, on="val_cost")
    assert "lower val_cost" in said(low, high, on="val_cost")
    assert "B's is the better in 100%" in said(low, high, on="val_cost")
    nothing = said(low, low)
    assert "No difference between A and B shown" in nothing
    assert "better than" not in nothing
    assert "B's is the better in 50%" in nothing


def test_what_is_not_covered_is_said() -> None:
    a, b = write_run(Path("a"), LOW), write_run(Path("b"), HIGH)
    assert "same 100 validation pictures (standard error of an accuracy 0.048)" in said(a, b)  # 0.625 right
    assert "same 100 validation pictures;" in said(a, b, on="val_cost")
    shown = write_run(Path("c"), HIGH, options=OPTIONS.replace("augment: none", "augment: photo"))
    assert "same 100 validation pictures" in said(a, shown)
    for name, other in {
        "data.seed": write_run(Path("d"), HIGH, options=OPTIONS.replace("data: {seed: 0", "data: {seed: 1")),
        "pictures.val": write_run(Path("e"), HIGH, val=400),
        "classes": write_run(Path("f"), HIGH, summary={"classes": ["cat", "dog"]}),
    }.items():
        assert f"did not use the same pictures ({name} differ)" in said(a, other)
        assert "mixes data and descent" in said(a, other)
    bare = write_run(Path("g"), HIGH, options=None)
    Path("g/summary.json").unlink()
    assert "is not known" in said(a, bare)


def test_cautions() -> None:
    a, b = write_run(Path("a"), LOW), write_run(Path("b"), HIGH, diverged=3)
    assert "diverged" not in said(a, a)
    assert "3 of the 13 starts of B diverged" in said(a, b)
    assert "A has 4 sound starts only" in said(write_run(Path("few"), LOW[:4]), b)
    assert "rough guide" not in said(a, b)
    assert "A is not finished" in said(write_run(Path("going"), LOW, ranked=False), b)
    flat = write_run(Path("flat"), [0.7] * 12)
    assert "no width" in said(flat, flat)
    outlier = write_run(Path("outlier"), [*LOW[:-1], 0.0])
    more = write_run(Path("c"), [x + 0.02 for x in LOW])
    assert "The means of A and B do not show a difference" in said(outlier, more)


def test_values_of_an_option_stand_by_their_size() -> None:
    for most in range(2, 20):
        found = _joined({"eta": value} for value in (math.nan, "auto", *range(most)))
        assert found == {"eta": ", ".join([*map(str, range(most)), "auto", "nan"])}


def test_a_sweep_and_a_grid() -> None:
    """A sweep's root has a table with further columns; options and pictures lie with its jobs."""
    etas = (0.1, 10, 2)
    for job, eta in enumerate(etas):
        write_run(Path(f"sweep/{job}"), LOW, options=OPTIONS.replace("eta: 0.1", f"eta: {eta}"))
    jobs = enumerate(etas)
    rows = [[job, s, eta, 3, "finished", 0.1, 0.4, x, s + 1] for job, eta in jobs for s, x in enumerate(LOW)]
    with Path("sweep/starts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["job", *HEADINGS], *rows])
    both = compare([Path(write_run(Path("a"), LOW)), Path("sweep")])
    (c,) = both.comparisons
    assert len(both.runs["B"].values) == 30
    assert c.differing_options == {"descent.eta": ("0.1", "0.1, 2, 10")}
    assert c.other_pictures == [] and not c.paired
    assert "several starts of B have the same seed" in " ".join(sentences(both))
    assert "starts of B differ in more than their seeds" in " ".join(sentences(both))
    assert "starts of A differ" not in " ".join(sentences(both))
    again = Path(write_run(Path("lmbda"), LOW))
    again.joinpath("starts.csv").write_text(again.joinpath("starts.csv").read_text().replace("\n1,", "\n0,"))
    assert "starts of A differ in more than their seeds" in said("lmbda", "a")


def test_costs_of_different_kinds_are_not_compared(command: Any) -> None:
    quadratic = write_run(Path("a"), LOW, summary={"cost": "quadratic"})
    other = write_run(Path("b"), HIGH, summary={"cost": "cross_entropy"})
    for on in ("val_cost", "train_cost"):
        assert "network.cost" in refused(command, quadratic, quadratic, other, "--on", on)
    assert "B's starts are better" in said(quadratic, other)
    by_option = write_run(Path("c"), HIGH, options="{network: {cost: log_likelihood}}")  # of an earlier version
    assert "network.cost" in refused(command, quadratic, by_option, "--on", "val_cost")
    for job, cost in enumerate(("quadratic", "cross_entropy")):
        write_run(Path(f"sweep/{job}"), LOW, summary={"cost": cost})
    Path("sweep/starts.csv").write_text(Path("sweep/0/starts.csv").read_text())
    assert "network.cost" in refused(command, "sweep", "sweep", "--on", "val_cost")


def test_on_other_pictures_none_is_better() -> None:
    def seen(name: str, sha256: str, shape: int = 28, options: str = OPTIONS) -> str:
        on = {"shape": [1, shape, shape], "sha256": sha256, "labels": "l"}
        return write_run(Path(name), HIGH if name == "b" else LOW, summary={"validated_on": on}, options=options)

    a, seeded = seen("a", "x"), OPTIONS.replace("data: {seed: 0", "data: {seed: 1")
    assert "are better" not in said(a, seen("b", "y"))
    assert "is the better" not in said(a, "b")
    assert "did not use the same pictures (the pictures themselves" in said(a, "b")
    assert not compared(a, "b")[0].paired
    assert "data.seed" in said(a, seen("b", "y", options=seeded))
    assert "are better" in said(a, seen("b", "x", options=seeded))  # whatever differed was not in these pictures
    assert "are better" in said(a, seen("b", "y", shape=14))  # the same ones at another size


def test_a_race_and_a_run_against_itself_are_told() -> None:
    a, b = write_run(Path("a"), LOW), write_run(Path("b"), HIGH)
    raced = write_run(Path("raced"), LOW, options=OPTIONS[:-1] + ", stop: {race: 4, patience: null}}")
    calm = write_run(Path("calm"), LOW, options=OPTIONS[:-1] + ", stop: {race: null, patience: 4}}")
    assert "B was trained with stop.race" in said(a, raced)
    assert "stop.race" not in said(a, calm)
    assert "the same run" not in said(a, b)
    assert "A and B are the same run" in said(a, "b/../a")
    assert "the same run" in said(a, write_run(Path("copy"), LOW))
    job = write_run(Path("a/0"), LOW[:5])
    assert "share starts" in said(a, job)


# ---------------------------------------------------------------- command


def test_the_terminal_shows_both_runs_within_80_columns(command: Any) -> None:
    a = write_run(Path("a"), LOW, diverged=2, summary={"test_accuracy": 0.6123, "vote_test_accuracy": 0.6456})
    b = write_run(Path("b"), HIGH, options=OPTIONS.replace("0.1", "0.25").replace("here", "there"))
    shown = command(a, b)
    assert max(map(len, shown.splitlines())) <= 80
    row_a, row_b = (line.split() for line in shown.splitlines() if line.split()[1:2] in (["10"], ["12"]))
    assert row_a == ["A", "10", "2", "0.6000", "0.6125", "0.6250", "0.6375", "0.6500", "0.6123", "0.6456"]
    assert row_b == ["B", "10", "0", "0.7000", "0.7125", "0.7250", "0.7375", "0.7500", "-", "-"]
    assert ["descent.eta", "0.1", "0.25"] in [line.split() for line in shown.splitlines()]
    assert "save_dir" not in shown
    assert "No option differs." in command(a, a)
    assert "A: [bold]:duck:" in command(write_run(Path("[bold]:duck:"), LOW), a)


def test_json_is_one_object_and_always_the_same(command: Any) -> None:
    a, b = write_run(Path("a"), LOW), write_run(Path("b"), HIGH, diverged=1, summary={"test_accuracy": 0.7})
    first = command(a, b, "--json", "--on", "val_cost")
    found = json.loads(first)
    assert found["on"] == "val_cost"
    assert found["runs"]["B"]["diverged"] == 1
    assert found["runs"]["B"]["test_accuracy"] == 0.7
    assert found["runs"]["A"]["test_accuracy"] is None
    assert found["runs"]["A"]["median"] == pytest.approx(0.375)
    (comparison,) = found["comparisons"]
    assert (comparison["names"], comparison["paired"], comparison["pairs"]) == (["A", "B"], True, 10)
    assert comparison["medians"]["value"] == pytest.approx(-0.1) == comparison["means"]["high"]
    assert comparison["superiority"] == 1 and comparison["shown"] is True
    assert command(a, b, "--json", "--on", "val_cost") == first


TABLE = ",".join(HEADINGS)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "0 of 0 starts"),
        (TABLE, "0 of 0 starts"),
        ("seed,status\n0,finished\n", "columns"),
        (f"{TABLE}\n0,0.1,3,finished,1,1,high,1\n", "starts.csv: row 1: val_accuracy"),
        (f"{TABLE}\n0,0.1,3,finished,1,1,nan,1\n", "starts.csv: row 1: val_accuracy"),
        (f"{TABLE}\n0,0.1,3,finished,1,1,0.5,1\n1,0.1,3,fini", "starts.csv: row 2: "),
        (f"{TABLE}\n0,0.1,3,finished,1,1,0.5,1,7,7\n", "starts.csv: row 1: "),
        (f"{TABLE}\n0,0.1,3,lost,1,1,0.5,1\n", "starts.csv: row 1: status"),
        (f"{TABLE}\n0,0.1,3,diverged,nan,nan,nan,1\n", "bad: 0 of 1 starts"),
        (f"{TABLE}\n0,0.1,3,finished,1,1,0.5,1\n", "bad: 1 of 1 starts"),
        (b"PK\x03\x04\xff\xfe\x00", "starts.csv: cannot be read"),
    ],
)
def test_a_damaged_table_is_answered_in_one_sentence(content: str | bytes, named: str, command: Any) -> None:
    good, bad = write_run(Path("good"), LOW), write_run(Path("bad"), LOW)
    Path("bad/starts.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert named in refused(command, good, bad)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("summary.json", '{"test_accuracy": "good"}'),
        (".hydra/config.yaml", "a: [\nb"),
        (".hydra/config.yaml", "- 1"),
    ],
)
def test_a_damaged_companion_is_named(file: str, content: str, command: Any) -> None:
    good, bad = write_run(Path("good"), LOW), write_run(Path("bad"), LOW)
    Path(bad, file).write_text(content)
    assert f"bad/{file}" in refused(command, good, bad)


def test_a_folder_that_is_none_or_no_runs(command: Any) -> None:
    good = write_run(Path("good"), LOW)
    assert "nowhere/starts.csv" in refused(command, good, "nowhere")
    Path("empty").mkdir()
    assert "empty/starts.csv" in refused(command, "empty", good)
    assert "n" * 300 in refused(command, good, "n" * 300)


@pytest.mark.parametrize("arguments", [[], ["good"], ["good", "good", "--on", "seed"]])
def test_wrong_usage_ends_with_2(arguments: list[str], command: Any) -> None:
    write_run(Path("good"), LOW)
    with pytest.raises(SystemExit) as end:
        command(*arguments)
    assert end.value.code == 2


@pytest.mark.slow
def test_the_script_reads_what_training_writes(train: Any) -> None:
    for name, eta in (("a", 0.1), ("b", 0.2)):
        train(*SMALL, "starts=3", f"descent.eta={eta}", f"hydra.run.dir={name}")
    script = [sys.executable, str(TOP / "scripts/compare.py"), "a"]
    good = run_forked([*script, "b"], capture_output=True, text=True)
    assert (good.returncode, good.stderr) == (0, "")
    assert "\x1b" not in good.stdout
    assert "same 24 validation pictures" in " ".join(good.stdout.split())
    assert ["descent.eta", "0.1", "0.2"] in [line.split() for line in good.stdout.splitlines()]
    bad = run_forked([*script, "c"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert bad.stderr.startswith("hillstart: c/starts.csv: ") and bad.stderr.count("\n") == 1
