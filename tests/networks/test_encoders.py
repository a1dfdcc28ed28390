"""Encoders: sizes that are known, images that they cannot read, and rows that stand alone in a batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from comodal.errors import ConfigError
from comodal.method import Problem
from comodal.modality import Modality, Target
from comodal.networks import backbones
from comodal.networks.encoders import ENCODERS, ImageEncoder
from comodal.networks.latents import EncoderConfig, Latents
from comodal.testing import make_batch

TRANSFORMERS = list(backbones.SIZES)
MONAI = [name for name in ENCODERS if name not in TRANSFORMERS]
# (encoder, channels, parameters): torchvision's, less the last layer (512, 2048 or 1024 x 1000 + 1000)
KNOWN = [
    ("resnet18", 11_689_512 - 513_000, 512),
    ("resnet34", 21_797_672 - 513_000, 512),
    ("resnet50", 25_557_032 - 2_049_000, 2048),
    ("densenet121", 7_978_856 - 1_025_000, 1024),
    ("densenet169", 14_149_480 - 1_665_000, 1664),
    ("inception-v3", 23_834_568 - 2_049_000, 2048),
]


@pytest.mark.parametrize(("name", "parameters", "features"), KNOWN)
def test_sizes_are_the_published_ones(name: str, parameters: int, features: int) -> None:
    encoder = ImageEncoder(name, 2, 3)
    assert sum(p.numel() for p in encoder.parameters()) == parameters and encoder.features == features


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", ["resnet10-quarter", "resnet10", "densenet121"])
def test_the_least_image_can_be_learned_from_by_a_row_alone(name: str, norm: Any) -> None:
    """A batch of one, or a modality that one row of a batch has; torch itself refuses maps of one pixel then."""
    torch.manual_seed(0)
    least = ENCODERS[name].least
    encoder = ImageEncoder(name, 2, 1, norm=norm).train()
    found = encoder(torch.randn(1, 1, least, least))
    assert found.shape == (1, encoder.features) and bool(found.isfinite().all()) and float(found.detach().min()) >= 0
    found.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in encoder.parameters())
    assert all(module.training for module in encoder.modules())  # the next batch has its own statistics again


def test_statistics_of_one_value_are_not_learned() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder("resnet10-quarter", 2, 1).train()
    before = copy.deepcopy(encoder.state_dict())
    encoder(torch.randn(1, 1, 32, 32))
    after = encoder.state_dict()
    changed = {n.removeprefix("network.") for n, value in after.items() if not torch.equal(value, before[n])}
    assert "bn1.running_mean" in changed and "layer3.0.bn1.running_mean" in changed  # maps of 16 x 16 and 2 x 2
    assert not [name for name in changed if name.startswith("layer4")]  # 1 x 1
    encoder(torch.randn(2, 1, 32, 32))
    assert not torch.equal(
        encoder.state_dict()["network.layer4.0.bn1.running_mean"], before["network.layer4.0.bn1.running_mean"]
    )


def test_a_row_alone_is_seen_through_running_statistics() -> None:
    """What is done where a batch has no statistics equals evaluation, layer by layer."""
    torch.manual_seed(0)
    encoder = ImageEncoder("resnet10-quarter", 2, 1).train()
    encoder(torch.randn(4, 1, 32, 32))
    norm = encoder.network.get_submodule("layer4.0.bn1")
    x = torch.randn(1, 128, 1, 1)
    alone = norm(x)
    assert torch.equal(alone, norm.eval()(x))


@pytest.mark.parametrize("name", ["resnet10-quarter", "densenet121", "inception-v3"])
def test_group_normalisation_knows_no_other_rows(name: str) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(name, 2, 1, norm="group").train()
    assert not [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    images = torch.randn(3, 1, 80, 80)
    torch.testing.assert_close(encoder(images)[:1], encoder(images[:1]))


@pytest.mark.parametrize("slices", ["mean", "attention"])
def test_a_volume_slice_by_slice(slices: Any) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder("inception-v3", 3, 1, slices=slices, patch=(75, 80, 2)).eval()  # it reads pictures only
    volume = torch.randn(1, 1, 75, 80, 2)
    with torch.no_grad():
        each: Tensor = encoder.network(torch.cat([volume[..., 0], volume[..., 1]]))
        weights = torch.full((2, 1), 0.5) if encoder.weigh is None else encoder.weigh(each).softmax(dim=0)
        torch.testing.assert_close(encoder(volume)[0], (weights * each).sum(dim=0))


# --------------------------------------------------------------------------------------------------- what is refused
def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match=r"method\.encoder must be a known one; got 'resnet8'\. Did you mean resnet"):
        ImageEncoder("resnet8", 2, 3)
    with pytest.raises(ConfigError, match=r"method\.encoder must exist in 3-D; got 'inception-v3'.*Set method\.slices to mean"):
        ImageEncoder("inception-v3", 3, 1)


def test_a_patch_that_is_too_small_is_refused_before_training() -> None:
    scan = Modality("scan", "image", 3, 1)
    problem = Problem((scan,), (Target("grade", "class", ("low", "high")),), 3, (48, 48, 16))
    Latents(problem, ("scan",), EncoderConfig(encoder="resnet10-quarter"))
    Latents(problem, ("scan",), EncoderConfig(encoder="densenet121", slices="mean"))  # slices have no third side
    says = (
        r"image for the encoder densenet121 must have sides of at least 32 pixels; got 48 x 48 x 16 \[modality scan\]\. "
        r"Set data\.patch .* to 48 x 48 x 32, or choose another encoder, or set method\.slices to mean\."
    )
    with pytest.raises(ConfigError, match=says):
        Latents(problem, ("scan",), EncoderConfig(encoder="densenet121"))


def test_a_tile_that_is_too_small_is_refused_when_it_comes() -> None:
    """The size of the items of a bag stands in their files."""
    tiles = Modality("tiles", "bag", 2, 3, grid="tiles")
    problem = Problem((tiles,), (Target("grade", "class", ("low", "high")),))
    latents = Latents(problem, ("tiles",), EncoderConfig(encoder="densenet121"))
    with pytest.raises(
        ConfigError, match=r"sides of at least 32 pixels; got 16 x 16 \[modality tiles\]\. .* data\.resize\) to 32"
    ):
        latents.encode(make_batch(problem, 2))


def test_sides_that_are_no_multiple_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [ENCODERS["dinov2-small"].fits(side) for side in (8, 14, 15, 224)] == [14, 14, 28, 224]
    assert [ENCODERS["swin-tiny"].fits(side) for side in (64, 230)] == [224, 230]
    with pytest.raises(ConfigError, match=r"at least 16 pixels, multiples of 16,; got 100 x 96.* to 112 x 96"):
        ImageEncoder("vit-small", 2, 3, patch=(100, 96))


def test_every_encoder_of_the_table_says_its_least_size() -> None:
    for name in MONAI:
        for dims in ENCODERS[name].spatial_dims:
            if dims == 3 and name not in ("resnet10-quarter", "densenet121"):
                continue
            encoder = ImageEncoder(name, dims, 1).eval()
            with torch.no_grad():
                found = encoder(torch.randn(1, 1, *[ENCODERS[name].least] * dims))
            assert found.shape == (1, encoder.features) and encoder.nonnegative


def test_absent_rows_leave_running_statistics_untouched() -> None:
    photo = Modality("photo", "image", 2, 3, grid="photo")
    problem = Problem((photo, Modality("blood", "features", 0, 2)), (Target("grade", "class", ("a", "b")),), 2, (40, 40))
    present = torch.tensor([[True, True], [False, True], [True, True]])
    batch = make_batch(problem, 3, present=present)
    first = Latents(problem, ("photo",), EncoderConfig(encoder="resnet10-quarter")).train()
    second = copy.deepcopy(first)
    first.encode(batch)
    second.encoders["photo"](batch.image("photo")[[0, 2]])
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_where_weights_to_start_from_go() -> None:
    photo, tiles = Modality("photo", "image", 2, 3, grid="photo"), Modality("tiles", "bag", 2, 3, grid="tiles")
    blood = Modality("blood", "features", 0, 2)
    problem = Problem((photo, tiles, blood), (Target("grade", "class", ("a", "b")),), 2, (40, 40))
    latents = Latents(problem, ("photo", "tiles", "blood"), EncoderConfig(encoder="resnet10-quarter"))
    found = latents.pretrained({"photo": "a.safetensors", "tiles": "owner/name"}, "encoder")
    assert found == {"encoder.encoders.photo": "a.safetensors", "encoder.encoders.tiles.items": "owner/name"}
    assert all(isinstance(latents.get_submodule(name.removeprefix("encoder.")), ImageEncoder) for name in found)
    few = Latents(problem, ("tiles",), EncoderConfig(encoder="resnet10-quarter"))
    assert few.pretrained({"photo": "a.safetensors"}, "superior") == {}  # another part of the method has it
    with pytest.raises(ConfigError, match=r"must name modalities with an encoder of images; got 'blood'.*photo, tiles"):
        latents.pretrained({"blood": "a"}, "encoder")
    with pytest.raises(ConfigError, match=r"method\.pretrained must name modalities of the problem; got 'foto'"):
        Latents(problem, ("photo",), EncoderConfig(encoder="resnet10-quarter", pretrained={"foto": "a"}))


# ---------------------------------------------------------------------------------------------- transformers' networks
def test_without_transformers_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"got 'vit-small' without transformers\. Install comodal\[pretrained\], or choose"):
        ImageEncoder("vit-small", 2, 3)


@pytest.mark.parametrize(
    ("name", "parameters", "features", "side"),
    [
        ("convnext-tiny", 27_820_128, 768, 40),  # 28 589 128 with the classifier of 768 x 1000 + 1000
        ("swin-tiny", 27_519_354, 768, 224),  # 28 288 354 with it
        ("vit-small", 21_665_664, 384, 32),  # 22 050 664 with one of 384 x 1000 + 1000
        ("dinov2-small", 22_056_192, 384, 28),  # 22 056 576 with the token of masked patches
    ],
)
def test_networks_of_transformers(name: str, parameters: int, features: int, side: int) -> None:
    pytest.importorskip("transformers", reason="the extra `pretrained` is not installed")
    torch.manual_seed(0)
    encoder = ImageEncoder(name, 2, 3, patch=(side, side))
    assert sum(p.numel() for p in encoder.parameters()) == parameters and not encoder.nonnegative
    found = encoder.train()(torch.randn(1, 3, side, side))
    found.sum().backward()
    assert found.shape == (1, features) == (1, encoder.features)
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_weights_as_they_stand_on_the_hub(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers writes files under the names of the hub, which differ from those in its networks."""
    pytest.importorskip("transformers", reason="the extra `pretrained` is not installed")
    from safetensors.torch import load_file

    small: dict[str, Any] = {"num_hidden_layers": 2} if name.endswith("-small") else {"depths": [1, 1, 1, 1]}
    family, sizes = backbones.SIZES[name]
    monkeypatch.setitem(backbones.SIZES, name, (family, {**sizes, **small}))
    torch.manual_seed(1)
    theirs = ImageEncoder(name, 2, 3).eval()
    assert isinstance(theirs.network, backbones.Backbone)
    theirs.network.model.save_pretrained(tmp_path)
    weights = {f"{family.lower()}.{key}": value for key, value in load_file(tmp_path / "model.safetensors").items()}
    weights["classifier.weight"] = torch.zeros(1000, theirs.features)
    torch.manual_seed(2)
    colour, grey = ImageEncoder(name, 2, 3).eval(), ImageEncoder(name, 2, 1).eval()
    taken = colour.take(weights)
    assert taken.tensors == taken.of and not taken.adapted
    taken = grey.take(weights)
    assert taken.tensors == taken.of and taken.adapted == "3 channels to 1"
    side = 224 if name == "swin-tiny" else 112
    picture = torch.randn(2, 1, side, side)
    with torch.no_grad():
        wanted = theirs(picture.expand(-1, 3, -1, -1))
        assert torch.equal(colour(picture.expand(-1, 3, -1, -1)), wanted)
        torch.testing.assert_close(grey(picture), wanted, atol=1e-4, rtol=1e-4)
