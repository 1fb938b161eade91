"""Write small checkpoints of other projects, for the tests of what reads them."""

import pytest
import torch
from torch import nn


def draw(module, std=0.3):
    """Draw every weight: zeros and ones would hide a lost tensor."""
    for weight in module.parameters():
        nn.init.normal_(weight, std=std)
    return module.eval()


def transformers_ast(folder=None, *, head=True, num_labels=3, sound=None, std=0.3, **options):
    """A narrow AST of transformers, saved with its feature extractor; a skip where transformers is not installed."""
    transformers = pytest.importorskip("transformers", reason="needs transformers (pip install transformers)")
    usual = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
        "max_length": 1024, "num_labels": num_labels,
    }  # fmt: skip
    config = transformers.ASTConfig(**{**usual, **options})
    kind = transformers.ASTForAudioClassification if head else transformers.ASTModel
    model = draw(kind(config), std)
    if folder is not None:
        model.save_pretrained(folder)
        extractor = transformers.ASTFeatureExtractor(
            max_length=config.max_length, num_mel_bins=config.num_mel_bins, **(sound or {})
        )
        extractor.save_pretrained(folder)
    return model


@torch.no_grad()
def scores(model, fbank):
    """Logits of a model of ours on normalised filterbanks (B, T, F)."""
    return model.head(model.encoder.pool(model.encoder(fbank)))
