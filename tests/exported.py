"""Write small exported models, of one second at 8 kHz, for the tests of verbs."""

from parts import make_ast
from shipped import shipped

from vcrast.models.export import export

RATE = 8000


def make_small(**options):
    """An AST of one block for a second at `RATE`."""
    return make_ast(depth=1, patch_size=[16, 16], num_mel_bins=32, num_frames=98, **options)


def write_model(folder, *, encoder, head=None, **changes):
    """Export `encoder` with an optional classifier of `dog`, `rain` and `sea`; `changes`: other words for `export`."""
    usual = {
        "features": shipped("features/fbank", num_mel_bins=32), "labels": ("dog", "rain", "sea"), "multilabel": False,
        "sample_rate": RATE, "clip_duration_s": 1.0, "pad": "silence", "meta": {},
    }  # fmt: skip
    export(folder, encoder=encoder, head=head, **{**usual, **changes})
