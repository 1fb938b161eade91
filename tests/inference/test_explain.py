"""Explanations of sounds: windows, targets, and one second that must be looked at."""

import numpy as np
import pytest
import soundfile as sf
import torch
from parts import make_ast, make_htsat
from shipped import shipped, shipped_options
from torch import nn

import vcrast
from vcrast.cli.main import main
from vcrast.features.fbank import Fbank
from vcrast.inference import Model
from vcrast.inference.explain import Target, joined
from vcrast.models.attention_map import spread, token_map
from vcrast.models.classifier import classify
from vcrast.models.export import export

RATE = 8000
CLASS = {"class_tokens": 1, "pool": "class"}


def test_windows_overlap_and_what_is_behind_the_end_is_left_out():
    features = Fbank(**shipped("features/fbank", sample_rate=RATE, num_mel_bins=32))
    window, ones = features.num_frames(RATE), torch.ones(1, 1, 1)
    maps = torch.cat([ones, 3 * ones]).expand(2, window, 32)
    found = joined(maps, [0, RATE // 2], RATE * 3 // 2, features)[:, 0]
    assert len(found) == features.num_frames(RATE * 3 // 2)
    assert [found[n].item() for n in (0, 49, 50, window - 1, window, -1)] == [1, 1, 2, 2, 3, 3]
    assert len(joined(maps[:1], [0], RATE // 4, features)) == features.num_frames(RATE // 4)


def small(head=True, encoder=None, **changes):
    encoder = encoder or make_ast(depth=2, patch_size=[16, 16], num_mel_bins=32, num_frames=98)
    features = Fbank(**shipped("features/fbank", sample_rate=RATE, num_mel_bins=32, mean=-7.0, std=3.0))
    own = nn.Linear(encoder.embed_dim, 3) if head else None
    usual = {
        "labels": ("dog", "rain", "sea"), "multilabel": False, "clip_duration_s": 1.0, "pad": "silence", "meta": {},
    }  # fmt: skip
    return Model(encoder, features, own, **{**usual, **changes})


def noise(seconds):
    return 0.1 * np.random.default_rng(0).normal(size=round(seconds * RATE))


def test_the_likeliest_class_of_the_whole_sound_is_explained():
    model = small()
    scores = model.predict(noise(2.5), RATE)
    found = model.explain(noise(2.5), RATE)
    assert (found.label, found.score) == pytest.approx(next(iter(scores.items())))
    assert found.windows_s == pytest.approx(np.array([[0, 1], [0.75, 1.75], [1.5, 2.5]]))
    assert found.values.shape == found.spectrogram.shape == (len(found.times_s), len(found.frequencies_hz))
    assert found.values.sum() == pytest.approx(1, abs=1e-5)
    assert found.share(0, 1) + found.share(1, 3) == pytest.approx(1, abs=1e-5)
    assert found.times_s[[0, 1]].tolist() == pytest.approx([0.0125, 0.0225])
    other = model.explain(noise(2.5), RATE, label=list(scores)[1], batch_size=2)
    assert other.label == list(scores)[1]
    assert not np.allclose(other.values, found.values)
    assert model.explain(noise(2.5), RATE, batch_size=1).values == pytest.approx(found.values, abs=1e-6)


def test_an_encoder_alone_explains_how_far_its_vector_points():
    model = small(head=False)
    wavs = torch.from_numpy(noise(1)).float()
    found = model.explain(wavs.numpy(), RATE)
    assert (found.label, found.score) == (None, None)
    fbank = model.features(wavs[None])
    expected = token_map(model.encoder, fbank, lambda tokens: model.encoder.pool(tokens).norm(dim=1), "relevance")
    spread_out = spread(expected, model.encoder, fbank.shape[1])[0]
    assert found.values == pytest.approx((spread_out / spread_out.sum()).numpy(), abs=1e-6)


def test_a_short_sound_has_its_own_frames_only():
    found = small().explain(noise(0.3), RATE)
    assert len(found.values) == 28
    assert 0 < found.in_padding < 1
    assert found.values.sum() == pytest.approx(1, abs=1e-5)
    assert len(small().explain(noise(0.01), RATE).values) == 1


def test_what_cannot_be_explained_is_refused():
    model = small()
    with pytest.raises(ValueError, match=r"class dgo: .* did you mean dog\?"):
        model.explain(noise(1), RATE, label="dgo")
    with pytest.raises(ValueError, match="method=lime: choose from relevance, rollout"):
        model.explain(noise(1), RATE, method="lime")
    with pytest.raises(ValueError, match="choose one to explain"):
        model.explain(noise(1), RATE, label="dog", embedding=True)
    with pytest.raises(ValueError, match="one sound at a time"):
        model.explain([noise(1), noise(1)], RATE)
    with pytest.raises(ValueError, match="has no classifier"):
        small(head=False).explain(noise(1), RATE, label="dog")
    with pytest.raises(ValueError, match=r"model=htsat: cannot be explained: .* shifted windows"):
        small(False, make_htsat(num_mel_bins=32, num_frames=98)).explain(noise(1), RATE)
    model.encoder.blocks[1].attn.mix = nn.Identity()
    with pytest.raises(ValueError, match="attention=softmax: cannot be explained: this backend has no"):
        model.explain(noise(1), RATE)


def test_a_class_of_one_label_a_sound_is_told_from_the_others():
    """Logits mean the same when a number is added to all of them, and so does the target."""
    model = small()
    tokens = model.encoder(model.features(torch.from_numpy(noise(1)).float()[None]))
    logits = classify(model.encoder, model.head, tokens)
    found = Target(model, 1, None)(tokens)
    torch.testing.assert_close(found, logits[:, 1] - logits.mean(dim=1))
    model.multilabel = True
    torch.testing.assert_close(Target(model, 1, None)(tokens), logits[:, 1])


SECOND = 2  # of four
TONES_HZ = (500.0, 1200.0, 2000.0, 3000.0)


def telling_clips(labels, seed):
    """(n, 2) which of two tones sound in the known second -> (n, S); two others sound anywhere, and tell nothing."""
    generator = torch.Generator().manual_seed(seed)
    tones = 0.1 * torch.sin(2 * torch.pi * torch.tensor(TONES_HZ)[:, None] * torch.arange(RATE) / RATE)
    sounding = torch.randint(0, 2, (len(labels), 4, 4), generator=generator).float()
    sounding[:, :, :2] = 0
    sounding[:, SECOND, :2] = labels
    wavs = torch.einsum("nst,tk->nsk", sounding, tones).flatten(1)
    return wavs + 0.01 * torch.randn(wavs.shape, generator=generator)


def train_to_tell(folder, kind, num_steps):
    """Export an encoder with a classifier that was trained, or not at all, to hear which tone sounds."""
    torch.manual_seed(0)
    encoder = make_ast(**{"depth": 2, "patch_size": [20, 32], "num_mel_bins": 32, "num_frames": 398, **kind})
    head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 2))
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (128, 2), generator=generator).float()
    options = shipped("features/fbank", num_mel_bins=32)
    fbank = Fbank(**options, sample_rate=RATE)(telling_clips(labels, 2))
    options |= {"mean": float(fbank.mean()), "std": float(fbank.std())}
    fbank = (fbank - fbank.mean()) / (2 * fbank.std())
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(num_steps):
        chosen = torch.randint(0, len(labels), (16,), generator=generator)
        logits = classify(encoder, head, encoder(fbank[chosen]))
        nn.functional.binary_cross_entropy_with_logits(logits, labels[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()
    export(
        folder, encoder=encoder, head=head, features=options, labels=("low", "high"), multilabel=True,
        sample_rate=RATE, clip_duration_s=4.0, pad="silence", meta={},
    )  # fmt: skip


TOLD = {
    "class token": (CLASS, 0.9, 0.35),
    "mean": ({}, 0.5, 0.45),
    "mean, rfa": ({"attention": shipped_options("attention/rfa")}, 0.5, 0.45),
}


@pytest.fixture(scope="module")
def telling(tmp_path_factory):
    """The folder of the model of a kind, trained so many steps; each is made once."""
    root = tmp_path_factory.mktemp("telling")

    def made(kind, num_steps):
        folder = root / f"{kind} {num_steps}"
        if not folder.exists():
            train_to_tell(folder, TOLD[kind][0], num_steps)
        return folder

    return made


@pytest.mark.parametrize("kind", ["class token", "mean", pytest.param("mean, rfa", marks=pytest.mark.slow)])
def test_the_map_lies_in_the_second_that_tells_the_classes_apart(kind, telling):
    _, least, most = TOLD[kind]
    labels = torch.eye(2)
    wavs = telling_clips(labels, 3).numpy()
    shares = {}
    for name, num_steps in (("trained", 120), ("random", 0)):
        model = vcrast.load(telling(kind, num_steps))
        if name == "trained":
            assert [model.predict(wav, RATE, top=1).popitem()[1] > 0.8 for wav in wavs] == [True, True]
        found = [model.explain(wav, RATE, label=name) for wav, name in zip(wavs, model.labels, strict=True)]
        shares[name] = [each.share(SECOND, SECOND + 1) for each in found]
    assert min(shares["trained"]) > least
    assert sum(shares["random"]) / 2 < most  # a quarter of the time


def test_through_files_and_the_verb(telling, tmp_path, capsys):
    sf.write(tmp_path / "high.wav", telling_clips(torch.tensor([[0.0, 1.0]]), 4)[0].numpy(), RATE)
    words = ["explain", str(telling("class token", 120)), str(tmp_path / "high.wav"), "--format", "npz"]
    assert main([*words, "--out", str(tmp_path / "maps")]) == 0
    path = tmp_path / "maps" / "high.npz"
    assert capsys.readouterr().out.split() == [str(path)]
    with np.load(path) as found:
        assert (str(found["label"]), str(found["method"])) == ("high", "relevance")
        inside = (found["times_s"] >= SECOND) & (found["times_s"] < SECOND + 1)
        assert found["values"][inside].sum() > 0.9
