"""2D weights in 3D: a volume that is constant along z gives what timm's own 2D network gives for its slice."""

from __future__ import annotations

import doctest
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from medconv.training.parts import backbones, inflation
from medconv.training.parts.vit import SIZES, ViT3D, ViTSize
from medconv.types import InputRefused


def photographs_network(name: str, **options) -> torch.nn.Module:
    """timm's 2D network with numbers in its norms, so that each matters."""
    torch.manual_seed(0)
    network = timm.create_model(name, **options).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.0)
    return network


@pytest.mark.parametrize("name", ["resnet10t", "resnet18", "mobilenetv2_100", "efficientnet_b0"])
def test_inflated_weights_give_the_2d_networks_features(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    flat = photographs_network(name)
    torch.save({"state_dict": flat.state_dict()}, tmp_path / "weights.pth")
    deep = backbones.build(name, input_size_zyx=(256, 32, 32)).eval()
    told = inflation.load_pretrained(deep, tmp_path / "weights.pth")
    image = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        wanted = flat.forward_features(image.expand(1, 3, 32, 32))  # (1, channels, 1, 1)
        found = deep.forward_features(image[:, :, None].expand(1, 1, 256, 32, 32))  # (1, channels, 8, 1, 1)
    # Far from both ends the padding along z is not felt, except by a squeeze over the whole volume (efficientnet).
    assert (found[:, :, 4] - wanted).abs().max() < 2e-3 * wanted.abs().max()
    last = "fc" if "res" in name else "classifier"
    assert told.fresh == told.unused == (f"{last}.bias", f"{last}.weight")
    assert set(told.inflated) == {key for key, value in flat.state_dict().items() if value.ndim == 4}
    assert f"{len(told.inflated)} kernels inflated to 3D" in str(told)


def test_a_vit_takes_timms_weights_and_gives_its_answer_for_one_layer_of_patches(tmp_path: Path) -> None:
    flat = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=96, depth=2, num_heads=3, mlp_ratio=2.0, num_classes=5
    ).eval()
    torch.nn.init.normal_(flat.cls_token)
    safetensors.torch.save_file(flat.state_dict(), tmp_path / "vit.safetensors")
    deep = ViT3D(ViTSize(96, 2, 3, 192, 0.0), 1, 5, (8, 32, 32), patch=8).eval()
    told = inflation.load_pretrained(deep, tmp_path / "vit.safetensors")
    assert told.inflated == ("patch_embed.weight",)
    assert told.fresh == ("head.bias", "head.weight")
    deep.head.load_state_dict(flat.head.state_dict())
    image = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        wanted = flat(image.expand(2, 3, 32, 32))
        torch.testing.assert_close(deep(image[:, :, None].expand(2, 1, 8, 32, 32)), wanted, rtol=1e-4, atol=1e-5)


def test_a_vits_positions_are_stretched_to_the_volumes_grid_and_repeated_along_z(tmp_path: Path) -> None:
    flat = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=96, depth=1, num_heads=3, mlp_ratio=2.0
    )
    y, x = np.mgrid[0:4, 0:4]
    flat.pos_embed.data[0, 1:, 0] = torch.tensor(10.0 * y + x).flatten()
    torch.save(flat.state_dict(), tmp_path / "vit.pt")
    same = ViT3D(ViTSize(96, 1, 3, 192, 0.0), 1, 3, (24, 32, 32), patch=8)
    inflation.load_pretrained(same, tmp_path / "vit.pt")
    planes = same.pos_embed[0, 1:, 0].detach().view(3, 4, 4).numpy()
    np.testing.assert_allclose(planes, np.broadcast_to(10.0 * y + x, (3, 4, 4)))
    other = ViT3D(ViTSize(96, 1, 3, 192, 0.0), 1, 3, (24, 32, 40), patch=4)
    inflation.load_pretrained(other, tmp_path / "vit.pt")
    planes = other.pos_embed[0, 1:, 0].detach().view(6, 8, 10).numpy()
    assert (np.diff(planes[0].mean(axis=0)) > 0).all()
    assert (np.diff(planes[0].mean(axis=1)) > 0).all()
    assert np.ptp(planes, axis=0).max() == 0.0
    # A patch of even grey gives the same token, whatever its size.
    grey = [network.patch_embed(torch.ones(1, 1, 8, 8, 8))[0, :, 0, 0, 0] for network in (same, other)]
    torch.testing.assert_close(grey[0], grey[1], rtol=1e-4, atol=1e-5)


def test_inflation_by_hand() -> None:
    assert doctest.testmod(inflation).failed == 0
    kernel = torch.tensor([[[[3.0, 6.0, 9.0]] * 3]])
    deep = inflation.inflate(kernel, torch.Size([1, 1, 3, 3, 3]))
    assert deep[0, 0, :, 0].tolist() == [[1.0, 2.0, 3.0]] * 3
    assert inflation.inflate(kernel, torch.Size([1, 1, 3, 5, 5])) is None


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_stem_sees_the_same_grey_in_any_number_of_channels(channels: int) -> None:
    torch.manual_seed(0)
    colours = torch.rand(4, 3, 7, 7)
    stem = inflation.stem_channels(colours, channels)
    assert stem.shape == (4, channels, 7, 7)
    if channels < 5:  # five channels repeat some colours more often than others
        torch.testing.assert_close(stem.sum(dim=1), colours.sum(dim=1))
    assert stem.sum() == pytest.approx(float(colours.sum()), rel=0.1)
    assert inflation.stem_channels(torch.rand(4, 2, 7, 7), 1) is None


@pytest.mark.parametrize("suffix", [".npz", ".pth", ".safetensors"])
def test_every_kind_of_file_gives_the_same_network(suffix: str, tmp_path: Path) -> None:
    source = backbones.build("resnet18", width=4, in_channels=3, input_size_zyx=(8, 8, 8))
    flat = {k: v[:, :, 0] * 3 if v.ndim == 5 else v for k, v in source.state_dict().items()}
    file = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(file, **{k: v.numpy() for k, v in flat.items()})
    elif suffix == ".pth":
        torch.save({f"module.{k}": v for k, v in flat.items()}, file)
    else:
        safetensors.torch.save_file({k: v.contiguous() for k, v in flat.items()}, file)
    network = backbones.build("resnet18", width=4, in_channels=3, input_size_zyx=(8, 8, 8))
    inflation.load_pretrained(network, file)
    wanted = flat["layer1.0.conv1.weight"][:, :, None].expand(-1, -1, 3, -1, -1) / 3
    torch.testing.assert_close(network.state_dict()["layer1.0.conv1.weight"], wanted)


def test_weights_that_are_3d_already_are_taken_as_they_are(tmp_path: Path) -> None:
    source = backbones.build("resnet18", width=4, outputs=2, input_size_zyx=(8, 8, 8))
    torch.save(source.state_dict(), tmp_path / "ours.pt")
    network = backbones.build("resnet18", width=4, outputs=3, input_size_zyx=(8, 8, 8))
    told = inflation.load_pretrained(network, tmp_path / "ours.pt")
    assert told.inflated == ()
    assert torch.equal(network.state_dict()["layer2.0.conv1.weight"], source.state_dict()["layer2.0.conv1.weight"])


# --- files that are refused ------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it would touch a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def wrong_files(folder: Path) -> dict[str, tuple[Path, str]]:
    deeper = backbones.build("resnet34", width=4, input_size_zyx=(8, 8, 8)).state_dict()
    wider = backbones.build("resnet18", width=8, input_size_zyx=(8, 8, 8)).state_dict()
    part = dict(list(wider.items())[:20])
    files = {
        "of a deeper network": (deeper, "deeper.pth", "it has besides layer"),
        "of a wider network": (wider, "wider.pth", r"of another shape are conv1.weight \(8, 1, 7, 7, 7\)"),
        "of a part": (part, "part.pth", "it lacks"),
        "of no tensors": ({"epoch": 3}, "numbers.pth", "holds no weights"),
        "of a list": ([torch.ones(2)], "list.pth", "not weights by name"),
    }
    made = {}
    for what, (content, name, sentence) in files.items():
        torch.save(content, folder / name)
        made[what] = (folder / name, sentence)
    (folder / "notes.txt").write_text("weights")
    (folder / "torn.pth").write_bytes((folder / "wider.pth").read_bytes()[:3000])
    (folder / "torn.npz").write_bytes(b"PK\x03\x04 and no more")
    (folder / "torn.safetensors").write_bytes(b"\x10")
    with (folder / "trap.pth").open("wb") as stream:
        pickle.dump({"fc.weight": Trap(folder / "sprung")}, stream)
    made["of another kind"] = (folder / "notes.txt", "no weight file that is known")
    for name in ("torn.pth", "torn.npz", "torn.safetensors", "trap.pth", "missing.pth", "missing.safetensors"):
        made[name] = (folder / name, "can't be read")
    return made


def test_a_wrong_file_is_refused_and_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = backbones.build("resnet18", width=4, input_size_zyx=(8, 8, 8))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for what, (file, sentence) in wrong_files(tmp_path).items():
        with pytest.raises(InputRefused, match=sentence) as told:
            inflation.load_pretrained(network, file)
        assert told.value.remedy, what
    assert not (tmp_path / "sprung").exists(), "code in a weight file was run"
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_published_vit_b_weights_have_a_size_here() -> None:
    with torch.device("meta"):
        flat = timm.create_model("vit_base_patch32_224").state_dict()
        deep = ViT3D(SIZES["vit_base"], 1, 3, (36, 48, 40))
    renamed = inflation._vit_weights({k: torch.empty(v.shape, device="meta") for k, v in flat.items()}, deep)
    body = {k: v.shape for k, v in deep.state_dict().items() if not k.startswith("head.")}
    assert set(body) == {k for k in renamed if not k.startswith("head.")}
    assert all(renamed[k].shape == shape for k, shape in body.items() if k != "patch_embed.weight")
