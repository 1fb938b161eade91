"""Check embeddings: definition, all layers, shared folds, processes without clips."""

import pytest
import torch
from parts import make_ast
from ranks import in_ranks
from safetensors.torch import load_file
from shipped import shipped
from test_run import run_here

from vcrast.data.clip import Clip
from vcrast.data.loader import Batch
from vcrast.evaluation.embedding import Embedder, fingerprint
from vcrast.features.fbank import Fbank

pytestmark = pytest.mark.slow

PAIRS = ("source=synth", "views=masks", "source.num_layers=1", "source.pairs_per_epoch=64")
SHORT = ("pretrain.steps=2", "stages=[pretrain,evaluate]", "pretrain.watch_every_epochs=9")
FBANK = shipped("features/fbank", sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0)


class Clips:
    """Named clips: clip `i` is noise of its own, of class i % 3."""

    def __init__(self, numbers):
        self.clips = [Clip(f"clip{number}", labels=(number % 3,)) for number in numbers]
        seeds = [torch.Generator().manual_seed(number) for number in numbers]
        self.wavs = torch.stack([0.1 * torch.randn(3000, generator=seed) for seed in seeds])
        self.labels = torch.eye(3)[torch.tensor(list(numbers)) % 3]

    def __len__(self):
        return len(self.clips)


class Batches:
    """Hands out three clips at a time and counts them."""

    def __init__(self):
        self.counts = []

    def __call__(self, clips, part):
        self.counts.append(len(part))
        for places in torch.arange(part.start, part.stop).split(3):
            if len(places):
                yield Batch(clips.wavs[places], clips.labels[places], places)


def make_embedder(**options):
    batches = Batches()
    return Embedder(Fbank(**FBANK), batches, **options), batches


@torch.no_grad()
def slow_layers(encoder, clips):
    """(n, L, D): clip by clip and block by block."""
    rows = []
    for wav in clips.wavs:
        tokens = encoder.embed(Fbank(**FBANK)(wav[None]))
        layers = [tokens[0].mean(dim=0)]
        for block in encoder.blocks:
            tokens = block(tokens, None)
            layers.append(tokens[0].mean(dim=0))
        rows.append(torch.stack(layers))
    return torch.stack(rows)


def test_an_embedding_is_the_mean_of_the_tokens_without_drop_path():
    encoder, clips = make_ast(drop_path=0.5).train(), Clips(range(7))
    found = make_embedder()[0].fresh(encoder, clips)
    assert encoder.training
    encoder.eval()
    with torch.no_grad():
        expected = torch.cat([encoder(Fbank(**FBANK)(wav[None])).values.mean(dim=1) for wav in clips.wavs])
    torch.testing.assert_close(found.embedding, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.label, clips.labels)
    assert found.index.tolist() == list(range(7))


@pytest.mark.parametrize("shared", [False, True])
def test_all_layers_by_a_loop_over_the_blocks(shared):
    encoder, clips = make_ast(depth=3).eval(), Clips(range(5))
    embed, _ = make_embedder(known={} if shared else None)
    found = embed(encoder, clips, form="layers")
    assert found.embedding.shape == (5, 4, 16)
    torch.testing.assert_close(found.embedding, slow_layers(encoder, clips), rtol=1e-5, atol=1e-5)
    assert embed(encoder, clips).embedding.shape == (5, 16)


def test_frames_are_the_means_over_frequency_of_all_layers():
    encoder, clips = make_ast(depth=2).eval(), Clips(range(5))
    found = make_embedder()[0].fresh(encoder, clips, form="frames").embedding
    with torch.no_grad():
        tokens = encoder(Fbank(**FBANK)(clips.wavs), hidden=True)
    time, frequency = tokens.grid
    assert found.shape == (5, 3, time, 16)
    assert found.dtype == torch.float16
    for layer, values in enumerate(tokens.hidden):
        for t in range(time):
            own = values[:, t * frequency : (t + 1) * frequency].mean(dim=1)
            torch.testing.assert_close(found[:, layer, t].float(), own, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(found.float().mean(dim=2), slow_layers(encoder, clips), rtol=2e-3, atol=2e-3)


def test_all_forms_of_the_last_two_encoders_are_kept():
    clips, known = Clips(range(3)), {}
    encoders = [make_ast() for _ in range(3)]
    for encoder in (*encoders[:2], *encoders[:2]):
        embed, batches = make_embedder(known=known)
        embed(encoder, clips)
        embed(encoder, clips, form="layers")
    assert (batches.counts, len(known)) == ([], 4)
    make_embedder(known=known)[0](encoders[2], clips)
    assert {name.partition(" ")[0] for name in known} == {fingerprint(each) for each in encoders[1:]}


@pytest.mark.parametrize("form", ["vectors", "tokens"])
def test_folds_embed_each_clip_of_an_encoder_once(form):
    encoder, known = make_ast(), {}
    first, second = Clips([0, 1, 2, 3]), Clips([3, 0])
    for clips, counted in ((first, [4]), (second, [])):
        embed, batches = make_embedder(known=known)
        found = embed(encoder, clips, form=form)
        assert batches.counts == counted
        expected = make_embedder()[0].fresh(encoder, clips, form=form).embedding
        torch.testing.assert_close(found.embedding, expected, rtol=1e-3, atol=1e-3)
        assert torch.equal(found.label, clips.labels)
        assert found.index.tolist() == list(range(len(clips)))


def test_other_weights_another_front_end_and_other_layers_are_embedded_again():
    encoder, clips, known = make_ast(), Clips(range(4)), {}
    embed, batches = make_embedder(known=known, settings="one")
    embed(encoder, clips)
    before = fingerprint(encoder)
    with torch.no_grad():
        encoder.norm.bias[3] += 1e-3
    assert fingerprint(encoder) != before
    embed(encoder, clips)
    embed(encoder, clips, form="layers")
    assert batches.counts == [4, 4, 4]
    other, batches = make_embedder(known=known, settings="two")
    other(encoder, clips)
    assert batches.counts == [4]


def test_what_is_too_large_is_not_kept(monkeypatch):
    monkeypatch.setattr("vcrast.evaluation.embedding.KEPT_BYTES", 4 * 8 * 16 * 2 - 1)
    encoder, clips, known = make_ast(), Clips(range(4)), {}
    embed, batches = make_embedder(known=known)
    for _ in range(2):
        assert embed(encoder, clips, form="tokens").embedding.nbytes == 4 * 8 * 16 * 2
        embed(encoder, clips)
    assert batches.counts == [4, 4, 4]


def test_without_other_folds_nothing_is_kept():
    encoder, clips = make_ast(), Clips(range(4))
    embed, batches = make_embedder()
    embed(encoder, clips)
    embed(encoder, clips)
    assert batches.counts == [4, 4]


def embedded_here(num_clips, form):
    torch.manual_seed(0)
    return make_embedder()[0].fresh(make_ast(), Clips(range(num_clips)), form=form)


@pytest.mark.parametrize(("num_clips", "form"), [(1, "vectors"), (1, "layers"), (1, "tokens"), (5, "vectors")])
def test_a_process_without_clips_still_gets_all(num_clips, form, tmp_path):
    alone = embedded_here(num_clips, form)
    for found in in_ranks(2, embedded_here, num_clips, form, folder=tmp_path):
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


def evaluation(folder, fold):
    return load_file(folder / "evaluation" / f"fold_{fold}.safetensors")


@pytest.mark.parametrize("words", [PAIRS, ()], ids=["one encoder", "an encoder a fold"])
def test_folds_together_find_what_each_finds_alone(words, tmp_path):
    run_here(tmp_path / "both", *words, *SHORT, "data.folds=[1,2]")
    run_here(tmp_path / "alone", *words, *SHORT, "data.folds=[2]")
    # Not bit for bit: clips meet in other batches, whose sums round in another order.
    torch.testing.assert_close(
        evaluation(tmp_path / "both", 2), evaluation(tmp_path / "alone", 2), rtol=1e-4, atol=1e-5
    )  # fmt: skip
