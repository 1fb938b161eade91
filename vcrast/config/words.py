"""Words for messages: the nearest valid name, a natural sort key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SYNONYMS = {
    "fp16": ("16", "16-mixed", "half", "float16", "f16"),
    "bf16": ("bfloat16", "bf16-mixed"),
    "fp32": ("32", "full", "float32", "f32", "single"),
    "memory_efficient": ("flash", "flash_attention", "flash_attention_2", "sdpa", "xformers", "mem_eff"),
    "softmax": ("eager", "vanilla", "standard", "full"),
    "rfa": ("performer", "favor", "linear_attention", "random_features"),
    "base": ("vit_base", "vit_b", "ast", "deit_base"),
    "small": ("vit_small", "vit_s", "deit_small"),
    "tiny": ("vit_tiny", "vit_t", "deit_tiny"),
    "run": ("train", "fit", "start", "launch"),
    "submit": ("slurm", "sbatch"),
    "evaluate": ("test", "eval", "score", "validate"),
    "predict": ("infer", "inference", "classify", "label", "tag"),
    "embed": ("features", "extract", "embeddings", "encode"),
    "explain": ("attention", "rollout", "saliency", "relevance", "attribution"),
    "replay": ("debug", "nan", "overflow"),
    "report": ("plot", "show", "visualize"),
    "compare": ("diff", "table"),
    "vcr": ("vicreg",),
    "supervised": ("ce", "bce", "cross_entropy"),
    "manifest": ("csv", "table", "list", "json"),
    "webdataset": ("wds", "tar", "tars", "wids"),
    "huggingface": ("hf", "datasets", "arrow", "parquet"),
    "folder": ("dir", "directory", "imagefolder", "audiofolder", "files"),
}
"""Name -> what people write for it."""


def suggest(wrong: str, valid: Iterable[str]) -> str:
    """The end of an error message: `did you mean x?` if one is close or means the same, then all valid names."""
    names = sorted(str(name) for name in valid)
    same = [name for name in names if wrong.lower() in SYNONYMS.get(name, ())]
    close = same or difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    return (f"did you mean {close[0]}? " if close else "") + f"choose from {', '.join(names)}"


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Natural sort key: puts fold 10 after fold 2.

    >>> sorted(["10", "2", "test"], key=natural)
    ['2', '10', 'test']
    """
    parts = name.replace("_", " ").split()
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)
