"""A name matches only the image file that it means."""

import random
import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given, settings, strategies as st

from lib.core.names import match_names, nearest, split_path

EXISTING = [
    "top/dogs/0.jpg",
    "top/cats/0.jpg",
    "top/dogs/1.jpg",
    "top/plain.jpg",
    "top/dogs/é ü.png",
    "__MACOSX/top/._a.jpg",
]


def found(wanted: list[str], existing: list[str]) -> list[str | None]:
    return [match.name for match in match_names(wanted, existing)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("top/dogs/0.jpg", "top/dogs/0.jpg"),
        ("dogs/0.jpg", "top/dogs/0.jpg"),
        ("./dogs//0.jpg ", "top/dogs/0.jpg"),
        ("DOGS\\0.JPG", "top/dogs/0.jpg"),
        ("/home/x/dogs/0.jpg", "top/dogs/0.jpg"),
        ("C:\\Users\\x\\dogs\\0.jpg", "top/dogs/0.jpg"),
        ("file:///home/x/cats/0.jpg", "top/cats/0.jpg"),
        ("https://example.org/a/top/cats/0.jpg?w=1&h=2#x", "top/cats/0.jpg"),
        ("/data/local-files/?d=cats%2F0.jpg", "top/cats/0.jpg"),
        ("../images/../dogs/1.jpg", "top/dogs/1.jpg"),
        ("dogs/%C3%A9%20%C3%BC.png", "top/dogs/é ü.png"),
        (unicodedata.normalize("NFD", "é ü.png"), "top/dogs/é ü.png"),
        ("plain", "top/plain.jpg"),
        ("dogs/1", "top/dogs/1.jpg"),
        ("x/top/plain", "top/plain.jpg"),
        ("cats/plain", None),
        ("1.jpg", "top/dogs/1.jpg"),
        ("0.jpg", None),  # two files have this name
        ("birds/0.jpg", None),
        ("other/plain.jpg", None),
        ("/home/x/plain.jpg", None),  # no folder of the path matches
        ("1.png", None),
        ("a.jpg", None),
        ("", None),
        ("..", None),
    ],
)
def test_a_name_is_found_by_the_end_of_its_path(wanted, expected):
    assert found([wanted], EXISTING) == [expected]


@pytest.mark.parametrize(
    ("wanted", "existing"),
    [
        ("camera_a/7.jpg", "camera_b/7.jpg"),
        ("train/images/7.jpg", "valid/images/7.jpg"),
        ("/data/train/images/7.jpg", "valid/images/7.jpg"),
        ("/data/site1/cam/7.jpg", "site2/cam/7.jpg"),
        ("/data/flickr/images/7.jpg", "coco/images/7.jpg"),
        ("monday/cam/7.jpg", "tuesday/cam/7.jpg"),
    ],
)
def test_contradicting_folders_are_never_paired(wanted, existing):
    assert found([wanted], [existing]) == [None]
    assert nearest(wanted, ["x/8.jpg", existing, "8.jpg"]) == existing


def test_an_exact_name_wins_and_one_file_is_given_to_one_name_only():
    assert found(["a.jpg", "A.jpg"], ["a.jpg", "A.jpg"]) == ["a.jpg", "A.jpg"]
    assert found(["a/1.jpg", "b/1.jpg"], ["1.jpg"]) == [None, None]
    assert found(["a/1.jpg", "a/1.jpg"], ["1.jpg"]) == ["1.jpg", "1.jpg"]
    both = ["é.jpg", unicodedata.normalize("NFD", "é.jpg")]
    assert found(both, both[::-1]) == both


def test_a_name_in_a_zip_of_macos_is_repaired():
    stored = unicodedata.normalize("NFD", "ä/ü 1.jpg").encode().decode("cp437")
    assert found(["ü 1.jpg"], [stored]) == [stored]


def test_the_prefix_of_absolute_names_must_be_the_same_for_all():
    existing = ["top/dogs/0.jpg", "other/cats/0.jpg"]
    assert found(["/x/dogs/0.jpg", "/x/cats/0.jpg"], existing) == [None, None]


WORD = st.text("abcé日", min_size=1, max_size=3)
PATHS = st.lists(st.lists(WORD, min_size=1, max_size=3).map(tuple), min_size=1, max_size=8, unique=True)
CHANGES = [
    lambda name: name,
    lambda name: name.replace("/", "\\"),
    lambda name: f" ./{name} ",
    lambda name: name.upper(),
    lambda name: unicodedata.normalize("NFD", name),
    quote,
    lambda name: f"https://example.org/{quote(name)}?x=1",
]


@settings(max_examples=100, deadline=None)
@given(PATHS, st.integers(0, len(CHANGES) - 1), st.sampled_from(["", "top/", "a/b/"]), st.booleans(), st.randoms())
def test_any_spelling_of_the_same_paths_is_found(paths, change, prefix, on_wanted, shuffled):
    # All paths have the same number of parts, so that no path is the end of another path.
    depth = len(paths[0])
    names = sorted({"/".join(path[:depth]).lower() + ".jpg" for path in paths if len(path) >= depth})
    existing = [name if on_wanted else prefix + name for name in names]
    random.Random(shuffled.random()).shuffle(existing)
    wanted = [CHANGES[change](prefix + name if on_wanted else name) for name in names]
    assert [split_path(name or "")[-depth:] for name in found(wanted, existing)] == [split_path(name) for name in names]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=8), max_size=5), st.lists(st.text(max_size=8), max_size=5, unique=True))
def test_any_names_give_existing_names_with_the_same_file_name_or_none(wanted, existing):
    for name, other in zip(wanted, found(wanted, existing), strict=True):
        assert other is None or other in existing
        if other is not None and other != name:
            assert split_path(other)[-1].startswith(split_path(name)[-1])
