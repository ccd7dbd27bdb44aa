"""Serve a local web page that captions images: `make demo`, or `python -m lib.app.demo`."""

import argparse
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

from lib.app.caption import add_model_option, load_captioner
from lib.core.errors import UserError, exit_on_error
from lib.report.gallery import SHARED, encode_attention
from lib.text.vocabulary import SPECIALS
from lib.vision.images import ImageError, decode

if TYPE_CHECKING:  # for type checkers only: flask is optional, and importing torch takes seconds
    from flask import Flask

    from lib.app.captioner import Captioner

_HOST = "127.0.0.1"  # other machines cannot reach this address
_MAX_UPLOAD = 20 * 2**20  # bytes


@exit_on_error()
def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="demo", description="Serve a local web page that captions images.")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 selects a free one (default: 8000)")
    add_model_option(parser)
    arguments = parser.parse_args()
    try:
        from waitress import create_server

        app = create_app(load_captioner(arguments.model))
    except ModuleNotFoundError as error:
        raise UserError(f"the demo needs {error.name}, which is not installed; run `make setup`") from error
    try:
        server = create_server(app, host=_HOST, port=arguments.port)
    except (OSError, OverflowError) as error:
        raise UserError(f"--port {arguments.port}: cannot listen on this port: {error}; choose another port") from error
    print(f"Open http://{_HOST}:{server.effective_port} to caption images. Ctrl-C stops the server.", flush=True)
    with suppress(KeyboardInterrupt):
        server.run()


def create_app(captioner: "Captioner") -> "Flask":
    """Create the Flask app. It serves the page, and captions an image that is posted to /caption."""
    from flask import Blueprint, Flask, render_template, request
    from werkzeug.exceptions import RequestEntityTooLarge

    preprocess = captioner.cnn().preprocess
    app = Flask(__name__, static_folder="page", template_folder="page")
    # The list of trusted hosts prevents DNS rebinding.
    app.config.update(MAX_CONTENT_LENGTH=_MAX_UPLOAD, TRUSTED_HOSTS=[_HOST, "localhost"])
    app.register_blueprint(Blueprint("shared", __name__, static_folder=SHARED, static_url_path="/shared"))
    lock = Lock()  # the hooks of `Backbone.grid` are not thread-safe

    @app.get("/")
    def page() -> tuple[str, dict[str, str]]:
        words = captioner.vocabulary.words[len(SPECIALS) :]
        text = render_template("index.html", words=words, attends=captioner.decoder.attends)
        # The header forbids the browser to load anything from another server.
        return text, {"Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:"}

    @app.post("/caption")
    def caption() -> dict[str, Any]:
        """Return captions or an error, both with status 200, because browsers log other statuses as page errors."""
        try:
            image = decode(request.get_data(), preprocess.min_decode_size)
            with lock:
                (candidates,) = captioner.caption([image])
        except RequestEntityTooLarge:
            return {"error": f"This file is larger than {_MAX_UPLOAD >> 20} MB; choose a smaller one."}
        except (ImageError, UserError) as error:
            return {"error": f"This image cannot be captioned: {error}."}
        captions = [c.to_json() | {"attention": encode_attention(c.attention.numpy())} for c in candidates]
        return {"cropBox": preprocess.crop_box(image.size), "candidates": captions}

    return app


if __name__ == "__main__":
    main()
