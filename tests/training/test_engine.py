import copy
import math

import pytest
import torch
from shipped import shipped
from torch import nn

from vcrast.config.registry import ENGINES
from vcrast.runs.flatten import flatten_state, unflatten_state
from vcrast.training.device import resolve_precision
from vcrast.training.engine import PATIENCE, TorchEngine, compile_encoder
from vcrast.training.loss_scale import LossScale
from vcrast.training.optim import adamw, lars

OPTIMIZERS = {
    "adamw": lambda module: adamw(module, **shipped("optim/adamw", lr=0.1, weight_decay=0.1)),
    "lars": lambda module: lars(module, **shipped("optim/lars", lr=0.1)),
    "unfused": lambda module: torch.optim.AdamW(module.parameters(), lr=0.1),
}


def make(optimizer="adamw", precision="fp32", clip_grad_norm=None):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    engine = TorchEngine(
        module, OPTIMIZERS[optimizer](module), precision=precision, device="cpu", clip_grad_norm=clip_grad_norm
    )
    return module, engine


def train(module, engine, *, poison=None, lr=0.1, seed=0):
    engine.remember_buffers()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    with engine.autocast():
        out = module(x if poison != "input" else x * torch.nan)
    loss = out.float().square().mean()
    engine.backward(loss * (torch.nan if poison == "loss" else 1.0))
    if poison == "gradient":
        module[3].weight.grad[1, 2] = torch.inf
    return engine.step(lr)


def snapshot(module, engine):
    state = copy.deepcopy((module.state_dict(), engine.optimizer.state_dict()["state"]))
    flat = dict(state[0])
    for number, values in state[1].items():
        flat |= {f"{number}.{key}": value for key, value in values.items()}
    return flat


@pytest.mark.parametrize("poison", ["input", "loss", "gradient"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_bad_step_leaves_everything_bit_identical(optimizer, precision, poison):
    module, engine = make(optimizer, precision)
    assert not train(module, engine).skipped
    before = snapshot(module, engine)
    result = train(module, engine, poison=poison, seed=1)
    after = snapshot(module, engine)
    assert result.skipped
    assert engine.num_skipped == 1
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not train(module, engine, seed=2).skipped
    assert not torch.equal(module[0].weight, before["0.weight"])


def test_a_non_finite_loss_with_finite_gradients_is_noticed():
    module, engine = make()
    before = snapshot(module, engine)
    x = torch.randn(5, 4)
    hinge = torch.relu(module(x) - torch.inf).mean() + torch.tensor(torch.nan)  # gradient zero everywhere
    engine.remember_buffers()
    engine.backward(hinge)
    assert all(weight.grad.isfinite().all() for weight in module.parameters())
    assert engine.step(0.1).skipped
    assert torch.equal(module[0].weight, before["0.weight"])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bad_steps_in_a_row_stop_the_run_and_name_the_tensor(precision):
    module, engine = make(precision=precision)
    train(module, engine)
    for _ in range(PATIENCE[precision] - 1):
        train(module, engine, poison="gradient")
    text = rf"step {PATIENCE[precision] + 1}: the gradient of 3.weight is not finite.*lower the learning rate"
    with pytest.raises(FloatingPointError, match=text):
        train(module, engine, poison="gradient")


def test_a_good_step_resets_the_count():
    module, engine = make()
    for poison in ("loss", "loss", None, "loss", "loss", None):
        train(module, engine, poison=poison)
    assert engine.num_skipped == 4
    for poison in ("loss", "loss"):
        train(module, engine, poison=poison)
    with pytest.raises(FloatingPointError, match="step 9: the loss"):
        train(module, engine, poison="loss")


def test_a_scale_below_one_stops_the_run():
    module, engine = make(precision="fp16")
    engine.loss_scale.scale.fill_(1.0)
    with pytest.raises(FloatingPointError, match=r"loss scale fell to 0\.5"):
        train(module, engine, poison="gradient")


@pytest.mark.parametrize("clip", [None, 0.01, 100.0])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gradients_are_unscaled_once_and_clipped_like_torch(precision, clip):
    module, engine = make(precision=precision, clip_grad_norm=clip)
    twin = copy.deepcopy(module)
    seen = []
    engine.optimizer.register_step_pre_hook(lambda *_: seen.extend(p.grad.clone() for p in engine.parameters))
    result = train(module, engine)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    twin(x).square().mean().backward()
    norm = nn.utils.clip_grad_norm_(twin.parameters(), clip or math.inf)
    named = dict(twin.named_parameters())
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    torch.testing.assert_close(result.grad_norm, norm, rtol=tolerance, atol=0)
    for weight, gradient in zip(engine.parameters, seen, strict=True):
        expected = named[engine.names[id(weight)]].grad
        torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance * norm.item() / 5)


def test_loss_scale_follows_torchs_rule():
    ours = LossScale(torch.device("cpu"), scale=1024.0, growth_interval=3)
    theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    weight = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for bad in [0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]:
        theirs.scale(weight * (torch.inf if bad else 1.0)).backward()
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        ours.update(torch.tensor(bool(bad)))
        assert ours.scale.item() == theirs.get_scale()


def test_loss_scale_never_grows_to_infinity():
    scale = LossScale(torch.device("cpu"), scale=2.0**127, growth_interval=1)
    scale.update(torch.tensor(False))
    assert scale.scale.item() == 2.0**127


def test_lr_scale_is_applied():
    module = nn.Linear(3, 2)
    groups = [{"params": [module.weight], "lr_scale": 0.25}, {"params": [module.bias]}]
    optimizer = torch.optim.SGD(groups, lr=9.0)
    engine = TorchEngine(module, optimizer, precision="fp32", device="cpu", clip_grad_norm=None)
    weight, bias = module.weight.detach().clone(), module.bias.detach().clone()
    engine.backward(module.weight.sum() + module.bias.sum())  # every gradient is 1
    engine.step(0.1)
    torch.testing.assert_close(module.weight, weight - 0.1 * 0.25)
    torch.testing.assert_close(module.bias, bias - 0.1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_saved_and_loaded_goes_on_bit_identically(tmp_path, optimizer, precision):
    module, engine = make(optimizer, precision)
    for seed in range(3):
        train(module, engine, seed=seed, poison="gradient" if seed == 1 else None)
    tensors, skeleton = flatten_state(engine.state_dict())
    torch.save([tensors, skeleton], tmp_path / "state.pt")
    other, again = make(optimizer, precision)
    nn.init.zeros_(other[0].weight)
    again.load_state_dict(unflatten_state(*torch.load(tmp_path / "state.pt", weights_only=True)))
    for seed in range(3, 6):
        train(module, engine, seed=seed)
        train(other, again, seed=seed)
    left, right = snapshot(module, engine), snapshot(other, again)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert again.num_skipped == 1
    assert again.steps == 6
    if precision == "fp16":
        assert torch.equal(again.loss_scale.streak, engine.loss_scale.streak)


def test_precision_cannot_change_family_on_resume():
    state = make(precision="fp16")[1].state_dict()
    with pytest.raises(ValueError, match="made with fp16"):
        make()[1].load_state_dict(state)


def test_resolve_precision(monkeypatch):
    assert resolve_precision("auto", "cpu") == "fp32"
    assert resolve_precision("fp16", "cpu") == "fp16"
    with pytest.raises(ValueError, match="choose from auto, bf16, fp16, fp32"):
        resolve_precision("half", "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert resolve_precision("auto", "cuda") == "fp16"
    with pytest.raises(ValueError, match="Tesla T4 only emulates it"):
        resolve_precision("bf16", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert resolve_precision("auto", "cuda") == "bf16"


def test_compile_is_asked_of_the_encoder_and_refused_on_old_gpus(monkeypatch):
    module, compiled = nn.Module(), []
    module.encoder = nn.Linear(2, 2)
    monkeypatch.setattr(nn.Linear, "compile", lambda self: compiled.append(self), raising=False)
    compile_encoder(module, torch.device("cpu"))
    assert compiled == [module.encoder]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(ValueError, match=r"not Tesla T4; set engine\.compile=false"):
        compile_encoder(module, torch.device("cuda"))


def test_mistakes_are_named():
    module, engine = make()
    with pytest.raises(ValueError, match="call backward before step"):
        engine.step(0.1)
    with pytest.raises(ValueError, match="clip_grad_norm=0"):
        make(clip_grad_norm=0)
    options = {"name": "torch", "module": "vcrast.training.engine", "compile": "yes"}
    arguments = {"optimizer": engine.optimizer, "precision": "fp32", "device": "cpu", "clip_grad_norm": None}
    with pytest.raises(ValueError, match="compile='yes'"):
        ENGINES.build(options, module=module, **arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_cuda_skips_without_waiting_and_stops_one_step_late(optimizer):
    module = nn.Linear(4, 2).cuda()
    engine = TorchEngine(module, OPTIMIZERS[optimizer](module), precision="fp32", device="cuda", clip_grad_norm=1.0)
    before = module.weight.detach().clone()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            engine.backward(module(torch.ones(3, 4, device="cuda")).sum() * torch.nan)
            engine.step(0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(module.weight, before)
    with pytest.raises(FloatingPointError, match="step 3"):
        engine.state_dict()
