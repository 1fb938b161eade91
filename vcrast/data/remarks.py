"""Say in one line each what a reader of the results should know of how clips were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus
from vcrast.data.listing import in_short
from vcrast.data.preflight import fault_list


def left_out(corpus: Corpus, faults: Sequence[tuple[Clip, str]]) -> str | None:
    """Name the clips that could not be used, and the classes that lost all of theirs.

    Args:
        corpus: all clips.
        faults: those left out, and why.
    """
    if not faults:
        return None
    there = Counter(label for clip in corpus.clips for label in clip.labels)
    gone = Counter(label for clip, _ in faults for label in clip.labels)
    lost = [corpus.classes[label] for label in sorted(gone) if gone[label] == there[label]]
    text = f"{len(faults)} of {len(corpus.clips)} clips left out"
    if lost:
        text += f", all of {'class' if len(lost) == 1 else 'classes'} {in_short(lost)}"
    elif gone and len(corpus.classes) > 1:
        counts = [f"{count} of {there[label]} of {corpus.classes[label]}" for label, count in gone.most_common()]
        text += f" ({in_short(counts)})"
    return text + fault_list([f"{clip.where}: {reason}" for clip, reason in faults])


def scaled(clips: Sequence[tuple[Clip, float]]) -> str | None:
    """Say how many float files had samples beyond 1, and what they were divided by."""
    if not clips:
        return None
    counts = Counter(scale for _, scale in clips)
    shares = in_short([f"{count} by {scale:.0f}" for scale, count in sorted(counts.items())])
    return f"{len(clips)} clips of float files reach beyond 1 and were divided ({shares}), first {clips[0][0].path}"
