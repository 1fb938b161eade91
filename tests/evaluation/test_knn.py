"""Check votes of the nearest neighbours among the clips themselves, by loops."""

import math

import pytest
import torch

from vcrast.evaluation.knn import knn_among


def slow_votes(embedding, labels, recording, k, temperature):
    rows = []
    for clip in range(len(embedding)):
        others = []
        for other in range(len(embedding)):
            if recording[other] != recording[clip]:
                a, b = embedding[clip], embedding[other]
                others.append((float(a @ b / a.norm() / b.norm()), other))
        near = sorted(others, reverse=True)[:k]
        weights = [math.exp(similarity / temperature) for similarity, _ in near]
        rows.append(sum(w * labels[other] for w, (_, other) in zip(weights, near, strict=True)) / sum(weights))
    return torch.stack(rows)


@pytest.mark.parametrize("k", [1, 4, 50])
def test_each_clip_is_told_by_others_but_not_by_its_own_recording(k):
    draws = torch.Generator().manual_seed(k)
    embedding = torch.randn(23, 5, generator=draws)
    labels = (torch.rand(23, 3, generator=draws) < 0.4).float()
    recording = torch.arange(23) // 2
    found = knn_among(embedding, labels, recording, k=k, temperature=0.2, chunk=7)
    expected = slow_votes(embedding.double(), labels.double(), recording, k, 0.2)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_clip_that_has_no_other_recording_is_undefined():
    assert knn_among(torch.eye(3), torch.eye(3), torch.zeros(3), k=2, temperature=0.1).isnan().all()
