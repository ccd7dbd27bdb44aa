"""`make server` captions all images of two zips for COCO's evaluation server."""

import hashlib
import json
import zipfile

import pytest
from PIL import Image

from lib.app.captioner import Captioner
from lib.core.errors import UserError
from lib.core.zips import write_stored_zip
from stages.tools import coco_submission
from tests.lib.tiny import write_model
from tests.miniature import pictures, write_checksums
from tests.servers import serving
from tests.stages.tiny import write_params

PARTS = ("val2014", "test2014")


class Reverse:
    """A replacement for Consensus that reverses each beam."""

    def rerank(self, features, beams, length_penalty):
        return [beam[::-1] for beam in beams]


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "data/model")
    (tmp_path / "data/ensemble").mkdir()


@pytest.mark.parametrize(("consensus", "several"), [(None, False), (Reverse(), False), (None, True)])
def test_every_image_of_val_and_test_has_one_caption(tmp_path, monkeypatch, capsys, consensus, several):
    monkeypatch.setattr(coco_submission, "train_consensus", lambda *_: consensus)
    if several:
        write_model(tmp_path / "other", scale=4).rename(tmp_path / "data/ensemble/other")
    jpegs = {image_id: jpeg for image_id, (jpeg, _) in pictures().items()}
    jpegs[7] = b"broken"
    with serving() as files:
        for part in PARTS:
            members = [(f"{part}/COCO_{part}_{image_id:012d}.jpg", jpeg) for image_id, jpeg in jpegs.items()]
            write_stored_zip(tmp_path / f"{part}.zip", [(f"{part}/", b""), *members])
            files.serve(f"/{part}.zip", (tmp_path / f"{part}.zip").read_bytes())
        write_checksums([tmp_path / f"{part}.zip" for part in PARTS], tmp_path / "checksums")
        write_params(tmp_path, **{"dataset.mirror": files.url, "dataset.checksums": "checksums"})
        coco_submission.main()
    assert capsys.readouterr().out.count("val2014.zip: cannot read image 7: not an image") == 1
    with zipfile.ZipFile("server/results.zip") as archive:
        assert archive.namelist() == [f"captions_{part}_captioner_results.json" for part in PARTS]
        for name in archive.namelist():
            written = {row["image_id"]: row["caption"] for row in json.loads(archive.read(name))}
            assert list(written) == sorted(jpegs)
            assert [image_id for image_id, caption in written.items() if not caption] == [7]
    with zipfile.ZipFile("val2014.zip") as archive:
        picture = Image.open(archive.open("val2014/COCO_val2014_000000000003.jpg"))
        models = ["data/model", "data/ensemble/other"] if several else ["data/model"]
        (beam,) = Captioner.load(*models).caption([picture], beam_size=3, length_penalty=0.7)
    assert written[3] == beam[-1 if consensus else 0].text


def test_a_submission_needs_beam_search(tmp_path):
    write_params(tmp_path, **{"generate.method": "sample"})
    with pytest.raises(UserError, match=r"generate\.method=sample"):
        coco_submission.main()


def test_a_zip_in_dvcs_cache_is_not_downloaded_and_needs_images(tmp_path, monkeypatch):
    write_stored_zip(tmp_path / "val2014.zip", [("notes.txt", b"")])
    digest = hashlib.md5((tmp_path / "val2014.zip").read_bytes()).hexdigest()
    cached = tmp_path / "cache/files/md5" / digest[:2] / digest[2:]
    cached.parent.mkdir(parents=True)
    (tmp_path / "val2014.zip").rename(cached)
    monkeypatch.setattr(coco_submission, "dvc_cache", lambda: tmp_path / "cache")
    (tmp_path / "checksums").write_text("".join(f"{digest}  {part}.zip\n" for part in PARTS))
    write_params(tmp_path, **{"dataset.mirror": "http://127.0.0.1:1", "dataset.checksums": "checksums"})
    with pytest.raises(UserError, match="holds no image of val2014"):
        coco_submission.main()
