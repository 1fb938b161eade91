"""`vcrast report`: one page for a run or for several, with sounds; Markdown, CSV."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SUFFIXES = {"html": ".html", "markdown": ".md", "csv": ".csv"}


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "report",
        help="write a page for a run, or one for several: numbers, curves, misjudged clips to listen to",
        description="Of one run: report.html in its folder, with figures, the clips that were misjudged and the map of "
        "the embeddings to listen to. Of several runs, or a folder of runs: what `vcrast compare` says, as a page.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders, finished or not, or folders of runs"
    )
    parser.add_argument(
        "--format", default=None, metavar="LIST",
        help="html, markdown, csv, or some of them joined by commas (default: what --out ends in, else html)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=None, metavar="FILE",
        help="or a folder; - is standard output (default: report.html in the folder of the run or runs, else here)",
    )  # fmt: skip
    parser.add_argument("--no-sound", action="store_true", help="a smaller page, without players and spectrograms")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="of several runs: what to compare; see compare"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write what is asked for and print where it lies, after the table of numbers of a single run.

    Raises:
        FileNotFoundError: no such run, or no folder for the file.
        ValueError: no such format, or several for one standard output.
    """
    from vcrast.config.atomic import write_atomic

    formats = chosen(arguments.format, arguments.out)
    printed = str(arguments.out) == "-"
    if printed and (len(formats) > 1 or formats == ["html"]):
        raise ValueError(f"--out -: takes one of markdown and csv, not {','.join(formats)}; name a file")
    if not printed and arguments.out is not None and not arguments.out.parent.is_dir():
        raise FileNotFoundError(f"--out {arguments.out}: the folder {arguments.out.parent} does not exist")
    single = len(arguments.runs) == 1 and not _holds_runs(arguments.runs[0])
    if single and arguments.metric:
        raise ValueError("--metric: chooses what several runs are compared by; of one run the page shows all")
    if printed:
        print(text_of(arguments, formats[0], single=single), end="")
        return 0
    home = arguments.runs[0] if len(arguments.runs) == 1 else Path()
    out = arguments.out
    base = out / "report.html" if out is not None and out.is_dir() else out or home / "report.html"
    paths = {each: base if base.suffix == SUFFIXES[each] else base.with_suffix(SUFFIXES[each]) for each in formats}
    for each, path in paths.items():
        if each == "html":
            write_html(arguments, path, single=single)
        else:
            write_atomic(path, text_of(arguments, each, single=single))
    if single and (arguments.runs[0] / "summary.json").is_file():
        from vcrast.runs.report.summary_table import print_summary

        print_summary(arguments.runs[0])
    print("\n".join(map(str, paths.values())))
    return 0


def chosen(words: str | None, out: Path | None) -> list[str]:
    """The formats that are asked for.

    Raises:
        ValueError: names the one that there is not.
    """
    from vcrast.config.words import suggest

    if words is None:
        by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
        if out is not None and out.suffix and out.suffix not in by_suffix:
            raise ValueError(f"--out {out}: ends in none of {', '.join(by_suffix)}; or say --format")
        return [by_suffix.get(out.suffix, "html") if out is not None else "html"]
    names = list(dict.fromkeys(word.strip() for word in words.split(",")))
    for name in names:
        if name not in SUFFIXES:
            raise ValueError(f"--format {words}: {suggest(name, tuple(SUFFIXES))}")
    return names


def write_html(arguments: argparse.Namespace, path: Path, *, single: bool) -> None:
    """The page of a run, or of the comparison of several."""
    if single:
        from vcrast.runs.report.page import ALL, NONE, write_report

        write_report(arguments.runs[0], sounds=NONE if arguments.no_sound else ALL, out=path)
        return
    from vcrast.runs.compare import compare
    from vcrast.runs.report.compare_page import write_comparison

    write_comparison(compare(arguments.runs, arguments.metric), path)


def text_of(arguments: argparse.Namespace, form: str, *, single: bool) -> str:
    """Markdown or CSV of the runs."""
    from vcrast.runs.compare import compare, find_runs
    from vcrast.runs.record import read_run
    from vcrast.runs.report.compare_table import markdown as of_several
    from vcrast.runs.report.export import as_csv, markdown

    if form == "markdown" and not single:
        return of_several(compare(arguments.runs, arguments.metric)) + "\n"
    if single:
        record = read_run(arguments.runs[0])
        return markdown(record) if form == "markdown" else as_csv([record])
    folders = dict.fromkeys(folder for path in arguments.runs for folder in find_runs(path))
    return as_csv([read_run(folder, arrays=False) for folder in folders])


def _holds_runs(path: Path) -> bool:
    """Whether it is a folder of runs rather than one."""
    return not (path / "config.yaml").is_file() and any(path.glob("*/config.yaml"))
