"""Every YAML file of a swappable part names a builder, and only options that it takes."""

import importlib
from pathlib import Path

import pytest
import yaml
from vcrast.models.build import build_encoder

from vcrast.config.registry import ATTENTIONS, ENGINES, LINEARS, OBJECTIVES, OPTIMS, SCHEDULES, STREAMS, check_options
from vcrast.config.schema import ModelConfig

CONFIGS = Path(__file__).parents[2] / "configs"
GROUPS = {
    "attention": ATTENTIONS, "linear": LINEARS, "objective": OBJECTIVES, "optim": OPTIMS, "schedule": SCHEDULES,
    "engine": ENGINES, "source": STREAMS,
}  # fmt: skip
FILES = [path for group in GROUPS for path in sorted((CONFIGS / group).glob("*.yaml"))]


def inherited(path):
    """Names of the files that a file builds on."""
    return yaml.safe_load(path.read_text()).get("defaults", [])


def options_of(path):
    """All keys of a file, those of the files that it builds on included."""
    options = {}
    for base in inherited(path):
        options |= options_of(path.with_stem(base))
    own = yaml.safe_load(path.read_text())
    own.pop("defaults", None)
    return options | own


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_part(path):
    options = options_of(path)
    name, module = options.pop("name"), options.pop("module")
    options.pop("lr_per_batch", None)  # the loop scales the rate itself
    assert name in (path.stem, *inherited(path))
    importlib.import_module(module)
    builder = GROUPS[path.parent.name].get(name)
    check_options(path.parent.name, name, builder, options)


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_model(name):
    model = ModelConfig(**yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text()))
    parts = {"attention": {"name": "softmax"}, "linear": {"name": "real"}}
    model.depth = 1
    encoder = build_encoder(model, **parts, num_mel_bins=128, num_frames=512, patch_stride=[10, 10], drop_path=0.0)
    assert encoder.grid(512) == (50, 12)
    assert model.embed_dim // model.num_heads == 64
