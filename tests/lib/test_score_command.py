"""The command `score`: formats of the results file, pairing with references, output, and errors."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lib.app import score as command
from lib.scoring import METRICS, score
from lib.text.tokenizer import tokenize
from tests.stages.imports import ROOT

COLOURS = ["red", "blue", "green", "black", "white", "brown"]
REFERENCES = {
    7 * i: [f"A {colour} dog runs on the grass.", f"The {colour} dog, outside"] for i, colour in enumerate(COLOURS)
}
CAPTIONS = {i: f"a {colour} dog on a mat" for i, colour in zip(REFERENCES, COLOURS, strict=True)}
NAMES = {i: f"val/img_{i:06d}.jpg" for i in REFERENCES}
EXPECTED = score(
    {i: [tokenize(text) for text in texts] for i, texts in REFERENCES.items()},
    {i: tokenize(text) for i, text in CAPTIONS.items()},
)


def rows(captions: dict[int, str] = CAPTIONS) -> list[dict]:
    return [{"image_id": i, "caption": text} for i, text in captions.items()]


@pytest.fixture
def references(tmp_path):
    captions = [(i, text) for i, texts in REFERENCES.items() for text in texts]
    content = {
        "images": [{"id": i, "file_name": name} for i, name in NAMES.items()],
        "annotations": [{"id": n, "image_id": i, "caption": text} for n, (i, text) in enumerate(captions)],
    }
    path = tmp_path / "references.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def karpathy(tmp_path):
    """Return references with splits: the first two images are in test, the others in train."""
    images = [
        {
            "imgid": i,
            "filename": NAMES[i],
            "split": "test" if n < 2 else "train",
            "sentences": [{"raw": t} for t in texts],
        }
        for n, (i, texts) in enumerate(REFERENCES.items())
    ]
    path = tmp_path / "karpathy.json"
    path.write_text(json.dumps({"images": images}))
    return path


@pytest.fixture
def run(tmp_path, run_main):
    """Run the command. `results` is a path or the content of a file. Return exit code or message, stdout, stderr."""

    def run(results: object, *arguments: object) -> tuple[int | str | None, str, str]:
        path = results
        if not isinstance(results, Path):
            path = tmp_path / "results"
            text = results if isinstance(results, str | bytes) else json.dumps(results)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return run_main(command.main, "score", path, *arguments)

    return run


def delimited(delimiter: str, header: tuple[str, str]) -> str:
    return "\n".join(delimiter.join(row) for row in (header, *((NAMES[i], text) for i, text in CAPTIONS.items())))


@pytest.mark.parametrize(
    "results",
    [
        rows(),
        rows()[::-1],
        [{"image_id": f"{i:012d}", "caption": [text]} for i, text in CAPTIONS.items()],
        [{"id": n, "image_id": float(i), "caption": text} for n, (i, text) in enumerate(CAPTIONS.items())],
        {str(i): [{"caption": text}] for i, text in CAPTIONS.items()},
        {"annotations": rows()},
        [{"image": f"/data/val/{Path(NAMES[i]).name}", "caption": text} for i, text in CAPTIONS.items()],
        [{"image_id": Path(NAMES[i]).stem, "prediction": text} for i, text in CAPTIONS.items()],
        "\n".join(json.dumps({"file_name": "val\\" + Path(NAMES[i]).name, "text": t}) for i, t in CAPTIONS.items()),
        delimited(",", ("File Name", "Caption")),
        delimited(",", ("File Name", "Caption")).replace(" on a mat", ", on a mat"),
        delimited(";", ("image", "generated caption")).encode("utf-8-sig"),
        delimited("\t", ("path", "hypothesis")).encode("utf-16"),
    ],
)
def test_results_of_any_form_give_the_same_scores(run, references, results):
    code, out, err = run(results, references, "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert (report["images"], report["references"]) == (6, 12)
    assert {name: report["scores"][name] for name in METRICS} == pytest.approx(EXPECTED)
    assert all(low <= report["scores"][name] <= high for name, (low, high) in report["intervals"].items())


def test_it_imports_no_heavy_package_and_prints_a_table(references, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(rows()))
    heavy = {"torch", "torchvision", "dvc", "matplotlib", "PIL", "requests"}  # docs/scoring.md does not install them
    program = f"import sys; from lib.app.score import main; main(); assert {heavy}.isdisjoint(sys.modules)"
    words = [sys.executable, "-c", program, tmp_path / "results.json", references]
    out = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    printed = {line.split("  ")[0]: line.split()[1] for line in out.splitlines()[3:10]}
    assert float(printed["BLEU-1"]) == pytest.approx(EXPECTED["bleu_1"], abs=1e-4)
    assert float(printed["CIDEr-D"]) == pytest.approx(EXPECTED["cider_d"], abs=1e-4)


def test_score_files_returns_the_scores(references, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(rows()))
    assert command.score_files(tmp_path / "results.json", str(references)) == pytest.approx(EXPECTED)


def test_images_without_a_result_are_left_out_and_counted(run, references):
    code, out, err = run(rows()[:4], references, "--json")
    assert code == 0
    assert json.loads(out)["images"] == 4
    assert "2 of the 6 images" in err


def test_a_split_selects_the_images(run, karpathy):
    code, out, err = run(rows(), karpathy, "--json", "--split", "test")
    assert code == 0
    assert json.loads(out)["images"] == 2
    assert "4 results are left out" in err
    code, out, err = run(rows()[1:], karpathy, "--json", "--split", "test")
    assert json.loads(out)["images"] == 1
    assert "1 of the 2 images of the split test" in err
    code, _, _ = run(rows(), karpathy, "--split", "val")
    assert "--split val" in code
    assert "test, train" in code


def test_per_image_scores_are_those_of_each_image(run, references, tmp_path):
    code, _, _ = run(rows(), references, "--per-image", tmp_path / "each.csv")
    with (tmp_path / "each.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert code == 0
    assert [(int(row["image_id"]), row["file_name"], row["caption"]) for row in table] == [
        (i, NAMES[i], CAPTIONS[i]) for i in REFERENCES
    ]
    assert sum(float(row["cider_d"]) for row in table) / 6 == pytest.approx(EXPECTED["cider_d"])
    code, _, _ = run(rows(), references, "--per-image", references / "each.csv")
    assert "--per-image" in code


def test_other_results_are_compared_pair_by_pair(run, references, tmp_path):
    better = {i: texts[0] for i, texts in REFERENCES.items()}
    (tmp_path / "better.json").write_text(json.dumps(rows(better)[::-1]))
    (tmp_path / "fewer.json").write_text(json.dumps(rows(better)[1:]))
    code, out, _ = run(rows(), references, "--compare", tmp_path / "better.json", "--json")
    row = json.loads(out)["comparison"]["bleu_4"]
    assert code == 0
    assert (row["score"], row["other"], row["real"]) == (pytest.approx(EXPECTED["bleu_4"]), pytest.approx(1), True)
    _, out, _ = run(rows(better), references, "--compare", tmp_path / "better.json")
    assert "may be chance" in out
    code, _, _ = run(rows(), references, "--compare", tmp_path / "fewer.json")
    assert "fewer.json" in code
    assert "image 0" in code


def test_a_cider_d_of_0_is_explained(run, references):
    code, out, err = run([{"image_id": 7, "caption": REFERENCES[7][0]}], references, "--json")
    scores = json.loads(out)["scores"]
    assert code == 0
    assert (scores["bleu_1"], scores["cider_d"]) == (pytest.approx(1), 0)
    assert "CIDEr-D" in err


@pytest.mark.parametrize(
    ("results", "named"),
    [
        ([*rows(), {"image_id": 5, "caption": "a cat"}], "'5'"),
        ([*rows(), {"image_id": "val/img_000007.jpg", "caption": "a cat"}], "'val/img_000007.jpg'"),
        ([{"image_id": 7, "caption": None}], "row 1"),
        ([{"image_id": 7, "caption": ["a dog", "a cat"]}], "row 1"),
        ([{"image_id": True, "caption": "a dog"}], "row 1"),
        ([{"image_id": 7, "words": "a dog"}], "words"),
        (["a dog"], "row 1"),
        ([], "no results"),
        ("", "no results"),
        ('[{"image_id": 7, "caption": ', "results"),
        (b"\xff\x00\x93", "results"),
        ("caption,image\na dog, outside,val/img_000007.jpg\n", "row 2"),
        ("image,text\nval/img_000007.jpg\n", "row 2"),
        ("picture no,words\n1,a dog\n", "row 1"),
        ([{"image": "camera_b/img_000007.jpg", "caption": "a dog"}], "'camera_b/img_000007.jpg'"),
        ("a dog runs\n", "no results"),
    ],
)
def test_malformed_results_are_a_one_line_error(run, references, tmp_path, results, named):
    code, out, _ = run(results, references)
    assert out == ""
    assert str(tmp_path / "results") in code
    assert named in code
    assert "\n" not in code
    assert len(code.replace(str(tmp_path), "")) < 500


def test_an_empty_caption_is_a_result_and_windows_1252_is_read(run, references):
    code, out, _ = run([*rows()[1:], {"image_id": 0, "caption": ""}], references, "--json")
    assert (code, json.loads(out)["images"]) == (0, 6)
    code, _, err = run("image_id,caption\n7,a café\n".encode("cp1252"), references)
    assert code == 0
    assert "Windows-1252" in err


def test_a_file_name_of_several_images_is_an_error(run, references):
    references.write_text(references.read_text().replace(NAMES[14], f"other/{Path(NAMES[7]).name}"))
    code, _, _ = run([{"image": Path(NAMES[7]).name, "caption": "a dog"}], references)
    assert "several images" in code
    code, _, _ = run([{"image": f"other/{Path(NAMES[7]).name}", "caption": "a dog"}], references)
    assert code == 0


def test_ids_that_differ_only_in_leading_zeros_are_not_confused(run, references):
    references.write_text(
        references.read_text().replace('"id": 7,', '"id": "07",').replace('"id": 14,', '"id": "007",')
    )
    code, _, _ = run([{"image_id": 7, "caption": "a dog"}], references)
    assert "'7'" in code
