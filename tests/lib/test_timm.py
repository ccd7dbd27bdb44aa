"""Backbones of timm: features, preprocessing, weight files, downloads and errors."""

import os
import subprocess
import sys

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save, save_file

from lib.core.errors import UserError
from lib.vision.backbones import Backbone, pretrained, random_init
from lib.vision.networks import find_source
from tests.servers import serving

VIT = "timm/test_vit3"  # tiny, with a fixed image size, a register, and attention pooling like SigLIP


def noise(size: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("test_resnet", 160, (25, 96)),
        ("test_efficientnet", 160, (25, 256)),
        ("test_convnext", 160, (25, 64)),
        ("test_vit", 160, (100, 64)),
        ("test_vit3", 96, (36, 96)),
        ("vit_xsmall_patch16_clip_224", 32, (4, 256)),
        ("vit_small_patch14_reg4_dinov2", 56, (16, 384)),
        ("swin_tiny_patch4_window7_224", 64, (4, 768)),
    ],
)
def test_features_of_a_saved_backbone_are_those_of_timm(name, size, grid, tmp_path):
    torch.manual_seed(0)
    backbone = random_init(f"timm/{name}", size)
    backbone.save(tmp_path)
    loaded, pixels = Backbone.load(tmp_path), noise(size)
    network, x = backbone.network, backbone.preprocess.normalise(pixels)
    with torch.inference_mode():
        pooled = network(x)
        norm = {"norm": True} if "vit" in name else {}
        regions = network.forward_intermediates(x, 1, output_fmt="NCHW", intermediates_only=True, **norm)[0]
    assert torch.equal(loaded.features(pixels, "pooled"), pooled[:, None])
    found = loaded.features(pixels, "grid")
    assert found.shape == (2, *grid)
    if name not in ("test_efficientnet", "swin_tiny_patch4_window7_224"):  # these have layers after the regions
        torch.testing.assert_close(found, regions.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "tf_efficientnet_lite2",
        "vit_base_patch16_clip_224",
        "eva02_tiny_patch14_336",
        "vit_base_patch16_siglip_224",
    ],
)
def test_preprocessing_equals_timms(name):
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    ours = find_source(f"timm/{name}").preprocess()
    image = Image.effect_noise((417, 339), 80).convert("RGB")
    x = ours.normalise(torch.from_numpy(ours.pixels(image).copy())[None])[0]
    levels = (x - timm.data.create_transform(**config)(image)) * torch.tensor(ours.std)[:, None, None] * 255
    assert levels.abs().max() < 1.001
    assert levels.abs().mean() < 0.01


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model("test_vit3").state_dict()


def head(classes: int) -> dict[str, torch.Tensor]:
    return {"head.weight": torch.zeros(classes, 96), "head.bias": torch.zeros(classes)}


@pytest.mark.parametrize("form", ["DataParallel", "Lightning", "seven classes", "no classifier", "half"])
@pytest.mark.parametrize("size", [None, 96])  # at 96 pixels, the position embeddings are resized
def test_a_weight_file_of_other_training_gives_the_same_backbone(state, form, size, tmp_path):
    torch.save(state, tmp_path / "w.pth")
    content = {
        "DataParallel": lambda: {f"module.{key}": tensor for key, tensor in state.items()},
        "Lightning": lambda: {"state_dict": {f"model.{key}": tensor for key, tensor in state.items()}, "epoch": 3},
        "seven classes": lambda: state | head(7),
        "no classifier": lambda: {key: tensor for key, tensor in state.items() if not key.startswith("head.")},
        "half": lambda: {key: tensor.half() for key, tensor in state.items()},
    }[form]()
    torch.save(content, tmp_path / "other.pth")
    expected, found = (pretrained(VIT, str(tmp_path / name), size) for name in ("w.pth", "other.pth"))
    assert found.preprocess.size == (size or 160)
    for key, tensor in expected.network.state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[key], tensor, atol=1e-2 if form == "half" else 0, rtol=0)
    assert found.feature_size(size or 160, "grid") == 96


def clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of timm's CLIP vision transformer under the names of OpenAI's file."""
    swaps = {
        "patch_embed.proj": "conv1", "norm_pre": "ln_pre", "norm1": "ln_1", "norm2": "ln_2", "qkv.": "in_proj_",
        "attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    state = {key: tensor for key, tensor in state.items() if not key.startswith("head")}
    original = {"proj": torch.zeros(256, 512), "class_embedding": state.pop("cls_token")[0, 0]}
    original["positional_embedding"] = state.pop("pos_embed")[0]
    for key, tensor in state.items():
        for ours, theirs in swaps.items():
            key = key.replace(ours, theirs)
        key = key.replace("norm.", "ln_post.").replace("blocks.", "transformer.resblocks.")
        original[key] = tensor
    return {f"visual.{key}": tensor for key, tensor in original.items()} | {"logit_scale": torch.ones(1)}


def dinov2(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of timm's DINOv2 with registers under the names of the original file."""
    state = dict(state)
    embeddings = torch.cat([torch.zeros(1, 1, 384), state["pos_embed"]], dim=1)
    return state | {
        "register_tokens": state.pop("reg_token"),
        "mask_token": torch.zeros(1, 384),
        "pos_embed": embeddings,
    }


@pytest.mark.parametrize(
    ("name", "original"), [("vit_xsmall_patch16_clip_224", clip), ("vit_small_patch14_reg4_dinov2", dinov2)]
)
def test_original_files_of_clip_and_dinov2_are_converted(name, original, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model(name)
    with torch.no_grad():
        network.pos_embed.normal_()
    save_file({key: t.contiguous() for key, t in original(network.state_dict()).items()}, tmp_path / "w.safetensors")
    backbone = pretrained(f"timm/{name}", str(tmp_path / "w.safetensors"))
    for key, tensor in backbone.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[key]), key
    smaller = pretrained(f"timm/{name}", str(tmp_path / "w.safetensors"), size=56 if original is dinov2 else 32)
    assert smaller.feature_size(smaller.preprocess.size) == network.num_features


@pytest.mark.parametrize(("change", "reason"), [
    (lambda state: dict(list(state.items())[1:]), "1 tensors do not fit: reg_token is missing"),
    (lambda state: state | {"cls_token": torch.zeros(1, 1, 96)}, "cls_token is unknown"),
    (lambda state: state | {"blocks.0.attn.qkv.weight": torch.zeros(5, 3)}, "qkv.weight .* 5x3 .* 288x96"),
    (lambda state: {"x.y": torch.ones(1)}, "no tensor name .* x.y"),
])  # fmt: skip
def test_tensors_that_do_not_fit_are_named(state, change, reason, tmp_path):
    torch.save(change(state), tmp_path / "bad.pth")
    with pytest.raises(UserError, match=rf"backbone\.weights=.*bad\.pth: .*{reason}"):
        pretrained(VIT, str(tmp_path / "bad.pth"))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("timm/vit_base_patch16_clip_244", "DEFAULT", r"backbone\.name=timm/vit_base_patch16_clip_244: .*_clip_224"),
        ("timm/resnet50.a1_in2k", "DEFAULT", r"backbone\.name=timm/resnet50\.a1_in2k: .*resnet50\.a1_in1k"),
        ("timm/hf-hub:timm/resnet50.a1_in1k", "DEFAULT", r"backbone\.name=timm/hf-hub:timm/resnet50\.a1_in1k: "),
        ("timm/test_resnet", "r160_in1k", r"backbone\.weights=r160_in1k: .*DEFAULT"),
        ("timm/test_maxvit", "DEFAULT", r"backbone\.weights=DEFAULT: .*fit, a file"),
        ("timm/test_resnet", "gone.pth", r"backbone\.weights=gone\.pth: .*No such file"),
    ],
)
def test_unknown_names_are_an_error(name, weights, message):
    with pytest.raises(UserError, match=message):
        pretrained(name, weights)


def test_a_size_that_a_network_rejects_is_an_error():
    with pytest.raises(UserError, match=r"timm/test_vit3 .*\b96\b.*backbone\.size"):
        random_init(VIT).feature_size(96)
    with pytest.raises(UserError, match=r"timm/test_resnet: .*features\.kind"):
        random_init("timm/test_resnet").feature_size(32, "grid")


def test_a_missing_timm_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"backbone\.name=timm/resnet18: .*pip install timm"):
        random_init("timm/resnet18")


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "tf_efficientnet_lite0"])
def test_fusing_batch_normalisation_keeps_the_activations(name):
    torch.manual_seed(0)
    backbone = random_init(f"timm/{name}", 64)
    for module in backbone.network.modules():  # a BatchNorm with default values would be the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    plain, fused = backbone.features(noise(64), "grid"), backbone.fuse_batchnorm().replica()
    assert ((fused.features(noise(64), "grid") - plain).norm() / plain.norm()).item() < 1e-5
    assert not [module for module in fused.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]


class Shared(torch.nn.Module):
    """A network whose convolution has a second use, so that its BatchNorm cannot be fused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.conv(x)
        return (x + self.norm(x + 0) + self.norm(x)).mean((2, 3))


def test_a_network_that_fusing_would_change_is_kept():
    backbone = random_init("small_net")
    backbone.network = Shared().eval()
    pixels = noise(64)
    assert torch.equal(backbone.fuse_batchnorm().features(pixels, "pooled"), backbone.features(pixels, "pooled"))


HUB = """
from lib.core.errors import UserError
from lib.vision.backbones import pretrained
for name in ("test_vit3", "test_vit3", "test_resnet", "test_vit"):
    try:
        print(pretrained(f"timm/{name}", "DEFAULT").network.reg_token.sum().item())
    except UserError as error:
        print(error)
"""


def test_weights_of_the_hub_are_downloaded_once_and_never_run_code(state, tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    torch.save({"w": Trap()}, tmp_path / "trap.bin")
    with serving() as server:
        for repo, file, content in (
            ("test_vit3", "model.safetensors", save({key: t.contiguous() for key, t in state.items()})),
            ("test_resnet", "pytorch_model.bin", (tmp_path / "trap.bin").read_bytes()),
        ):
            headers = {"ETag": '"1"', "X-Repo-Commit": "1" * 40}
            server.serve(f"/timm/{repo}.r160_in1k/resolve/main/{file}", content, headers=headers)
        environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", HUB], env=environment, capture_output=True, text=True, check=False)
    first, second, trap, missing = done.stdout.splitlines()
    assert first == second
    assert float(first) == pytest.approx(state["reg_token"].sum().item())
    assert len([request for request in server.gets() if "test_vit3" in request.path]) == 1
    assert trap.startswith("backbone.weights=DEFAULT: ")
    assert missing.startswith("backbone.weights=DEFAULT: ")
    assert not (tmp_path / "sprung").exists()
