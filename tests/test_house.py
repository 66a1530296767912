"""The house itself: pins, layers, names, what a clone must contain."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "scripts" / "klmap"
MODULES = sorted(path.stem for path in LIBRARY.glob("*.py") if path.stem != "__init__")
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))


def imports(path: Path) -> set[str]:
    """Top-level packages, and klmap's modules as `klmap.x`, that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    short = {name.split(".")[0] for name in found if not name.startswith("klmap")}
    return short | {".".join(name.split(".")[:2]) for name in found if name.startswith("klmap.")}


def layers() -> list[list[str]]:
    """Modules by layer, as docs/architecture.md lists them."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("| layer | modules |")[2].partition("\n\n")[0]
    rows = [line.split("|")[2] for line in table.splitlines()[2:]]
    return [[name for name in re.findall(r"`(\w+)`", row) if name in MODULES] for row in rows]


def test_architecture_lists_every_module_once():
    listed = [name for layer in layers() for name in layer]
    assert sorted(listed) == MODULES


def test_no_import_goes_up():
    level = {name: number for number, layer in enumerate(layers()) for name in layer}
    for name in MODULES:
        for imported in imports(LIBRARY / f"{name}.py"):
            other = imported.removeprefix("klmap.")
            if imported.startswith("klmap.") and other in level:
                assert level[other] <= level[name], f"{name} imports {other} from a higher layer"


def test_heavy_packages_stay_in_their_modules():
    for name in MODULES:
        used = imports(LIBRARY / f"{name}.py")
        if not name.startswith(("scorer", "zoo", "tokens")):
            assert not used & {"torch", "transformers"}, name
        if not name.startswith("store"):
            assert "h5py" not in used, name
        assert "snakemake" not in used, name


def test_modules_have_one_subject():
    for name in MODULES:
        lines = len((LIBRARY / f"{name}.py").read_text().splitlines())
        assert lines <= 420, f"{name} has {lines} lines: two subjects in one room?"
    for name in SCRIPTS:
        lines = len((ROOT / "scripts" / name).read_text().splitlines())
        assert lines <= 70, f"scripts/{name} has {lines} lines"
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= 60
    assert len((ROOT / "rules" / "common.smk").read_text().splitlines()) <= 470


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_explains_itself(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
    docstring = ast.get_docstring(ast.parse((ROOT / "scripts" / script).read_text()))
    assert docstring
    assert docstring.split()[0] in done.stdout


def test_every_shell_rule_has_its_script():
    for path in (ROOT / "rules").glob("*.smk"):
        rules = re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]
        for rule in rules:
            name = rule.partition(":")[0]
            for script in re.findall(r"\{SCRIPTS\}/(\w+)\.py", rule):
                assert script == name, f"{path.name}: rule {name} calls {script}.py"


def test_conda_environments_repeat_the_pins():
    lines = (ROOT / "envs" / "requirements.txt").read_text().splitlines()
    pins = {line for line in lines if line and not line.startswith("#")}
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert "torch==2.13.0" in pins
    for path in sorted((ROOT / "envs").glob("*.yaml")):
        listed = yaml.safe_load(path.read_text())["dependencies"][-1]["pip"]
        assert set(listed) <= pins, path.name


def test_the_analysis_environment_has_all_that_is_imported():
    """All but the modules that load models run in it, wherever it is deployed."""
    listed = yaml.safe_load((ROOT / "envs/analysis.yaml").read_text())["dependencies"][-1]["pip"]
    names = {pin.partition("==")[0].lower().replace("_", "-") for pin in listed}
    distributions = packages_distributions()
    for name in MODULES:
        if name.startswith(("scorer", "zoo", "tokens")):
            continue
        for package in imports(LIBRARY / f"{name}.py") - set(sys.stdlib_module_names):
            if not package.startswith("klmap"):
                found = {part.lower().replace("_", "-") for part in distributions[package]}
                assert found & names, f"{name} imports {package}, which analysis.yaml lacks"


def test_installed_versions_are_the_pinned_ones():
    from importlib.metadata import version

    for line in (ROOT / "envs" / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, pinned = line.partition("==")
            assert version(name).partition("+")[0] == pinned, name


def test_default_profile_is_policy_only():
    profile = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    assert profile["rerun-triggers"] == ["mtime", "params", "input"]
    assert "default-resources" not in profile


def test_nothing_points_outside_the_clone():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".png", ".svg"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        assert str(ROOT.parent) + "/" not in text, f"{name} names a folder of one machine"
