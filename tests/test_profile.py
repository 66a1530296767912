"""The profile for SLURM: found in every way that its README names, over other profiles too."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
import yaml

from klmap import config_analyses
from tests.project import AGGREGATION, ROOT, Project, make_project

pytestmark = pytest.mark.workflow

PROFILES = ROOT / "profiles"
SITE = "executor: slurm\njobs: 7\ndefault-resources:\n  slurm_account: site\n  mem_mb: 1234\n"
"""What a computing centre hands out, or a user has had for years."""

FAKE_SBATCH = """\
#!/bin/sh
echo "$@" >> "$SUBMITTED"
echo "no such partition" >&2
exit 1
"""
"""Writes down how it was called, and refuses."""


@pytest.fixture
def clone(tmp_path: Path) -> Project:
    """A clone with a home of its own, and commands of a SLURM that takes no job."""
    project = make_project(tmp_path / "klmap")
    commands = tmp_path / "bin"
    commands.mkdir()
    answers = {
        "sbatch": FAKE_SBATCH,
        "scontrol": "#!/bin/sh\necho 'MinJobAge = 300 sec'\n",
        "sinfo": "#!/bin/sh\necho 'main*'\n",
    }
    silent = ("squeue", "sacct", "sacctmgr", "sshare", "scancel")
    for name in (*answers, *silent):
        path = commands / name
        path.write_text(answers.get(name, "#!/bin/sh\n"))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    home = tmp_path / "home"
    home.mkdir()
    project.environment = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "PATH": f"{commands}:{os.environ['PATH']}",
        "SUBMITTED": str(tmp_path / "submitted.txt"),
    }
    return project


def user_profile(clone: Project) -> Path:
    """Where a user's profile of the name slurm lies."""
    assert clone.environment is not None
    path = Path(clone.environment["XDG_CONFIG_HOME"]) / "snakemake" / "slurm"
    path.parent.mkdir(parents=True)
    return path


def submitted(clone: Project, *arguments: str) -> str:
    """How the first job, that of the texts, was submitted."""
    once = ("--retries", "0", "--slurm-init-seconds-before-status-checks", "1")
    clone.snakemake(*arguments, *once, "--until", "texts", check=False)
    assert clone.environment is not None
    path = Path(clone.environment["SUBMITTED"])
    assert path.exists(), "sbatch was never called"
    (call,) = path.read_text().splitlines()
    return call.partition("--wrap")[0]


def is_klmaps(call: str) -> bool:
    """Whether a submission follows klmap's profile, and the rule's own memory and time."""
    return all(part in call for part in ("klmap_", "--requeue", "--mem 8000 ", "-t 240 "))


@pytest.mark.parametrize(
    "arguments",
    [("--profile", "profiles/slurm"), ("--workflow-profile", "slurm")],
    ids=["as a path", "as a workflow profile"],
)
def test_the_profile_is_found_in_a_clone(clone: Project, arguments: tuple[str, str]) -> None:
    assert is_klmaps(submitted(clone, *arguments))


def test_the_profile_is_found_by_its_name_once_it_is_linked(clone: Project) -> None:
    user_profile(clone).symlink_to(clone.folder / "profiles" / "slurm")
    assert is_klmaps(submitted(clone, "--profile", "slurm"))


def test_a_profile_of_ones_own_stays_underneath(clone: Project) -> None:
    own = user_profile(clone)
    own.mkdir()
    (own / "config.yaml").write_text(SITE)
    call = submitted(clone, "--profile", "slurm", "--workflow-profile", "profiles/slurm")
    assert is_klmaps(call)
    assert "-A site" in call, "klmap's profile says nothing about accounts"


def test_a_profile_of_ones_own_suffices(clone: Project) -> None:
    own = user_profile(clone)
    own.mkdir()
    (own / "config.yaml").write_text(SITE)
    call = submitted(clone, "--profile", "slurm")
    assert "-A site" in call
    assert "--mem 8000 " in call, "what a rule asks for stays"
    assert "klmap_" not in call


def test_what_a_user_fills_in_reaches_every_job(clone: Project) -> None:
    path = clone.folder / "profiles/slurm/config.yaml"
    text = path.read_text()
    filled = re.sub(r"# (default-resources:)", r"\1", text)
    filled = re.sub(r"#   (slurm_(?:partition|account): )\S+", r'  \1"mine"', filled)
    assert filled.count('"mine"') == 2
    path.write_text(filled)
    call = submitted(clone, "--profile", "profiles/slurm")
    assert "-A mine" in call
    assert "-p mine" in call
    assert is_klmaps(call)


def test_partitions_are_chosen_by_what_a_job_asks_for(clone: Project) -> None:
    path = clone.folder / "profiles/slurm/config.yaml"
    text = path.read_text()
    filled = text.replace("# slurm-partition-config:", "slurm-partition-config:")
    assert filled != text
    path.write_text(filled)
    described = yaml.safe_load((PROFILES / "slurm/partitions.yaml").read_text())["partitions"]
    without = [name for name, limits in described.items() if not limits.get("max_gpu")]
    call = submitted(clone, "--profile", "profiles/slurm")
    assert any(f"-p {name}" in call for name in without), "making texts needs no GPU"


def test_every_job_says_itself_how_much_memory_and_time_it_needs() -> None:
    found = 0
    for path in (ROOT / "rules").glob("*.smk"):
        text = path.read_text()
        local = re.search(r"^localrules:\n((?:    \w+,\n)+)", text, re.MULTILINE)
        names = re.findall(r"\w+", local[1]) if local else []
        for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", text, re.MULTILINE):
            if name not in names:
                found += 1
                assert "mem_mb=" in body, name
                assert "runtime=" in body, name
    assert found > 10


def test_every_setting_of_the_profile_has_a_reason() -> None:
    paragraphs = (PROFILES / "slurm/config.yaml").read_text().split("\n\n")
    bare = [text for text in paragraphs if not text.lstrip().startswith("#")]
    assert bare == ["executor: slurm"]


def test_the_policy_takes_no_key_away_from_a_clusters_profile() -> None:
    policy = yaml.safe_load((PROFILES / "default/config.yaml").read_text())
    cluster = yaml.safe_load((PROFILES / "slurm/config.yaml").read_text())
    assert not policy.keys() & cluster.keys()
    assert not policy.keys() & {"default-resources", "set-resources", "resources", "jobs", "groups"}


def test_all_that_follows_the_scores_is_one_allocation() -> None:
    """Snakemake refuses a group of which a job in the middle is left out."""
    rules = [
        part
        for path in sorted((ROOT / "rules").glob("*.smk"))
        for part in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]
    ]
    grouped = {part.partition(":")[0] for part in rules if "MAP_GROUP" in part}
    assert grouped == {*AGGREGATION, "ellipses", "offmap", *config_analyses.NAMES} - {"index"}
