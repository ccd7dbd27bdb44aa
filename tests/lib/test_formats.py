"""Caption files in all supported formats: readers, folders, encodings, ids and image archives."""

import csv
import gzip
import io
import json
import tarfile
import zipfile

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from lib.core.archives import Tar
from lib.core.errors import UserError
from lib.core.zips import write_stored_zip
from lib.datasets import local
from lib.datasets.sources import read_source
from lib.vision.images import Archives, ImageError

CAPTIONS = {f"{i}.jpg": [f"Caption {j} of {i}." for j in range(2)] for i in range(6)}
SPLITS = ["train", "train", "train", "train", "val", "test"]
ROWS = [(name, caption) for name, captions in CAPTIONS.items() for caption in captions]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(rows, separator, header=""):
    return header + "".join(separator.join(row) + "\n" for row in rows)


def coco(ids=range(6), **images):
    rows = [{"id": i, "file_name": name} for i, name in zip(ids, CAPTIONS, strict=False)]
    return {
        "images": [row | {key: value[n] for key, value in images.items()} for n, row in enumerate(rows)],
        "annotations": [{"image_id": row["id"], "caption": c} for row in rows for c in CAPTIONS[row["file_name"]]],
    }


def by_name(annotations):
    """Return the captions by file name."""
    names = annotations.images.set_index("image_id")["file_name"]
    result = {name: [] for name in names}
    for image_id, caption in annotations.captions.itertuples(index=False):
        result[names[image_id]].append(caption)
    return result


def error(function, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500
    return str(caught.value)


def parquet(table) -> bytes:
    table.to_parquet(buffer := io.BytesIO())
    return buffer.getvalue()


def label(texts):
    return {"result": [{"value": {"text": texts}}]}


SENTENCES = {n: [{"tokens": c.rstrip(".").lower().split()} for c in cs] for n, cs in CAPTIONS.items()}
LISTS = [{"image": name, "caption": captions} for name, captions in CAPTIONS.items()]
FORMATS = {
    "coco": coco(),
    "coco.lists": {**coco(), "annotations": [{"image_id": i, "caption": CAPTIONS[f"{i}.jpg"]} for i in range(6)]},
    "kaggle": lines(ROWS, ",", "image,caption\n"),
    "flickr30k": lines([(n, " 0", f" {c} ") for n, c in ROWS], "|", "image_name| comment_number| comment\n"),
    "semicolons": lines([(c, n) for n, c in ROWS], ";", "Description;File Name\n"),
    "several columns": lines([(n, *cs) for n, cs in CAPTIONS.items()], "\t", "file_name\tcaption_1\tcaption_2\n"),
    "JSON in cells": pd.DataFrame([(n, json.dumps(c)) for n, c in CAPTIONS.items()], columns=["file", "raw"]).to_csv(),
    "tsv without a header": lines(ROWS, "\t"),
    "conceptual captions": lines([(c, n) for n, c in ROWS], "\t"),
    "jsonl": "".join(json.dumps({"file_name": n, "text": c}) + "\n" for n, c in ROWS),
    "parquet": parquet(pd.DataFrame(ROWS, columns=["file_name", "text"])),
    "parquet of lists": parquet(pd.DataFrame({"file_name": list(CAPTIONS), "captions": list(CAPTIONS.values())})),
    "tokens": lines([(f"{n}#{i % 2}", c) for i, (n, c) in enumerate(ROWS)], "\t"),
    "tokens in Chinese": lines([(f"{n}#zhc#{i % 2}", c) for i, (n, c) in enumerate(ROWS)], " "),
    "blip": [{"image": n, "caption": c, "image_id": n[0]} for n, c in ROWS],
    "aic": [{"url": f"http://example.org/{n}", "image_id": n, "caption": c} for n, c in CAPTIONS.items()],
    "lists": {"info": {}, "images": [{"file_name": n, "captions": c} for n, c in CAPTIONS.items()]},
    "by name": CAPTIONS,
    "kohya": {n: {"caption": c, "tags": "a, b"} for n, c in CAPTIONS.items()},
    "columns": {"image": [n for n, _ in ROWS], "caption": [c for _, c in ROWS]},
    "pandas": json.loads(pd.DataFrame(ROWS, columns=["image", "caption"]).to_json()),
    "label studio": [
        {"data": {"image": n}, "annotations": [label(cs), {**label(["No."]), "was_cancelled": True}]}
        for n, cs in CAPTIONS.items()
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packed", ["plain", "gz", "zip"])
def test_a_format_is_known_by_its_content(tmp_path, name, packed):
    path = write(tmp_path / "captions.unknown", FORMATS[name])
    if packed == "gz":
        path = write(tmp_path / "captions.gz", gzip.compress(path.read_bytes()))
    elif packed == "zip":
        write_stored_zip(tmp_path / "a.zip", [("annotations/", b""), ("annotations/captions.json", path.read_bytes())])
        path = tmp_path / "a.zip"
    assert by_name(read_source(path)) == CAPTIONS


def test_karpathy_json_may_have_tokens_only_and_other_names_of_splits(tmp_path):
    images = [
        {"filename": n, "split": split, "sentences": SENTENCES[n]}
        for n, split in zip(CAPTIONS, ["train", "restval", "training", "dev", "validation", "test"], strict=True)
    ]
    annotations = read_source(write(tmp_path / "a.json", {"images": images}))
    assert annotations.images["split"].tolist() == ["train", "train", "train", "val", "val", "test"]
    assert by_name(annotations)["0.jpg"] == ["caption 0 of 0", "caption 1 of 0"]


@pytest.mark.parametrize(
    "content",
    [
        coco(split=SPLITS),
        lines([(n, SPLITS[int(n[0])], c) for n, c in ROWS], ",", "image,split,caption\n"),
        {split: [LISTS[i] for i in range(6) if SPLITS[i] == split] for split in ("train", "val", "test")},
    ],
)  # fmt: skip
def test_a_split_in_the_file_is_used(tmp_path, content):
    annotations = read_source(write(tmp_path / "a", content))
    assert dict(zip(annotations.images["file_name"], annotations.images["split"], strict=True)) == dict(
        zip(CAPTIONS, SPLITS, strict=True)
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"images": coco()["images"]}, "has no captions"),
        ({"images": coco()["images"], "annotations": []}, "has no captions"),
        ({**coco(), "annotations": [{"image_id": 0, "bbox": []}]}, "has no captions"),
        ({**coco(), "annotations": [{"image_id": 9, "caption": "Of no image."}]}, "images such as 0"),
        (coco(split=[*SPLITS[:5], "holdout"]), "holdout"),
        ({"hello": "world"}, "docs/datasets.md"),
        ("once upon a time\n", "docs/datasets.md"),
        ("image,label\n1.jpg,dog\n", "docs/datasets.md"),
        ('{"file_name": "a.jpg", "text": "A."}\n{"file_name": "b.j', "line 2"),
        (lines([(n, c, "x") for n, c in ROWS], ",", "image,caption,a,b\n"), "column"),
        (b"image,caption\n1.jpg,\xc4\xe3\xba\xc3\xca\xc0\xbd\xe7\n", "UTF-8"),
        ("image,caption,split\n1.jpg,A.,train\n1.jpg,B.,test\n", "1.jpg"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_one_line(tmp_path, content, expected):
    message = error(read_source, write(tmp_path / "mine", content))
    assert expected in message
    assert "mine" in message


def test_rejected_captions_and_captions_of_no_image_are_counted(tmp_path):
    content = coco()
    content["annotations"][0]["is_rejected"] = content["annotations"][3]["is_precanned"] = True
    content["annotations"].append({"image_id": 99, "caption": "Of no image."})
    annotations = read_source(write(tmp_path / "a.json", content))
    assert len(annotations.captions) == 10
    assert [note.split()[0] for note in annotations.notes] == ["2", "1"]


IDS = {
    "names": [f"pic_{i}" for i in range(6)],
    "padded": [f"00{i}" for i in range(6)],
    "floats": [0.5 + i for i in range(6)],
    "large": [2**63 - 1 - i for i in range(6)],
    "larger": [2**64 + i for i in range(6)],
    "text of digits": [str(i) for i in range(6)],
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_any_kind_come_back(tmp_path, kind):
    ids = read_source(write(tmp_path / "a.json", coco(IDS[kind]))).images["image_id"].tolist()
    assert ids == (IDS[kind] if kind not in ("floats", "larger") else [str(i) for i in IDS[kind]])


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(st.integers(-(2**63), 2**63 - 1), st.text("0aé. ", min_size=1)), min_size=1, max_size=5, unique_by=str
    )
)
def test_any_ids_tie_captions_to_images_even_if_one_list_has_them_as_text(tmp_path, ids):
    images = [{"id": image_id, "file_name": f"{n}.jpg"} for n, image_id in enumerate(ids)]
    captions = [{"image_id": str(image_id), "caption": f"{n}"} for n, image_id in enumerate(ids)]
    annotations = read_source(write(tmp_path / "a.json", {"images": images, "annotations": captions}))
    assert by_name(annotations) == {f"{n}.jpg": [str(n)] for n in range(len(ids))}
    all_numbers = all(isinstance(image_id, int) for image_id in ids)
    assert annotations.images["image_id"].tolist() == (ids if all_numbers else [str(i) for i in ids])


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).map(lambda t: f"x{t}x")


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(TEXTS, min_size=3, max_size=6),
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "a, b", 'say "hi"', "two\nlines"]),
)
def test_a_table_with_any_delimiter_encoding_and_line_end_is_read(tmp_path, texts, delimiter, encoding, end, extra):
    table = io.StringIO(newline="")
    writer = csv.writer(table, delimiter=delimiter, lineterminator=end)
    writer.writerows([["image", "caption"], *([f"{n}.jpg", f"{text} {extra}."] for n, text in enumerate(texts))])
    path = write(tmp_path / "a.csv", table.getvalue().encode(encoding))
    assert by_name(read_source(path)) == {f"{n}.jpg": [f"{text} {extra}."] for n, text in enumerate(texts)}


def test_windows_1252_is_read_and_reported(tmp_path):
    path = write(tmp_path / "a.csv", "image,caption\n1.jpg,Ein Café für 5 € – schön\n".encode("cp1252"))
    annotations = read_source(path)
    assert annotations.captions["caption"].tolist() == ["Ein Café für 5 € – schön"]
    assert "Windows-1252" in annotations.notes[0]


def test_odd_rows_of_a_table(tmp_path):
    good = lines(ROWS * 20, "|", "image|comment\n")
    annotations = read_source(
        write(tmp_path / "a.csv", good + 'a line without\n9.jpg|a "quoted word\n8.jpg|one | two\n')
    )
    assert by_name(annotations)["9.jpg"] == ['a "quoted word']
    assert by_name(annotations)["8.jpg"] == ["one | two"]
    assert any(note.startswith("1 rows left out") for note in annotations.notes)


def test_a_quotation_mark_that_is_not_closed_loses_no_row(tmp_path):
    text = lines([(n, f'"{c}') for n, c in ROWS], "\t", "image\tcaption\n")
    assert len(read_source(write(tmp_path / "a.tsv", text)).captions) == len(ROWS)
    text = lines([*[(n, f'"{c}, or not"') for n, c in ROWS], ("6.jpg", '"Open'), *ROWS], ",", "image,caption\n")
    assert "row" in error(read_source, write(tmp_path / "a.csv", text))


def test_lists_of_the_images_of_each_split(tmp_path):
    write(tmp_path / "Flickr8k.token.txt", FORMATS["tokens"])
    for part, names in (("train", "0.jpg\n1.jpg\n"), ("dev", "2.jpg\n"), ("test", "3\n")):
        write(tmp_path / f"Flickr_8k.{part}Images.txt", names)
    annotations = read_source(tmp_path)
    assert annotations.images["split"].tolist() == ["train", "train", "val", "test"]
    assert any(note.startswith("2 images left out") for note in annotations.notes)


def test_columns_may_be_named(tmp_path):
    path = write(tmp_path / "a.csv", lines([(n, c, "x") for n, c in ROWS], ",", "foto,bildtext,caption\n"))
    assert by_name(read_source(path, {"file_name": "foto", "caption": "bildtext"})) == CAPTIONS
    assert "dataset.local.columns.file_name" in error(read_source, path, {"file_name": "photo"})
    assert "dataset.local.columns" in error(read_source, write(tmp_path / "a.json", coco()), {"file_name": "photo"})


@pytest.mark.parametrize(
    "names", [["train", "val", "test"], ["captions_train2014", "captions_val2014", "captions_test"]]
)
@pytest.mark.parametrize("as_mapping", [True, False])
def test_a_file_for_each_split_has_ids_of_its_own(tmp_path, names, as_mapping):
    paths = {}
    for split, name in zip(("train", "val", "test"), names, strict=True):
        content = {
            "images": [{"id": 0, "file_name": f"{split}.jpg"}],
            "annotations": [{"image_id": 0, "caption": split}],
        }
        paths[split] = write(tmp_path / "all" / f"{name}.json", content)
    write(tmp_path / "all" / "instances_val.json", {**coco(), "annotations": [{"image_id": 0, "bbox": []}]})
    annotations = read_source(paths if as_mapping else tmp_path / "all")
    assert annotations.images["split"].tolist() == [path.split("/")[0] for path in annotations.images["image_id"]]
    assert by_name(annotations) == {f"{split}.jpg": [split] for split in paths}


def test_ids_that_are_unique_over_all_files_stay(tmp_path):
    for n, split in enumerate(("train", "valid", "test")):
        content = {"images": [{"id": n, "file_name": f"{n}.jpg"}], "annotations": [{"image_id": n, "caption": "A."}]}
        write(tmp_path / split / "_annotations.coco.json", content)
    images = read_source(tmp_path).images.sort_values("image_id")
    assert images["image_id"].tolist() == [0, 1, 2]
    assert images["split"].tolist() == ["train", "val", "test"]


@pytest.mark.parametrize("as_mapping", [True, False])
def test_names_that_are_relative_to_their_file_may_repeat_in_each_split(tmp_path, as_mapping):
    paths = {}
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        content = {"images": [{"id": 0, "file_name": "0.jpg"}], "annotations": [{"image_id": 0, "caption": split}]}
        paths[split] = write(tmp_path / "all" / folder / "_annotations.coco.json", content)
        write(tmp_path / "all" / folder / "0.jpg", split)
    local.import_local(tmp_path / "all", paths if as_mapping else tmp_path / "all", tmp_path / "raw")
    dataset = local.load_local(tmp_path / "raw", 1, 0.2, 0.2).dataset.checked()
    archives = Archives(tmp_path / "raw")
    content = [archives.read(row.archive, row.member).decode() for row in dataset.images.itertuples()]
    assert content == dataset.images["split"].tolist() == dataset.captions["caption"].tolist()


def test_one_of_several_files_without_a_split_is_named(tmp_path):
    write(tmp_path / "train.json", coco())
    write(tmp_path / "more.json", coco())
    assert "more.json" in error(read_source, tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_imagefolder_is_split_by_folder(tmp_path, kind):
    for split in ("train", "validation", "test"):
        table = pd.DataFrame({"file_name": ["0.jpg"], "text": [split]})
        content = {"csv": table.to_csv(index=False), "parquet": parquet(table)}.get(
            kind, table.to_json(orient="records", lines=True)
        )
        write(tmp_path / split / f"metadata.{kind}", content)
        write(tmp_path / split / "0.jpg", b"")
    annotations = read_source(tmp_path)
    assert by_name(annotations) == {f"{split}/0.jpg": [split] for split in ("train", "validation", "test")}
    assert sorted(annotations.images["split"]) == ["test", "train", "val"]


@pytest.mark.parametrize("beside", [True, False])
def test_text_files_are_captions_of_the_image_with_their_name(tmp_path, beside):
    for name, captions in CAPTIONS.items():
        write(tmp_path / "all" / f"{name[0]}.txt", "\r\n".join(captions) + "\n\n")
        if beside:
            write(tmp_path / "all" / name, b"")
    assert by_name(read_source(tmp_path / "all")) == {n if beside else n[0]: c for n, c in CAPTIONS.items()}


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def imported(images, captions, raw):
    local.import_local(images, captions, raw)
    return local.load_local(raw, 1, 0.2, 0.2)


def read_all(loaded, raw):
    archives = Archives(raw)
    rows = loaded.dataset.images[["archive", "member"]].itertuples(index=False)
    return [archives.read(*row) for row in rows]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_images_in_any_container(tmp_path, kind):
    members = {f"top/{name}": name.encode() for name in CAPTIONS}
    images = tmp_path / f"images.{kind}"
    if kind == "folder":
        for name, content in members.items():
            write(images / name, content)
    elif kind == "zip":
        write_stored_zip(images, members.items())
    else:
        write_tar(images, members, "w:gz" if kind == "tar.gz" else "w")
    loaded = imported(images, write(tmp_path / "a.json", coco()), tmp_path / "raw")
    assert loaded.missing.empty
    assert read_all(loaded, tmp_path / "raw") == [name.encode() for name in CAPTIONS]


@pytest.mark.parametrize("kind", ["txt", "json"])
def test_webdataset_shards_are_read_in_place(tmp_path, kind):
    for shard in range(3):
        members = {}
        for i in range(2):
            text = f"Caption {shard}{i}"
            members[f"{shard}{i}.jpg"] = text.encode()
            members[f"{shard}{i}.{kind}"] = text.encode() if kind == "txt" else json.dumps({"caption": text}).encode()
        write_tar(
            tmp_path / "shards" / f"{shard:05d}.tar" if (tmp_path / "shards").mkdir(exist_ok=True) is None else "",
            members,
        )
        write(tmp_path / "shards" / f"{shard:05d}_stats.json", {"count": 2})
    loaded = imported(tmp_path / "shards", tmp_path / "shards", tmp_path / "raw")
    assert loaded.dataset.images["image_id"].tolist() == [f"{s}{i}" for s in range(3) for i in range(2)]
    assert read_all(loaded, tmp_path / "raw") == [c.encode() for c in loaded.dataset.captions["caption"]]
    assert sorted(path.suffix for path in (tmp_path / "raw").iterdir()) == [
        ".json",
        ".parquet",
        ".parquet",
        *[".tar"] * 3,
    ]


def test_a_member_of_a_tar_is_read_within_limits(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.jpg": b"12345", "b.jpg": b"1" * 2000})
    assert Tar(path).read("a.jpg", 5) == b"12345"
    for limit, name in ((4, "a.jpg"), (10, "b.jpg")):
        with pytest.raises(zipfile.BadZipFile):
            Tar(path).read(name, limit)
    with pytest.raises(ImageError, match="missing"):
        Archives(tmp_path).read("a.tar", "../b.jpg")
    path.write_bytes(path.read_bytes()[:2048])
    assert "a.tar" in error(Archives(tmp_path).read, "a.tar", "b.jpg")


def test_missing_images_are_counted_by_reason_with_the_nearest_name(tmp_path, capsys):
    write_stored_zip(tmp_path / "i.zip", [(f"camera_b/{name}", b"") for name in CAPTIONS])
    content = coco(split=SPLITS)
    content["images"][0]["file_name"] = "camera_a/0.jpg"
    loaded = imported(tmp_path / "i.zip", write(tmp_path / "mine.json", content), tmp_path / "raw")
    loaded.check_missing(0.4)
    assert "camera_a/0.jpg" in (output := capsys.readouterr().out)
    assert "camera_b/0.jpg" in output
    assert loaded.missing["image_id"].tolist() == [0]
    message = error(loaded.check_missing, 0.1)
    assert all(
        text in message for text in ("mine.json", "1 of 6", "camera_a/0.jpg", "camera_b/0.jpg", "features.max_skipped")
    )


def test_a_file_of_train_alone_is_divided_with_a_note(tmp_path):
    images = [f"{i}.jpg" for i in range(100)]
    write_stored_zip(tmp_path / "i.zip", [(name, b"") for name in images])
    rows = [{"image_id": name[:-4], "caption_str": "A.", "set_name": "train"} for name in images]
    loaded = imported(tmp_path / "i.zip", write(tmp_path / "a.json", {"data": rows}), tmp_path / "raw")
    assert set(loaded.dataset.images["split"]) == {"train", "val", "test"}
    assert any("no test" in note for note in loaded.notes)
