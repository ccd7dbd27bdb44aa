"""Scenes: all captions are true for their scene, and false captions are recognised."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from lib.scenes.dataset import load_scenes, read_truth, write_scenes
from lib.scenes.drawing import render
from lib.scenes.grammar import describe
from lib.scenes.truth import holds, parse_caption, shuffled_truth, truth_matrix
from lib.scenes.world import BACKGROUNDS, COLOURS, KINDS, SHAPES, Scene, SceneObject, sample_scene
from lib.text.tokenizer import tokenize

MIX = dict.fromkeys(KINDS, 1.0)


def item(shape="star", colour="red", size="large", x=0.25, y=0.5):
    return SceneObject(shape, colour, size, x, y, 0.3, 0.0)


PAIR = Scene("sky", ((item(),), (item("ring", "green", "small", 0.75, 0.55),)))
THREE = Scene("sand", ((item(x=0.2), item(x=0.5), item(x=0.8)),))


def is_true(caption: str, scene: Scene) -> bool:
    return holds(parse_caption(tokenize(caption)), scene)


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_a_caption_is_true_of_its_scene_and_false_of_a_changed_scene(seed):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, MIX)
    caption = describe(scene, rng)
    assert is_true(caption, scene), caption
    for attribute, values in (("shape", SHAPES), ("colour", COLOURS)):
        other = next(value for value in values if value not in {getattr(t, attribute) for t in scene.objects})
        groups = tuple(tuple(replace(t, **{attribute: other}) for t in group) for group in scene.groups)
        assert not is_true(caption, Scene(scene.background, groups)), caption


@pytest.mark.parametrize(
    ("caption", "scene", "expected"),
    [
        ("A red star to the left of a green ring.", PAIR, True),
        ("a green ring is right of a big red star in the sky", PAIR, True),
        ("a red star with a green hoop to the right of it", PAIR, True),
        ("a red star beside a green ring", PAIR, True),
        ("a red star", PAIR, True),
        ("a red star to the right of a green ring", PAIR, False),
        ("a red star above a green ring", PAIR, False),
        ("a green star and a red ring", PAIR, False),
        ("a small red star and a green ring", PAIR, False),
        ("a red star and a green ring in the snow", PAIR, False),
        ("a red star and a red star", PAIR, False),
        ("two red stars", PAIR, False),
        ("three red stars in the desert", THREE, True),
        ("two red stars", THREE, False),
        ("three red star", THREE, False),
        ("red stars three", THREE, False),
        ("a red star on the left", Scene("sea", ((item(x=0.2),),)), True),
        ("a red star in the middle", Scene("sea", ((item(x=0.2),),)), False),
        ("", PAIR, False),
    ],
)
def test_every_statement_of_a_caption_counts(caption, scene, expected):
    assert is_true(caption, scene) is expected


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_have_the_requested_kind_and_a_clear_layout(kind):
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample_scene(rng, {**dict.fromkeys(KINDS, 0.0), kind: 1.0})
        assert len(scene.groups) == {"one": 1, "alike": 1, "pair": 2, "trio": 3}[kind]
        for t in scene.objects:
            assert t.colour not in BACKGROUNDS[scene.background]
            assert t.diameter / 2 < min(t.x, t.y, 1 - t.x, 1 - t.y)


def test_captions_vary():
    rng = np.random.default_rng(0)
    assert len({describe(PAIR, rng) for _ in range(200)}) > 100


def test_images_show_the_colour_and_differ_by_shape():
    def red_pixels(shape: str) -> np.ndarray:
        scene = Scene("snow", ((item(shape, "red", x=0.5),),))
        pixels = np.asarray(Image.open(io.BytesIO(render(scene, 64, np.random.default_rng(0)))).convert("RGB"))
        return (pixels[..., 0] > 150) & (pixels[..., 1] < 110)

    masks = [red_pixels(shape) for shape in SHAPES]
    assert all(0.02 < mask.mean() < 0.15 for mask in masks)
    assert all((a ^ b).mean() > 0.005 for i, a in enumerate(masks) for b in masks[:i])


def test_a_data_set_has_the_layout_of_coco_and_does_not_depend_on_workers(tmp_path):
    counts = {"train": 6, "val": 2, "test": 3}
    for workers in (1, 2):
        write_scenes(tmp_path / str(workers), counts, seed=5, size=48, mix=MIX, workers=workers)
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes(), path.name

    raw = tmp_path / "1"
    coco = json.loads((raw / "captions_val.json").read_text())
    assert {"id", "file_name", "width", "height"} <= coco["images"][0].keys()
    assert {"id", "image_id", "caption"} <= coco["annotations"][0].keys()
    with zipfile.ZipFile(raw / "images.zip") as archive:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        dataset = load_scenes(raw).checked()
        assert set(dataset.images["member"]) == set(archive.namelist())
    assert dataset.images["split"].value_counts().to_dict() == counts
    assert len(dataset.captions) == 5 * 11
    truth = read_truth(raw)
    assert all(is_true(row.caption, truth[row.image_id]) for row in dataset.captions.itertuples())


def test_shuffled_truth_is_the_mean_over_all_pairs_of_different_images():
    scenes = [PAIR, THREE, Scene("sea", ((item(x=0.2),),))]
    captions = ("a red star and a green ring", "three red stars", "a red star")
    statements = [parse_caption(tokenize(caption)) for caption in captions]
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    expected = sum(holds(statements[i], scenes[j]) for i, j in pairs) / len(pairs)
    assert shuffled_truth(truth_matrix(statements, scenes)) == expected == 1 / 6  # "a red star" is true for PAIR
