"""The house rules: imports point one way, scripts are doorways, and a wheel carries everything a run needs."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from forking import run_forked

TOP = Path(__file__).parent.parent
SOURCE = TOP / "src" / "hillstart"


def test_the_theory_needs_torch_alone() -> None:
    for name in ("network", "arguments"):  # the other holds its checks of what is passed
        modules = set()
        for node in ast.walk(ast.parse((SOURCE / f"{name}.py").read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module or "")
        roots = {module.split(".")[0] for module in modules - {"hillstart.arguments"}}
        assert roots - set(sys.stdlib_module_names) <= {"torch", "jaxtyping"}


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted((TOP / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_scripts_are_doorways(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= 25
    run = subprocess.run if script.stem in ("train", "predict", "serve") else run_forked
    shown: Any = run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout


@pytest.mark.slow
def test_make_help_lists_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=TOP, capture_output=True, text=True, check=True).stdout
    phony = next(line for line in (TOP / "Makefile").read_text().splitlines() if line.startswith(".PHONY"))
    assert all(f"make {target}" in shown for target in phony.removeprefix(".PHONY:").split())


@pytest.mark.slow
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
    code = "import hillstart; from hillstart.config import conf; print(conf.__file__, conf.conf_folder(), sep='\\n'); "
    code += "print(hillstart.__version__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    site = tmp_path / "site/hillstart"
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    assert shown == [str(site / "config/conf.py"), str(site / "conf"), version]
    ours = {path.relative_to(TOP / "conf") for path in (TOP / "conf").rglob("*.yaml")}
    carried = {
        path.relative_to(tmp_path / "site/hillstart/conf")
        for path in (tmp_path / "site/hillstart/conf").rglob("*.yaml")
    }
    assert ours == carried
