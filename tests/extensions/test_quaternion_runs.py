"""Run linear=quaternion and phm through every stage."""

import copy
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from parts import make_adamw, make_ast, make_batch, make_engine, make_lars, make_vcr
from shipped import shipped, shipped_options
from small_run import metric_steps, small, weights_hash
from torch import nn

import vcrast
from extensions.quaternion.linear import QuaternionLinear
from extensions.quaternion.phm import PHMLinear
from vcrast.config.resume import resolve
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.models.attention import Attention
from vcrast.run import run
from vcrast.runs.report.figures import views_figure
from vcrast.training.exact import Split, exact_backward
from vcrast.training.optim import parameter_groups

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BATCH = 4


def encoder(linear, attention="softmax", **more):
    torch.manual_seed(0)
    chosen = {"attention": shipped_options(f"attention/{attention}"), "linear": shipped_options(f"linear/{linear}")}
    return make_ast(embed_dim=32, **chosen, **more)


@pytest.mark.parametrize(("linear", "kind"), [("quaternion", QuaternionLinear), ("phm", PHMLinear)])
def test_every_linear_layer_of_the_blocks_follows_and_nothing_else(linear, kind):
    made = encoder(linear)
    names = {name for name, part in made.named_modules() if isinstance(part, kind)}
    layers = ("attn.q", "attn.k", "attn.v", "attn.out", "fc1", "fc2")
    assert names == {f"blocks.{number}.{layer}" for number in range(2) for layer in layers}
    assert not [name for name, part in made.named_modules() if isinstance(part, nn.Linear)]
    assert isinstance(made.patch_embed.proj, nn.Conv2d)


def test_the_encoder_of_a_recipe_shrinks_by_its_linear_weights():
    counts = {name: sum(weight.numel() for weight in encoder(name).parameters()) for name in ("real", "quaternion")}
    matrices = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert counts["real"] - counts["quaternion"] == matrices * 3 // 4


def test_heads_hold_whole_quaternions():
    # Multiplying q, k and v by a unit quaternion from the right must not move attention from one token to another.
    made = Attention(
        embed_dim=32, num_heads=2, attention={"name": "softmax"}, linear=shipped_options("linear/quaternion")
    ).double()
    turn = QuaternionLinear(**shipped("linear/quaternion", in_features=4, out_features=4)).double()
    with torch.no_grad():
        for part, value in zip(turn.parts, nn.functional.normalize(torch.randn(4), dim=0), strict=True):
            part.fill_(value)
    q, k = torch.randn(2, 1, 5, 32, dtype=torch.float64)
    turned = [turn(x.unflatten(2, (-1, 4))).flatten(2) for x in (q, k)]
    before, after = (made.split(a) @ made.split(b).transpose(2, 3) for a, b in ((q, k), turned))
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("linear", ["quaternion", "phm"])
def test_optimisers_decay_and_adapt_each_matrix_by_itself(linear):
    made = make_vcr(encoder(linear), views(), [8, 8, 8])
    decayed = {name for group in parameter_groups(made, weight_decay=0.1) if group["weight_decay"]
               for name in group["names"]}  # fmt: skip
    parts = [*"rijk"] if linear == "quaternion" else [f"{kind}.{m}" for kind in ("factors", "rules") for m in range(4)]
    assert {f"encoder.blocks.1.fc1.{part}" for part in parts} <= decayed
    assert "encoder.blocks.1.fc1.bias" not in decayed
    layered = parameter_groups(made, weight_decay=0.1, layer_decay=0.5)
    scales = {name: group["lr_scale"] for group in layered for name in group["names"]}
    for part in parts:
        assert (scales[f"encoder.blocks.0.fc1.{part}"], scales[f"encoder.blocks.1.fc1.{part}"]) == (0.25, 0.5)
    adapted = {name: group["adapt"] for group in make_lars(made, lr=0.1).param_groups for name in group["names"]}
    assert all(adapted[f"encoder.blocks.0.fc1.{part}"] for part in parts)
    assert not adapted["encoder.blocks.0.fc1.bias"]


def views(name="fbank"):
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0, name=name))
    options = shipped(
        "views/none", time_stretch=[0.8, 1.2], roll=True, gain_db=6.0, background_probability=0.5, freq_mask_bins=4,
        time_mask_frames=4, num_masks=1, noise_std=0.1, noise_uniform=0.1, shift_frames=2, patch_drop=0.5,
    )  # fmt: skip
    return Views(fbank, **options)


def engine_of(linear, attention, precision):
    made = make_vcr(encoder(linear, attention), views(), [8, 8, 8]).train()
    return make_engine(made, make_adamw(made, lr=1e-2), precision=precision, clip_grad_norm=1.0)


def one_step(engine, step):
    wavs = torch.randn(BATCH, 3000, generator=torch.Generator().manual_seed(step)) * 0.1
    outcome = exact_backward(engine, engine.module, make_batch(wavs), Draws(5, step, BATCH), Split(3))
    stepped = engine.step(lr=1e-2)
    return outcome.loss.item(), bool(stepped.skipped)


LINEARS = ("real", "quaternion", "phm")
ATTENTIONS = ("softmax", "memory_efficient", "rfa")
COMBINATIONS = list(itertools.product(LINEARS, ATTENTIONS, ("fp32", "bf16", "fp16")))


@pytest.mark.parametrize(("linear", "attention", "precision"), COMBINATIONS, ids=lambda value: value)
def test_every_combination_trains_and_resumes(linear, attention, precision):
    engine = engine_of(linear, attention, precision)
    before = copy.deepcopy(engine.module.state_dict())
    # fp16 begins with a loss scale that may be too high: it halves with every step that is skipped, until it holds.
    tried = [one_step(engine, 0)]
    while precision == "fp16" and len(tried) < 12 and (len(tried) < 2 or any(skipped for _, skipped in tried[-2:])):
        tried.append(one_step(engine, len(tried)))
    assert all(math.isfinite(loss) for loss, _ in tried)
    assert not any(skipped for _, skipped in tried[-2:])
    after = engine.module.state_dict()
    layer = [name for name in after if name.startswith("encoder.blocks.1.fc1.")]
    assert all(not torch.equal(before[name], after[name]) for name in layer)
    saved = copy.deepcopy(engine.state_dict())
    resumed = engine_of(linear, attention, precision)
    resumed.load_state_dict(saved)
    assert one_step(resumed, 9) == one_step(engine, 9)
    for name, value in engine.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name


@pytest.mark.parametrize("linear", ["quaternion", "phm"])
def test_every_micro_batch_size_gives_the_whole_batchs_gradient(linear):
    found = []
    for size in (None, 1, 3):
        made = make_vcr(encoder(linear), views(), [8, 8, 8]).train()
        engine = make_engine(made)
        wavs = torch.randn(BATCH, 3000, generator=torch.Generator().manual_seed(1)) * 0.1
        exact_backward(engine, made, make_batch(wavs), Draws(5, 3, BATCH), Split(size))
        found.append({name: weight.grad for name, weight in made.named_parameters()})
    largest = max(gradient.abs().max().item() for gradient in found[0].values())
    for other in found[1:]:
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient, atol=1e-4 * largest, rtol=1e-3)


def test_the_wrong_size_names_layer_sizes_and_settings():
    with pytest.raises(ValueError, match=r"32 -> 34 channels .* 34 is not; set model\.embed_dim and model\.embed_dim"):
        encoder("quaternion", mlp_ratio=34 / 32)


@pytest.mark.parametrize("words", [["linear=quaternion"], ["linear=phm", "linear.n=2", "features=quaternion"]])
def test_a_recipe_shows_its_configuration(words):
    program = [sys.executable, "launch/local.py", "esc10", *words, "--cfg", "job"]
    shown = yaml.safe_load(subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    for word in words:
        key, value = word.split("=")
        group, _, name = key.partition(".")
        assert str(shown[group][name or "name"]) == value


def test_an_unknown_option_is_named(tmp_path):
    overrides = small(tmp_path / "wrong", "linear=quaternion", "+linear.n=4")
    with pytest.raises(ValueError, match=r"linear\.n: linear=quaternion has no such option"):
        run(resolve(overrides), overrides)


@pytest.mark.parametrize("words", [("linear=quaternion", "features=quaternion"), ("linear=phm", "linear.n=2")])
def test_a_run_stops_resumes_and_loads(tmp_path, words):
    whole, cut = (small(tmp_path / name, *words) for name in ("whole", "cut"))
    run(resolve(whole), whole)
    model = vcrast.load(tmp_path / "whole")
    kind = {"quaternion": QuaternionLinear, "phm": PHMLinear}[words[0].partition("=")[2]]
    assert sum(isinstance(part, kind) for part in model.encoder.modules()) == 12
    assert model.features.num_channels == (4 if "features=quaternion" in words else 1)
    wav = 0.1 * torch.randn(16000)
    assert model.embed(wav).shape == (32,)
    assert sum(model.predict(wav).values()) == pytest.approx(1.0, abs=1e-5)
    assert (tmp_path / "whole" / "figures" / "views.png").stat().st_size > 0
    stop_after(cut, tmp_path / "cut", num_steps=5)
    run(resolve(cut), cut)
    assert weights_hash(tmp_path / "cut") == weights_hash(tmp_path / "whole")
    assert metric_steps(tmp_path / "cut") == metric_steps(tmp_path / "whole")
    described = json.loads(next((tmp_path / "cut" / "exported").rglob("model.json")).read_text())
    assert described["model"]["linear"]["name"] == words[0].partition("=")[2]


def test_the_report_shows_the_first_of_four_channels():
    views = {name: np.random.default_rng(0).random((2, 4, 30, 16)) for name in ("original", "view 1", "view 2")}
    four = views_figure(views, frame_shift_ms=10.0)
    one = views_figure({name: value[:, 0] for name, value in views.items()}, frame_shift_ms=10.0)
    for drawn, wanted in zip(four.figure.axes[:6], one.figure.axes[:6], strict=True):
        assert drawn.images[0].get_array().shape == (16, 30)
        assert np.array_equal(drawn.images[0].get_array(), wanted.images[0].get_array())


def stop_after(overrides, folder, num_steps):
    """Begin a run and end it as Ctrl-C would, at the given step of pretraining."""
    program = (
        "import os, signal, sys; from vcrast.training.engine import TorchEngine; step = TorchEngine.step\n"
        "def stopping(self, *given, **named):\n"
        "    result = step(self, *given, **named)\n"
        f"    self.num_steps == {num_steps} and os.kill(os.getpid(), signal.SIGINT)\n"
        "    return result\n"
        "TorchEngine.step = stopping\n"
        "from vcrast.cli.start import start; sys.exit(start(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", program, *overrides], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert metric_steps(folder)[-1][1:] == ("pretrain", num_steps)
