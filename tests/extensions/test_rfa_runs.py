"""Run attention=rfa: stopping, micro-batches and exports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from parts import make_ast, make_batch, make_engine, make_supervised, make_vcr
from shipped import shipped, shipped_options
from small_run import small, weights_hash

import vcrast
from extensions.rfa.redraw import Directions
from vcrast.config.resume import resolve
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.models.backbone import build_backbone
from vcrast.models.pretrained import load_encoder
from vcrast.run import run
from vcrast.training.exact import Split, exact_backward

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "attention"
RFA = shipped_options("attention/rfa")
BATCH = 5


def encoder(attention, **options):
    torch.manual_seed(0)
    return make_ast(embed_dim=32, attention=attention, **options)


def views(**more):
    options = shipped(
        "views/none", time_stretch=[0.8, 1.2], roll=True, gain_db=6.0, background_probability=0.5, freq_mask_bins=4,
        time_mask_frames=4, num_masks=1, noise_std=0.1, patch_drop=0.5,
    )  # fmt: skip
    return Views(
        Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0)),
        **{**options, **more},
    )


def in_float64(objective):
    """The objective, its encoder seeing float64; the filterbank itself always computes in fp32."""
    prepare = objective.prepare

    def double(batch, draws):
        made = prepare(batch, draws)
        return {name: value.double() if value.is_floating_point() else value for name, value in made.items()}

    objective.prepare = double
    return objective.double()


def gradients(micro_batch_size, attention):
    objective = make_vcr(encoder(attention, drop_path=0.2), views())
    for name, weight in objective.named_parameters():
        if ".attn." in name and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    objective = in_float64(objective).train()
    engine = make_engine(objective)
    wavs = torch.randn(BATCH, 3000, generator=torch.Generator().manual_seed(1)) * 0.1
    exact_backward(engine, objective, make_batch(wavs), Draws(5, 3, BATCH), Split(micro_batch_size))
    return {name: weight.grad for name, weight in objective.named_parameters()}


@pytest.mark.parametrize(
    "options",
    [{}, {"features": "positive"}, {"gate": "two_sided"}, {"gate": "causal", "redraw": 1}],
    ids=lambda options: ",".join(f"{key}={value}" for key, value in options.items()) or "default",
)
def test_every_micro_batch_size_gives_the_whole_batchs_gradient(options):
    whole = gradients(None, {**RFA, **options})
    largest = max(gradient.abs().max().item() for gradient in whole.values())
    assert whole["encoder.blocks.0.attn.mix.scale"].abs().max() > 1e-6 * largest
    for size in range(1, BATCH):
        for name, gradient in gradients(size, {**RFA, **options}).items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-9, atol=1e-12 * largest)


def test_a_bad_step_does_not_undo_the_count_of_steps():
    # The engine puts back buffers that it knew; an undone count on the device would need waiting for the device.
    objective = make_supervised(encoder({**RFA, "redraw": 2}), views())
    engine = make_engine(objective)
    wavs, labels = torch.randn(BATCH, 3000) * 0.1, torch.eye(3)[torch.arange(BATCH) % 3]
    layer = next(module for module in objective.modules() if isinstance(module, Directions))
    first = layer.values.clone()
    for step in range(2):
        outcome = exact_backward(engine, objective, make_batch(wavs, labels), Draws(5, step, BATCH), Split(2))
        if step == 1:
            engine.bad_loss = torch.tensor(True)
        engine.step(lr=1e-3)
        assert outcome.loss.isfinite()
    assert layer.num_steps == 2
    assert torch.equal(layer.values, layer.draw(int(layer.key), 1))
    assert not torch.equal(layer.values, first)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_backend_trains_a_step_in_every_precision(name, precision):
    attention = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    objective = make_vcr(encoder(attention), views())
    engine = make_engine(objective, precision=precision)
    if engine.loss_scale is not None:
        engine.loss_scale.scale.fill_(2.0**8)
    before = {key: value.clone() for key, value in objective.named_parameters()}
    wavs = torch.randn(BATCH, 3000) * 0.1
    outcome = exact_backward(engine, objective, make_batch(wavs), Draws(5, 0, BATCH), Split(2))
    stepped = engine.step(lr=1e-3)
    assert outcome.loss.isfinite()
    assert not stepped.skipped
    moved = [key for key, value in objective.named_parameters() if not torch.equal(value, before[key])]
    assert "encoder.blocks.0.attn.q.weight" in moved
    assert ("encoder.blocks.0.attn.mix.scale" in moved) == (name == "rfa")


RFA_RUN = ("attention=rfa", "attention.num_features=8", "attention.redraw=5", "stages=[pretrain,finetune]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rfa") / "finished"
    overrides = small(folder, *RFA_RUN)
    run(resolve(overrides), overrides)
    return folder


def test_a_run_stopped_and_resumed_is_the_uninterrupted_one_bit_for_bit(finished, tmp_path):
    folder = tmp_path / "stopped"
    overrides = small(folder, *RFA_RUN, "checkpoint.every_steps=3")
    # Dies without warning at pretraining step 8 of 12: after the redraw of step 5, its last checkpoint being step 6's.
    program = (
        "import os, sys\n"
        "from vcrast.training.engine import TorchEngine\n"
        "step = TorchEngine.step\n"
        "TorchEngine.step = lambda self, *args, **kw: os._exit(9) if self.num_steps == 7 else step(self, *args, **kw)\n"
        "from vcrast.cli.start import start\n"
        "sys.exit(start(sys.argv[1:], dry_run=False, show_config=False))\n"
    )
    died = subprocess.run([sys.executable, "-c", program, *overrides], cwd=ROOT, capture_output=True, check=False)
    assert died.returncode == 9, died.stderr[-2000:]
    done = subprocess.run(
        [sys.executable, "launch/local.py", f"run.resume={folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert weights_hash(folder) == weights_hash(finished)


def test_the_exported_run_holds_its_directions_and_loads(finished):
    model = vcrast.load(finished)
    mix = model.encoder.blocks[0].attn.mix
    assert mix.directions.shape == (2, 8, 16)
    assert mix.directions.num_steps > 0
    layer = mix.directions
    assert torch.equal(layer.values, layer.draw(int(layer.key), int(layer.num_steps) // 5))
    vector = model.embed(torch.randn(16000) * 0.1)
    assert vector.shape == (32,)
    assert vector.isfinite().all()
    chances = model.predict(torch.randn(16000) * 0.1)
    assert sum(chances.values()) == pytest.approx(1.0, abs=1e-5)


def test_softmax_continues_as_rfa_and_back(finished, tmp_path):
    exported = finished / "exported" / "fold_1" / "pretrained" / "weights.safetensors"
    options = json.loads((exported.parent / "model.json").read_text())["model"]
    softmax = build_backbone({**options, "attention": {"name": "softmax"}})
    load_encoder(softmax, exported)
    overrides = small(tmp_path / "back", "attention=rfa", f"model.checkpoint={exported}", "stages=[finetune]",
                      "attention.num_features=16", "finetune.steps=2")  # fmt: skip
    run(resolve(overrides), overrides)
    log = (tmp_path / "back" / "train.log").read_text()
    assert "kept as built" in log
    assert "attn.mix.directions.values" in log


def test_the_long_audio_recipe_trains_a_step_at_reduced_size(tmp_path):
    overrides = [
        "recipe=long_audio", "data=synthetic", "data.options.num_clips=40", "data.options.classes=[siren,rain]",
        "data.clip_duration_s=2.0", "data.num_workers=0", f"data.cache_dir={tmp_path / 'cache'}", "model=tiny",
        "model.embed_dim=32", "model.depth=2", "model.num_heads=2", "objective.projector_dims=[32,32,32]",
        "pretrain.batch_size=8", "pretrain.steps=1", "pretrain.watch_clips=8", "stages=[pretrain]",
        f"run.dir={tmp_path / 'long'}",
    ]  # fmt: skip
    config = resolve(overrides)
    assert config.attention["name"] == "rfa"
    run(config, overrides)
    line = json.loads((tmp_path / "long" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] > 0


def test_the_long_audio_recipe_is_a_minute_of_6000_frames():
    config = resolve(["recipe=long_audio", "data.root=."])
    assert config.data.clip_duration_s == 60.0
    assert config.data.name == "folder"
    assert (config.data.clip_duration_s * 1000 / config.features["frame_shift_ms"]) == 6000
