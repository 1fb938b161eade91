"""Check the token-semantic head by loops, and heads of models as data."""

import pytest
import torch
from parts import make_ast, make_htsat
from torch import nn

from vcrast.models.backbone import Tokens
from vcrast.models.classifier import TokenSemanticHead, classify, classify_frames
from vcrast.models.export import build_head, describe_head


@pytest.mark.parametrize(("time", "rows"), [(32, 2), (5, 3), (1, 1)])
def test_the_head_by_loops(time, rows):
    torch.manual_seed(0)
    head = TokenSemanticHead(4, rows, 3).double()
    values = torch.randn(2, time * rows, 4, dtype=torch.float64, requires_grad=True)
    tokens = Tokens(values, (time, rows))
    slow = torch.zeros(2, time, 3, dtype=torch.float64)
    for clip in range(2):
        for step in range(time):
            for kind in range(3):
                total = head.conv.bias[kind]
                for tap in (-1, 0, 1):
                    for row in range(rows):
                        if 0 <= step + tap < time:
                            token = values[clip, (step + tap) * rows + row]
                            total = total + token @ head.conv.weight[kind, :, row, tap + 1]
                slow[clip, step, kind] = total
    torch.testing.assert_close(head.frames(tokens), slow)
    torch.testing.assert_close(head(tokens), slow.sum(dim=1) / time)
    leaves = (values, head.conv.weight, head.conv.bias)
    found, expected = (torch.autograd.grad(out.square().sum(), leaves) for out in (head(tokens), slow.mean(dim=1)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_vector_or_tokens_are_classified_in_full_precision():
    encoder = make_ast().eval()
    tokens = encoder(torch.randn(2, 18, 16))
    linear = nn.Linear(16, 3)
    torch.testing.assert_close(classify(encoder, linear, tokens), linear(tokens.values.mean(dim=1)))
    own = make_htsat()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = own(torch.randn(2, 18, 16))
        head = own.build_head(3)
        assert classify(own, head, tokens).dtype == classify_frames(head, tokens).dtype == torch.float32


@pytest.mark.parametrize("head", [None, nn.Linear(16, 3)])
def test_a_classifier_of_the_mean_knows_no_frames(head):
    with pytest.raises(ValueError, match="knows no times within it; finetune a model=htsat"):
        classify_frames(head, Tokens(torch.zeros(1, 4, 16), (2, 2)))


def test_a_models_own_head_is_rebuilt_by_the_model():
    encoder = make_htsat()
    head = encoder.build_head(5)
    layers = describe_head(head)
    assert layers == [{"name": "", "kind": "of_the_model", "num_classes": 5}]
    copy = build_head(layers, encoder)
    copy.load_state_dict(head.state_dict())
    tokens = encoder(torch.randn(2, 18, 16))
    torch.testing.assert_close(copy(tokens), head(tokens))
    for other in (None, make_ast()):
        with pytest.raises(ValueError, match="no classifier of its own"):
            build_head(layers, other)
