"""The bars of a probe are its scores."""

import pytest

from extensions.sound_probe.figure import LOWEST, probe_figure
from extensions.sound_probe.probe import Finding, Probed


def test_a_bar_for_every_parameter_and_encoder(tmp_path):
    parameters = {
        "f0_hz": Finding("pitch", 20, 1, {"encoder": 0.8, "log_mel": 0.25}),
        "slope": Finding("timbre", 30, 1, {"encoder": 0.5, "log_mel": -7.0}),
        "even_db": Finding("timbre", 30, 1, {"encoder": 0.4, "log_mel": 0.1}),
    }
    groups = {"pitch": {"encoder": 0.8, "log_mel": 0.25}, "timbre": {"encoder": 0.45, "log_mel": -3.45}}
    found = Probed(parameters, groups, (), {"encoder": 0.9, "log_mel": 0.5}, 0.4, 90, 30)
    drawn = probe_figure(found)
    pitch, timbre = drawn.figure.axes
    assert [axis.get_title(loc="left") for axis in (pitch, timbre)] == ["pitch", "timbre"]
    # Encoder by encoder; what lies far below 0 is cut.
    assert [bar.get_width() for bar in pitch.patches] == pytest.approx([0.8, 0.25])
    assert [bar.get_width() for bar in timbre.patches] == pytest.approx([0.5, 0.4, LOWEST, 0.1])
    assert [label.get_text() for label in timbre.get_yticklabels()] == ["slope", "even_db"]
    assert drawn.data["slope"]["log_mel"] == -7.0
    assert drawn.save(tmp_path / "p.png").startswith(b"\x89PNG")
