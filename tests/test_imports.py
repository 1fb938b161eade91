"""The direction of imports, walked in the source: a part knows what lies below it and nothing else."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Lower number = lower layer; a module may import its own layer and below, unless a rule below says otherwise.
LAYERS = {
    "vcrast.config.schema": 0, "vcrast.config.registry": 0, "vcrast.config.compose": 0, "vcrast.config.saved": 0, "vcrast.config.files": 0,
    "vcrast": 0,
    "vcrast.data.synth": 1, "vcrast.data": 1, "vcrast.features": 1, "vcrast.models": 1,
    "vcrast.evaluation.metrics": 1, "vcrast.evaluation.probes": 1, "vcrast.ridge": 1,
    "vcrast.training": 2, "vcrast.objectives": 2,
    "vcrast.inference": 3, "vcrast.models.export": 3, "vcrast.config.words": 3, "vcrast.runs.summary": 3, "vcrast.config.resume": 3,
    "vcrast.runs.job": 3, "vcrast.runs.stage": 3, "vcrast.data.streams": 3, "vcrast.evaluation.embedding": 3,
    "vcrast.pretrain": 4, "vcrast.finetune": 4, "vcrast.evaluate": 4, "vcrast.runs.report": 4, "vcrast.runs.compare": 4,
    "vcrast.run": 5, "vcrast.dry_run": 5,
    "vcrast.cli": 6, "vcrast.commands": 6, "launch": 6, "extensions": 6,
}  # fmt: skip
SEPARATE = ("vcrast.data", "vcrast.features", "vcrast.models", "vcrast.data.synth")
ALLOWED_ACROSS = {("vcrast.data.sources.synthetic", "vcrast.data.synth")}
ONLY_IN = {
    "deepspeed": {"vcrast/training/engine_deepspeed.py"},
    "timm": {"vcrast/models/pretrained.py"},
    "wandb": {"vcrast/runs/log.py"},
    "xformers": {"vcrast/models/attention_memory_efficient.py"},
    # The doctor asks soundfile what it can read; it opens no file.
    "soundfile": {"vcrast/data/audio.py", "vcrast/commands/doctor.py"},
    "soxr": {"vcrast/data/audio.py"},
    "submitit": {"launch/slurm.py", "launch/slurm_job.py", "launch/submission.py"},
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
        if other is None or module == "vcrast":
            continue
        assert LAYERS[other] <= LAYERS[own], f"{module} imports {name}, which lies above it"
        if own in SEPARATE and other in SEPARATE and own != other:
            assert (module, other) in ALLOWED_ACROSS, f"{module} imports {name}; these parts do not know each other"


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
