"""What the README and the docs say is true: the commands, the links."""

import re
import shlex
from pathlib import Path

import pytest

from launch.arguments import Program, parse
from launch.slurm_options import check
from launch.slurm_shards import parse_packing
from launch.sweep import points_of
from vcrast.cli.main import parser
from vcrast.cli.options import config_of
from vcrast.config.compose import compose

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "extensions").rglob("*.md"))]


def commands(prefix):
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            text = line.strip().lstrip("$ ").split("  #")[0].strip()
            if text.startswith(prefix) and "..." not in text and "RECIPE" not in text and "[" + "key" not in text:
                yield page.name, text


LAUNCHES = [*commands("python launch/local.py"), *commands("vcrast run ")]
SUBMISSIONS = [*commands("python launch/slurm.py"), *commands("vcrast submit ")]
VERBS = [each for each in commands("vcrast ") if each not in (*LAUNCHES, *SUBMISSIONS)]


def first_seeds(arguments):
    """The command line of each run; runs that differ in their seed alone are one."""
    return [words for words, _ in points_of(arguments) if not {"run.seed=1", "run.seed=2"} & set(words)]


@pytest.mark.parametrize(("page", "command"), LAUNCHES, ids=[text for _, text in LAUNCHES])
def test_launch_commands_compose(page, command):
    arguments = parse(shlex.split(command)[2:])
    if arguments.help or any(word.startswith("run.resume=") for word in arguments.overrides):
        return
    for words in first_seeds(arguments):
        assert compose(words).recipe


@pytest.mark.parametrize(("page", "command"), SUBMISSIONS, ids=[text for _, text in SUBMISSIONS])
def test_submissions_compose(page, command):
    if shlex.split(command)[2:4] == ["data", "shard"]:
        config = config_of(parse_packing(shlex.split(command)[4:], Program.of_verb("submit")))
        check(config.slurm)
        return
    arguments = parse(shlex.split(command)[2:])
    if any(word.startswith("run.resume=") for word in arguments.overrides):
        return
    for words in first_seeds(arguments):
        config = compose(words)
        assert config.recipe
        check(config.slurm)  # raises for what Slurm could not be given


@pytest.mark.parametrize(("page", "command"), VERBS, ids=[text for _, text in VERBS])
def test_vcrast_commands_parse(page, command):
    words = [word for word in shlex.split(command.replace("[", " ").replace("]", " "))[1:] if word != "--format onnx"]
    if words and words[0] != "report":
        assert parser().parse_args(words).run
    else:
        assert parser().parse_args(words[:2]).run


@pytest.mark.parametrize("page", PAGES, ids=[path.name for path in PAGES])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_readme_knows_at_least_the_daily_commands():
    shown = " ".join(text for _, text in LAUNCHES + VERBS)
    for needed in (
        "esc50",
        "--dry-run",
        "data download",
        "predict",
        "embed",
        "run.resume",
        "data=folder",
        "data=manifest",
    ):
        assert needed in shown, needed
