"""A trained model in three lines.

model = vcrast.load("runs/esc50/2026-11-02_10-00-00")
vector = model.embed("dog.wav")              # (768,)
scores = model.predict("dog.wav")            # {"dog": 0.93, "rooster": 0.02, ...}
"""

from vcrast.inference.loading import load
from vcrast.inference.model import Heard, Model

__all__ = ["Heard", "Model", "load"]
