import pytest
import torch

from conditional_detr.config.recipes import RECIPES, RecipeConfig
from conditional_detr.data.augmentation import Augmentation


def image_with_a_box(height: int = 240, width: int = 320) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Black, with one white rectangle whose box is known."""
    rgb = torch.zeros(3, height, width, dtype=torch.uint8)
    rgb[:, 60:150, 40:200] = 255
    return rgb, torch.tensor([[40.0, 60.0, 200.0, 150.0]]), torch.tensor([2])


def test_boxes_follow_the_pixels_through_every_augmentation():
    augment = Augmentation(RECIPES["paper"], imgsz=240)
    kept = 0
    for seed in range(60):
        torch.manual_seed(seed)
        rgb, boxes, labels = augment(*image_with_a_box())
        white = rgb[0] > 127
        if not len(boxes):
            assert white.sum() <= 2 * max(white.shape)
            continue
        kept += 1
        rows, columns = white.any(1).nonzero(), white.any(0).nonzero()
        seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        assert (boxes[0] - seen).abs().max() <= 1.5, f"seed {seed}"
        assert labels.tolist() == [2]
    assert kept > 40


def test_sizes_are_the_papers_scaled_to_imgsz():
    assert Augmentation(RECIPES["paper"], imgsz=800).sizes == list(range(480, 801, 32))
    assert Augmentation(RECIPES["paper"], imgsz=400).sizes == list(range(240, 401, 16))


def test_the_aspect_ratio_is_kept_without_a_crop():
    augment = Augmentation(RecipeConfig(crop=0), imgsz=240)
    for seed in range(10):
        torch.manual_seed(seed)
        rgb, _, _ = augment(*image_with_a_box())
        assert abs(rgb.shape[-1] / rgb.shape[-2] - 320 / 240) < 0.02


def test_everything_can_be_switched_off():
    augment = Augmentation(RecipeConfig(crop=0, hflip=0, scales=(1, 1)), imgsz=240)
    rgb, boxes, labels = image_with_a_box()
    out = augment(rgb, boxes, labels)
    assert out[0].equal(rgb)
    assert out[1].equal(boxes)


def test_a_crop_may_leave_no_box_and_images_without_boxes_pass():
    augment = Augmentation(RECIPES["paper"], imgsz=240)
    for seed in range(10):
        torch.manual_seed(seed)
        rgb, boxes, labels = augment(
            torch.zeros(3, 50, 900, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        )
        assert boxes.shape == (0, 4)
        assert labels.shape == (0,)
        assert rgb.dtype == torch.uint8


def test_a_crop_is_taken_from_the_pixels_of_the_file_and_blurs_nothing():
    torch.manual_seed(0)
    noise = torch.randint(0, 256, (3, 600, 600), dtype=torch.uint8)
    whole, *_ = Augmentation(RecipeConfig(crop=0, hflip=0, scales=(1, 1)), imgsz=150)(noise, torch.zeros(0, 4), torch.zeros(0))
    augment = Augmentation(RecipeConfig(crop=1, hflip=0, scales=(1, 1)), imgsz=150)
    for seed in range(10):
        torch.manual_seed(seed)
        cropped, *_ = augment(noise, torch.zeros(0, 4), torch.zeros(0))
        assert cropped.float().std() > 0.95 * whole.float().std()  # a part is reduced by no more than the whole


def test_colour_changes_pixels_and_no_box():
    augment = Augmentation(RecipeConfig(crop=0, hflip=0, scales=(1, 1), color_jitter=0.5), imgsz=240)
    torch.manual_seed(1)
    rgb, boxes, labels = image_with_a_box()
    rgb[0] //= 2
    out = augment(rgb, boxes, labels)
    assert not out[0].equal(rgb)
    assert out[1].equal(boxes)


@pytest.mark.parametrize("flips", [{"vflip": 1.0}, {"transpose": 1.0}, {"vflip": 1.0, "transpose": 1.0}])
def test_boxes_go_with_their_pixels_however_an_image_is_turned(flips):
    rgb = torch.zeros(3, 40, 64, dtype=torch.uint8)
    rgb[:, 5:15, 8:40] = 200
    recipe = RecipeConfig(hflip=0.0, crop=0.0, scales=(1.0, 1.0), **flips)
    image, boxes, _ = Augmentation(recipe, 40)(rgb, torch.tensor([[8.0, 5, 40, 15]]), torch.tensor([0]))
    rows, columns = ((image[0] > 100).any(axis).nonzero()[:, 0] for axis in (1, 0))
    assert boxes[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert tuple(image.shape[-2:]) == ((64, 40) if "transpose" in flips else (40, 64))


def test_what_is_not_asked_for_draws_nothing():
    """So the paper's recipe draws what it drew before there were turns."""
    torch.manual_seed(3)
    Augmentation(RecipeConfig(crop=0.0), 40)(*image_with_a_box())
    state = torch.get_rng_state()
    torch.manual_seed(3)
    torch.rand(()), torch.rand(()), torch.randint(0, 11, ())  # the flip, whether to crop, the size
    assert torch.equal(torch.get_rng_state(), state)


def small_objects() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Black, 300 x 500 px, with squares of 12 px in four corners, one of them at the border."""
    rgb, boxes = torch.zeros(3, 300, 500, dtype=torch.uint8), []
    for x, y in ((0, 0), (450, 20), (30, 250), (470, 280)):
        rgb[:, y : y + 12, x : x + 12] = 255
        boxes.append([x, y, x + 12, y + 12])
    return rgb, torch.tensor(boxes, dtype=torch.float32), torch.arange(4)


def test_windows_are_as_large_as_tiles_and_show_an_object():
    augment = Augmentation(RecipeConfig(crop=0, hflip=0, scales=(1, 1)), imgsz=200, tile=100)
    seen, windows = set(), 0
    for seed in range(80):
        torch.manual_seed(seed)
        rgb, boxes, labels = augment(*small_objects())
        sides = boxes[:, 2:] - boxes[:, :2]
        assert len(boxes)
        seen |= set(labels.tolist())
        if rgb.shape[-2] == 200 and rgb.shape[-1] == round(200 * 500 / 300):  # the whole image
            continue
        windows += 1
        zoom = 200 / min(80, 300), 200 / 125  # the shorter side of a window has 80 to 125 px
        assert (sides <= 12 * zoom[0] + 2).all()
        assert sides.max() >= 6 * zoom[1] - 1  # the centre of one object is inside
        white = rgb[0] > 127
        area = (sides[:, 0] * sides[:, 1]).sum()
        assert abs(float(white.sum() - area)) < 0.15 * area + 8
    assert seen == {0, 1, 2, 3}
    assert 40 < windows < 75


def test_images_without_objects_and_smaller_than_a_tile_pass():
    augment = Augmentation(RecipeConfig(crop=0, hflip=0, scales=(1, 1)), imgsz=64, tile=100)
    for height, width in ((40, 300), (300, 40), (50, 50), (400, 400)):
        for seed in range(5):
            torch.manual_seed(seed)
            rgb, boxes, _ = augment(torch.zeros(3, height, width, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0))
            assert min(rgb.shape[-2:]) >= 1
            assert len(boxes) == 0
