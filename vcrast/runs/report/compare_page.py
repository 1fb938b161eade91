"""Write a comparison as one HTML file without network or script."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vcrast.runs.report.compare_figure import curves_figure, dots_figure
from vcrast.runs.report.compare_table import lines, rows_per_run
from vcrast.runs.report.figures import Drawn
from vcrast.runs.report.lead import Lead, split_unit
from vcrast.runs.report.write import address, write_page

if TYPE_CHECKING:
    from vcrast.runs.compare import Comparison

MOST_LEADS = 6
FIGURES = (
    (
        "Every run",
        "A dot is a run, the bar its variant's mean, the grey line that of the first variant. Dots of two variants "
        "that mingle say that the seed matters as much as the setting.",
        dots_figure,
    ),
    (
        "The way there",
        "Each run and fold faintly, the mean of a variant on top. The floor of a pretraining loss depends on batch "
        "size and projector width, hence the loss above it; between batch sizes even that says little.",
        curves_figure,
    ),
)


def write_comparison(found: Comparison, path: Path) -> None:
    """Write the page; what came from the runs is escaped."""
    header, rows = lines(found)
    run_header, *run_rows = rows_per_run(found)
    sections, missing = [], []
    for title, text, draw in FIGURES:
        try:
            drawn = draw(found)
            sections.append({"title": title, "text": text, "source": inlined(drawn), "notes": [], "wide": drawn.wide})
        except (ValueError, KeyError) as error:
            missing.append(str(error.args[0]))
    write_page(
        path,
        "compare.html",
        leads=leads(found),
        leading=found.metric(found.metrics[0]).label,
        variants=found.variants,
        num_runs=sum(len(variant.runs) for variant in found.variants),
        folds=found.folds,
        notes=found.notes,
        header=header,
        rows=rows,
        sections=sections,
        missing=missing,
        run_header=run_header,
        run_rows=run_rows,
    )


def leads(found: Comparison) -> list[Lead]:
    """The first metric of each variant, large; none where there are too many to be read at a glance."""
    name, variants = found.metrics[0], found.variants
    metric, large = found.metric(name), []
    for variant in variants if len(variants) <= MOST_LEADS else ():
        if (mean := found.estimate(variant, name)) is not None:
            value, unit = split_unit(metric.text(mean.mean))
            spread = "" if mean.error is None else f"± {split_unit(metric.text(mean.error))[0]}"
            runs = f"{mean.count} run{'s' * (mean.count != 1)}"
            large.append(Lead(found.name(variant), value, unit, spread, runs, []))
    return large


def inlined(drawn: Drawn) -> str:
    """A figure as the source of an image."""
    with tempfile.TemporaryDirectory() as folder:
        png = drawn.save(Path(folder) / "figure.png")
    return address("image/png", png)
