"""Serve one model: ``python -m dodona.bench.server --model smollm2 --port 8000``.

Prints one JSON line with the address when it is ready. With ``--leash`` it ends when its standard input does, so that
it cannot outlive the process that started it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Sequence

from dodona.bench.server.completions import CompletionsServer
from dodona.bench.server.kept import Kept
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until it is interrupted, or the leash is let go."""
    parser = argparse.ArgumentParser(prog="python -m dodona.bench.server", description=__doc__)
    parser.add_argument("--model", default="arith-oracle", help="alias, hub id, folder or GGUF file")
    parser.add_argument("--name", help="what requests call it (default: as --model)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--ops")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--leash", action="store_true", help="end when standard input ends")
    args = parser.parse_args(arguments)
    try:
        engine = Engine(
            args.model,
            device=args.device,
            dtype=args.dtype,
            max_batch=1,
            max_length=args.max_length,
            threads=args.threads,
            ops=args.ops,
        )
        server = CompletionsServer(Kept(engine), args.name or args.model, (args.host, args.port))
    except (DodonaError, OSError) as error:
        print(f"dodona: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"url": f"http://{args.host}:{server.server_port}", "model": server.name}), flush=True)
    if args.leash:
        threading.Thread(target=_wait_for_end, args=(server,), daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("dodona: stopped", file=sys.stderr)
    finally:
        server.server_close()
    return 0


def _wait_for_end(server: CompletionsServer) -> None:
    while os.read(0, 1 << 16):
        pass
    server.shutdown()


if __name__ == "__main__":
    raise SystemExit(main())
