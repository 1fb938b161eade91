"""Quote words of the command line for Hydra, whose grammar refuses most paths."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import get_args, get_type_hints

from vcrast.config.schema import FOLDERS_OF_SOUNDS, Config, keys

PATHS = (
    "data.root", "data.path", "data.cache_dir", "run.dir", "run.resume", "model.checkpoint", *FOLDERS_OF_SOUNDS,
)  # fmt: skip
"""Settings that hold a path: `~` is the home folder there."""
NAMED_FILE = re.compile(r"(timm:[^@/]+@)(.+)", re.DOTALL)
SWEEP = re.compile(r"(choice|range|interval|glob|sort|shuffle)\(.*\)", re.DOTALL)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
PLAIN = ("", "null")


def for_hydra(word: str, *, sweep: bool = False) -> str:
    r"""Quote a word so that Hydra takes its value as it was typed.

    Values of settings that are text are quoted unless the user has; others where Hydra could not read them. In a sweep
    a comma separates values, unless all of it names something that exists.

    >>> print(for_hydra("data.root=/data (1)/it's"), for_hydra("run.seed=3"), for_hydra("data.folds=[1,2]"))
    data.root='/data (1)/it\'s' run.seed=3 data.folds=[1,2]
    """
    key, equals, value = word.partition("=")
    name = key.lstrip("+~")
    if not equals or is_quoted(value) or CONTROL.search(value):  # a line break is refused by Hydra: no setting has one
        return word
    if name not in text_settings():
        several = sweep and "," in value
        return word if several or _readable(word) else f"{key}={quote(value)}"
    if value in PLAIN:
        return word
    if sweep and (SWEEP.fullmatch(value) or "," in value) and not _exists(name, value):
        if SWEEP.fullmatch(value):
            return word
        return f"{key}={','.join(_one_of_several(name, part) for part in value.split(','))}"
    return f"{key}={quote(home(name, value))}"


def _one_of_several(name: str, value: str) -> str:
    return value if is_quoted(value) or value in PLAIN else quote(home(name, value))


LISTS = ("stages", "logger", "evaluation")
"""Settings that are lists of names; one name alone, or several between commas, is such a list."""


def as_list(word: str) -> str:
    """Put the names of a list in brackets, where they have none; `logger=wandb` adds to the file that is always kept.

    >>> as_list("stages=pretrain,finetune"), as_list("logger=wandb"), as_list("stages=[finetune]")
    ('stages=[pretrain,finetune]', 'logger=[jsonl,wandb]', 'stages=[finetune]')
    """
    key, _, value = word.partition("=")
    if key not in LISTS or not re.fullmatch(r"\w+(,\w+)*", value) or value == "null":
        return word
    always = "jsonl," if key == "logger" and "jsonl" not in value.split(",") else ""
    return f"{key}=[{always}{value}]"


def quote(value: str) -> str:
    r"""A value as text in Hydra's words: in quotes, what is special within them escaped.

    >>> quote("/data/it's")
    "'/data/it\\'s'"
    """
    # Backslashes count only before what is special, and before the closing quote.
    text = escape(value)
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + "\\'" * bool(found[2]), text) + "'"


def escape(value: str) -> str:
    """A text in which OmegaConf finds nothing to resolve."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)


def is_quoted(value: str) -> bool:
    """Whether a user has quoted a value for Hydra."""
    return len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"" and _readable(f"x={value}")


def literal(value: str) -> str:
    """A value without the quotes that a user has written for Hydra."""
    return value[1:-1].replace(f"\\{value[0]}", value[0]) if is_quoted(value) else value


def home(name: str, value: str) -> str:
    """The value of a setting, `~` at its beginning replaced by the home folder where it is a path."""
    model, path = split_source(value)
    return model + str(Path(path).expanduser()) if name in PATHS and re.match(r"~[\w.-]*(/|$)", path) else value


def split_source(value: str) -> tuple[str, str]:
    """What stands before the path in a setting, and the path.

    >>> split_source("timm:vit_tiny_patch16_224@vit.pth"), split_source("runs/esc50")
    (('timm:vit_tiny_patch16_224@', 'vit.pth'), ('', 'runs/esc50'))
    """
    found = NAMED_FILE.fullmatch(value)
    return (found[1], found[2]) if found else ("", value)


@functools.cache
def text_settings() -> frozenset[str]:
    """Settings whose values are text: those of the schema, and paths among the options of parts."""
    found = {*PATHS, "recipe"}
    owners = {"": Config}
    for name, field in keys(Config):
        hints = get_type_hints(owners[name.rpartition(".")[0]])
        declared = hints[field.name]
        if hasattr(declared, "__dataclass_fields__"):
            owners[name] = declared
        if declared is str or set(get_args(declared)) == {str, type(None)}:
            found.add(name)
    return frozenset(found)


def _exists(name: str, value: str) -> bool:
    return name in PATHS and Path(value).expanduser().exists()


def _readable(word: str) -> bool:
    # Imported late: `--help` does not need Hydra.
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(word)
    except (HydraException, RecursionError):
        return False
    return True
