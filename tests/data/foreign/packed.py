"""Pack the same sounds as others do: tars of WebDataset, datasets of Hugging Face."""

import io
import tarfile
from typing import NamedTuple

import numpy as np
import soundfile as sf
from sound_files import sine

FORMATS = ("wav", "flac", "mp3", "ogg")
CLASSES = ("dog", "rain", "siren")


class Sound(NamedTuple):
    """A sound: its name, the bytes of its file, its class and its split."""

    name: str
    content: bytes
    label: int
    split: str

    @property
    def wav(self):
        """What soundfile decodes from the bytes."""
        return sf.read(io.BytesIO(self.content), dtype="float32")[0]


def assert_heard(found, wanted, name):
    """Equal to the bit; mpg123 rounds an MP3's floats up or down from one call to the next."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-7 if name.endswith("mp3") else 0)


def sounds(count=24, *, seconds=0.5, splits=("train", "train", "val", "test"), formats=FORMATS):
    """Sounds in every format, class and split."""
    made = []
    for number in range(count):
        kind = formats[number % len(formats)]
        file = io.BytesIO()
        sf.write(file, sine(16000, seconds=seconds, hz=200 + 37 * number), 16000, format=kind.upper())
        split = splits[number // len(FORMATS) % len(splits)]
        made.append(Sound(f"clip{number:05d}.{kind}", file.getvalue(), number % len(CLASSES), split))
    return made


def write_tar(path, members, *, form=tarfile.GNU_FORMAT):
    """Write (name, bytes) one behind the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def table_of(made, **columns):
    """An Arrow table as `datasets` has it, before any types of its own."""
    import pyarrow as pa

    audio = [{"bytes": sound.content, "path": sound.name} for sound in made]
    return pa.table({"audio": audio, "label": [sound.label for sound in made], **columns})


def dataset_of(made, **columns):
    """A dataset of the real library, with its types for sounds and classes."""
    from datasets import Audio, ClassLabel, Dataset

    dataset = Dataset(table_of(made, **columns))
    dataset = dataset.cast_column("label", ClassLabel(names=list(CLASSES)))
    return dataset.cast_column("audio", Audio(sampling_rate=16000))


def dataset_dict_of(made):
    """One dataset for each split."""
    from datasets import DatasetDict

    splits = dict.fromkeys(sound.split for sound in made)
    return DatasetDict({split: dataset_of([sound for sound in made if sound.split == split]) for split in splits})
