"""Check that no odd or missing tensor of a foreign checkpoint breaks an import."""

import pytest
import torch
from foreign_weights import transformers_ast
from test_mae_ast import save as save_mae_ast
from test_vit_layouts import save_ast, save_audiomae, save_ssast

from vcrast.models.layouts import build, read_layout
from vcrast.models.layouts.base import Wishes
from vcrast.models.layouts.reading import read_tensors
from vcrast.runs.failure import explains_itself

PARTS = {
    "model": {"module": "vcrast.models.ast"}, "attention": {"name": "softmax"}, "linear": {"name": "real"},
    "where": "x",
}  # fmt: skip


def checkpoint(kind, path):
    if kind == "huggingface":
        return transformers_ast(max_length=128, hidden_size=64, num_attention_heads=1).state_dict()
    if kind == "audiomae":
        save_audiomae(path, finetuned=True)
    else:
        {"ast": save_ast, "ssast": save_ssast, "mae_ast": save_mae_ast}[kind](path)
    return read_tensors(path)[0]


@pytest.mark.parametrize("kind", ["ast", "ssast", "audiomae", "mae_ast", "huggingface"])
def test_every_tensor_may_lack_or_have_another_shape(tmp_path, kind):
    whole = checkpoint(kind, tmp_path / "x.pth")
    build(read_layout(whole, Wishes(), "x"), **PARTS)
    told = []
    for name, value in whole.items():
        none = value[:0] if value.ndim else torch.zeros(0)
        for odd in (None, torch.tensor(1.0), torch.zeros(3), torch.zeros(2, 3, 4, 5), none):
            tensors = {key: other for key, other in whole.items() if key != name}
            tensors |= {} if odd is None else {name: odd}
            try:
                build(read_layout(tensors, Wishes(), "x"), **PARTS)
            except ValueError as error:  # what is left out does no harm
                told.append(str(error) if explains_itself(error) else f"{name}: no message of ours\n{error}")
    assert len(told) > 2 * len(whole)
    assert not [text for text in told if "\n" in text or len(text) > 500]
