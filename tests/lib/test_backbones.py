"""Backbones: torchvision's models at their feature vector and their grid, files, and what is refused."""

import copy
import hashlib
import re
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from lib.core.errors import UserError
from lib.vision import backbones
from lib.vision.backbones import Backbone, build, override, pretrained, random_init, without_classifier
from tests.servers import serving


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = models.mobilenet_v3_small()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    return tmp_path, model.eval()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_of_weights_gives_that_models_features(weights, name, tmp_path):
    folder, model = weights
    backbone = pretrained("mobilenet_v3_small", str(folder / name), tmp_path)
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    x = backbone.preprocess.normalise(pixels)
    with torch.inference_mode():
        grid = model.features(x)
        vector = model.classifier[:-1](model.avgpool(grid).flatten(1))
    assert torch.allclose(backbone.features(pixels, "pooled"), vector[:, None], atol=1e-4)
    assert torch.allclose(backbone.features(pixels, "grid"), grid.flatten(2).transpose(1, 2), atol=1e-4)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet", "mnasnet0_5", "densenet121"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_by_name_give_the_features_that_torchvision_gives(name, suffix, tmp_path, monkeypatch):
    torch.manual_seed(0)
    state = build(name).state_dict()
    if name == "densenet121":  # its file is of a time when nothing was counted, and the layers were called otherwise
        old = ((re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key), state[key]) for key in state)
        state = OrderedDict((key, tensor) for key, tensor in old if "num_batches" not in key)
    file = tmp_path / f"w.{suffix}"
    torch.save(state, file) if suffix == "pth" else save_file(state, file)
    backbone = pretrained(name, str(file), tmp_path)
    backbone.save(tmp_path / "saved")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: copy.copy(state))
    theirs = without_classifier(models.get_model(name, weights="DEFAULT").eval())
    pixels = torch.randint(0, 256, (1, backbone.preprocess.size, backbone.preprocess.size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = theirs(backbone.preprocess.normalise(pixels))
    for found in (backbone, Backbone.load(tmp_path / "saved")):
        torch.testing.assert_close(found.features(pixels, "pooled")[:, 0], expected)


def test_a_transformer_is_made_for_the_pictures_of_its_weights(tmp_path, monkeypatch):
    entry = models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1
    save_file(models.vit_b_16(image_size=384).state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setattr(backbones, "_fetched", lambda url, store: {entry.url: tmp_path / "w.safetensors"}[url])
    backbone = pretrained("vit_b_16", entry.name, tmp_path)
    assert backbone.width(384) == 768
    backbone.save(tmp_path / "saved")
    assert Backbone.load(tmp_path / "saved").width(384) == 768


def test_sizes_that_a_network_cannot_take_are_told():
    with pytest.raises(UserError, match=r"vit_b_16 cannot take pictures of 192 pixels a side: .*see backbone\.size"):
        random_init("vit_b_16").width(224, 192)
    with pytest.raises(UserError, match="alexnet cannot take pictures of 32 pixels a side"):
        random_init("alexnet").width(32)
    with pytest.raises(UserError, match=r"2048 for 64 pixels a side, 1152 for 48 pixels a side"):
        random_init("small_net").width(64, 48)
    assert random_init("resnet18").width(64, 48) == 512


@pytest.mark.parametrize(
    ("name", "pooled", "grid"),
    [("small_net", (1, 2048), (16, 128)), ("resnet18", (1, 512), (49, 512)), ("mobilenet_v2", (1, 1280), (49, 1280))],
)
def test_features_have_the_shapes_that_the_field_knows(name, pooled, grid):
    backbone = random_init(name)
    backbone.network.eval()
    pixels = torch.zeros(1, backbone.preprocess.size, backbone.preprocess.size, 3, dtype=torch.uint8)
    assert backbone.features(pixels, "pooled").shape[1:] == pooled
    assert backbone.features(pixels, "grid").shape[1:] == grid


def test_half_of_the_small_nets_channels_see_what_is_around_them_and_half_most_of_the_picture():
    torch.manual_seed(0)
    backbone = random_init("small_net")
    backbone.network.eval()
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    other = pixels.clone()
    other[:, :, 32:] = 255 - other[:, :, 32:]
    left, left_of_other = (backbone.features(x, "grid").view(4, 4, 128)[:, 0] for x in (pixels, other))  # (4, 128)
    assert torch.allclose(left[:, :64], left_of_other[:, :64], atol=1e-6)
    assert not torch.allclose(left[:, 64:], left_of_other[:, 64:], atol=1e-3)


def test_a_transformer_has_no_grid():
    backbone = random_init("vit_b_16")
    backbone.network.eval()
    pixels = torch.zeros(1, 224, 224, 3, dtype=torch.uint8)
    assert backbone.features(pixels, "pooled").shape == (1, 1, 768)
    with pytest.raises(UserError, match="vit_b_16 ends in no convolutional layer"):
        backbone.features(pixels, "grid")


def test_a_saved_backbone_is_read_back_and_its_bytes_depend_on_the_weights_alone(weights, tmp_path):
    folder, _ = weights
    backbone = pretrained("mobilenet_v3_small", str(folder / "w.pth"), tmp_path)
    backbone.save(tmp_path / "a")
    loaded = Backbone.load(tmp_path / "a")
    loaded.save(tmp_path / "elsewhere" / "b")
    for file in ("weights.safetensors", "backbone.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "elsewhere" / "b" / file).read_bytes()
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    assert torch.equal(backbone.features(pixels, "pooled"), loaded.features(pixels, "pooled"))
    assert loaded.preprocess == backbone.preprocess


def test_ones_own_preprocessing_replaces_what_is_given():
    preset = random_init("resnet18").preprocess
    assert (preset.size, preset.resize) == (224, 256)
    own = override(preset, size=160, mean=[0.5, 0.5, 0.5], std=None)
    assert (own.size, own.resize, own.mean, own.std) == (160, None, (0.5, 0.5, 0.5), preset.std)
    assert override(preset, size=None, mean=None, std=None) == preset


def test_what_cannot_be_a_backbone_is_told(tmp_path, weights):
    folder, _ = weights
    with pytest.raises(UserError, match=r"backbone\.name is resnet_51"):
        build("resnet_51")
    with pytest.raises(UserError, match="no such file"):
        pretrained("resnet18", str(tmp_path / "gone.pth"), tmp_path)
    (tmp_path / "text.pth").write_text("no weights\nat all")
    with pytest.raises(UserError, match=r"cannot be read|more than tensors"):
        pretrained("resnet18", str(tmp_path / "text.pth"), tmp_path)
    with pytest.raises(UserError, match="are not those of resnet18"):
        pretrained("resnet18", str(folder / "w.pth"), tmp_path)
    with pytest.raises(UserError, match="for resnet18 use fit, a file, or one of DEFAULT, IMAGENET1K_V1"):
        pretrained("resnet18", "IMAGENET", tmp_path)
    with pytest.raises(UserError, match="small_net has none to download"):
        pretrained("small_net", "DEFAULT", tmp_path)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "densenet121", "small_net"])
@pytest.mark.parametrize("kind", ["pooled", "grid"])
def test_folding_batch_normalisation_away_changes_features_by_rounding_alone(name, kind):
    torch.manual_seed(0)
    backbone = random_init(name)
    for module in backbone.network.modules():  # as training leaves them, not the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    backbone.network.eval()
    pixels = torch.randint(0, 256, (2, backbone.preprocess.size, backbone.preprocess.size, 3), dtype=torch.uint8)
    plain, fused = backbone.features(pixels, kind), backbone.fuse_batchnorm().features(pixels, kind)
    assert ((fused - plain).norm() / plain.norm()).item() < 1e-5
    left = [m for m in backbone.fuse_batchnorm().network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert (not left) or name == "densenet121"  # where some stand before their convolution
    assert backbone.fuse_batchnorm().network.training is False


def test_bfloat16_gives_nearly_the_same_features():
    torch.manual_seed(0)
    backbone = random_init("small_net")
    backbone.network.eval()
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    full, half = (backbone.features(pixels, "grid", precision).float() for precision in ("float32", "bfloat16"))
    assert 0 < ((half - full).norm() / full.norm()).item() < 0.03


@pytest.fixture
def torchvisions_server(weights, monkeypatch):
    """A server that has the default weights of mobilenet_v3_small, which here are those of the fixture."""
    folder, _ = weights
    content = (folder / "w.pth").read_bytes()
    name = f"/mobilenet_v3_small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    entry = models.MobileNet_V3_Small_Weights.DEFAULT
    with serving() as server:
        server.serve(name, content)
        monkeypatch.setattr(entry.value, "url", f"{server.url}{name}")
        yield server


def test_weights_by_name_are_fetched_once_and_verified(torchvisions_server, weights, tmp_path):
    _, model = weights
    for _ in range(2):
        backbone = pretrained("mobilenet_v3_small", "DEFAULT", tmp_path / "store")
    assert len(torchvisions_server.gets()) == 1
    assert torch.equal(backbone.network.features[0][0].weight, model.features[0][0].weight)
    (stored,) = [path for path in (tmp_path / "store").iterdir() if not path.name.startswith(".")]
    stored.unlink()
    for page in torchvisions_server.pages.values():
        page.content = page.content[:-1] + b"x"
    with pytest.raises(UserError, match="the sha256 is"):
        pretrained("mobilenet_v3_small", "DEFAULT", tmp_path / "store")


def test_a_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"w": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="holds more than tensors") as caught:
        pretrained("resnet18", str(tmp_path / "trap.pth"), tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()
