"""Parse the command line of both launchers: recipe name, Hydra's overrides, flags."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vcrast.config.files import add_own_dirs, options
from vcrast.config.quoting import as_list, home, literal
from vcrast.config.words import suggest

SWEEP_FLAGS = ("-m", "--multirun")
FLAGS = ("--help", "-h", "--dry-run", "--cfg", "--recipes", *SWEEP_FLAGS)
HYDRA_FLAGS = ("-sc", "--shell-completion", "--info", "--hydra-help")


TABLES, TABLE_KEYS = "thesis", ("table", "table.scale")
"""The recipe that has tables, and the words that ask for one (launch/table.py)."""


@dataclass(frozen=True)
class Program:
    """How a launcher was called.

    Attributes:
        shown: what the user typed before the recipe; messages say it.
        command: what another process executes to do the same.
    """

    shown: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """How its error lines begin: `local.py` or `vcrast run`."""
        return self.shown.rpartition("/")[2]

    @staticmethod
    def of_script(path: str) -> Program:
        """`python launch/NAME.py`."""
        return Program(f"python launch/{Path(path).name}", (sys.executable, path))

    @staticmethod
    def of_verb(verb: str) -> Program:
        """`vcrast VERB`; a child process finds the same vcrast as this one."""
        # `python -m` looks into the current folder first, which the `vcrast` script does not.
        here = not {"", os.getcwd()}.isdisjoint(sys.path)
        return Program(f"vcrast {verb}", (sys.executable, *([] if here else ["-P"]), "-m", "vcrast", verb))


@dataclass(frozen=True)
class Arguments:
    """A parsed command line.

    Attributes:
        overrides: of the recipe and its settings.
        help, dry_run, show_config: flags.
        sweep: whether it is several runs: a sweep, or a table.
        table: the name of the table; empty if none is asked for.
        scale: of the table; empty for the first there is.
    """

    overrides: tuple[str, ...] = ()
    help: bool = False
    dry_run: bool = False
    show_config: bool = False
    sweep: bool = False
    table: str = ""
    scale: str = ""


def parse(argv: Sequence[str]) -> Arguments:
    """Read the words after the launcher's name.

    Raises:
        ValueError: an unknown flag, an unknown recipe, a word that is no `key=value`, or no recipe at all.
    """
    words, folders = _without_recipes(argv)
    add_own_dirs(folders)
    if "-h" in words or "--help" in words or not words:
        return Arguments(help=True)
    dry_run, show_config = "--dry-run" in words, "--cfg" in words
    if show_config:
        _drop_cfg(words)
    sweep = any(word in SWEEP_FLAGS for word in words)
    if sweep and show_config:
        raise ValueError("--cfg job prints the settings of one run; leave -m out, and give each key one value")
    words = [word for word in words if word not in ("--dry-run", *SWEEP_FLAGS)]
    for word in words:
        if word.startswith("-"):
            name = word.lstrip("-").partition("=")[0].replace("-", "_")
            raise ValueError(f"{word}: no such flag; {suggest(word, FLAGS)}. Settings have no dashes: {name}=VALUE")
    if words and "=" not in words[0]:
        words[0] = f"recipe={words[0]}"
    _check_words(words)
    words, table, scale = _without_table(words)
    if table and show_config:
        raise ValueError("--cfg job prints the settings of one run; leave table= out")
    if not (sweep or table):  # there, a comma separates runs
        words = [as_list(word) for word in words]
    return Arguments(
        tuple(words), dry_run=dry_run, show_config=show_config, sweep=sweep or bool(table), table=table, scale=scale
    )


def _without_recipes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without `--recipes DIR` and `--recipes=DIR`, and the folders that these name."""
    words, folders = [], []
    rest = iter(argv)
    for word in rest:
        flag, equals, folder = word.partition("=")
        if flag != "--recipes":
            words.append(word)
            continue
        folder = folder if equals else next(rest, "")
        if not Path(folder).expanduser().is_dir() or not folder:
            raise ValueError(f"--recipes {folder}: no such folder; name one that holds NAME.yaml")
        folders.append(folder)
    return words, folders


def _without_table(words: Sequence[str]) -> tuple[list[str], str, str]:
    """The command line without the words that ask for a table, the table's name and scale; empty if none is asked for.

    Raises:
        ValueError: a scale without a table, a table of another recipe, or one that is to go on under its name.
    """
    asked = {key: value for key, _, value in (word.partition("=") for word in words) if key in TABLE_KEYS}
    rest = [word for word in words if word.partition("=")[0] not in TABLE_KEYS]
    if not asked:
        return rest, "", ""
    if not asked.get("table"):
        raise ValueError(f"table.scale={asked.get('table.scale', '')}: name a table, too, as table=5.3 or table=all")
    if f"recipe={TABLES}" not in rest:
        if any(word.startswith("run.resume=") for word in rest):
            raise ValueError("run.resume=FOLDER goes on with all runs of its table by itself; leave table= out")
        raise ValueError(f"table={asked['table']}: tables belong to the recipe {TABLES}; write it first")
    rest.remove(f"recipe={TABLES}")
    return rest, asked["table"], asked.get("table.scale", "")


def _drop_cfg(words: list[str]) -> None:
    at = words.index("--cfg")
    kind = words[at + 1] if at + 1 < len(words) else ""
    if kind != "job":
        raise ValueError(f"--cfg {kind}: only `--cfg job` is offered")
    del words[at : at + 2]


def _check_words(words: list[str]) -> None:
    recipes = [name for name, _ in options("recipe")]
    for word in words:
        if "=" not in word:
            raise ValueError(f"{word}: write group=option or key=value; one recipe comes first, as a bare word")
    chosen = [word.partition("=")[2] for word in words if word.startswith("recipe=")]
    if len(chosen) > 1:
        raise ValueError(f"recipe={chosen[1]}: {chosen[0]} was already chosen; a run has one recipe")
    if chosen and chosen[0] not in recipes:
        raise ValueError(f"recipe={chosen[0]}: no configs/recipe/{chosen[0]}.yaml; {suggest(chosen[0], recipes)}")
    if not chosen and not resumed_folder(words):
        raise ValueError(f"name a recipe first; choose from {', '.join(recipes)}")


def resumed_folder(words: Sequence[str]) -> str | None:
    """The folder of `run.resume=FOLDER`; None for `auto`, `never` and when it is not given."""
    given = [literal(word.partition("=")[2]) for word in words if word.startswith("run.resume=")]
    return home("run.resume", given[-1]) if given and given[-1] not in ("auto", "never") else None


def asks_hydra(words: Sequence[str]) -> bool:
    """Whether one of the flags is there that Hydra answers by itself, such as shell completion."""
    return any(word.split("=")[0] in HYDRA_FLAGS for word in words)


def hydra_line(line: str) -> str | None:
    """The line that a shell completes, as Hydra reads it: without the verb, and a recipe as `recipe=NAME`.

    None for verbs of `vcrast` that take no settings.

    >>> hydra_line("vcrast run demo attention=s")
    'vcrast recipe=demo attention=s'
    """
    words = line.split(" ")
    first = 2 if Path(words[0]).name.startswith("python") else 1
    if first == 1:
        if words[1:2] not in (["run"], ["submit"]):
            return None
        del words[1]
    # The last word is not finished; Hydra completes it as it is.
    if len(words) > first + 1 and words[first] and "=" not in words[first] and not words[first].startswith("-"):
        words[first] = f"recipe={words[first]}"
    return " ".join(words)
