"""Check the direction of imports between the rooms, from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module may import its own layer and those below. `vcrast` itself (version, load) may be named anywhere.
LAYERS = {
    "vcrast.config": 0,
    "vcrast.data": 1, "vcrast.features": 1, "vcrast.models": 1,
    "vcrast.objectives": 2, "vcrast.training": 2, "vcrast.evaluation": 2,
    "vcrast.runs": 3,
    "vcrast.train": 4, "vcrast.pretrain": 4, "vcrast.finetune": 4, "vcrast.evaluate": 4, "vcrast.inference": 4,
    "vcrast.run": 5,
    "vcrast.cli": 6, "vcrast.__main__": 6, "launch": 6, "extensions": 6,
    "vcrast": 6,
}  # fmt: skip
SEPARATE = ("vcrast.data", "vcrast.features", "vcrast.models")
ONLY_IN = {
    "deepspeed": {"vcrast/training/engine_deepspeed.py"},
    "timm": {
        "vcrast/models/timm_weights.py",
        "vcrast/models/swin_weights.py",
        "vcrast/models/htsat.py",
        "vcrast/training/optim.py",
    },
    "wandb": {"vcrast/runs/log.py"},
    "xformers": {"vcrast/models/attention_memory_efficient.py"},
    # The doctor asks soundfile what it can read; it opens no file.
    "soundfile": {"vcrast/data/sndfile.py", "vcrast/cli/doctor.py"},
    "pyarrow": {"vcrast/data/foreign/arrow.py"},
    "sklearn": {"extensions/sound_probe/ridge.py"},
    "soxr": {"vcrast/data/audio.py"},
    "torchcodec": {"vcrast/data/ffmpeg_libraries.py"},
    "submitit": {
        "launch/slurm.py",
        "launch/slurm_job.py",
        "launch/submission.py",
        "launch/requeue.py",
        "launch/slurm_shards.py",
    },
}


def modules():
    for top in ("vcrast", "launch", "extensions"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path):
    """Names of the modules that a file imports at any depth, those for type checking only left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.dump(test.test)
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def group(module):
    parts = module.split(".")
    return max((".".join(parts[:n]) for n in (1, 2) if ".".join(parts[:n]) in LAYERS), key=len, default=None)


FILES = list(modules())


@pytest.mark.parametrize(("path", "module"), FILES, ids=[module for _, module in FILES])
def test_imports_point_down(path, module):
    own = group(module)
    assert own is not None, f"{module} is in no layer; add it to LAYERS"
    for name in imported(path):
        other = group(name)
        if other is None or name == "vcrast":
            continue
        assert LAYERS[other] <= LAYERS[own], f"{module} imports {name}, which lies above it"
        assert other == own or {own, other} - set(SEPARATE), f"{module} imports {name}; they do not know each other"


@pytest.mark.parametrize(("path", "module"), FILES, ids=[module for _, module in FILES])
def test_optional_packages_have_one_door(path, module):
    place = str(path.relative_to(ROOT))
    for name in imported(path):
        doors = ONLY_IN.get(name.split(".")[0])
        assert doors is None or place in doors, f"{place} imports {name}; only {', '.join(doors)} may"


def test_vcrast_names_neither_launch_nor_extensions():
    for path, module in FILES:
        if module.startswith("vcrast"):
            assert not [name for name in imported(path) if name.split(".")[0] in ("launch", "extensions")], module


def test_launchers_and_extensions_import_each_other_relatively():
    """A wheel ships both folders inside vcrast, where their own names lead nowhere."""
    for path, module in FILES:
        if module.startswith(("launch", "extensions")):
            assert not [name for name in imported(path) if name.split(".")[0] in ("launch", "extensions")], module


def test_names_of_test_files_are_unique():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest imports them by these names alone"


def test_first_lines_of_modules_are_short():
    files = [p for top in ("vcrast", "launch", "extensions", "tests", "benchmarks") for p in (ROOT / top).rglob("*.py")]
    first = {path: (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[:1] for path in files}
    assert not {str(path): line for path, line in first.items() if line and len(line[0]) > 87}  # and three quotes
