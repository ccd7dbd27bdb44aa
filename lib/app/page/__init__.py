"""The demo page, a Flask app: one page, and one address that takes the bytes of an image and returns captions."""

from threading import Lock
from typing import Any

from flask import Flask, Response, render_template, request, send_from_directory

from lib.app.captioner import Captioner
from lib.core.errors import UserError
from lib.report.heatmap import SHARED, encode_attention
from lib.text.vocabulary import SPECIALS
from lib.vision.images import ImageError, decode

MAX_UPLOAD = 20 * 2**20  # bytes
_SAMPLE_WORDS = 30  # words of the vocabulary that the page lists


def create_app(captioner: Captioner) -> Flask:
    """Create the app. It answers only to the names of this machine, which prevents DNS rebinding."""
    app = Flask(__name__)
    app.config.update(MAX_CONTENT_LENGTH=MAX_UPLOAD, TRUSTED_HOSTS=["127.0.0.1", "localhost"])
    lock = Lock()  # the hooks of `Backbone.grid` are not thread-safe

    @app.get("/")
    def page() -> str:
        words = captioner.vocabulary.words[len(SPECIALS) :]
        attends = captioner.decoder.attends
        return render_template("index.html", count=len(words), words=words[:_SAMPLE_WORDS], attends=attends)

    @app.get("/shared/<name>")
    def shared(name: str) -> Response:
        return send_from_directory(SHARED, name)

    @app.post("/caption")
    def caption() -> dict[str, Any]:
        """Return captions or an error, both with status 200, because browsers log other statuses as page errors."""
        preprocess = captioner.backbone.preprocess
        try:
            image = decode(request.get_data(), preprocess.min_decode_size)
            with lock:
                (candidates,) = captioner.caption([image])
        except (ImageError, UserError) as error:
            return {"error": f"This image cannot be captioned: {error}."}
        captions = [c.to_json() | {"attention": encode_attention(c.attention.numpy())} for c in candidates]
        return {"cropBox": preprocess.crop_box(image.size), "candidates": captions}

    @app.errorhandler(413)
    def too_large(error: Exception) -> tuple[dict[str, str], int]:
        return {"error": f"This file is larger than {MAX_UPLOAD >> 20} MB; choose a smaller one."}, 413

    @app.after_request
    def restrict_sources(response: Response) -> Response:
        """Forbid the browser to load anything from another server."""
        response.headers["Content-Security-Policy"] = "default-src 'self'; img-src 'self' blob: data:"
        return response

    return app
