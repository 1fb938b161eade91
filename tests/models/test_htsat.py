"""Check the fold by loops, the tokens against timm's Swin, and the step under every cut."""

import copy

import pytest
import torch
from parts import make_adamw, make_batch, make_engine, make_htsat, make_supervised, make_task, make_vcr
from ranks import in_ranks
from shipped import shipped, shipped_options
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.models.backbone import build_backbone
from vcrast.models.export import export
from vcrast.models.pretrained import load_encoder
from vcrast.training.dist import rank_slice
from vcrast.training.exact import Split, exact_backward
from vcrast.training.optim import layers_of

BATCH = 6


def bend(module):
    """Larger weights than the usual start, so that attention, biases and MLP matter."""
    for weight in module.parameters():
        nn.init.normal_(weight, mean=0.1, std=0.3)
    return module


def make(**options):
    torch.manual_seed(0)
    return bend(make_htsat(**options)).double()


def random_fbank(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def cubic(x):
    """The bicubic kernel of PyTorch, whose parameter is -0.75."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


@pytest.mark.parametrize(("num_frames", "folded"), [(24, 24), (18, 24), (17, 24), (25, 32), (9, 16)])
def test_the_fold_by_loops(num_frames, folded):
    encoder, fbank = make(), random_fbank(2, num_frames, 16)
    assert encoder.folded_frames(num_frames) == folded
    image = encoder.fold(fbank)
    assert image.shape == (2, 1, 32, folded // 2)
    for frame in range(folded):
        place = frame * (num_frames - 1) / (folded - 1)  # ends on ends
        first = int(place)
        row = torch.zeros(2, 16, dtype=torch.float64)
        for tap in range(first - 1, first + 3):
            row += cubic(place - tap) * fbank[:, min(max(tap, 0), num_frames - 1)]
        row = row * encoder.mel_scale + encoder.mel_shift
        chunk, column = divmod(frame, folded // 2)
        torch.testing.assert_close(image[:, 0, 16 * chunk : 16 * chunk + 16, column], row, rtol=1e-9, atol=1e-9)


def test_ten_seconds_become_the_papers_image():
    with torch.device("meta"):
        encoder = build_backbone(
            shipped_options("model/htsat"), num_mel_bins=64, num_frames=997, num_channels=1, patch_stride=None
        )
    assert encoder.fold(torch.empty(1, 997, 64, device="meta")).shape == (1, 1, 256, 256)
    assert (encoder.patch_embed.grid_size, encoder.grid(997), encoder.embed_dim) == ((64, 64), (32, 2), 768)
    stages = [[(block.window_size, block.shift_size) for block in stage.blocks] for stage in encoder.layers]
    shifted = [((8, 8), (0, 0)), ((8, 8), (4, 4))]
    assert stages == [shifted, shifted, 3 * shifted, 2 * [((8, 8), (0, 0))]]


@pytest.mark.parametrize(
    ("sizes", "num_frames"),
    [
        ({}, 18),
        ({"num_chunks": 1, "num_frames": 40}, 37),
        ({"patch_size": [4, 2], "num_frames": 60, "depths": [1, 3]}, 60),
    ],
)
def test_tokens_and_gradients_are_those_of_timms_swin(sizes, num_frames):
    encoder = make(**sizes)
    options = encoder.options
    image = encoder.fold(random_fbank(3, num_frames, 16)).detach()
    oracle = SwinTransformer(
        img_size=image.shape[2:], patch_size=(options["patch_size"][1], options["patch_size"][0]), in_chans=1,
        num_classes=0, embed_dim=8, depths=options["depths"], num_heads=[1, 2], window_size=4, mlp_ratio=2.0,
    ).double().eval()  # fmt: skip
    weights = {name: value for name, value in encoder.state_dict().items() if not name.startswith("mel_")}
    oracle.load_state_dict(weights)
    expected = oracle.forward_features(image)  # (B, chunks * f, t / chunks, D)
    fbank = random_fbank(3, num_frames, 16).requires_grad_()
    tokens = encoder.eval()(fbank)
    (time, frequency), chunks = tokens.grid, options["num_chunks"]
    assert tokens.values.shape == (3, time * frequency, 16)
    for step in range(time):
        chunk, column = divmod(step, time // chunks)
        for row in range(frequency):
            torch.testing.assert_close(
                tokens.values[:, step * frequency + row], expected[:, chunk * frequency + row, column]
            )
    tokens.values.square().sum().backward()
    expected.square().sum().backward()
    for name, weight in oracle.named_parameters():
        torch.testing.assert_close(encoder.get_parameter(name).grad, weight.grad, rtol=1e-8, atol=1e-8)
    assert fbank.grad.abs().min() > 0


def test_other_lengths_than_it_was_built_for_are_encoded():
    encoder = make().eval()
    for num_frames, grid in ((9, (4, 4)), (24, (6, 4)), (33, (10, 4)), (64, (16, 4))):
        tokens = encoder(random_fbank(2, num_frames, 16))
        assert (tokens.grid, encoder.grid(num_frames), tokens.values.shape[1]) == (grid, grid, grid[0] * grid[1])
        assert tokens.values.isfinite().all()


def test_hidden_layers_are_those_of_the_last_stage():
    encoder, fbank = make().eval(), random_fbank(2, 18, 16)
    tokens = encoder(fbank, hidden=True)
    assert [layer.shape for layer in tokens.hidden] == [(2, 24, 16)] * 3
    torch.testing.assert_close(encoder.norm(tokens.hidden[-1]), tokens.values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_stride": [2, 2]}, r"patch_stride=\[2, 2\]: patches of model=htsat do not overlap"),
        ({"num_mel_bins": 18}, "features.num_mel_bins=18: model=htsat needs a multiple of 4"),
        ({"num_frames": 4}, "a clip of 4 frames is too short to be folded; it must have more than 4 "),
        ({"depths": [2]}, r"model.num_heads=\[1, 2\]: give one number for each of the 1 stages"),
        ({"num_heads": [1, 3]}, "stage 2 is 16 wide, which is no multiple of 3"),
        ({"depths": [2, 0]}, r"model.depths=\[2, 0\]"),
        ({"window_size": 0}, "model.window_size=0"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"attention": {"name": "rfa"}}, "attention=rfa: model=htsat has no exchangeable attention"),
        ({"linear": {"name": "phm"}}, "linear=phm: model=htsat has no exchangeable linear"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        make_htsat(**options)
    assert "\n" not in str(error.value)


def test_tokens_can_be_neither_dropped_nor_masked():
    encoder = make_htsat()
    for mode, message in (
        ("drop", "HTSAT cannot leave tokens out, it needs the whole grid"),
        ("mask", "no mask token"),
    ):
        with pytest.raises(ValueError, match=f"views.patch_drop=0.5: .*{message}"):
            make_vcr(encoder, make_views(patch_drop=0.5, patch_drop_mode=mode))
    with pytest.raises(ValueError, match="needs the whole grid"):
        encoder(torch.zeros(1, 18, 16), mask=torch.zeros(1, 24, dtype=torch.bool))
    with pytest.raises(ValueError, match="filterbank of 12 mel bins, the encoder was built for 16"):
        encoder(torch.zeros(1, 18, 12))


class InDouble(Views):
    """Hands the encoder its views in float64; the filterbank itself always computes in fp32."""

    def make(self, wavs, draws, view):
        return super().make(wavs, draws, view).double()


def make_views(**options):
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0))
    return InDouble(fbank, **shipped("views/none", roll=True, gain_db=6.0, **options))


def step(objective, size=None, *, mine=range(BATCH), **engine_options):
    """Gradients and loss of one step."""
    objective = copy.deepcopy(objective).train()
    engine = make_engine(objective, **engine_options)
    wavs = torch.randn(BATCH, 3000, generator=torch.Generator().manual_seed(1)) * 0.1
    labels = torch.eye(3, dtype=torch.float64)[torch.arange(BATCH) % 3]
    part, draws = slice(mine.start, mine.stop), Draws(5, 3, BATCH, start=mine.start, stop=mine.stop)
    outcome = exact_backward(engine, objective, make_batch(wavs[part], labels[part]), draws, Split(size))
    return {name: weight.grad for name, weight in objective.named_parameters()}, outcome.loss


def step_of_part():
    return step(make_objective("vcr"), 2, mine=rank_slice(BATCH))


def make_objective(kind, drop_path=0.4):
    encoder = make(drop_path=drop_path)
    objective = (
        make_vcr(encoder, make_views()) if kind == "vcr" else make_supervised(encoder, make_views(), make_task())
    )
    return bend(objective).double()


def assert_same(found, expected):
    torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=0)
    largest = max(gradient.abs().max().item() for gradient in expected[0].values())
    for name, gradient in expected[0].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-9, atol=1e-12 * largest)


@pytest.mark.parametrize("kind", ["vcr", "supervised"])
def test_the_step_is_that_of_the_whole_batch_under_every_cut(kind):
    objective = make_objective(kind)
    whole = step(objective)
    for size in (1, 4, 5):
        assert_same(step(objective, size), whole)
    assert_same(step(objective, 3, checkpoint_blocks=True), whole)
    assert not torch.equal(step(make_objective(kind, drop_path=0.0))[1], whole[1])  # drop path does something


@pytest.mark.slow
def test_two_processes_give_the_whole_batchs_step(tmp_path):
    whole = step(make_objective("vcr"))
    for found in in_ranks(2, step_of_part, folder=tmp_path):
        assert_same(found, whole)


def test_drop_path_is_a_function_of_the_noise_by_loops():
    encoder = make(drop_path=0.6).train()
    fbank, noise = random_fbank(5, 18, 16), torch.rand(5, 8, generator=torch.Generator().manual_seed(2))
    values = encoder.patch_embed(encoder.fold(fbank))
    blocks = [(stage, block) for stage in encoder.layers for block in stage.blocks]
    for number, (stage, block) in enumerate(blocks):
        rate = 0.6 * number / 3
        values = stage.downsample(values) if block is stage.blocks[0] else values
        for column, branch in enumerate((lambda x, b=block: b._attn(b.norm1(x)), lambda x, b=block: b.mlp(b.norm2(x)))):
            change = branch(values)
            for clip in range(5):
                change[clip] = 0.0 if noise[clip, 2 * number + column] < rate else change[clip] / (1 - rate)
            values = values + change
    torch.testing.assert_close(encoder(fbank, drop_path_noise=noise).values, encoder.unfold(encoder.norm(values)))
    torch.testing.assert_close(encoder.eval()(fbank, drop_path_noise=noise).values, encoder(fbank).values)


def test_layers_for_the_decay_of_the_rate():
    objective = make_objective("supervised")
    names = [name for name, _ in objective.named_parameters()]
    layers = layers_of(objective, names)
    expected = {
        "encoder.mel_scale": 0, "encoder.patch_embed.proj.weight": 0, "encoder.layers.0.blocks.1.attn.qkv.weight": 2,
        "encoder.layers.1.downsample.reduction.weight": 3, "encoder.layers.1.blocks.0.mlp.fc1.weight": 3,
        "encoder.layers.1.blocks.1.norm1.weight": 4, "encoder.norm.weight": 5, "head.conv.weight": 5,
    }  # fmt: skip
    assert {name: layers[name] for name in expected} == expected
    assert make_adamw(objective, layer_decay=0.5)


def test_an_exported_encoder_is_loaded_over_another(tmp_path):
    first, second = make_htsat(), make_htsat()
    bend(first)
    export(
        tmp_path / "m", encoder=first, head=None, features=shipped("features/fbank", num_mel_bins=16), labels=(),
        multilabel=False, sample_rate=16000, clip_duration_s=0.2, pad="silence", meta={},
    )  # fmt: skip
    assert load_encoder(second, tmp_path / "m") == []
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value)
    others = {r"model\.embed_dim=8": {"embed_dim": 16}, r"model\.depths=\[2,2\]": {"depths": [2, 1]}}
    for message, options in others.items():
        with pytest.raises(ValueError, match=f"weights are of a model .*{message}"):
            load_encoder(make_htsat(**options), tmp_path / "m")
    longer = make_htsat(num_frames=60)  # whose last stage is wide enough for whole windows
    assert load_encoder(longer, tmp_path / "m") == []
    widths = [each.layers[1].blocks[0].window_size for each in (first, longer)]
    assert widths == [(4, 3), (4, 4)]


def test_four_channels_are_encoded():
    encoder = make_htsat(num_channels=4)
    assert encoder(torch.randn(2, 4, 18, 16)).values.shape == (2, 24, 16)
