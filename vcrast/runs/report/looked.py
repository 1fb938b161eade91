"""Map what a run's models looked at in a few test clips, by their attention."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

import vcrast
from vcrast.data.clip import Clip
from vcrast.models.attention_map import attention_layers
from vcrast.models.export import exported_folds
from vcrast.runs.record import Arrays, RunRecord
from vcrast.runs.report.explained import in_words, overlaid, stretches
from vcrast.runs.report.listening import Sound, pixels_address
from vcrast.runs.report.misjudged import LONGEST_S, Mistake, margins
from vcrast.runs.report.tested import Player, clips_of_fold, name_of, read_clip, reason

if TYPE_CHECKING:
    from vcrast.inference import Model
    from vcrast.inference.explain import Explanation

STAGES = {
    "finetuned": "the finetuned model",
    "probe": "the encoder with its linear probe",
    "pretrained": "the pretrained encoder",
}
"""The models of a fold that are asked, the first that there is."""
MOST_COLUMNS = 800  # of a picture
MOST_FAULTS = 3  # clips that could not be mapped; what lies on a store that is gone is not waited for again and again


@dataclass(frozen=True)
class Look:
    """What was looked at in a clip.

    Attributes:
        picture: the map over the spectrogram, as a data address.
        what: is explained, and its score.
        where: the strongest part of the map, in words.
        seconds: at most so much of a clip was heard: one window of the model.
    """

    picture: str
    what: str
    where: str
    seconds: float


@dataclass(frozen=True)
class Looked:
    """A test clip with its map; `sound` is its player and its plain spectrogram, if it can be heard."""

    fold: str
    clip: Clip
    true: str
    look: Look
    sound: Sound | None = None

    @property
    def name(self) -> str:
        """Of the clip."""
        return name_of(self.clip)


class Looker:
    """Explains test clips by the models that a run has exported, one of them in memory, while there is time.

    Attributes:
        faults: why clips have no map, in the order in which they were met.
        late: how many had no time left.
    """

    def __init__(self, record: RunRecord, *, seconds: float) -> None:
        self.record, self.end = record, time.monotonic() + seconds
        self.faults: list[str] = []
        self.late = self.made = 0
        self._models: dict[str, tuple[Model, str] | None] = {}

    def model(self, fold: str) -> tuple[Model, str] | None:
        """The model of a fold, on the CPU, and which one in words; None where none can be explained, see `faults`."""
        if fold not in self._models:
            self._models = {name: None for name, found in self._models.items() if found is None}
            try:
                stages = exported_folds(self.record.folder).get(fold, {})
                stage = next((stage for stage in STAGES if stage in stages), None)
                if stage is None:
                    raise ValueError(f"no model of fold {fold} in {self.record.folder / 'exported'}")
                found = vcrast.load(stages[stage])
                attention_layers(found.encoder)
                self._models[fold] = found, STAGES[stage]
            except Exception as error:  # whatever a file or an extension raises: the page says it and goes on
                self.faults.append(reason(error))
                self._models[fold] = None
        return self._models[fold]

    def look(self, fold: str, clip: Clip, number: int | None, *, shown_s: float | None = None) -> Look | None:
        """The map of a test clip; None where there is no model or no time, or the clip cannot be read.

        Args:
            fold: in which it was tested.
            clip: of which one window of the model is heard.
            number: of the class that is explained; None is the likeliest. A model without classes explains its vector.
            shown_s: what is behind it is left out of the picture.
        """
        found = self.model(fold)
        if found is None:
            return None
        if self.made and time.monotonic() > self.end:
            self.late += 1
            return None
        model, _ = found
        label = None if number is None or model.head is None else model.labels[number]
        try:
            wav = read_clip(self.record, clip, sample_rate=model.sample_rate, longest_s=model.clip_duration_s)
            explained = model.explain(wav, model.sample_rate, label=label, batch_size=1)
        except Exception as error:  # of a codec, a store, or memory
            self.faults.append(reason(error))
            return None
        self.made += 1
        return Look(picture_of(explained, shown_s), in_words(explained), where(explained), model.clip_duration_s)


def looked_at(looker: Looker, most: int) -> tuple[list[Looked], str]:
    """Test clips of different classes of the first fold whose model can be explained, and which model it is.

    Raises:
        ValueError: there are none; says why.
    """
    record = looker.record
    if not record.evaluations:
        raise ValueError("no test clip was scored or embedded")
    for fold, arrays in record.evaluations.items():
        clips = clips_of_fold(record, fold)
        if not clips:
            looker.faults.append(f"no file of the run tells the test clips of fold {fold}")
            continue
        model = looker.model(fold)
        if model is None:
            continue
        found: list[Looked] = []
        for row, number in candidates(arrays):
            look = looker.look(fold, clips[row], number)
            if look is not None:
                true = ", ".join(record.classes[each] for each in np.flatnonzero(arrays["labels"][row] > 0))
                found.append(Looked(fold, clips[row], true, look))
            if len(found) == most or looker.late or len(looker.faults) >= MOST_FAULTS:
                break
        if found:
            return found, f"{model[1]} of fold {fold}"
    raise ValueError(looker.faults[0] if looker.faults else "no test clip was judged right")


def candidates(arrays: Arrays) -> Iterator[tuple[int, int | None]]:
    """Rows of clips and the class to explain: of each class the one judged right with the highest score, best first.

    Where nothing was scored, the first clip of each class, and None.
    """
    has = arrays["labels"] > 0
    if "scores" not in arrays:
        yield from ((int(column.argmax()), None) for column in has.T if column.any())
        return
    over = margins(arrays["scores"], arrays["labels"])
    right = has & ((over < 0) & np.isfinite(over))[:, None]
    own = np.where(right, arrays["scores"], -np.inf)
    best, seen = own.max(axis=0), set[int]()
    for number in np.argsort(-best, kind="stable"):
        row = int(own[:, number].argmax())
        if np.isfinite(best[number]) and row not in seen:  # of several labels a clip is shown once
            seen.add(row)
            yield row, int(number)


def with_sound(found: Sequence[Looked], player: Player) -> list[Looked]:
    """The same with sound, as far as it can be read; their players are `looked-1` and so on."""
    told = []
    for number, each in enumerate(found, start=1):
        sound = player.sound(each.clip, longest_s=each.look.seconds, picture=True)
        if sound is not None:
            player.placed[each.clip.segment] = f"looked-{number}"
        told.append(replace(each, sound=sound))
    return told


def with_looks(found: Sequence[Mistake], looker: Looker) -> list[Mistake]:
    """Mistakes with the map of the class that each was taken for, of as much as is played of them."""
    looks: dict[int, Look | None] = {}
    for place in sorted(range(len(found)), key=lambda place: found[place].fold):  # each model is read once
        each = found[place]
        if each.clip is not None:
            number = looker.record.classes.index(each.taken)
            looks[place] = looker.look(each.fold, each.clip, number, shown_s=LONGEST_S)
    return [replace(each, look=looks.get(place)) for place, each in enumerate(found)]


def picture_of(found: Explanation, shown_s: float | None = None) -> str:
    """The map over the spectrogram, without axes, low frequencies at the bottom."""
    frames = len(found.values) if shown_s is None else min(len(found.values), round(shown_s / found.frame_s))
    shared = -(-frames // MOST_COLUMNS)
    return pixels_address(overlaid(found, shared)[::-1, : -(-frames // shared)], "jpeg")


def where(found: Explanation) -> str:
    """The strongest part of a map."""
    if not found.values.any():
        return "nothing in it speaks for that"
    part = max(stretches(found), key=lambda part: part.share)
    padding = f"; {100 * found.in_padding:.0f} % in what fills the short clip" if found.in_padding >= 0.1 else ""
    return f"strongest from {part.start_s:.4g} to {part.end_s:.4g} s, {100 * part.share:.0f} % of the map{padding}"
