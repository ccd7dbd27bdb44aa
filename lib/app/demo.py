"""A page of one's own to try the model on: `make demo`, or `python -m lib.app.demo`."""

import argparse
import sys
from pathlib import Path

from lib.app.caption import add_model_option, load, models_of
from lib.core.errors import UserError

_HOST = "127.0.0.1"  # nobody but this machine gets to it


def main() -> int:
    """Serves the page until Ctrl-C; an error of the user's is told in one line, with the exit code 1."""
    parser = argparse.ArgumentParser(
        prog="demo",
        description="Serve a local web page that captions pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", type=_port, default=8000, help="0 takes any that is free")
    add_model_option(parser)
    arguments = parser.parse_args()
    try:
        _serve(arguments.port, models_of(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _port(text: str) -> int:
    if not 0 <= int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"{text} should be from 0 to {2**16 - 1}")
    return int(text)


def _serve(port: int, models: list[Path]) -> None:
    try:
        from waitress import create_server

        from lib.app.page import MOST_UPLOAD, create_app
    except ModuleNotFoundError as error:
        raise UserError(f"the demo needs {error.name}, which is not installed: run make setup") from error
    app = create_app(load(models))
    try:
        # One picture at a time: the hooks of `Backbone.grid` are not for two threads. What is somewhat too large is
        # read nevertheless, since a browser that is cut off while it sends does not hear why.
        server = create_server(app, host=_HOST, port=port, threads=1, max_request_body_size=2 * MOST_UPLOAD)
    except OSError as error:
        raise UserError(f"cannot listen on port {port}: {error.strerror}; choose another with --port") from error
    print(f"http://{_HOST}:{server.effective_port} captions your pictures, until Ctrl-C", flush=True)
    server.run()


if __name__ == "__main__":
    sys.exit(main())
