"""A clip: a stretch of one sound file, with its labels."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Clip:
    """A stretch of one sound file.

    Attributes:
        path: of the file, or `scheme://...` for a generated sound.
        labels: class indices; empty when unlabelled.
        start_s: where the clip begins in the file.
        duration_s: its length; None is up to the end of the file.
        fold: name of the fold or split it belongs to; empty when there is none.
        line: in the manifest, for messages; 0 when there is no manifest.
        extra: the manifest's other columns.
        time_expansion: how many times slower than it was recorded the file is: its rate counts times that, and all
            times are those of the recording.
    """

    path: str
    labels: tuple[int, ...]
    start_s: float = 0.0
    duration_s: float | None = None
    fold: str = ""
    line: int = 0
    extra: dict[str, str] = field(default_factory=dict, compare=False, hash=False)
    time_expansion: float = 1.0

    @property
    def segment(self) -> tuple[str, float, float | None]:
        """Path, start and duration: equal for clips of the same sound."""
        return self.path, self.start_s, self.duration_s

    @property
    def where(self) -> str:
        """The clip as named in a message: its line if it has one, and its path."""
        return f"line {self.line}: {self.path}" if self.line else self.path
