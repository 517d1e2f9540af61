"""Parameters and multiply-adds of the model names, so that they are known without building the models. A test counts again."""

from typing import NamedTuple

LANDSCAPE = (480, 640)  # height and width, px, of the image that multiply-adds are counted for, before resizing


class ModelCost(NamedTuple):
    """Number of trainable and of frozen parameters, and of multiply-adds for one image of `LANDSCAPE` size."""

    trainable: int
    frozen: int
    multiply_adds: int


COSTS = {
    "conditional-detr-tiny": ModelCost(2_212_129, 0, 1_305_042_880),
    "conditional-detr-r18": ModelCost(30_580_321, 156_864, 46_154_496_000),
    "conditional-detr-r50": ModelCost(43_196_001, 222_400, 85_404_006_400),
    "conditional-detr-r101": ModelCost(62_135_905, 222_400, 148_852_684_800),
    "conditional-detr-dc5-r50": ModelCost(43_196_001, 222_400, 182_233_446_400),
    "conditional-detr-dc5-r101": ModelCost(62_135_905, 222_400, 245_682_124_800),
    "conditional-detr-ms-tiny": ModelCost(4_595_521, 0, 2_196_511_040),
    "conditional-detr-ms-r18": ModelCost(31_080_289, 156_864, 100_777_612_800),
    "conditional-detr-ms-r50": ModelCost(43_990_881, 222_400, 142_003_033_600),
    "conditional-detr-ms-r101": ModelCost(62_930_785, 222_400, 205_451_712_000),
    "detr-tiny": ModelCost(1_947_808, 0, 1_238_982_080),
    "detr-r18": ModelCost(28_686_688, 156_864, 42_251_955_200),
    "detr-r50": ModelCost(41_302_368, 222_400, 81_501_465_600),
    "detr-r101": ModelCost(60_242_272, 222_400, 144_950_144_000),
    "detr-dc5-r50": ModelCost(41_302_368, 222_400, 174_490_905_600),
    "detr-dc5-r101": ModelCost(60_242_272, 222_400, 237_939_584_000),
    "deformable-detr-ss-tiny": ModelCost(1_857_665, 0, 971_792_320),
    "deformable-detr-ss-r18": ModelCost(21_228_513, 156_864, 36_875_520_000),
    "deformable-detr-ss-r50": ModelCost(33_844_193, 222_400, 76_125_030_400),
    "deformable-detr-ss-r101": ModelCost(52_784_097, 222_400, 139_573_708_800),
    "deformable-detr-ss-dc5-r50": ModelCost(33_844_193, 222_400, 124_662_630_400),
    "deformable-detr-ss-dc5-r101": ModelCost(52_784_097, 222_400, 188_111_308_800),
    "up-detr-tiny": ModelCost(1_948_064, 0, 1_238_982_080),
    "up-detr-r18": ModelCost(28_687_200, 156_864, 42_251_955_200),
    "up-detr-r50": ModelCost(41_302_880, 222_400, 81_501_465_600),
    "up-detr-r101": ModelCost(60_242_784, 222_400, 144_950_144_000),
}
