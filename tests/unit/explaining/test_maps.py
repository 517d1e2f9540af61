import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from conditional_detr.errors import ConfigError, RunError
from conditional_detr.explaining.figures import NARROWEST, TILE, Tiles, figure, overlay, write_explanations
from conditional_detr.explaining.maps import Explanation, explain, on_finest_level
from conditional_detr.factory.create import create_model
from conditional_detr.inference.detector import Detector
from models import perturbed, small

SMALL = {"encoder_layers": 1, "decoder_layers": 3, "hidden_dim": 32, "feedforward_dim": 48, "num_queries": 12}


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)


@pytest.fixture(params=["conditional-detr-tiny", "detr-tiny"])
def model(request):
    model = create_model(request.param, 3, pretrained_backbone=False, class_names=["a b", "b", "c/d"], **SMALL).eval()
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 72})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_what_is_explained_is_what_the_detector_finds_in_the_same_order(model, image):
    explanations = explain(model, image, conf=0, device="cpu")
    (found,) = Detector(model, device="cpu")(image, conf=0)
    np.testing.assert_allclose([e.box for e in explanations], found.xyxy, atol=1e-4)
    np.testing.assert_allclose([e.score for e in explanations], found.confidence, atol=1e-6)
    assert [e.class_name for e in explanations] == found.data["class_name"].tolist()
    assert explain(model, image, conf=1) == []
    with pytest.raises(ConfigError, match="conf must be in"):
        explain(model, image, conf=2)


def test_maps_sum_to_one_leave_padding_out_and_their_parts_make_the_whole(model, image):
    # 60 x 100 becomes 72 x 120, padded to 96 x 128: 6 x 8 cells, of which 5 x 8 hold a part of the image
    for e in explain(model, image, conf=0, device="cpu")[:5]:
        for maps in (e.spatial, e.content, e.combined):
            assert maps.shape == (3, 8, 6, 8)
            np.testing.assert_allclose(maps.sum((2, 3)), 1, atol=1e-5)
            assert (maps[:, :, 5:] == 0).all()
        product = e.spatial * e.content
        product /= product.sum((2, 3), keepdims=True)
        np.testing.assert_allclose(product, e.combined, atol=1e-5)
        assert e.cell_size == pytest.approx((16 * 100 / 120, 16 * 60 / 72))


def test_the_reference_point_is_the_querys_in_pixels_and_detr_has_none(model, image):
    explanations = explain(model, image, conf=0, device="cpu")
    if model.config.cross_attention == "additive":
        assert all(e.reference_point is None for e in explanations)
        return
    with torch.no_grad():
        memory = model(torch.zeros(1, 3, 72, 120), aux=True).memory
        points = model.reference_points(model.object_query, memory).queries.reference[0].numpy()
    for e in explanations:
        np.testing.assert_allclose(e.reference_point, points[e.query] * [100, 60], rtol=1e-5)


def test_the_maps_have_the_backbones_own_size_and_earlier_images_go(image, tmp_path):
    model = create_model("conditional-detr-r18", 3, False, backbone="convnext_atto.d2_in1k", **SMALL).eval()
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 70})
    first = explain(model, image, conf=0, device="cpu")[:2]
    assert first[0].combined.shape[2:] == (2, 3)  # of 70 x 116 px at stride 32, rounded down
    (tmp_path / "mine.npz").write_bytes(b"x")
    assert len(list(write_explanations(image, first, tmp_path))) == 2
    assert len(list(write_explanations(image, first[:1], tmp_path))) == 1
    assert len(list(tmp_path.glob("*.npz"))) == 2
    assert (tmp_path / "mine.npz").exists()


def test_a_coarser_cell_shares_its_weight_among_the_finest_cells_that_it_covers():
    shapes = ((3, 4), (2, 2))  # the lower cells of the coarser level cover one row instead of two
    weights = torch.tensor([[*[0.0] * 5, 0.2, *[0.0] * 6, 0.4, 0.0, 0.0, 0.4]])
    found = on_finest_level(weights, shapes)[0]
    expected = torch.tensor([[0.1, 0.1, 0, 0], [0.1, 0.3, 0, 0], [0, 0, 0.2, 0.2]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("attention", ["dense", "deformable"])
def test_maps_of_several_levels_have_the_cells_of_the_finest(attention, image):
    model = perturbed(small("conditional-detr-ms-tiny", 3, encoder_attention=attention, hidden_dim=32))
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 72})
    for e in explain(model, image, conf=0, device="cpu")[:3]:
        for maps in (e.spatial, e.content, e.combined):
            assert maps.shape == (3, 8, 12, 16)
            np.testing.assert_allclose(maps.sum((2, 3)), 1, atol=1e-5)
        assert e.cell_size == pytest.approx((8 * 100 / 120, 8 * 60 / 72))


def test_explaining_leaves_nothing_behind_in_the_model(model, image):
    explain(model, image, conf=0, device="cpu")
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_brightest_pixel_lies_in_the_highest_cell():
    attention = np.zeros((3, 5))
    attention[1, 3] = 0.7
    shown = overlay(np.zeros((48, 70, 3), np.uint8), attention, (16.0, 16.0)).sum(2)
    y, x = np.unravel_index(shown.argmax(), shown.shape)
    assert 16 <= y < 32
    assert 48 <= x < 64
    assert shown[:8].max() == 0


def explanation(cell: float, layers: int = 2, point: np.ndarray | None = None) -> Explanation:
    maps = np.full((layers, 3, 4, 5), 0.05, dtype=np.float32)
    return Explanation(maps, maps, maps, np.array([10.0, 5, 40, 30], np.float32), point, 0.5, 0, "a/b", 7, (cell, cell))


def test_tiles_show_the_box_in_its_place():
    rgb = np.zeros((64, 80, 3), np.uint8)
    tiles = Tiles(rgb, explanation(16))
    for shown in (np.asarray(tiles.over("combined", 0, 0)), np.asarray(tiles.plain())):
        assert max(shown.shape[:2]) == TILE
        factor = TILE / 80
        assert shown[round(5 * factor), round(25 * factor)].tolist() == [0, 230, 118]


@pytest.mark.parametrize("size", [(30, 300), (300, 30), (2, 900), (1, 1), (3000, 2000)])
def test_figures_of_odd_images_have_room_for_their_text(size: tuple[int, int]):
    sheet = figure(np.zeros((*size, 3), np.uint8), explanation(16), [1])
    assert sheet.shape[1] >= NARROWEST
    assert (sheet[:60, -10:] == 255).all()


def test_a_figure_has_a_row_a_part_and_a_column_a_head():
    rgb = np.zeros((64, 80, 3), np.uint8)
    one, two = figure(rgb, explanation(16), [1]), figure(rgb, explanation(16), [0, 1])
    assert one.shape[1] == two.shape[1] > 3 * TILE
    assert two.shape[0] > one.shape[0] > 3 * 64 * TILE / 80


def test_images_and_arrays_are_written_and_a_folder_that_cannot_be_is_said(tmp_path):
    rgb = np.zeros((64, 80, 3), np.uint8)
    given = [explanation(16, point=np.array([1.0, 2.0])), explanation(16)]
    files = list(write_explanations(rgb, given, tmp_path / "e"))
    assert [f.name for f in files] == ["01-a_b.png", "02-a_b.png"]
    assert {p.name for p in (tmp_path / "e").iterdir()} == {
        f"0{i}-a_b{end}" for i in (1, 2) for end in (".png", "-layers.png", ".npz")
    }
    with np.load(tmp_path / "e" / "01-a_b.npz") as first, np.load(tmp_path / "e" / "02-a_b.npz") as second:
        assert first["spatial"].shape == (2, 3, 4, 5)
        assert first["reference_point"].tolist() == [1, 2]
        assert np.isnan(second["reference_point"]).all()
    with Image.open(files[0]) as drawn:
        assert drawn.size[0] > 3 * TILE
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot be written"):
        list(write_explanations(rgb, given, tmp_path / "file"))


def test_deformable_attention_is_explained_by_its_samples():
    """Without padding the maps hold all weights of samples inside; the place of the largest weight lies in a marked cell."""
    model = perturbed(small("deformable-detr-ss-tiny", 3, hidden_dim=32))
    found = explain(model, np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8), conf=0)
    first = found[0]
    assert (first.spatial, first.content) == (None, None)
    layers, heads = 3, model.config.num_heads
    assert first.places.shape == (layers, heads, 4, 2)
    np.testing.assert_allclose(first.weights.sum(-1), 1, atol=1e-5)
    width, height = first.cell_size
    for layer in range(layers):
        for head in range(heads):
            expected = np.zeros_like(first.combined[layer, head])
            for (x, y), weight in zip(first.places[layer, head], first.weights[layer, head], strict=True):
                column, row = x / width - 0.5, y / height - 0.5
                left, top = int(np.floor(column)), int(np.floor(row))
                for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    if 0 <= top + j < expected.shape[0] and 0 <= left + i < expected.shape[1]:
                        share = (1 - abs(column - left - i)) * (1 - abs(row - top - j))
                        expected[top + j, left + i] += weight * share
            np.testing.assert_allclose(first.combined[layer, head], expected, atol=1e-4)


def test_samples_of_several_levels_lie_where_they_were_taken_in_the_image():
    """At the start each head samples around the reference point, on each level at the same place of the image."""
    model = small("deformable-detr-ss-r18", 3, hidden_dim=32, strides=[8, 16, 32], pixel_aligned_positions=True)
    for layer in model.decoder.layers:
        layer.cross_attention.offsets.bias.data.zero_()
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 100})
    for e in explain(model, np.zeros((100, 140, 3), dtype=np.uint8), conf=0, device="cpu")[:3]:
        places = e.places.reshape(-1, 2)
        np.testing.assert_allclose(places, np.broadcast_to(e.reference_point, places.shape), atol=0.5)


def test_samples_are_drawn_and_written(tmp_path):
    model = perturbed(small("deformable-detr-ss-tiny", 3, hidden_dim=32))
    rgb = np.zeros((96, 128, 3), dtype=np.uint8)
    found = explain(model, rgb, conf=0)[:1]
    (file,) = write_explanations(rgb, found, tmp_path)
    arrays = np.load(file.with_suffix(".npz"))
    assert {"combined", "places", "weights"} <= set(arrays)
    assert "spatial" not in arrays
    without = dataclasses.replace(found[0], places=None, weights=None)
    assert not np.array_equal(figure(rgb, found[0], [2]), figure(rgb, without, [2]))
