"""The page: one HTML file with its style, its program and its data in it, which loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Final

from dodona.engine.errors import DodonaError
from dodona.engine.whole_file import write_whole

_FOLDER: Final = Path(__file__).with_name("page")
_SCRIPTS: Final = (
    *("data.js", "dom.js", "text.js", "diff.js", "plot.js", "filters.js", "list.js", "token.js", "problem.js"),
    *("theme.js", "keys.js", "address.js", "main.js"),
)
_GENERATOR: Final = b'<meta name="generator" content="dodona view">'
_SLOT: Final = re.compile(r"\{\{(\w+)\}\}")


def make_page(data: bytes, title: str) -> bytes:
    """The page around a payload's data, UTF-8.

    Its policy lets the browser run this program and this style and nothing else: no text of a model can become code.
    """
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    parts = [(_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; img-src data:; "
        f"base-uri 'none'; form-action 'none'"
    )
    content = json.dumps({"encoding": "gzip", "data": base64.b64encode(data).decode("ascii")})
    slots = {
        "generator": _GENERATOR.decode(),
        "policy": html.escape(policy),
        "title": html.escape(title),
        "style": style,
        "script": script,
        "data": content,
    }
    template = (_FOLDER / "page.html").read_text(encoding="utf-8")
    return _SLOT.sub(lambda match: slots[match[1]], template).encode("utf-8", "backslashreplace")


def write_page(page: bytes, path: Path) -> None:
    """Write it in one step; an existing file is replaced only if it is such a page.

    Raises:
        DodonaError: something else is there, or the path cannot be written.
    """
    if path.is_dir():
        raise DodonaError(f"{path} is a folder: name a file with --output-file")
    try:
        if path.exists():
            with open(path, "rb") as file:
                if _GENERATOR not in file.read(4096):
                    raise DodonaError(
                        f"{path} is there and is no page of `dodona view`: name another with --output-file"
                    )
    except OSError as error:
        raise DodonaError(f"{path} cannot be read: {error.strerror or error}: give another --output-file") from error
    try:
        write_whole(path, [page])
    except DodonaError as error:
        raise DodonaError(f"{error}: give another --output-file") from error


def _source(content: str) -> str:
    """A script or a style as a content security policy names it: by its hash."""
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
