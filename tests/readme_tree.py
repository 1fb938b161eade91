"""The tree in the README, made from the first line of every module: python tests/readme_tree.py prints it."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 34
TOPS = {
    "vcrast": "the package",
    "launch": "launchers",
    "extensions": "research parts, imported only when chosen",
    "benchmarks": "measurements, and what fits where by formula",
}
BEFORE = [
    "pyproject.toml, constraints.txt     dependencies, and versions known to work together",
    "Makefile, .ci/run                   demo, test, check; what continuous integration runs",
    "configs/run.yaml                    the defaults of a run; those of its stages: pretrain, finetune, evaluate.yaml",
    "configs/recipe/*.yaml               full runs; configs/<group>/<option>.yaml: one choice each",
]
AFTER = ["docs/, notebooks/, tests/           explanations; a Colab notebook; tests that mirror the tree"]


def first_line(path):
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0].rstrip(".")


def lines_of(top):
    for path in sorted((ROOT / top).rglob("*.py"), key=lambda path: (str(path.parent), path.name)):
        inside = path.relative_to(ROOT / top)
        indent = "  " * len(inside.parts)
        if path.name != "__init__.py":
            yield f"{indent}{path.name:<{WIDTH - len(indent) + 2}}{first_line(path)}"
        elif len(inside.parts) > 1:
            yield f"  {str(inside.parent) + '/':<{WIDTH}}{first_line(path)}"


def tree():
    """The tree as the README shows it."""
    found = list(BEFORE)
    for top, what in TOPS.items():
        found += [f"{top + '/':<{WIDTH + 2}}{what}", *lines_of(top)]
    return "\n".join(line.rstrip() for line in [*found, *AFTER])


if __name__ == "__main__":
    print(tree())
