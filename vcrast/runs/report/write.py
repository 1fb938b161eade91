"""Render a Jinja template to HTML: autoescaped, written atomically."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vcrast.config.atomic import write_atomic


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill in a template of this folder and write it aside, then rename."""
    write_atomic(path, filled_in(template, **values))


def filled_in(template: str, **values: Any) -> str:
    """The page as text.

    Raises:
        jinja2.UndefinedError: the template asks for something that was not given.
    """
    environment = Environment(
        loader=PackageLoader("vcrast.runs.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)


def address(kind: str, data: bytes) -> str:
    """Bytes of a MIME type such as `image/png` as an address, so that the page holds them itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
