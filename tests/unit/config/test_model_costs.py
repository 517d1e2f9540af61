"""What is known of the named models without building them."""

import pytest
import torch

from conditional_detr.config.model_costs import COSTS
from conditional_detr.config.presets import PRESETS
from conditional_detr.factory.create import create_model
from conditional_detr.inference.model_cost import cost_of
from conditional_detr.model.backbone.timm_backbone import STRIDES, feature_network


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_has_what_is_counted(name: str):
    with torch.device("meta"):  # counts without computing
        assert cost_of(create_model(name, pretrained_backbone=False).eval()) == COSTS[name]


def test_the_table_has_the_named_models_and_no_others():
    assert COSTS.keys() == PRESETS.keys()


def test_the_strides_that_are_written_down_are_timms():
    assert STRIDES.keys() == {preset.model.backbone.split(".")[0] for preset in PRESETS.values()}
    for name, strides in STRIDES.items():
        with torch.device("meta"):
            assert tuple(feature_network(name).feature_info.reduction()) == strides
