"""Digital silence, which data.keep_silent keeps, through everything that learns from it."""

from functools import partial

import pytest
import torch
from parts import make_ast, make_masked, make_supervised, make_task, make_vcr
from shipped import shipped

from vcrast.data.loader import Batch
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views

VIEWS = {
    **shipped("views/none"), "time_stretch": [0.8, 1.2], "roll": True, "gain_db": 6.0, "background_probability": 1.0,
    "freq_mask_bins": 8, "time_mask_frames": 4, "num_masks": 1, "noise_std": 0.1, "patch_drop": 0.5,
}  # fmt: skip

MASKED = {name: partial(make_masked, name, masks={"count": 5}) for name in ("ssast", "mae_ast", "mae")}


@pytest.mark.parametrize("num_silent", [1, 6])
@pytest.mark.parametrize("make", [make_vcr, make_supervised, *MASKED.values()], ids=["vcr", "supervised", *MASKED])
def test_silent_clips_give_finite_losses_and_gradients(make, num_silent):
    fbank = Fbank(**shipped("features/fbank", num_mel_bins=16, sample_rate=16000, mean=-5.0, std=4.0))
    wav = 0.1 * torch.randn(6, 3120)
    wav[:num_silent] = 0.0
    assert torch.isfinite(fbank(wav)).all()
    # The logarithm has a floor, the epsilon of float32: -15.94, and (-15.94 + 5) / (2 * 4) once normalised.
    torch.testing.assert_close(fbank(wav)[0], torch.full((18, 16), (-15.942385 + 5.0) / 8.0), rtol=0, atol=1e-4)
    label = torch.eye(3)[torch.arange(6) % 3]
    encoder = make_ast()
    views = Views(fbank, **{**VIEWS, "patch_drop": 0.0 if make in MASKED.values() else 0.5})
    more = {"task": make_task(), "mixup_probability": 1.0} if make is make_supervised else {}
    objective = make(encoder, views, **more)
    inputs = objective.prepare(Batch(wav, label, torch.arange(6)), Draws(0, 0, 6))
    outputs = objective.represent(inputs)
    losses = [*objective.clip_losses(outputs).values(), *objective.batch_losses(outputs).values()]
    loss = sum(each.mean() for each in losses)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(each.grad).all() for each in objective.parameters() if each.grad is not None)
    assert any(each.grad is not None and each.grad.any() for each in encoder.parameters())
