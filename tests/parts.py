"""Make small parts for tests, with a value for every option."""

import torch
from shipped import shipped_options

from vcrast.config.registry import OBJECTIVES
from vcrast.data.loader import Batch
from vcrast.data.synth.pairs import Doppelgangers
from vcrast.models.backbone import build_backbone
from vcrast.objectives.base import Task
from vcrast.objectives.supervised import Supervised
from vcrast.training.engine import TorchEngine
from vcrast.training.engine_deepspeed import DeepSpeedEngine
from vcrast.training.optim import adamw, lars


def make_ast(**options):
    """An AST of two narrow blocks on 18 frames of 16 bins."""
    sizes = {
        "name": "ast", "module": "vcrast.models.ast", "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
        "patch_size": [4, 8], "positions": "sincos", "class_tokens": 0, "pool": "mean", "readout": "pool",
        "drop_path": 0.0, "positions_stride": None, "norms": "pre", "norm_eps": 1e-6,
    }  # fmt: skip
    given = {
        "num_mel_bins": 16, "num_frames": 18, "num_channels": 1, "patch_stride": None,
        "attention": {"name": "softmax"}, "linear": {"name": "real"},
    }  # fmt: skip
    return build_backbone(
        {**sizes, **{key: value for key, value in options.items() if key in sizes}},
        **{**given, **{key: value for key, value in options.items() if key not in sizes}},
    )


def make_htsat(**options):
    """An HTS-AT of two stages on 18 frames of 16 bins: folded to 24 frames in two chunks, 6 x 4 tokens at the end."""
    sizes = {
        "name": "htsat", "module": "vcrast.models.htsat", "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2],
        "mlp_ratio": 2.0, "patch_size": [2, 2], "window_size": 4, "num_chunks": 2, "drop_path": 0.0,
    }  # fmt: skip
    given = {
        "num_mel_bins": 16, "num_frames": 18, "num_channels": 1, "patch_stride": None,
        "attention": {"name": "softmax"}, "linear": {"name": "real"},
    }  # fmt: skip
    return build_backbone(
        {**sizes, **{key: value for key, value in options.items() if key in sizes}},
        **{**given, **{key: value for key, value in options.items() if key not in sizes}},
    )


def make_task(num_classes=3, *, multilabel=False, num_frames=18, num_mel_bins=16):
    return Task(num_classes, multilabel, num_frames, num_mel_bins)


JOINT = ("vcr", "barlow", "ntxent", "sigreg", "visreg", "mmcr")
"""Objectives that compare views."""


def make_joint(name, encoder, views, dims=(12, 12, 20), **options):
    """One of `JOINT` with a narrow projector and few directions."""
    small = {"num_directions": 7} if name in ("sigreg", "visreg") else {}
    own = shipped_options(f"objective/{name}", projector_dims=list(dims), **{**small, **options})
    return OBJECTIVES.build(own, encoder=encoder, views=views, task=make_task())


def make_vcr(encoder, views, dims=(12, 12, 20), **options):
    return make_joint("vcr", encoder, views, dims, **options)


def make_supervised(encoder, views, task=None, **options):
    plain = {
        "loss": "auto", "label_smoothing": 0.0, "class_weights": None, "mixup_probability": 0.0, "mixup_alpha": 10.0,
        "cutmix_probability": 0.0, "cutmix_alpha": 1.0, "mix_by": "clip",
    }  # fmt: skip
    return Supervised(encoder=encoder, views=views, task=task or make_task(), **{**plain, **options})


def make_adamw(module, **options):
    usual = {
        "lr": 1e-3, "weight_decay": 0.05, "betas": (0.9, 0.95), "eps": 1e-8, "layer_decay": 1.0,
        "final_weight_decay": None,
    }  # fmt: skip
    return adamw(module, **{**usual, **options})


def make_lars(module, **options):
    usual = {"lr": 0.2, "weight_decay": 1e-6, "momentum": 0.9, "trust_coeff": 1e-3, "layer_decay": 1.0}
    return lars(module, **{**usual, **options})


def make_doppelgangers(**options):
    """Pairs of half a second at 16 kHz."""
    usual = {
        "num_samples": 8000, "sample_rate": 16000, "seed": 0, "distance": 0.15, "distances": {}, "final_distance": None,
        "distance_steps": 0, "program": "layers", "num_layers": 2,
    }  # fmt: skip
    return Doppelgangers(**{**usual, **options})


def assert_a_gpu_makes_the_same(**options):
    """Pairs made on a GPU are those of the CPU, up to rounding, and making them waits for nothing."""
    on_gpu = make_doppelgangers(device="cuda", **options)
    on_gpu.batch(0, 8)
    torch.cuda.set_sync_debug_mode("error")
    try:
        pairs = on_gpu.batch(1, 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = make_doppelgangers(**options).batch(1, 8)
    torch.testing.assert_close(pairs.units.cpu(), expected.units, rtol=0, atol=1e-6)
    torch.testing.assert_close(pairs.wavs.cpu(), expected.wavs, rtol=0, atol=5e-3)


def make_engine(module, optimizer=None, *, kind="torch", **options):
    usual = {
        "precision": "fp32", "device": "cpu", "clip_grad_norm": None, "compile": False, "checkpoint_blocks": False,
    }  # fmt: skip
    optimizer = make_adamw(module) if optimizer is None else optimizer
    if kind == "torch":
        return TorchEngine(module, optimizer, **{**usual, **options})
    return DeepSpeedEngine(module, optimizer, **{"zero_stage": 1, "offload": "none", **usual, **options})


def make_batch(wavs, labels=None):
    labels = wavs.new_zeros(len(wavs), 0) if labels is None else labels
    return Batch(wavs, labels, torch.arange(len(wavs)))


def make_masked(name, encoder, views, task=None, *, masks=None, **options):
    """A masked objective with the options of its file, but for those given; of `masks`, too."""
    own = shipped_options(f"objective/{name}", **options)
    own["masks"] |= masks or {}
    return OBJECTIVES.build(own, encoder=encoder, views=views, task=task or make_task())


def make_asit(encoder, views, task=None, **options):
    """ASiT with narrow heads and few prototypes."""
    small = {"head_dims": [12, 10], "num_prototypes": 7, "num_token_prototypes": 5}
    own = shipped_options("objective/asit", **{**small, **options})
    return OBJECTIVES.build(own, encoder=encoder, views=views, task=task or make_task())
