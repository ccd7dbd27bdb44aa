"""The demo page, as a Flask application: one page, and one address to which it posts a picture's bytes."""

import base64
import io
from typing import Any

from flask import Flask, Response, render_template, request
from PIL import Image

from lib.app.attention import attention_grid
from lib.app.caption import as_json
from lib.app.captioner import Captioner
from lib.core.errors import UserError
from lib.text.vocabulary import SPECIALS
from lib.vision.images import ImageError, decode

MOST_UPLOAD = 20 * 2**20  # bytes
_SHOWN = (1024, 1024)  # pixels at most, of the picture on the page
_WORDS = 30  # of the vocabulary, on the page


def create_app(captioner: Captioner) -> Flask:
    """The application. To others than this machine's own names it does not answer, against DNS rebinding."""
    app = Flask(__name__)
    app.config.update(MAX_CONTENT_LENGTH=MOST_UPLOAD, TRUSTED_HOSTS=["127.0.0.1", "localhost"])

    @app.get("/")
    def page() -> str:
        words = captioner.vocabulary.words[len(SPECIALS) :]
        return render_template(
            "index.html",
            megabytes=MOST_UPLOAD >> 20,
            count=len(words),
            words=words[:_WORDS],
            attends=captioner.decoder.attends,
        )

    @app.post("/caption")
    def caption() -> dict[str, Any]:
        """An error is an answer too, of status 200: browsers report any other as a fault of the page."""
        try:
            picture = decode(request.get_data(), captioner.backbone.preprocess.min_decode_size)
            (candidates,) = captioner.caption([picture])
        except (ImageError, UserError) as error:
            return {"error": f"This picture cannot be captioned: {error}."}
        return {
            "picture": _data_uri(picture),
            "seen": captioner.backbone.preprocess.crop_box(picture.size),
            "candidates": [as_json(each) | {"attention": attention_grid(each).tolist()} for each in candidates],
        }

    @app.errorhandler(413)
    def too_large(error: Exception) -> tuple[dict[str, str], int]:
        return {"error": f"This file is larger than {MOST_UPLOAD >> 20} MB: choose a smaller one."}, 413

    @app.after_request
    def confine(response: Response) -> Response:
        """The browser is to load nothing from elsewhere, whatever might get into the page."""
        response.headers["Content-Security-Policy"] = "default-src 'self'; img-src 'self' data:"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return app


def _data_uri(picture: Image.Image) -> str:
    """The picture as the model's reader shows it: upright, and of a kind that any browser knows."""
    shown, buffer = picture.copy(), io.BytesIO()
    shown.thumbnail(_SHOWN)
    shown.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
