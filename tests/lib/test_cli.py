"""The command `caption`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.app import caption
from lib.app.captioner import BATCH_SIZE, Candidate, Captioner
from lib.vision.images import Preprocess
from tests.lib.tiny import WORDS, write_model
from tests.stages.imports import ROOT


@pytest.fixture(scope="module")
def model(models):
    return models["additive"]


@pytest.fixture
def run(model, run_main):
    """Run the command. Return its exit code (or error message), stdout and stderr."""

    def run(*arguments) -> tuple[str | int | None, str, str]:
        default = [] if "--model" in arguments else ["--model", model]
        return run_main(caption.main, "caption", *default, *arguments)

    return run


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.effect_noise((30, 20), 99).save(folder / "b.PNG")
    Image.new("RGB", (20, 30), "red").save(folder / "a.jpg")
    (folder / "notes.txt").touch()
    (folder / ".hidden.jpg").touch()
    return folder


def test_a_folder_stands_for_its_images_sorted_by_name(run, photos):
    code, out, err = run(photos)
    assert (code, err) == (0, "")
    assert [line.split(": ")[0] for line in out.splitlines()] == [str(photos / "a.jpg"), str(photos / "b.PNG")]


def test_the_home_folder_is_expanded(run, model, photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos))
    expected = run(photos / "a.jpg")
    assert run("~/a.jpg") == expected
    monkeypatch.setenv("HOME", str(model.parent))
    assert run(photos / "a.jpg", f"--model=~/{model.name}", "--model", model)[0] == 0


def test_each_image_gets_a_line_in_order_and_unreadable_images_are_reported(run, photos, tmp_path):
    good, other, bad = photos / "a.jpg", photos / "b.PNG", tmp_path / "bad.png"
    bad.write_bytes(b"not a picture")
    files = [good, bad, other] * BATCH_SIZE  # several batches
    code, out, err = run(*files)
    assert code == 1
    assert re.fullmatch(rf"(error: .*{re.escape(str(bad))}: not an image.*\n){{{BATCH_SIZE}}}", err)
    alone = {file: run(file)[1] for file in (good, other)}
    assert out == "".join(alone[file] for file in files if file != bad)
    assert alone[good].startswith(f"{good}: ")
    assert set(alone[good].split(": ")[1].split()) <= set(WORDS)


def test_a_folder_names_every_picture_that_it_does_not_read(run, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (photos / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (photos / "damaged.jpg").write_bytes(b"")
    (photos / "c").write_bytes((photos / "a.jpg").read_bytes())
    (photos / "more").mkdir()
    code, out, err = run(photos)
    assert code == 1
    assert [Path(line.split(": ")[0]).name for line in out.splitlines()] == ["a.jpg", "b.PNG", "c"]
    others, damaged, heic = err.splitlines()
    assert "more/" in others
    assert "damaged.jpg" in damaged
    assert re.search(r"phone\.HEIC: .*pip install pillow-heif", heic)


def test_json_has_candidates_scores_and_errors(run, model, photos, tmp_path):
    image, gone = photos / "a.jpg", tmp_path / "gone.jpg"
    code, out, err = run(image, gone, "--json", "--top", 3, "--beam", 4)
    assert code == 1
    assert "gone.jpg" in err
    good, bad = json.loads(out)
    assert bad["image"] == str(gone)
    assert f"{gone}: No such file or directory" in bad["error"]
    (candidates,) = Captioner.load(model).caption([image], beam_size=4)
    top = [candidate.to_json() for candidate in candidates[:3]]
    assert good == {"image": str(image), "caption": candidates[0].text, "candidates": top}


def test_top_prints_candidates_with_their_scores(run, photos):
    _, out, _ = run(photos / "a.jpg", "--top", 2)
    name, *lines = out.splitlines()
    assert name == f"{photos / 'a.jpg'}:"
    best, second = (float(line.split(" per word")[0]) for line in lines)
    assert best >= second


def test_several_models_decode_as_an_ensemble(run, model, photos, tmp_path):
    other, photo = write_model(tmp_path / "other", scale=4), photos / "a.jpg"
    code, out, _ = run(photo, "--model", model, "--model", other, "--json")
    assert code == 0
    ((best, *_),) = Captioner.load(model, other).caption([photo])
    assert json.loads(out)[0]["candidates"][0]["score"] == best.score
    scores = [Captioner.load(folder).caption([photo])[0][0].score for folder in (model, other)]
    assert best.score not in scores
    (other / "backbone/backbone.json").write_text("{}")
    error, *_ = run(photo, "--model", model, "--model", other)
    assert str(other) in error


def test_captions_follow_the_constraints(run, photos):
    code, out, _ = run(photos / "a.jpg", "--min-length", 5, "--no-repeat-ngram-size", 1)
    assert code == 0
    assert sorted(out.split(": ")[1].split()) == sorted(WORDS)


def test_attention_draws_one_image_per_word(run, photos, tmp_path):
    def drawn(words: int) -> Image.Image:
        out = tmp_path / f"{words}.png"
        assert run(photos / "a.jpg", "--attention", out, "--min-length", words, "--max-length", words)[0] == 0
        return Image.open(out)

    three, seven = drawn(3), drawn(7)
    assert three.format == seven.format == "PNG"
    assert seven.size == (three.width, 2 * three.height)  # five images per row


def test_the_heat_map_covers_the_attended_region(tmp_path):
    white, out, whole = tmp_path / "white.png", tmp_path / "out.png", Preprocess(64, (0.5,) * 3, (0.5,) * 3)
    Image.new("RGB", (100, 80), "white").save(white)
    attention = torch.tensor([[0.02, 0.02, 0.94, 0.02]])  # mostly the bottom left of 2 x 2 regions
    caption.draw_attention(str(white), whole, Candidate("dog", ["dog"], -1.0, -0.5, attention), out)
    drawn = np.asarray(Image.open(out).convert("RGB")).astype(int)
    height, width = drawn.shape[0], drawn.shape[1] / 5  # size of the first of five columns
    rows, columns = (drawn[..., 0] - drawn[..., 2] > 150).nonzero()
    assert 0.5 * height < rows.mean() < height
    assert columns.mean() < 0.4 * width
    assert columns.max() < width


@pytest.mark.parametrize(("arguments", "reason"), [
    ("b.PNG --attention out.png", "--attention out.png: .* 2 were given"),
    ("--attention out.xyz", "out.xyz: .*Format 'xyz' is not supported"),
    ("--attention gone/out.png", "gone/out.png: .*No such file"),
    ("--model gone", "gone: this folder does not exist"),
    ("--model .", r"backbone\.json"),
    ("empty", "empty: no image in this folder"),
    ("x" * 300, "x{300}: File name too long"),
    ("--beam 0 --top 0", "--top 0: .* --beam"),
    ("--max-length 0", "max_length=0"),
])  # fmt: skip
def test_errors_are_one_line(run, photos, monkeypatch, arguments, reason):
    monkeypatch.chdir(photos)
    Path("empty").mkdir()
    code, _, err = run("a.jpg", *arguments.split())
    lines = [code] if isinstance(code, str) else err.splitlines()
    assert re.fullmatch(f"(caption: )?error: .*{reason}.*", lines[-1])


def test_attention_needs_a_model_with_attention(run, photos, models, tmp_path):
    error, *_ = run(photos / "a.jpg", "--model", models["none"], "--attention", tmp_path / "out.png")
    assert "no attention" in error
    assert not (tmp_path / "out.png").exists()


def python(code: str, *arguments) -> subprocess.CompletedProcess:
    command, environment = [sys.executable, "-c", code, *map(str, arguments)], {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_help_does_not_import_torch():
    code = "import sys; from lib.app import caption\ntry: caption.main()\nfinally: print(sys.modules.keys())"
    done = python(code, "--help")
    assert done.returncode == 0
    assert "--attention" in done.stdout
    assert "'torch'" not in done.stdout


def test_caption_imports_nothing_that_it_does_not_use(model, photos):
    code = "import sys; from lib.app import caption; caption.main(); print(*sys.modules, sep='\\n')"
    loaded = set(python(code, "--model", model, photos / "a.jpg").stdout.splitlines())
    assert "torch" in loaded
    unused = {"torchvision", "timm", "torch._dynamo", "sympy", "pandas", "pyarrow", "matplotlib", "scipy", "nltk"}
    assert not loaded & unused


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_file_names_that_the_terminal_cannot_show_are_escaped(model, photos, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    name = os.fsdecode(b"caf\xe9.jpg") if os.name == "posix" else "\u96ea.jpg"  # not UTF-8, or a Chinese character
    try:
        (photos / "a.jpg").rename(photos / name)
    except OSError:
        pytest.skip("needs a file system that accepts other names than UTF-8")
    done = python("from lib.app import caption; caption.main()", "--model", model, photos)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = sorted(done.stdout.splitlines())
    assert "b.PNG: " in first
    assert "\\u" in second or "\\xe9" in second


@pytest.mark.skipif(os.name != "posix", reason="needs a shell's pipe")
def test_a_closed_pipe_prints_no_error(model, photos, tmp_path):
    command = f"{sys.executable} -m lib.app.caption --model {model} {photos} 2>{tmp_path / 'err'} | true"
    subprocess.run(command, shell=True, cwd=ROOT, check=True)
    assert (tmp_path / "err").read_text() == ""
