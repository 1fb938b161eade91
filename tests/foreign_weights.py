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


def drawn(shapes, std=0.2):
    """Tensors of these shapes by name, float32."""
    return {name: std * torch.randn(*shape) for name, shape in shapes.items()}


def vit_tensors(num_positions, kernel, *, width=128, depth=2, hidden=96, tokens=("cls_token", "dist_token")):
    """A ViT's tensors by timm's names: `kernel` as (channels, height, width) of a patch."""
    shapes = dict.fromkeys(tokens, (1, 1, width))
    shapes |= {
        "pos_embed": (1, len(tokens) + num_positions, width), "patch_embed.proj.weight": (width, *kernel),
        "patch_embed.proj.bias": (width,), "norm.weight": (width,), "norm.bias": (width,),
    }  # fmt: skip
    layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (hidden, width),
              "mlp.fc2": (width, hidden)}  # fmt: skip
    for number in range(depth):
        for name, shape in layers.items():
            shapes[f"blocks.{number}.{name}.weight"] = shape
        for name, size in {**{n: s[0] for n, s in layers.items()}, "norm1": width, "norm2": width}.items():
            shapes[f"blocks.{number}.{name}.bias"] = (size,)
        shapes |= {f"blocks.{number}.{name}.weight": (width,) for name in ("norm1", "norm2")}
    return drawn(shapes)


def norm(weights, name, values, eps):
    mean = values.mean(dim=-1, keepdim=True)
    variance = (values - mean).square().mean(dim=-1, keepdim=True)
    return (values - mean) / (variance + eps).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(weights, name, values):
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def attention(q, k, v, num_heads):
    """(N, D) each -> (N, D), one head after the other."""
    width = q.shape[1] // num_heads
    mixed = []
    for head in range(num_heads):
        own = slice(head * width, (head + 1) * width)
        shares = (q[:, own] @ k[:, own].T / width**0.5).softmax(dim=1)
        mixed.append(shares @ v[:, own])
    return torch.cat(mixed, dim=1)


def blocks_by_hand(weights, tokens, *, num_heads, eps=1e-6):
    """(N, D) of one clip -> (N, D) after timm's blocks, before the norm at the end."""
    for number in range(sum(name.endswith(".norm1.weight") for name in weights)):
        block = f"blocks.{number}"
        q, k, v = linear(weights, f"{block}.attn.qkv", norm(weights, f"{block}.norm1", tokens, eps)).chunk(3, dim=1)
        tokens = tokens + linear(weights, f"{block}.attn.proj", attention(q, k, v, num_heads))
        hidden = nn.functional.gelu(linear(weights, f"{block}.mlp.fc1", norm(weights, f"{block}.norm2", tokens, eps)))
        tokens = tokens + linear(weights, f"{block}.mlp.fc2", hidden)
    return tokens


def patches_by_hand(weights, image, stride):
    """(height, width) of one clip -> (N, D), row by row, as a convolution over the image flattened."""
    kernel = weights["patch_embed.proj.weight"][:, 0]
    (_, high, wide), rows = kernel.shape, []
    for top in range(0, image.shape[0] - high + 1, stride[0]):
        for left in range(0, image.shape[1] - wide + 1, stride[1]):
            patch = image[top : top + high, left : left + wide]
            rows.append((kernel * patch).sum(dim=(1, 2)) + weights["patch_embed.proj.bias"])
    return torch.stack(rows)


def in_float64(weights):
    return {name: value.double() for name, value in weights.items()}
