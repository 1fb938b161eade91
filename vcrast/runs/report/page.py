"""Write figures/*.png and report.html of a run folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcrast.config.compose import flatten
from vcrast.config.metric import duration
from vcrast.runs.record import RunRecord, read_run
from vcrast.runs.report import figures
from vcrast.runs.report.figures import Drawn
from vcrast.runs.report.headline import headline, wall_seconds
from vcrast.runs.report.lead import differences, lead, planned
from vcrast.runs.report.looked import Looked, Looker, looked_at, with_looks, with_sound
from vcrast.runs.report.map_svg import HEIGHT, WIDTH, ClipMap, clip_map, script
from vcrast.runs.report.misjudged import Mistake, Mistakes, heard, mistakes
from vcrast.runs.report.numbers import principal_plane, stack_folds
from vcrast.runs.report.style import undrawn
from vcrast.runs.report.tables import class_rows, loss_terms, stage_tables, time_table
from vcrast.runs.report.tested import Player, clips_of_fold
from vcrast.runs.report.write import address, write_page

BUDGET = 2_700_000  # bytes of figures and sounds, which take what figures leave; tables and marks come on top


@dataclass(frozen=True)
class Sounds:
    """How many test clips a page lets hear, and in how many it shows what was looked at.

    Attributes:
        misjudged: that are heard.
        mapped: that are heard on the map of the embeddings.
        looked: judged right, with a map of attention.
        misled: misjudged, with a map of attention.
        looking_s: how long maps of attention may take, but for the first.
    """

    misjudged: int
    mapped: int
    looked: int
    misled: int
    looking_s: float


ALL, FEW, NONE = Sounds(12, 120, 6, 12, 300.0), Sounds(8, 0, 3, 0, 4.0), Sounds(0, 0, 6, 12, 300.0)
"""Of `vcrast report`; of the end of a run, which must not wait for it; of `--no-sound`."""
MOST_MISTAKES = 12


@dataclass(frozen=True)
class Section:
    """One figure of the page: its PNG inlined, and the sentence on how to read it."""

    title: str
    text: str
    notes: list[str]
    source: str
    wide: bool
    part: str


@dataclass(frozen=True)
class Plan:
    """A figure to try: it is left out, with the reason, where the run lacks its numbers.

    Attributes:
        name: of its file in `figures/`.
        title: above it.
        text: how to read it.
        draw: makes it, or raises what is then said of it.
        part: of the page where it stands: `mistakes`, `learning`, `seen`; empty for a file that the page does not show.
    """

    name: str
    title: str
    text: str
    draw: Callable[[], Drawn]
    part: str = "learning"


def write_report(folder: str | Path, *, sounds: Sounds = FEW, out: Path | None = None) -> Path:
    """Write `figures/*.png` and `report.html` of a run, finished or not.

    Args:
        folder: of the run.
        sounds: how many clips can be heard on the page.
        out: the page; None for `report.html` in the folder.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: the folder is not a run folder.
    """
    record = read_run(folder)
    page = out or record.folder / "report.html"
    missing = list(record.missing)
    sections = sorted(_sections(record, missing), key=lambda section: section.wide)  # or wide ones leave holes
    looker = Looker(record, seconds=sounds.looking_s)
    looked, looked_by = _looked(looker, sounds, missing)
    wrong, worst = _mistakes(record, looker, sounds, missing)
    looks = [each.look for each in looked] + [each.look for each in worst if each.look]
    taken = [record.config_text, *(section.source for section in sections), *(look.picture for look in looks)]
    player = Player(record, budget=BUDGET - sum(map(len, taken))) if sounds != NONE else None
    if player:
        looked = with_sound(looked, player)
        worst = heard(worst[: sounds.misjudged], player) + worst[sounds.misjudged :]
    program, allowed = script()
    write_page(
        page,
        "template.html",
        recipe=record.recipe,
        folder=record.folder.resolve().name,
        lead=lead(record),
        planned=planned(record),
        differences=differences(record),
        warnings=[str(text) for text in record.summary.get("warnings") or []],
        stages=stage_tables(record),
        headline=headline(record.summary),
        wrong=wrong,
        worst=worst,
        looked=looked,
        looked_by=looked_by,
        late=looker.late,
        by_class=list(class_rows(record)),
        map=_shown_map(record, player, sounds),  # after the other sounds, of which it takes those of its clips
        size=(WIDTH, HEIGHT),
        script=program,
        allowed=allowed,
        silent=_silent(player, sounds, record.folder, maps=bool(looked)),
        losses=loss_terms(record),
        time=time_table(record),
        sections={part: [each for each in sections if each.part == part] for part in ("mistakes", "learning", "seen")},
        undrawn=undrawn(record.classes),
        missing=missing,
        facts=facts(record),
        config=record.config_text,
        environment=list(shown(record.env)),
    )
    return page


def _looked(looker: Looker, sounds: Sounds, missing: list[str]) -> tuple[list[Looked], str]:
    """Clips with a map of attention, and whose it is."""
    try:
        return looked_at(looker, sounds.looked)
    except ValueError as error:
        missing.append(f"What attention looks at: {error}")
        return [], ""


def _mistakes(
    record: RunRecord, looker: Looker, sounds: Sounds, missing: list[str]
) -> tuple[Mistakes | None, list[Mistake]]:
    try:
        found = mistakes(record, MOST_MISTAKES)
    except ValueError as error:
        missing.append(f"Misjudged clips: {error}")
        return None, []
    return found, with_looks(found.worst[: sounds.misled], looker) + found.worst[sounds.misled :]


def _shown_map(record: RunRecord, player: Player | None, sounds: Sounds) -> ClipMap | None:
    """The map of the first fold that has embeddings: each fold has its own encoder, so folds cannot share axes."""
    for fold, arrays in record.evaluations.items():
        if "embeddings" in arrays:
            try:
                plane = principal_plane(arrays["embeddings"])
            except ValueError:  # which the plan of the same figure has told
                return None
            clips = clips_of_fold(record, fold)
            return clip_map(
                *plane, arrays.get("labels"), record.classes, clips, player=player, most_sounds=sounds.mapped
            )
    return None


def _silent(player: Player | None, sounds: Sounds, folder: Path, *, maps: bool) -> list[str]:
    """Why some clips cannot be heard, in words."""
    if player is None:
        return []
    found = []
    if player.faults:
        more = f", and {len(player.faults) - 1} more" if len(player.faults) > 1 else ""
        found.append(f"Some clips can no longer be heard: {player.faults[0]}{more}.")
    if player.left_out:
        found.append(f"{player.left_out} clips had no room on a page of {BUDGET / 1e6:.2g} MB.")
    if sounds == FEW:
        more = ", and what was looked at in the misjudged clips" if maps else ""
        found.append(
            f"Written at the end of the run, with few sounds; vcrast report {folder} adds those of the map{more}."
        )
    return found


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """Command, commit, machine and duration: what one needs to repeat the run. Unknown ones are left out."""
    env = record.env
    spent = wall_seconds(record.summary, record.lines)
    rebuilt = f"launch/local.py {shlex.join([record.recipe, *record.overrides])}"
    found = {
        "Command": record.commands[0] if record.commands else rebuilt,
        "Continued by": "; ".join(record.commands[1:]),
        "Commit": record.commit,
        "Processes": (env.get("variables") or {}).get("WORLD_SIZE"),
        "Processor": env.get("cpu"),
        "GPU": ", ".join(env.get("gpus") or []),
        "Python": env.get("python"),
        "PyTorch": record.torch,
        "Duration": duration(spent) if spent is not None else "",
    }
    return [(name, str(value)) for name, value in found.items() if value]


def shown(env: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The content of `env.json` as dotted names and text, what is unknown left out."""
    for key, value in flatten(env):
        if isinstance(value, list):
            yield key, shlex.join(value) if key == "command" else ", ".join(map(str, value))
        elif value is not None:
            yield key, str(value)


def _sections(record: RunRecord, missing: list[str]) -> Iterator[Section]:
    """The figures that can be drawn; the others are added to `missing` with the reason."""
    pictures = record.folder / "figures"
    pictures.mkdir(exist_ok=True)
    for plan in plans(record):
        try:
            drawn = plan.draw()
        except (ValueError, KeyError, IndexError) as error:
            (pictures / f"{plan.name}.png").unlink(missing_ok=True)
            missing.append(f"{plan.title}: {error.args[0] if error.args else error}")
            continue
        png = drawn.save(pictures / f"{plan.name}.png")
        if plan.part:
            notes = _notes(drawn, record.classes)
            yield Section(plan.title, plan.text, notes, address("image/png", png), drawn.wide, plan.part)


def plans(record: RunRecord) -> list[Plan]:
    """Every figure that a complete run has, in the order of the page; a new one is a line here, with its part."""
    lines, classes = record.lines, record.classes
    return [
        Plan("accuracy", "Accuracy while finetuning",
             "Share of the test clips whose highest score is their class, after each epoch. Read the end of the "
             "curve, not its peak: choosing the best epoch by test clips flatters the model.",
             lambda: figures.accuracy_figure(lines, len(classes))),
        Plan("confusion", "Confusion matrix",
             "A row holds the test clips of one class, a column what they were taken for; the diagonal is right. "
             f"Counts are added over the folds, colour is the share of the row. {undrawn(classes)}",
             lambda: _confusion(record), "mistakes"),
        Plan("embedding_map", "Map of the embeddings", "", lambda: _map(record), ""),  # the page has one to play
        Plan("collapse", "Does the embedding stay alive?",
             "Std and rank should stay well above zero. A std near 0 means that every clip gets the same "
             "embedding; a rank that falls towards 1 means that all differ along one direction only. Nearest "
             "neighbours, if watched, begin with the untrained encoder and should rise above it.",
             lambda: figures.collapse_figure(lines)),
        Plan("loss_finetune", "Loss of finetuning",
             record.note("finetune") or "It should fall and flatten.",
             lambda: _loss(record, "finetune")),
        Plan("loss_pretrain", "Loss of pretraining",
             record.note("pretrain") or "It should fall and flatten.",
             lambda: _loss(record, "pretrain")),
        Plan("learning_rate", "Learning rate",
             "Warm-up, then decay. A loss that jumps while the rate is highest asks for a lower rate.",
             lambda: figures.rate_figure(lines)),
        Plan("views", "What the encoder saw",
             "Each row is one clip and what pretraining makes of it, on one scale of time; white is what the encoder "
             "does not get. Views should differ visibly, and a listener should still recognise the sound in each whole "
             "one; of masked patches enough must be left to guess the others.",
             lambda: _views(record), "seen"),
    ]  # fmt: skip


def _loss(record: RunRecord, stage: str) -> Drawn:
    labels = {name: metric.label for name, metric in record.metrics(stage).items()}
    return figures.loss_figure(record.lines, stage, parts=record.parts(stage), labels=labels)


def _confusion(record: RunRecord) -> Drawn:
    scores, labels = stack_folds(record.evaluations, ["scores", "labels"])
    return figures.confusion_figure(scores, labels, record.classes)


def _map(record: RunRecord) -> Drawn:
    """The map of the first fold that has embeddings: each fold has its own encoder, so folds cannot share axes."""
    for arrays in record.evaluations.values():
        if "embeddings" in arrays:
            return figures.map_figure(arrays["embeddings"], arrays.get("labels"), record.classes)
    raise ValueError("no fold's evaluation holds embeddings")


def _views(record: RunRecord) -> Drawn:
    if not record.views:
        raise ValueError("no views were saved")
    shift = record.frame_shift_ms
    if shift is None:
        raise ValueError("config.yaml does not say how long a frame is (features.frame_shift_ms)")
    return figures.views_figure(next(iter(record.views.values())), frame_shift_ms=shift)


def _notes(drawn: Drawn, classes: list[str]) -> list[str]:
    """The most frequent mistakes, under a confusion matrix."""
    return [
        f"{classes[true]} taken for {classes[predicted]}: {number} of {total} clips"
        for true, predicted, number, total in drawn.data.get("worst", [])
    ]
