"""The command that captions pictures of one's own."""

import errno
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
from lib.app.attention import draw_attention
from lib.app.captioner import BATCH, Candidate, Captioner
from lib.vision.preprocess import Preprocess
from tests.lib.tiny import WORDS, write_model
from tests.stages.imports import ROOT


@pytest.fixture(scope="module")
def model(models):
    return models["additive"]


@pytest.fixture
def run(model, monkeypatch, capsys):
    """Runs the command: its exit code, and what it printed to stdout and stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        default = [] if "--model" in arguments else ["--model", model]
        monkeypatch.setattr("sys.argv", ["caption", *map(str, default), *map(str, arguments)])
        code = caption.main()
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.effect_noise((30, 20), 99).save(folder / "b.PNG")
    Image.new("RGB", (20, 30), "red").save(folder / "a.jpg")
    for other in ("notes.txt", ".hidden.jpg"):
        (folder / other).write_text("no picture")
    return folder


def test_each_picture_gets_a_line_and_an_unreadable_one_stops_nothing(run, tmp_path):
    Image.new("L", (30, 20), 99).save(tmp_path / "grey.png")
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    pictures = [tmp_path / name for name in ("bad.jpg", "gone.jpg", "grey.png")]
    code, out, err = run(*pictures)
    assert code == 1
    assert out.startswith(f"{pictures[2]}: ")
    assert set(out.split(": ")[1].split()) <= set(WORDS)
    assert err == f"error: {pictures[0]}: not an image\nerror: {pictures[1]}: No such file or directory\n"


def test_a_folder_stands_for_the_pictures_in_it_by_name(run, photos):
    code, out, err = run(photos)
    assert (code, err) == (0, "")
    assert [line.split(": ")[0] for line in out.splitlines()] == [str(photos / "a.jpg"), str(photos / "b.PNG")]


def test_a_folder_without_pictures_and_an_address_are_told_of_and_the_rest_is_done(run, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    code, out, err = run(tmp_path / "empty", "https://example.org/photo.jpg", photos / "a.jpg")
    assert code == 1
    assert out.count("\n") == 1
    first, second = err.splitlines()
    assert first.startswith(f"error: {tmp_path / 'empty'}: no picture in this folder")
    assert second.startswith("error: https://example.org/photo.jpg: nothing is fetched")


def test_what_the_system_refuses_to_look_up_is_told_of_and_the_rest_is_done(run, photos, tmp_path, monkeypatch):
    long, locked = tmp_path / ("x" * 300), tmp_path / "locked"
    locked.mkdir()
    list_folder = Path.iterdir

    def refuse(folder: Path):  # as a folder without the permission does, to all but root
        if folder == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    code, out, err = run(long, locked, photos)
    assert code == 1
    assert out.count("\n") == 2
    assert err == f"error: {long}: File name too long\nerror: {locked}: Permission denied\n"


def test_more_pictures_than_a_batch_come_in_their_order_with_what_is_bad_among_them(run, photos, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    good, other, bad = photos / "a.jpg", photos / "b.PNG", tmp_path / "bad.png"
    files = [good, bad, other] * BATCH
    code, out, err = run(*files)
    assert code == 1
    assert err.count(f"error: {bad}") == BATCH
    alone = {file: run(file)[1] for file in (good, other)}
    assert out == "".join(alone[file] for file in files if file != bad)


def test_json_has_the_runners_up_their_scores_and_what_failed(run, model, photos, tmp_path):
    code, out, err = run(photos / "a.jpg", tmp_path / "gone.jpg", "--json", "--top", 3, "--beam", 4)
    assert code == 1
    assert "gone.jpg" in err
    good, bad = json.loads(out)
    assert bad == {"image": f"{tmp_path}/gone.jpg", "error": f"{tmp_path}/gone.jpg: No such file or directory"}
    assert good["image"] == str(photos / "a.jpg")
    (found,) = Captioner.load(model).caption([photos / "a.jpg"], beam_size=4)
    assert good["caption"] == found[0].text
    assert good["candidates"] == [
        {"text": each.text, "tokens": each.tokens, "score": each.score, "mean_score": each.mean_score}
        for each in found[:3]
    ]


def test_the_best_few_are_printed_with_their_scores(run, photos):
    _, out, _ = run(photos / "a.jpg", "--top", 2)
    name, first, second = out.splitlines()
    assert name == f"{photos / 'a.jpg'}:"
    means = [float(line.split(" a word")[0]) for line in (first, second)]
    assert means[0] >= means[1]


def test_several_models_write_as_one(run, model, photos, tmp_path):
    other, photo = write_model(tmp_path / "other", scale=4), photos / "a.jpg"
    code, out, _ = run(photo, "--model", model, "--model", other, "--json")
    assert code == 0
    ((best, *_),) = Captioner.load(model, other).caption([photo])
    assert json.loads(out)[0]["candidates"][0]["score"] == best.score
    scores = [Captioner.load(folder).caption([photo])[0][0].score for folder in (model, other)]
    assert best.score not in scores
    (other / "backbone/backbone.json").write_text("{}")
    _, _, err = run(photo, "--model", model, "--model", other)
    assert err.startswith(f"error: {model} and {other} cannot decode together: ")


def test_a_caption_keeps_to_the_rules_asked_for(run, photos):
    code, out, _ = run(photos / "a.jpg", "--min-length", 5, "--no-repeat-ngram-size", 1)
    assert code == 0
    assert sorted(out.split(": ")[1].split()) == sorted(WORDS)


def test_where_the_model_looked_is_drawn_word_by_word(run, photos, tmp_path):
    code, *_ = run(photos / "a.jpg", "--attention", tmp_path / "out.png", "--min-length", 3, "--max-length", 3)
    assert code == 0
    three = Image.open(tmp_path / "out.png")
    run(photos / "a.jpg", "--attention", tmp_path / "out.png", "--min-length", 7, "--max-length", 7)
    seven = Image.open(tmp_path / "out.png")
    assert three.format == seven.format == "PNG"
    assert seven.size == (three.width, 2 * three.height)  # five pictures in a row


def test_of_a_picture_that_cannot_be_found_the_error_is_all_that_is_told(run, tmp_path):
    code, out, err = run(tmp_path, "--attention", tmp_path / "out.png", "--json")
    assert code == 1
    assert err.startswith(f"error: {tmp_path}: no picture in this folder")
    assert [told.keys() for told in json.loads(out)] == [{"image", "error"}]


def test_the_heat_lies_where_the_model_looked(tmp_path):
    white, whole = Image.new("RGB", (100, 80), "white"), Preprocess(64, (0.5,) * 3, (0.5,) * 3)
    attention = torch.tensor([[0.02, 0.02, 0.94, 0.02]])  # at the bottom left of 2 x 2 places
    draw_attention(white, whole, Candidate("dog", ["dog"], -1.0, -0.5, attention), tmp_path / "out.png")
    drawn = np.asarray(Image.open(tmp_path / "out.png").convert("RGB")).astype(int)
    height, width = drawn.shape[0], drawn.shape[1] / 5  # of the first of five columns
    rows, columns = (drawn[..., 0] - drawn[..., 2] > 150).nonzero()
    assert 0.5 * height < rows.mean() < height
    assert columns.mean() < 0.4 * width
    assert columns.max() < width


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("a.jpg", "b.PNG", "--attention", "out.png"), "draws one picture, not 2"),
        (("a.jpg", "--attention", "out.xyz"), "cannot draw to out.xyz: Format 'xyz' is not supported"),
        (("a.jpg", "--attention", "gone/out.png"), "cannot draw to gone/out.png: .*No such file"),
        (("a.jpg", "--model", "gone"), "no model in gone: run make repro"),
        (("a.jpg", "--model", "."), r"there is no backbone\.json in backbone: is that the right folder, and whole\?"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(run, photos, monkeypatch, arguments, reason):
    monkeypatch.chdir(photos)
    code, _, err = run(*arguments)
    assert code == 1
    assert re.fullmatch(f"error: .*{reason}.*\n", err)


def test_a_model_that_does_not_attend_has_nothing_to_draw(run, photos, tmp_path):
    blind = write_model(tmp_path / "blind", attention="none")
    code, _, err = run(photos / "a.jpg", "--model", blind, "--attention", tmp_path / "out.png")
    assert code == 1
    assert err.startswith("error: this model does not attend")
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--top", 6), "more captions than --beam 5"),
        (("--beam", 0), "0 should be at least 1"),
        (("--max-length", "many"), "invalid"),
    ],
)
def test_a_slip_is_told_by_the_name_of_the_option(run, capsys, arguments, reason):
    with pytest.raises(SystemExit) as stopped:
        run("a.jpg", *arguments)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert reason in err
    assert arguments[0] in err


def python(code: str, *arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_help_does_not_wait_for_torch():
    code = "import sys; from lib.app import caption\ntry: caption.main()\nfinally: print(sys.modules.keys())"
    done = python(code, "--help")
    assert done.returncode == 0
    assert "--attention" in done.stdout
    assert "'torch'" not in done.stdout


def test_a_caption_loads_nothing_that_it_does_not_use(model, photos):
    code = "import sys; from lib.app import caption; caption.main(); print(*sys.modules, sep='\\n')"
    done = python(code, "--model", model, photos / "a.jpg")
    loaded = set(done.stdout.splitlines())
    assert "torch" in loaded
    assert not loaded & {"torchvision", "torch._dynamo", "sympy", "pandas", "pyarrow", "matplotlib", "scipy", "nltk"}


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict", "cp1252:strict"])
def test_a_name_that_the_terminal_cannot_show_is_told_in_escapes(model, photos, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    name = os.fsdecode(b"caf\xe9.jpg") if os.name == "posix" else "\u96ea.jpg"  # Latin-1 on a disk; or Chinese
    try:
        (photos / "a.jpg").rename(photos / name)
    except OSError:
        pytest.skip("a disk that knows UTF-8 names alone")
    done = python("from lib.app import caption; caption.main()", "--model", model, photos)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = sorted(done.stdout.splitlines())
    assert "b.PNG: " in first
    assert "\\u" in second or "\\xe9" in second


@pytest.mark.skipif(os.name != "posix", reason="needs a shell's pipe")
def test_a_reader_that_has_seen_enough_is_no_error(model, photos, tmp_path):
    command = f"{sys.executable} -m lib.app.caption --model {model} {photos} 2>{tmp_path / 'err'} | true"
    subprocess.run(command, shell=True, cwd=ROOT, check=True)
    assert (tmp_path / "err").read_text() == ""
