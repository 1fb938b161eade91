"""A reader of a run's page: reads, listens, uses the keyboard, a phone, the dark theme."""

import re

import pytest
from browser import opened
from fabricated_run import fabricate, give_sounds

from vcrast.cli.main import main
from vcrast.runs.report.page import plans

CLASSES = ["dog", "rain", "sea waves"]
LUMINANCE = """
(names) => {
  const light = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    if (parts.length > 3 && parts[3] === 0) return null;
    const [r, g, b] = parts.map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  return names.map((name) => {
    let each = document.querySelector(name), back = null;
    const ink = light(getComputedStyle(each).color);
    for (; each && back === null; each = each.parentElement) back = light(getComputedStyle(each).backgroundColor);
    return (Math.max(ink, back) + .05) / (Math.min(ink, back) + .05);
  });
}
"""
PLAYS = """
async (id) => {
  const sound = document.getElementById(id);
  for (let n = 0; n < 60 && !(sound.currentTime > 0.05); n++) await new Promise((go) => setTimeout(go, 50));
  return [sound.readyState >= 2, sound.currentTime > 0.05, sound.duration];
}
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = fabricate(tmp_path_factory.mktemp("runs") / "esc10", folds=("1",), classes=CLASSES)
    give_sounds(folder, num_clips=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vcrast.runs.report.page.plans", lambda record: plans(record)[:2])  # figures take longest
        assert main(["report", str(folder)]) == 0
    return f"file://{folder / 'report.html'}"


@pytest.mark.slow
def test_it_is_read_and_heard(address):
    with opened(address) as page:
        top = page.inner_text("header")
        assert "esc10 80.0 % ± 4.5 Accuracy, finetuned" in re.sub(r"\s+", " ", top)
        assert "Chance 33.3 %" in re.sub(r"\s+", " ", top)
        assert page.evaluate("document.querySelector('.value').getBoundingClientRect().height") > 48
        wrong = page.locator("article")
        assert wrong.count() == 3  # the first clip of each class
        assert page.evaluate("[...document.querySelectorAll('article img')].every((each) => each.naturalWidth > 50)")
        wrong.first.locator("audio").evaluate("(sound) => { sound.muted = true; return sound.play(); }")
        ready, moved, length = page.evaluate(PLAYS, "wrong-1")
        assert (ready, moved) == (True, True)
        assert length == pytest.approx(1.0, abs=0.1)
        mark = page.locator("#map-marks > g").nth(5)
        mark.click()
        assert page.evaluate(PLAYS, mark.get_attribute("data-sound"))[:2] == [True, True]
        assert page.inner_text("#map-now") == "dog: recording.wav, from 5 s"
        assert page.said == []


@pytest.mark.slow
def test_the_keyboard_reaches_every_mark_and_player(address):
    with opened(address, width=390) as page:
        wanted = page.locator("article audio").count() + page.locator("#map-marks > g").count()
        assert wanted == 3 + 24
        page.evaluate("window.reached = new Set(); document.addEventListener('focusin', (e) => reached.add(e.target))")
        for _ in range(90):
            page.keyboard.press("Tab")
        assert page.evaluate(
            "[...reached].filter((each) => each.matches('article audio, #map-marks > g')).length"
        ) == wanted  # fmt: skip
        page.locator("#map-marks > g").nth(7).focus()
        page.keyboard.press("Enter")
        assert page.evaluate(PLAYS, "clip-7")[:2] == [True, True]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.said == []


@pytest.mark.slow
def test_it_can_be_read_in_the_dark_and_on_paper(address):
    names = ["h1", ".value", ".soft", "section h2", "td", "article .soft", "summary", "caption", ".note li"]
    with opened(address) as page:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            contrast = dict(zip(names, page.evaluate(LUMINANCE, names), strict=True))
            assert min(contrast.values()) >= 4.5, (scheme, contrast)
        page.emulate_media(media="print")
        assert page.evaluate("[...document.querySelectorAll('audio')].every((each) => !each.offsetHeight)")
        assert page.evaluate("document.querySelector('article img').offsetHeight") > 0


@pytest.mark.slow
def test_several_runs_are_read_on_a_phone_in_the_dark(tmp_path, monkeypatch):
    monkeypatch.setattr("vcrast.runs.report.compare_page.FIGURES", ())
    for seed in (0, 1):
        folder = fabricate(tmp_path / f"run_{seed}", folds=("1",), classes=CLASSES)
        (folder / "config.yaml").write_text(f"run: {{seed: {seed}}}\nattention: {{name: {'a' * (1 + 60 * seed)}}}\n")
    assert main(["report", str(tmp_path)]) == 0
    with opened(f"file://{tmp_path / 'report.html'}", dark=True, width=390) as page:
        assert page.locator(".value").all_inner_texts() == ["80.0", "80.0"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert min(page.evaluate(LUMINANCE, ["h1", ".value", ".soft", "td", "summary", ".leads code"])) >= 4.5
        assert page.said == []
