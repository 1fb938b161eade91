"""VCR-AST: self-supervised audio spectrogram transformers.

`vcrast.load(run)` gives a trained encoder with its front end and its labels. Importing the package alone is cheap:
torch is imported with the first part that needs it.

Letters of shapes, the same everywhere: B clips of the global batch, b of a process or micro-batch, V views, S samples,
T frames, F mel bins, N tokens, (t, f) their grid, D embedding, P projection, H heads, K width of a head, L layers,
C classes, R random features, n and m rows of anything else. Time comes before frequency, in shapes and in pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vcrast.config.version import __version__

if TYPE_CHECKING:
    from vcrast.inference import Model, load

__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the Python interface on first use, so that `--help` does not wait for torch."""
    if name in ("Model", "load"):
        from vcrast import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'vcrast' has no attribute {name!r}")
