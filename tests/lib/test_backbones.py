"""Backbones: pooled and grid features of torchvision's models, weight files, downloads and errors."""

import argparse
import copy
import hashlib
import re
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from lib.core.errors import UserError
from lib.vision.backbones import Backbone, override, pretrained, random_init
from lib.vision.networks import find_source
from tests.servers import serving


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = models.mobilenet_v3_small()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    return tmp_path, model.eval()


def test_a_weights_file_gives_the_features_of_its_model(weights):
    folder, model = weights
    backbone = pretrained("mobilenet_v3_small", str(folder / "w.pth"))
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    x = backbone.preprocess.normalise(pixels)
    with torch.inference_mode():
        grid = model.features(x)
        vector = model.classifier[:-1](model.avgpool(grid).flatten(1))
    assert torch.allclose(backbone.features(pixels, "pooled"), vector[:, None], atol=1e-4)
    assert torch.allclose(backbone.features(pixels, "grid"), grid.flatten(2).transpose(1, 2), atol=1e-4)


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + key: tensor for key, tensor in state.items()}


def wrapped(form: str, state: dict) -> dict:
    """Return the content of a weight file in one of the forms that training code saves.

    `other` is another state dict in the same file, which must not be loaded.
    """
    other = {key: tensor + 1 if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    head = {"classifier.3.weight": torch.zeros(7, 1024), "classifier.3.bias": torch.zeros(7)}
    settings = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    return {
        "DataParallel": lambda: prefixed(state, "module."),
        "compiled": lambda: prefixed(state, "_orig_mod."),
        "Lightning": lambda: {"state_dict": prefixed(state, "model."), "hyper_parameters": {"lr": 0.1, "layers": [1]}},
        "Lightning, a part": lambda: {"state_dict": prefixed(state, "net.backbone.") | {"loss.weight": torch.ones(3)}},
        "torchvision": lambda: {"model": state, **settings},
        "torchvision, averaged": lambda: {
            "model": other, "model_ema": {"n_averaged": torch.tensor(1), **prefixed(state, "module.")}, **settings
        },
        "timm": lambda: {"state_dict": other, "state_dict_ema": state, **settings},
        "seven classes": lambda: state | head,
        "no classifier": lambda: {key: tensor for key, tensor in state.items() if "classifier.3" not in key},
        "another classifier": lambda: {key: t for key, t in state.items() if "classifier.3" not in key} | {
            "classifier.3.1.weight": torch.ones(2), "head.weight": torch.ones(2)
        },
        "counted": lambda: state | {"features.0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)},
    }[form]()  # fmt: skip


@pytest.mark.parametrize("form", [
    "DataParallel", "compiled", "Lightning", "Lightning, a part", "torchvision", "torchvision, averaged", "timm",
    "seven classes", "no classifier", "another classifier", "counted",
])  # fmt: skip
@pytest.mark.parametrize("name", ["w.ckpt", "model_best.pth.tar"])
def test_a_checkpoint_of_other_training_gives_the_same_backbone(weights, form, name):
    folder, model = weights
    expected = pretrained("mobilenet_v3_small", str(folder / "w.pth")).weights()
    torch.save(wrapped(form, model.state_dict()), folder / name, _use_new_zipfile_serialization=name == "w.ckpt")
    assert pretrained("mobilenet_v3_small", str(folder / name)).weights() == expected


@pytest.mark.parametrize("name", ["half.safetensors", "half.bin", "no_suffix"])
def test_half_precision_and_any_file_name_are_read(weights, name, monkeypatch):
    folder, model = weights
    monkeypatch.chdir(folder)
    half = {key: t.half() if t.is_floating_point() else t for key, t in model.state_dict().items()}
    save_file(half, name) if name == "half.safetensors" else torch.save(half, name)
    network = pretrained("mobilenet_v3_small", name).network
    assert torch.equal(network.features[0][0].weight, half["features.0.0.weight"].float())


@pytest.mark.parametrize(("content", "reason"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "Git LFS pointer.*git lfs pull"),
    (b"\n<!DOCTYPE html>\n<html></html>", "HTML page.*download"),
    (b"\x89HDF\r\n\x1a\n" + bytes(80), "torch.save"),
    (b"", "torch.save"),
    (lambda state: prefixed(state, "encoder_q.") | prefixed(state, "encoder_k."), "encoder_q.* encoder_k"),
    (lambda state: {"student": state, "teacher": state}, "keys are student, teacher"),
    (lambda state: {"x.y": torch.ones(1)}, "no tensor name .* x.y"),
    (lambda state: dict(list(state.items())[3:]), "3 tensors do not fit: features.0.0.weight is missing; .*"),
    (lambda state: state | {"features.1.block.9.weight": torch.ones(1)}, "1 tensors do not fit: .*9.weight is unknown"),
    (lambda state: state | {"features.0.0.weight": torch.ones(5, 3)}, "features.0.0.weight .* 5x3 .* 16x3x3x3"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_a_short_error_that_says_why(weights, content, reason):
    folder, model = weights
    if isinstance(content, bytes):
        (folder / "bad.pth").write_bytes(content)
    else:
        torch.save(content(model.state_dict()), folder / "bad.pth")
    with pytest.raises(UserError, match=rf"backbone\.weights=.*bad\.pth: .*{reason}") as error:
        pretrained("mobilenet_v3_small", str(folder / "bad.pth"))
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_an_auxiliary_classifier_may_have_other_classes(tmp_path):
    state = find_source("googlenet").build(224).state_dict()
    state |= {key: torch.zeros(7, *tensor.shape[1:]) for key, tensor in state.items() if "fc2" in key}
    torch.save(state, tmp_path / "w.pth")
    assert torch.equal(
        pretrained("googlenet", str(tmp_path / "w.pth")).network.conv1.conv.weight, state["conv1.conv.weight"]
    )


def test_a_deeper_network_of_the_same_kind_is_not_taken_for_the_wanted_one(tmp_path):
    torch.save(find_source("vgg13").build(224).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match="do not fit"):
        pretrained("vgg11", str(tmp_path / "w.pth"))
    state = find_source("shufflenet_v2_x0_5").build(224).state_dict()
    torch.save(state | {"stage4.4.branch2.0.weight": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"stage4\.4\.branch2\.0\.weight"):
        pretrained("shufflenet_v2_x0_5", str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["inception_v3", "googlenet", "mnasnet0_5", "densenet121"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_read_and_a_saved_backbone_give_the_features_of_torchvisions_own_loading(name, suffix, tmp_path, monkeypatch):
    torch.manual_seed(0)
    state = find_source(name).build(224).state_dict()
    if name == "densenet121":  # torchvision's file has no num_batches_tracked, and has old layer names
        old = ((re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key), state[key]) for key in state)
        state = OrderedDict((key, tensor) for key, tensor in old if "num_batches" not in key)
    file = tmp_path / f"w.{suffix}"
    torch.save(state, file) if suffix == "pth" else save_file(state, file)
    backbone = pretrained(name, str(file))
    backbone.save(tmp_path / "saved")
    loaded = Backbone.load(tmp_path / "saved")
    loaded.save(tmp_path / "again" / "saved")
    assert loaded.preprocess == backbone.preprocess
    for written in ("weights.safetensors", "backbone.json"):
        assert (tmp_path / "saved" / written).read_bytes() == (tmp_path / "again" / "saved" / written).read_bytes()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: copy.copy(state))
    theirs = find_source(name).without_classifier(models.get_model(name, weights="DEFAULT").eval())
    pixels = torch.randint(0, 256, (1, backbone.preprocess.size, backbone.preprocess.size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = theirs(backbone.preprocess.normalise(pixels))
    for found in (backbone, loaded):
        torch.testing.assert_close(found.features(pixels, "pooled")[:, 0], expected)


def test_a_transformer_takes_another_image_size_and_gives_a_grid(tmp_path):
    torch.manual_seed(0)
    model = models.vit_b_16(image_size=64).eval()
    torch.save({f"module.{key}": tensor for key, tensor in model.state_dict().items()}, tmp_path / "w.pth")
    assert pretrained("vit_b_16", str(tmp_path / "w.pth"), size=96).feature_size(96, "grid") == 768
    backbone = pretrained("vit_b_16", str(tmp_path / "w.pth"), size=64)
    backbone.save(tmp_path / "saved")
    loaded = Backbone.load(tmp_path / "saved")
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    tokens = []
    model.encoder.register_forward_hook(lambda module, args, out: tokens.append(out[:, 1:]))
    with torch.inference_mode():
        model(loaded.preprocess.normalise(pixels))
    torch.testing.assert_close(loaded.features(pixels, "grid"), tokens[0])  # (2, 16, 768)
    assert loaded.features(pixels, "pooled").shape == (2, 1, 768)


@pytest.mark.parametrize(("name", "size"), [("vit_b_16", 192), ("alexnet", 50)])
def test_an_image_size_that_the_network_does_not_take_is_an_error(name, size):
    with pytest.raises(UserError, match=rf"{name} .*\b{size}\b.*backbone\.size"):
        random_init(name).feature_size(size)
    assert random_init("resnet18").feature_size(size) == 512
    with pytest.raises(UserError, match=rf"{name} .*\b50\b.*backbone\.size"):
        random_init(name, 50).feature_size(50)


@pytest.mark.parametrize(
    ("name", "pooled", "grid"),
    [
        ("small_net", (1, 2048), (16, 128)),
        ("resnet18", (1, 512), (49, 512)),
        ("mobilenet_v2", (1, 1280), (49, 1280)),
        ("swin_t", (1, 768), (49, 768)),
        ("maxvit_t", (1, 512), (49, 512)),
    ],
)
def test_feature_shapes(name, pooled, grid):
    backbone = random_init(name)
    pixels = torch.zeros(1, backbone.preprocess.size, backbone.preprocess.size, 3, dtype=torch.uint8)
    assert backbone.features(pixels, "pooled").shape[1:] == pooled
    assert backbone.features(pixels, "grid").shape[1:] == grid


def test_half_of_the_channels_of_small_net_are_local_and_half_see_most_of_the_image():
    torch.manual_seed(0)
    backbone = random_init("small_net")
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    other = pixels.clone()
    other[:, :, 32:] = 255 - other[:, :, 32:]
    left, left_of_other = (backbone.features(x, "grid").view(4, 4, 128)[:, 0] for x in (pixels, other))  # (4, 128)
    assert torch.allclose(left[:, :64], left_of_other[:, :64], atol=1e-6)
    assert not torch.allclose(left[:, 64:], left_of_other[:, 64:], atol=1e-3)


def test_override_replaces_the_given_values():
    preset = random_init("resnet18").preprocess
    assert (preset.size, preset.resize) == (224, 256)
    own = override(preset, size=160, mean=[0.5, 0.5, 0.5], std=None)
    assert (own.size, own.resize, own.mean, own.std) == (160, None, (0.5, 0.5, 0.5), preset.std)
    assert override(preset, size=None, mean=None, std=None) == preset


@pytest.mark.parametrize(
    ("name", "weights_name", "message"),
    [
        ("resnet_50", "DEFAULT", r"backbone\.name=resnet_50: .*resnet50"),
        ("resnet18", "gone.pth", r"backbone\.weights=gone\.pth: .*No such file"),
        ("resnet18", "text.pth", r"backbone\.weights=text\.pth: "),
        ("resnet18", "text.safetensors", r"backbone\.weights=text\.safetensors: "),
        ("resnet18", "list.pth", r"backbone\.weights=list\.pth: .*state dict"),
        ("resnet18", "w.pth", r"backbone\.weights=w\.pth: .*backbone\.name=resnet18"),
        ("resnet18", "IMAGENET", r"backbone\.weights=IMAGENET: .*IMAGENET1K_V1, DEFAULT"),
        ("small_net", "DEFAULT", r"backbone\.weights=DEFAULT: .*small_net"),
    ],
)
def test_unusable_weights_are_an_error(weights, monkeypatch, name, weights_name, message):
    folder, _ = weights
    monkeypatch.chdir(folder)
    for file in ("text.pth", "text.safetensors"):
        (folder / file).write_text("two\nlines")
    torch.save([torch.zeros(1)], folder / "list.pth")
    with pytest.raises(UserError, match=message) as error:
        pretrained(name, weights_name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "densenet121", "small_net"])
@pytest.mark.parametrize("kind", ["pooled", "grid"])
def test_fusing_batch_normalisation_changes_features_by_rounding_alone(name, kind):
    torch.manual_seed(0)
    backbone = random_init(name)
    for module in backbone.network.modules():  # a BatchNorm with default values would be the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    pixels = torch.randint(0, 256, (2, backbone.preprocess.size, backbone.preprocess.size, 3), dtype=torch.uint8)
    plain, fused = backbone.features(pixels, kind), backbone.fuse_batchnorm().features(pixels, kind)
    assert ((fused - plain).norm() / plain.norm()).item() < 1e-5
    left = [m for m in backbone.fuse_batchnorm().network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert (not left) or name == "densenet121"  # in a DenseNet, some BatchNorms come before the convolution
    assert backbone.fuse_batchnorm().network.training is False


def test_bfloat16_gives_nearly_the_same_features():
    torch.manual_seed(0)
    backbone = random_init("small_net")
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    full, half = (backbone.features(pixels, "grid", precision).float() for precision in ("float32", "bfloat16"))
    assert 0 < ((half - full).norm() / full.norm()).item() < 0.03


@pytest.fixture
def hub(weights, monkeypatch, tmp_path):
    """Serve the weights of the fixture as the default weights of mobilenet_v3_small, with an empty download cache."""
    folder, _ = weights
    content = (folder / "w.pth").read_bytes()
    name = f"/mobilenet_v3_small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    with serving() as server:
        page = server.serve(name, content)
        monkeypatch.setattr(models.MobileNet_V3_Small_Weights.DEFAULT.value, "url", f"{server.url}{name}")
        yield server, page, tmp_path / "hub"


def test_weights_by_name_are_downloaded_once(hub, weights):
    for _ in range(2):
        backbone = pretrained("mobilenet_v3_small", "DEFAULT")
    assert len(hub[0].gets()) == 1
    assert len(list(hub[2].rglob("*.pth"))) == 1
    assert torch.equal(backbone.network.features[0][0].weight, weights[1].features[0][0].weight)


@pytest.mark.parametrize(
    "faults",
    [{"content": b"other bytes"}, {"cuts": [1_000_000]}, {"statuses": [404]}, {"raw": b"no HTTP\r\n\r\n"}, {}],
    ids=["other bytes", "cut", "status", "no HTTP", "no server"],
)
def test_a_failed_download_is_a_one_line_error_and_leaves_no_file(hub, faults):
    server, page, cache = hub
    vars(page).update(faults)
    if not faults:
        server.server_close()
    with pytest.raises(UserError, match=r"backbone\.weights=DEFAULT: .*http://127") as error:
        pretrained("mobilenet_v3_small", "DEFAULT")
    assert "\n" not in str(error.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("source", ["file", "download"])
def test_a_pickle_is_never_run(hub, tmp_path, monkeypatch, source):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    server, _, _ = hub
    torch.save({"w": Trap()}, tmp_path / "trap.pth")
    content = (tmp_path / "trap.pth").read_bytes()
    name = f"/trap-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.serve(name, content)
    monkeypatch.setattr(models.MobileNet_V3_Small_Weights.DEFAULT.value, "url", f"{server.url}{name}")
    with pytest.raises(UserError, match="other than tensors") as error:
        pretrained("mobilenet_v3_small", str(tmp_path / "trap.pth") if source == "file" else "DEFAULT")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "sprung").exists()
