"""Serve a local web page that captions images: `make demo`, or `python -m lib.app.demo`."""

import argparse
from contextlib import suppress
from pathlib import Path

from lib.app.caption import add_model_option, load_captioner
from lib.core.errors import UserError, exit_on_error

_HOST = "127.0.0.1"  # other machines cannot reach it


@exit_on_error()
def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="demo", description="Serve a local web page that captions images.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free port (default: 8000)")
    add_model_option(parser)
    arguments = parser.parse_args()
    _serve(arguments.port, arguments.model)


def _serve(port: int, models: list[Path] | None) -> None:
    try:
        from waitress import create_server

        from lib.app.page import create_app
    except ModuleNotFoundError as error:
        raise UserError(f"the demo needs {error.name}, which is not installed; run `make setup`") from error
    app = create_app(load_captioner(models))
    try:
        server = create_server(app, host=_HOST, port=port)
    except (OSError, OverflowError) as error:
        raise UserError(f"--port {port}: cannot listen on this port: {error}; choose another port") from error
    print(f"Open http://{_HOST}:{server.effective_port} to caption images. Ctrl-C stops the server.", flush=True)
    with suppress(KeyboardInterrupt):
        server.run()


if __name__ == "__main__":
    main()
