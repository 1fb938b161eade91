"""The labelled classes: each a region of the program `layers` with one layer, in units.

A class is named after what its sounds resemble; what is true of every one of them is its row. Some rows differ in time
only (rain and a crackling fire), some in spectrum only (ticks and knocks).
"""

from __future__ import annotations

import math

from vcrast.data.synth.oscillators import NUM_PARTIALS
from vcrast.data.synth.program import KINDS, LAYER, SCENE
from vcrast.data.synth.regions import Region, Span, Spans
from vcrast.data.synth.space import Space
from vcrast.data.synth.spectra import EQUALISER_LOW_HZ, EQUALISER_POINTS

SPACE = Space([*LAYER.parameters, *SCENE.parameters])
"""`Layers.space_of(1)` without the prefix of its only layer."""

BURSTS, ONSETS, SWELLS = range(len(KINDS))
EQUALISER_TOP_HZ = 8000.0  # at 16 kHz; the points spread with the rate, and the bands of noise with them
# The loudest of the first twelve harmonics is the pitch itself.
CLEAR: list[Span] = [0.0, *[(-24.0, -3.0)] * (NUM_PARTIALS - 1)]


def point_hz(number: int) -> float:
    """Return the frequency of the equaliser's point `number`."""
    low, high = (math.log1p(hertz / 700) for hertz in (EQUALISER_LOW_HZ, EQUALISER_TOP_HZ))
    return 700 * math.expm1(low + (high - low) * number / (EQUALISER_POINTS - 1))


def band(low_hz: float, high_hz: float) -> list[Span]:
    """Equalise to -10 to 0 dB between two frequencies, falling by 20 dB per octave outside them."""
    spans: list[Span] = []
    for number in range(EQUALISER_POINTS):
        hertz = point_hz(number)
        fall = 20 * max(math.log2(low_hz / hertz), math.log2(hertz / high_hz), 0.0)
        spans.append((max(-40.0, -10 - fall), max(-40.0, -fall)))
    return spans


def falling(slow_db: float, fast_db: float) -> list[Span]:
    """Equalise to fall by `slow_db` to `fast_db` for each octave above the lowest point, down to -40 dB."""
    octaves = [math.log2(point_hz(number) / EQUALISER_LOW_HZ) for number in range(EQUALISER_POINTS)]
    return [(max(-40.0, -fast_db * up), max(-40.0, -slow_db * up)) for up in octaves]


# What a row does not say: a steady sound with a little room. Parameters that are not here keep their whole range.
PLAIN: Spans = {
    "kind": SWELLS,
    "slow_depth": (0, 0.15),
    "floor_db": (-80, -45),
    "glide_octaves": (-0.03, 0.03),
    "vibrato_semitones": (0, 0.1),
    "formant_share": 0,
    "sparsity": 0,
    "body_share": 0,
    "reverb_share": (0, 0.15),
}
TONE: Spans = {"noise_share": 0, "partials_db": CLEAR}
NOISE: Spans = {"noise_share": 1}
# A click of noise, too short to be heard itself: what is heard is the body that it strikes. No room, since its echoes
# are those of the click.
CLICKS: Spans = {"noise_share": 1, "body_share": 1, "reverb_share": 0}
CLICK_BURSTS: Spans = {**CLICKS, "kind": BURSTS, "burst_duty": (0.1, 0.15), "burst_attack": 0.01, "burst_decay": (5, 6)}
CLICK_ONSETS: Spans = {
    **CLICKS, "kind": ONSETS, "onset_attack_s": (0.002, 0.003), "onset_decay_s": (0.01, 0.015),
    "onset_levels_db": (-18, 0),
}  # fmt: skip
WHISTLED: Spans = {**TONE, "f0_hz": (500, 1000), "slope": (1, 2)}
SIGNAL: Spans = {**TONE, "kind": BURSTS, "f0_hz": (900, 2800), "slope": (1, 2.5), "burst_attack": (0.02, 0.08)}

TABLE: dict[str, Spans] = {
    "siren": {**WHISTLED, "vibrato_hz": (2, 4), "vibrato_semitones": (2, 3)},
    "slide_whistle": {**WHISTLED, "glide_octaves": (-1.5, -0.6), "vibrato_hz": (4, 8)},
    "beeps": {**SIGNAL, "burst_hz": (2, 7), "burst_duty": (0.3, 0.6), "burst_decay": (0, 1)},
    "telephone_ring": {**SIGNAL, "burst_hz": (14, 20), "burst_duty": (0.5, 0.9), "burst_decay": (1, 3)},
    "crickets": {
        **TONE, "kind": BURSTS, "f0_hz": (3200, 4000), "burst_hz": (9, 20), "burst_duty": (0.4, 0.8),
        "burst_attack": (0.3, 0.6), "burst_decay": (0, 1),
    },
    "bird_chirps": {
        **TONE, "kind": ONSETS, "count": (5, 12), "f0_hz": (2000, 4000), "vibrato_hz": (6, 12),
        "vibrato_semitones": (1.5, 3), "slope": (1.5, 2.5), "onset_attack_s": (0.01, 0.04),
        "onset_decay_s": (0.03, 0.1), "onset_levels_db": (-12, 0),
    },
    "dog_bark": {
        "noise_share": (0.1, 0.4), "kind": BURSTS, "f0_hz": (220, 600), "slope": (0.3, 1), "partials_db": (-9, 0),
        "even_db": (-6, 0), "equaliser_db": (-10, 0), "formant_1_hz": (500, 900), "formant_2_hz": (1000, 1600),
        "formant_width_hz": (150, 400), "formant_share": (0.95, 1), "burst_hz": (1.3, 3.5), "burst_duty": (0.3, 0.6),
        "burst_attack": (0.05, 0.15), "burst_decay": (3, 6),
    },
    "vowel_voice": {
        "noise_share": (0, 0.15), "f0_hz": (90, 300), "slope": (0.5, 1.2), "partials_db": (-9, 0), "even_db": (-6, 0),
        "vibrato_hz": (4, 7), "vibrato_semitones": (0.1, 0.6), "formant_width_hz": (60, 150),
        "formant_share": (0.97, 1), "slow_hz": (1.2, 4), "slow_depth": (0.7, 1), "glide_octaves": (-0.3, 0.3),
    },
    "engine_hum": {
        "noise_share": (0.03, 0.15), "f0_hz": (40, 90), "slope": (0.8, 1.5), "partials_db": (-15, 0),
        "equaliser_db": falling(4, 7), "formant_1_hz": (250, 600), "formant_width_hz": (200, 400),
        "formant_share": (0.9, 1), "vibrato_semitones": (0, 0.5),
    },
    "helicopter": {
        **NOISE, "kind": BURSTS, "equaliser_db": band(60, 400), "burst_hz": (9, 18), "burst_duty": (0.5, 0.9),
        "burst_attack": (0.1, 0.3), "burst_decay": (2, 5), "floor_db": (-30, -20),
    },
    "bell": {
        **CLICK_ONSETS, "count": (2, 5), "equaliser_db": band(300, 2200), "modes_hz": (300, 2200),
        "mode_decay_s": (0.1, 0.15),
    },
    "glass_clinks": {
        **CLICK_ONSETS, "count": (5, 12), "equaliser_db": band(2600, 6000), "modes_hz": (2600, 6000),
        "mode_decay_s": (0.015, 0.06),
    },
    "clock_ticks": {
        **CLICK_BURSTS, "equaliser_db": band(1500, 5000), "burst_hz": (1.6, 5), "modes_hz": (1500, 5000),
        "mode_decay_s": (0.005, 0.02),
    },
    "knocking": {
        **CLICK_BURSTS, "equaliser_db": band(100, 700), "burst_hz": (1.6, 5), "modes_hz": (100, 700),
        "mode_decay_s": (0.005, 0.02),
    },
    "dripping": {
        **TONE, "kind": ONSETS, "count": (3, 8), "f0_hz": (700, 1900), "slope": (1.8, 2.5),
        "onset_attack_s": (0.002, 0.006), "onset_decay_s": (0.015, 0.05), "onset_levels_db": (-18, 0),
        "reverb_share": (0.1, 0.6),
    },
    "hand_claps": {
        **NOISE, "kind": ONSETS, "count": (5, 12), "equaliser_db": band(700, 2500), "onset_attack_s": (0.002, 0.004),
        "onset_decay_s": (0.01, 0.03), "onset_levels_db": (-12, 0), "reverb_share": (0.05, 0.5), "reverb_s": (0.1, 0.5),
    },
    "rain": {**NOISE, "equaliser_db": band(1000, 7000), "grain_hz": (120, 250), "sparsity": (0.3, 3)},
    "crackling_fire": {**NOISE, "equaliser_db": band(1000, 7000), "grain_hz": (15, 60), "sparsity": (7, 20)},
    "wind": {
        **NOISE, "equaliser_db": falling(1, 4), "formant_1_hz": (250, 700), "formant_2_hz": (800, 1400),
        "formant_width_hz": (60, 200), "formant_share": (0.97, 1), "slow_hz": (0.2, 1), "slow_depth": (0.4, 0.9),
    },
    "sea_waves": {**NOISE, "equaliser_db": falling(2, 4), "slow_hz": (0.5, 1), "slow_depth": (0.9, 1)},
}  # fmt: skip
REGIONS = {name: Region(name, {**PLAIN, **spans}, SPACE) for name, spans in sorted(TABLE.items())}
