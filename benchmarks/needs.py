"""List the packages that files import, through all of the project's own modules."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (ROOT, ROOT / "tests")  # where own modules are looked up, beside the folder of who imports them
MODULE_LINE = re.compile(r"^module:\s*([\w.]+)", re.MULTILINE)


def packages(files: Iterable[Path]) -> list[str]:
    """`name==version` of the installed packages that the files import, directly or through own modules.

    Imports inside functions count, and so do parts that a config file names as its `module`. Packages that only an
    extra of pyproject.toml brings are left out: their code runs when they are chosen.
    """
    pairs = ((name, file.parent) for file in closure(files) for name in imports(file))
    names = {name.split(".")[0] for name, folder in pairs if find(name, folder) is None}
    known = importlib.metadata.packages_distributions()
    found = {distribution for name in names for distribution in known.get(name, ())}
    return sorted(f"{name}=={importlib.metadata.version(name)}" for name in found if normal(name) not in optional())


def closure(files: Iterable[Path]) -> set[Path]:
    """The files and every own module that they import, at any depth."""
    waiting, done = list(files) + configured(), set[Path]()
    while waiting:
        file = waiting.pop()
        if file not in done:
            done.add(file)
            waiting += [found for name in imports(file) for found in own(name, file.parent)]
    return done


def configured() -> list[Path]:
    """Modules that the config files name."""
    texts = (file.read_text(encoding="utf-8") for file in (ROOT / "configs").rglob("*.yaml"))
    return [file for text in texts for name in MODULE_LINE.findall(text) for file in own(name, ROOT)]


def imports(file: Path) -> set[str]:
    """Dotted names that a file imports; of `from a import b` both `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def own(name: str, folder: Path) -> list[Path]:
    """Files that importing a module of the project runs: its own, and those of the packages around it."""
    parts = name.split(".")
    found = (find(".".join(parts[:number]), folder) for number in range(1, len(parts) + 1))
    return [file for file in found if file is not None and file.is_file()]


def find(name: str, folder: Path) -> Path | None:
    """The file of a module of the project, imported from within `folder`, or None if another package has it."""
    place = name.replace(".", "/")
    tails = (f"{place}.py", f"{place}/__init__.py", place)
    found = next((top / tail for top in (*FOLDERS, folder) for tail in tails if (top / tail).exists()), None)
    return found or (find(name.rpartition(".")[0], folder) if "." in name else None)


def optional() -> set[str]:
    """Names of the packages that only extras bring, except those of `dev`, which the tests import."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras.get("dev", ())]
    return {requirement(line) for lines in extras.values() for line in lines} - {requirement(line) for line in wanted}


def requirement(line: str) -> str:
    """The package of a line such as `torch>=2.11,<3`."""
    match = re.match(r"[\w.-]+", line)
    assert match is not None
    return normal(match[0])


def normal(name: str) -> str:
    """Package names compare without case and kind of dash."""
    return re.sub(r"[-_.]+", "-", name).lower()
