"""Say of a front end what its reader should know: empty filters, foreign statistics."""

from __future__ import annotations

from vcrast.config.compose import read_option
from vcrast.config.files import options
from vcrast.config.schema import Config
from vcrast.data.listing import in_short
from vcrast.features.fbank import Fbank, build_fbank

UNSAID = 0.01  # of the filters that may be empty: of the AST's own 128 at 16 kHz one is
LEVELS = ("num_mel_bins", "window_ms", "window", "low_freq_hz", "high_freq_hz", "preemphasis")
"""Of `features`: what the mean and the deviation of the data depend on."""


def front_end_notes(config: Config) -> list[str]:
    """One line for each thing that the front end of a run does and nobody would expect."""
    return [text for text in (_filters_note(config), _statistics_note(config)) if text]


def _filters_note(config: Config) -> str:
    fbank = _fbank(config)
    empty, count = fbank.empty_filters, fbank.num_mel_bins
    if len(empty) <= UNSAID * count:
        return ""
    ways = []
    fewer = next(
        (n for n in range(count - count % 16, 0, -16) if not _fbank(config, num_mel_bins=n).empty_filters), None
    )
    if fewer is not None:
        ways.append(f"features.num_mel_bins={fewer}")
    longer = fbank.n_fft * 1000 // config.data.sample_rate + 1  # the first whole one with twice as many FFT bins
    if not _fbank(config, window_ms=float(longer)).empty_filters:
        ways.append(f"features.window_ms={longer}")
    what = (
        f"; set {' or '.join(ways)}"
        if ways
        else "; fewer features.num_mel_bins or a longer features.window_ms have less"
    )
    return (
        f"{len(empty)} of {count} mel filters are empty at data.sample_rate={config.data.sample_rate} "
        f"({in_short([str(number) for number in empty])}): they lie between two FFT bins and never hear anything{what}"
    )


def _statistics_note(config: Config) -> str:
    data = config.data
    if data.mean is None or data.name not in dict(options("data")):
        return ""
    own, usual = read_option("data", data.name), read_option("features", "fbank")
    if (own["mean"], own["std"]) != (data.mean, data.std):
        return ""
    changed = [f"features.{key}={config.features[key]}" for key in LEVELS if config.features[key] != usual[key]]
    if data.sample_rate != own["sample_rate"]:
        changed.insert(0, f"data.sample_rate={data.sample_rate}")
    if not changed:
        return ""
    return (
        f"data.mean={data.mean} and data.std={data.std} were not measured with {', '.join(changed)}; "
        "data.mean=null data.std=null computes them"
    )


def _fbank(config: Config, **changes: float) -> Fbank:
    return build_fbank({**config.features, **changes}, sample_rate=config.data.sample_rate)
