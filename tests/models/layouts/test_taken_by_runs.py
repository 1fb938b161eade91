"""Check that a run with the settings that the import logs builds each layout's encoder."""

import shlex

import pytest
import torch
from foreign_weights import transformers_ast
from test_mae_ast import save as save_mae_ast
from test_vit_layouts import save_ast, save_audiomae, save_ssast

from vcrast.cli.main import main
from vcrast.config.compose import compose
from vcrast.features.fbank import build_fbank
from vcrast.inference import load
from vcrast.models.pretrained import check_checkpoint, load_encoder
from vcrast.runs.job import build_encoder

KINDS = {
    "ast": (save_ast, {}), "ssast patches": (save_ssast, {}), "ssast frames": (save_ssast, {"frame": True}),
    "audiomae": (save_audiomae, {"finetuned": False}), "finetuned audiomae": (save_audiomae, {"finetuned": True}),
    "mae_ast": (save_mae_ast, {}), "huggingface": (transformers_ast, {"hidden_size": 64, "num_attention_heads": 1}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_that_are_logged_build_the_encoder(tmp_path, kind, caplog):
    save, options = KINDS[kind]
    save(tmp_path / "x", **options)
    with caplog.at_level("INFO"):
        assert main(["import", str(tmp_path / "x"), "--out", str(tmp_path / "out")]) == 0
    (said,) = [line for line in caplog.messages if "a run takes it by " in line]
    words = shlex.split(said.partition("a run takes it by ")[2])
    model = load(tmp_path / "out")
    config = compose(["recipe=demo", f"data.clip_duration_s={model.clip_duration_s}", *words])
    assert config.model["checkpoint"] == str(tmp_path / "out")
    check_checkpoint(config.model, linear=config.linear, features={**config.features, "sample_rate": 16000})
    fbank = build_fbank(config.features, sample_rate=config.data.sample_rate)
    encoder = build_encoder(config, fbank, patch_stride=config.finetune.patch_stride)
    if model.encoder.mask_token is not None:
        encoder.enable_mask_token()
    features = {**config.features, "sample_rate": 16000, "mean": model.features.mean, "std": model.features.std}
    assert load_encoder(encoder, tmp_path / "out", features=features) == []
    torch.testing.assert_close(encoder.state_dict(), model.encoder.state_dict(), rtol=0, atol=0)
    filterbanks = torch.randn(1, encoder.num_frames, 128)
    with torch.no_grad():
        found, expected = (each.eval().pool(each(filterbanks)) for each in (encoder, model.encoder))
    torch.testing.assert_close(found, expected)
