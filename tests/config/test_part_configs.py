"""Check that defaults of parts stand in YAML only, not in constructors."""

import importlib
import inspect
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from shipped import shipped_options

import vcrast.config.compose
import vcrast.data.streams  # registers `synth`, which a module of source=audiopg builds on
import vcrast.features.views
from vcrast.config.compose import compose, compose_raw
from vcrast.config.files import GROUPS, options
from vcrast.config.registry import (
    ATTENTIONS,
    ENGINES,
    LINEARS,
    MODELS,
    OBJECTIVES,
    OPTIMS,
    SCHEDULES,
    STREAMS,
    Registry,
    check_options,
    keywords,
)  # fmt: skip
from vcrast.config.schema import Config, keys
from vcrast.features.fbank import Fbank, build_fbank
from vcrast.features.views import Views, build_views
from vcrast.models.backbone import OF_THE_CALLER, build_backbone
from vcrast.runs.check import check_parts

CONFIGS = Path(__file__).parents[2] / "configs"
BUILDERS = {
    "attention": ATTENTIONS, "linear": LINEARS, "objective": OBJECTIVES, "optim": OPTIMS, "schedule": SCHEDULES,
    "engine": ENGINES, "source": STREAMS, "model": MODELS, "features": Fbank, "views": Views,
}  # fmt: skip
# What the program adds: sizes, the device, the modules that a part is built around. Never a choice of the user.
GIVEN = {
    "attention": ("num_heads", "head_dim"),
    "linear": ("in_features", "out_features"),
    "objective": ("encoder", "views", "task"),
    "optim": ("module",),
    "schedule": ("lr", "total_steps", "steps_per_epoch"),
    "engine": ("module", "optimizer", "precision", "device", "clip_grad_norm"),
    "source": ("supply",),
    "model": ("num_mel_bins", "num_frames", "num_channels", "patch_stride", "attention", "linear"),
    "features": ("sample_rate", "mean", "std"),
    "views": ("fbank", "recordings"),
}
OF_THE_LOOP = {"optim": ("lr_per_batch",), "model": OF_THE_CALLER}  # read before the part is built
PARTS = [
    pytest.param(group, name)
    for group in BUILDERS for name, _ in options(group)
]  # fmt: skip


def part(group, name):
    """(builder, its options in the YAML)."""
    settings = shipped_options(f"{group}/{name}")
    builder = BUILDERS[group]
    if isinstance(builder, Registry):
        importlib.import_module(settings.pop("module"))
        builder = builder.get(settings.pop("name"))
    for key in OF_THE_LOOP.get(group, ()):
        settings.pop(key, None)  # a model may have no use for one
    return builder, settings


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_a_default_lives_in_the_yaml_alone(group, name):
    builder, settings = part(group, name)
    choices = {
        key: parameter for key, parameter in keywords(builder).items() if key not in GIVEN[group] or key in settings
    }
    assert set(choices) == set(settings), "every option is in the YAML, every key of the YAML is a keyword"
    twice = [key for key, parameter in choices.items() if parameter.default is not inspect.Parameter.empty]
    assert not twice, f"{twice}: a default in the constructor of {group}={name} beside the one in its YAML"
    check_options(group, builder, settings, name=name, given=GIVEN[group])


@pytest.mark.parametrize("group", ["attention", "linear", "objective", "optim", "schedule", "engine", "source"])
def test_a_file_names_the_part_of_its_own_name_or_that_of_the_file_it_inherits(group):
    for name, _ in options(group):
        inherited = yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text()).get("defaults", [])
        assert shipped_options(f"{group}/{name}")["name"] in (name, *inherited)


def test_a_schema_has_no_default():
    assert not [name for name, field in keys(Config) if field.default is not field.default_factory]


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in GROUPS for name, _ in options(group)], ids=lambda item: item
)
def test_an_option_file_alone_says_what_a_run_composes(group, name):
    assert shipped_options(f"{group}/{name}") == compose_raw([f"{group}={name}"])[group]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_file_that_inherits_says_only_what_differs(path):
    said = yaml.safe_load(path.read_text())
    inherited = [name for name in said.get("defaults", []) if isinstance(name, str) and name != "_self_"]
    if path.parent.name == "recipe" or not inherited:
        return
    (base,) = inherited
    if base.startswith("/"):
        before = yaml.safe_load((CONFIGS / f"{base.removeprefix('/').partition('@')[0]}.yaml").read_text())
    else:
        before = shipped_options(f"{path.parent.name}/{base}")
    assert not [key for key, value in said.items() if key in before and before[key] == value]
    if not base.startswith("_"):  # what inherits from no option is a part of its own, whose keys are its keywords
        assert set(said) - {"defaults"} <= set(before), "a misspelt key would be a new one"


@pytest.mark.parametrize("recipe", [name for name, _ in options("recipe")])
def test_the_views_of_every_recipe_are_built_with_its_options(recipe):
    config = compose([f"recipe={recipe}"])
    fbank = build_fbank(config.features, sample_rate=config.data.sample_rate)
    for given in (config.views, config.finetune.views):
        built = build_views(given, fbank=fbank)
        assert (built.gain_db, built.roll) == (given["gain_db"], given["roll"])


def test_a_new_option_of_a_view_is_its_constructor_and_one_line_of_yaml(tmp_path, monkeypatch):
    class Blurred(Views):
        def __init__(self, fbank: Fbank, *, blur_ms: float, **options: Any) -> None:
            super().__init__(fbank, **options)
            self.blur_ms = blur_ms

    shutil.copytree(CONFIGS, tmp_path / "configs")
    with (tmp_path / "configs" / "views" / "none.yaml").open("a") as file:
        file.write("blur_ms: 0.0\n")
    monkeypatch.setattr(vcrast.config.compose, "config_dir", lambda: tmp_path / "configs")
    monkeypatch.setattr(vcrast.features.views, "Views", Blurred)
    for name, _ in options("views"):
        assert compose([f"views={name}"]).views["blur_ms"] == 0.0
    config = compose(["recipe=esc10", "views.blur_ms=3", "finetune.views.blur_ms=4.5"])
    fbank = Fbank(**config.features, sample_rate=16000)
    assert build_views(config.views, fbank=fbank).blur_ms == 3
    assert build_views(config.finetune.views, fbank=fbank).blur_ms == 4.5
    with pytest.raises(ValueError, match=r"finetune\.views\.blur_ms='much': finetune\.views expects float"):
        check_parts(compose(["finetune.views.blur_ms=much"]))
    with pytest.raises(ValueError, match=r"did you mean blur_ms\?"):
        compose(["views.blur=3"])


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_model(name):
    options = shipped_options(f"model/{name}", depth=1)
    parts = {"attention": {"name": "softmax"}, "linear": {"name": "real"}}
    encoder = build_backbone(options, **parts, num_mel_bins=128, num_frames=512, num_channels=1, patch_stride=[10, 10])
    assert encoder.grid(512) == (50, 12)
    assert options["embed_dim"] // options["num_heads"] == 64
