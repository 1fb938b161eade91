import re

import pytest
import torch
from parts import make_ast
from shipped import shipped, shipped_options
from torch.nn import functional as F

from vcrast.models.decoder import Decoder, build_decoder, runs
from vcrast.models.pos_embed import sincos_2d

GRIDS = [(8, 4), (7, 3), (5, 1), (2, 6)]


def make(encoder=None, **options):
    usual = {"width": 1.0, "depth": 3, "head_dim": 4, "mlp_ratio": 2.0, "window": None}
    torch.manual_seed(0)
    decoder = Decoder(encoder=encoder or make_ast(), **{**usual, **options}).double()
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return decoder


def inputs_of(grid, num_hidden, num_clips=3):
    order = torch.rand(num_clips, grid[0] * grid[1]).argsort(dim=1)
    hidden, visible = order[:, :num_hidden].sort(dim=1).values, order[:, num_hidden:].sort(dim=1).values
    tokens = torch.randn(num_clips, visible.shape[1], 16, dtype=torch.float64, requires_grad=True)
    return tokens, visible, hidden


def masked_block(block, x, allowed):
    """A block written out, (N, D), attention only where allowed (N, N)."""
    normed = block.norm1(x)
    q, k, v = (layer(normed).unflatten(1, (-1, 4)) for layer in (block.attn.q, block.attn.k, block.attn.v))
    heads = []
    for head in range(q.shape[1]):
        logits = q[:, head] @ k[:, head].T / 2
        heads.append(logits.masked_fill(~allowed, -torch.inf).softmax(dim=1) @ v[:, head])
    x = x + block.attn.out(torch.cat(heads, dim=1))
    return x + block.fc2(F.gelu(block.fc1(block.norm2(x))))


def slow(decoder, tokens, visible, hidden, grid):
    """One clip at a time; windows as a mask of the full attention, shifted ones as Swin rolls and masks them."""
    times, bins = grid
    time, frequency = torch.arange(times).repeat_interleave(bins), torch.arange(bins).repeat(times)
    places = (torch.arange(times).double(), torch.arange(bins).double())
    found = []
    for clip in range(len(tokens)):
        x = decoder.mask_token.expand(times * bins, -1).clone()
        for row, place in enumerate(visible[clip].tolist()):
            x[place] = decoder.embed(tokens[clip, row])
        x = x + sincos_2d(places, decoder.embed_dim)
        for number, block in enumerate(decoder.blocks):
            allowed = torch.ones(times * bins, times * bins, dtype=torch.bool)
            if decoder.window is not None:
                high, wide = decoder.window
                shift = high // 2 if number % 2 else 0
                window = torch.div(time - shift, high, rounding_mode="floor") * 1000 + frequency // wide
                allowed = window[:, None] == window[None]
            x = masked_block(block, x, allowed)
        found.append(decoder.norm(x[hidden[clip]]))
    return torch.stack(found)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("window", [None, [4, 4], [4, 2], [3, 1], [100, 100]])
def test_it_is_the_slow_one_with_gradients(grid, window):
    decoder = make(window=window)
    inputs = inputs_of(grid, grid[0] * grid[1] * 2 // 3)
    pair = decoder(*inputs, grid), slow(decoder, *inputs, grid)
    torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-11)
    weights = [inputs[0], *decoder.parameters()]
    for found, expected in zip(*(torch.autograd.grad(each.square().sum(), weights) for each in pair), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-7)


def test_every_place_is_in_one_window():
    for length in range(1, 13):
        for window in range(1, 6):
            for shift in (0, window // 2):
                found = [place for start, stop, size in runs(length, window, shift) for place in range(start, stop)]
                assert found == list(range(length))
                assert all(
                    (stop - start) % size == 0 and size <= window for start, stop, size in runs(length, window, shift)
                )


def test_checkpointed_blocks_give_the_same_gradient():
    decoder = make(window=[4, 2])
    tokens, visible, hidden = inputs_of((7, 3), 9)
    plain = torch.autograd.grad(decoder(tokens, visible, hidden, (7, 3)).square().sum(), tokens)[0]
    decoder.checkpoint_blocks = True
    again = torch.autograd.grad(decoder(tokens, visible, hidden, (7, 3)).square().sum(), tokens)[0]
    torch.testing.assert_close(plain, again)


@pytest.mark.parametrize(("model", "width"), [("base", 512), ("small", 256), ("tiny", 128)])
def test_widths_of_the_masked_autoencoders_decoder(model, width):
    with torch.device("meta"):
        encoder = make_ast(**{key: shipped(f"model/{model}")[key] for key in ("embed_dim", "num_heads")}, depth=1)
        decoder = build_decoder(shipped("objective/mae")["decoder"], encoder)
        equal = build_decoder(shipped("objective/mae_ast")["decoder"], encoder)
    assert (decoder.embed_dim, decoder.blocks[0].attn.num_heads) == (width, width // 32)
    assert (equal.embed_dim, equal.blocks[0].attn.num_heads) == (encoder.embed_dim, encoder.embed_dim // 64)


def test_it_takes_the_encoders_kinds_of_attention_and_linear_layers():
    encoder = make_ast(linear=shipped_options("linear/phm"), attention=shipped_options("attention/memory_efficient"))
    theirs, ours = encoder.blocks[0], make(encoder).blocks[0]
    assert type(ours.fc1) is type(theirs.fc1) is not type(make_ast().blocks[0].fc1)
    assert type(ours.attn.mix) is type(theirs.attn.mix) is not type(make_ast().blocks[0].attn.mix)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "objective.decoder.depth=0: must be above 0"),
        ({"width": -1.0}, "objective.decoder.width=-1.0: must be above 0"),
        ({"window": [4]}, "objective.decoder.window=[4]: give [time, frequency] patches"),
        ({"window": [0, 4]}, "objective.decoder.window=[0, 4]"),
        ({"head_dim": 6}, "objective.decoder.head_dim=6: 6 is no positive multiple of 4"),
        ({"window": 4}, "objective.decoder.window=4: objective.decoder expects a list of int or null"),
        ({"heads": 4}, "objective.decoder.heads: objective.decoder has no such option"),
    ],
)
def test_wrong_options_are_named(options, message):
    usual = {"width": 1.0, "depth": 3, "head_dim": 4, "mlp_ratio": 2.0, "window": None}
    with pytest.raises(ValueError, match=re.escape(message)):
        build_decoder({**usual, **options}, make_ast())
