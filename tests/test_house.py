"""The house rules: imports point one way, scripts are doorways, and a wheel carries everything a run needs."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
SOURCE = TOP / "src" / "hillstart"

# A module may import those above it and no others.
ORDER = [
    *("terminal", "signals", "errors", "files", "claim", "untrusted", "schema"),
    *("network", "machine", "products", "gradient_check", "preprocessing", "images"),
    *("data.augment", "data.pictures", "data.minibatches", "block", "tiling"),
    *("data.pen", "data.lions", "data.ducks", "data.lion_duck"),
    *("data.strokes", "data.idx", "data.cifar10", "data.quickdraw"),
    *("data.decoded", "data.audit", "data.split_names", "data.layout", "data.folder", "auditing"),
    *(
        "provenance",
        "stepping",
        "descent",
        "starts",
        "voting",
        "model_file",
        "inference",
        "answers",
        "predicting",
        "arithmetic",
        "explaining",
        "spreadsheet",
        "exporting",
        "service",
        "connections",
        "serving",
        "calibration",
        "stopping",
        "tables",
        "heartbeat",
        "ranks",
        "replay",
        "tile",
        "pack",
        "training",
        "checkpoints",
        "logs",
    ),
    *(
        "population",
        "run_options",
        "saturation",
        "outcome",
        "run_folder",
        "closing",
        "experiment",
        "sweep",
        "difference",
        "past_run",
        "comparison",
        "progress",
    ),
    *("configuration", "options"),
    *("report.page", "report.charts", "report.reliability", "report.box", "report.finished_run"),
    *("report.hills", "report.paths", "report.one_weight", "report.hill"),
    *("report.matching", "report.lines", "report.valleys"),
    *("report.learning", "report.quality", "report.run_facts", "reporting"),
    "commands",
    *("bench.timing", "bench.runs", "bench.memory", "bench.many_starts"),
    *(
        "bench.multirun",
        "bench.sweep",
        "bench.seeds",
        "bench.peers",
        "bench.speed",
        "bench.predicting",
        "bench.serving",
        "bench.command",
        "bench.results",
    ),
    "doorway",
]


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): path
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py"
    }


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("hillstart.") for name in names if name.startswith("hillstart.")} & set(modules())


def test_every_module_has_its_place_in_the_order() -> None:
    assert set(modules()) == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_one_way(module: str) -> None:
    allowed = set(ORDER[: ORDER.index(module)])
    assert imported(modules()[module]) <= allowed


def test_the_theory_needs_torch_alone() -> None:
    roots = set()
    for node in ast.walk(ast.parse((SOURCE / "network.py").read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").split(".")[0])
    assert roots - set(sys.stdlib_module_names) == {"torch", "jaxtyping"}


@pytest.mark.parametrize("script", sorted((TOP / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_scripts_are_doorways(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 25
    shown = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout


def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=TOP, capture_output=True, text=True, check=True).stdout
    phony = next(line for line in (TOP / "Makefile").read_text().splitlines() if line.startswith(".PHONY"))
    assert all(f"make {target}" in shown for target in phony.removeprefix(".PHONY:").split())


def test_a_wheel_finds_its_conf_far_from_the_checkout(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="building a wheel offline needs hatchling")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        ".",
        str(TOP),
    ]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "import hillstart.run_options as c; print(c.__file__); print(c.conf_folder())"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert shown == [str(tmp_path / "site/hillstart/run_options.py"), str(tmp_path / "site/hillstart/conf")]
    ours = {path.relative_to(TOP / "conf") for path in (TOP / "conf").rglob("*.yaml")}
    carried = {
        path.relative_to(tmp_path / "site/hillstart/conf")
        for path in (tmp_path / "site/hillstart/conf").rglob("*.yaml")
    }
    assert ours == carried
