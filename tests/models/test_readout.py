"""Check read-outs against slow statistics, and through a whole run."""

import json
import re

import numpy as np
import pytest
import torch
from parts import make_ast
from small_run import small

import vcrast
from vcrast.config.compose import compose
from vcrast.models.backbone import Tokens
from vcrast.models.readout import LEAST_STD, row_statistics
from vcrast.run import run


def slow(values, grid, keep=None):
    """Row by row and number by number, in NumPy."""
    rows = []
    for clip, vectors in enumerate(values.detach().numpy()):
        places = range(len(vectors)) if keep is None else keep[clip].tolist()
        statistics = []
        for row in range(grid[1]):
            there = [vector for place, vector in zip(places, vectors, strict=True) if place % grid[1] == row]
            mean = np.mean(there, axis=0) if there else np.zeros(vectors.shape[1])
            std = np.std(there, axis=0) if there else np.zeros(vectors.shape[1])
            statistics += [*mean, *np.maximum(std, LEAST_STD)]
        rows.append(statistics)
    return np.array(rows)


@pytest.mark.parametrize("grid", [(5, 3), (7, 1), (1, 4)])
def test_statistics_are_those_of_each_row_over_time(grid):
    values = torch.randn(2, grid[0] * grid[1], 6, dtype=torch.float64)
    found = row_statistics(Tokens(values, grid))
    assert found.shape == (2, grid[1] * 2 * 6)
    np.testing.assert_allclose(found.numpy(), slow(values, grid), rtol=1e-12, atol=1e-14)


def test_dropped_tokens_do_not_count_and_a_row_without_any_has_mean_0():
    grid, keep = (4, 3), torch.tensor([[0, 3, 4, 9, 10], [0, 2, 5, 6, 11]])  # rows 0 and 1; rows 0 and 2
    values = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    found = row_statistics(Tokens(values, grid, keep))
    np.testing.assert_allclose(found.detach().numpy(), slow(values, grid, keep), rtol=1e-12, atol=1e-14)
    assert found.unflatten(1, (3, 2, 4))[0, 2, 0].eq(0).all()
    assert torch.autograd.gradcheck(lambda given: row_statistics(Tokens(given, grid, keep)), values)


def test_a_row_of_equal_tokens_has_a_finite_gradient():
    values = torch.ones(1, 6, 2, requires_grad=True)
    row_statistics(Tokens(values, (3, 2))).sum().backward()
    torch.testing.assert_close(values.grad, torch.full_like(values, 1 / 3))  # of the means alone


def test_halves_are_read_in_full_precision():
    values = torch.randn(2, 6, 4).bfloat16()
    found = row_statistics(Tokens(values, (3, 2)))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, row_statistics(Tokens(values.float(), (3, 2))), rtol=0, atol=0)


@pytest.mark.parametrize("patch_size", [[4, 8], [2, 16]])
def test_the_encoder_tells_how_long_its_vectors_are(patch_size):
    encoder = make_ast(readout="statistics", patch_size=patch_size).eval()
    for num_frames in (18, 33):
        tokens = encoder(torch.randn(2, num_frames, 16))
        assert encoder.read_out(tokens).shape == (2, encoder.readout_dim)
        assert encoder.pool(tokens).shape == (2, encoder.embed_dim)
    assert encoder.readout_dim == 2 * encoder.embed_dim * (16 // patch_size[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readout": "max"}, "model.readout=max: choose from pool, statistics"),
        ({"readout": "statistics", "class_tokens": 1, "pool": "class"}, "reads the patches, not model.pool=class"),
    ],
)
def test_readouts_that_there_are_not_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_ast(**options)


@pytest.mark.slow
def test_a_run_probes_finetunes_and_exports_it(tmp_path):
    words = ("model.readout=statistics", "finetune.head=auto", "finetune.views.patch_drop=0.5")
    folder = run(compose(small(tmp_path / "run", *words)))
    results = json.loads((folder / "summary.json").read_text())["mean"]["evaluate"]
    assert {"accuracy", "knn_accuracy", "probe_accuracy"} <= results.keys()
    wav = 0.1 * torch.randn(16000)
    for stage in ("pretrained", "finetuned", "probe"):
        model = vcrast.load(folder, stage=stage)
        tokens = model.tokens(wav)[0]
        grid = model.encoder.grid(model.features.num_frames(16000))
        expected = slow(tokens[None].double(), grid)[0]
        np.testing.assert_allclose(model.embed(wav).numpy(), expected, rtol=1e-4, atol=1e-5)
        if stage != "pretrained":
            vector = torch.from_numpy(expected).float()
            with torch.no_grad():
                logits = model.head.cpu()(vector[None])[0]
            names = model.labels
            expected_scores = dict(zip(names, logits.softmax(dim=0).tolist(), strict=True))
            assert model.predict(wav) == pytest.approx(expected_scores, abs=1e-4)
    described = json.loads((folder / "exported" / "fold_1" / "pretrained" / "model.json").read_text())
    assert described["model"]["readout"] == "statistics"
