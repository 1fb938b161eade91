"""Classifiers as data: what `model.json` can describe, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vcrast.models.export import build_head, describe_head, to_plain


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return 2 * self.linear(x)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (Doubled(), "something other than its layers"),
        (nn.Sequential(nn.Linear(4, 2), nn.ReLU()), "cannot export a ReLU"),
        (nn.Sequential(nn.Sequential(nn.Linear(4, 2))), "make it a Linear"),
    ],
)
def test_heads_that_data_cannot_describe_are_refused(head, message):
    with pytest.raises(ValueError, match=message):
        describe_head(head)


def test_a_bare_linear_head_is_rebuilt_with_its_weights():
    head = nn.Linear(4, 2, bias=False)
    copy = build_head(describe_head(head))
    copy.load_state_dict(head.state_dict())
    x = torch.randn(5, 4)
    torch.testing.assert_close(copy(x), head(x))


def test_plain_data_of_config_objects():
    from omegaconf import OmegaConf

    options = OmegaConf.create({"a": [1, {"b": "c"}], "d": None})
    assert to_plain({"o": options, "p": Path("x"), "t": (1, 2.5)}, "here") == {
        "o": {"a": [1, {"b": "c"}], "d": None},
        "p": "x",
        "t": [1, 2.5],
    }
