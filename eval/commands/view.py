"""Make a page that shows runs token by token: who wrote what, every signal, and two arms side by side.

RUN is a folder of records, a file of records (*.jsonl), or a trace (*.parquet); traces beside records are found. Two
RUNs are shown side by side. The page is one file that needs no network and opens from disk in any current browser.
"""

from __future__ import annotations

import argparse
import json
import sys
import webbrowser
from pathlib import Path

from dodona.engine.errors import DodonaError
from dodona.eval.commands.options import positive

_LARGE = 50_000_000  # bytes of a page above which opening it takes several seconds


def port(text: str) -> int:
    """A port's number; a path that stands where it is due is told apart."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"takes a port from 0 to 65535, not {text!r}; RUN comes before it")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a folder of records, a records file, or a trace")
    parser.add_argument(
        "--output-file", metavar="FILE", help="the page (default: view.html in the folder RUN, or beside the file RUN)"
    )
    parser.add_argument(
        "--arm", metavar="TEXT", action="append", default=[], help="only arms with this in their name; may be repeated"
    )
    parser.add_argument("--limit", metavar="N", type=positive, help="only the first N problems")
    parser.add_argument(
        "--tokenizer", metavar="MODEL", help="whose tokenizer wrote the ids (default: the records' base model)"
    )
    parser.add_argument(
        "--serve", metavar="PORT", nargs="?", type=port, const=0, help="serve it on 127.0.0.1 until Ctrl-C"
    )
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    parser.add_argument("--json", action="store_true", help="print where it is and what it holds as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the page, and serve or open it if asked."""
    from dodona.eval.viewer.document import write_page
    from dodona.eval.viewer.server import ADDRESS, make_server
    from dodona.eval.viewer.view import make_view

    target = Path(args.output_file) if args.output_file else default_path(Path(args.runs[0]))
    view = make_view(args.runs, arms=args.arm, limit=args.limit, tokenizer=args.tokenizer)
    for text in view.notes:
        print(f"dodona: note: {text}", file=sys.stderr)
    write_page(view.page, target)
    server = None if args.serve is None else make_server(view.page, args.serve)
    url = target.resolve().as_uri() if server is None else f"http://{ADDRESS}:{server.server_address[1]}/"
    size = len(view.page)
    if args.json:
        report = {"page": str(target), "url": url, "bytes": size, **view.summary._asdict(), "notes": view.notes}
        print(json.dumps(report), flush=True)
    else:
        print(f"{target}: {described(view.summary)}; {size / 1e6:.1f} MB")
        if server is not None:
            print(f"serving {url} until Ctrl-C", flush=True)
    if size > _LARGE:
        print("dodona: note: a page of this size opens slowly: --arm and --limit make it smaller", file=sys.stderr)
    if args.open and not webbrowser.open(url):
        raise DodonaError(f"no browser could be opened: open {url} yourself")
    if server is not None:
        with server:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print("stopped", file=sys.stderr)
    return 0


def described(summary: object) -> str:
    """What a page holds, in words."""
    problems, arms, runs, traced, tokens = (
        int(getattr(summary, name)) for name in ("problems", "arms", "runs", "traced", "tokens")
    )
    counts = ((problems, "problem"), (arms, "arm"), (runs, "text"), (tokens, "token"))
    listed = ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts)
    return f"{listed}; {'no traces' if not traced else 'all traced' if traced == runs else f'{traced} texts traced'}"


def default_path(source: Path) -> Path:
    """Where the page goes: into the folder that it shows, or beside the file."""
    if source.is_dir():
        return source / "view.html"
    return source.with_name(f"{source.stem.removesuffix('.trace')}.view.html")
