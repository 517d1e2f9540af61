import copy

import pytest
import timm
import torch
from timm.layers import Conv2dSame, freeze_batch_norm_2d
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops.misc import FrozenBatchNorm2d

from conditional_detr.errors import ConfigError
from conditional_detr.model.backbone.depthwise import Depthwise, Form, by_blocks, by_taps, weight_gradient_of
from conditional_detr.model.backbone.frozen_norm import FoldedConv2d, copies_to_pad
from conditional_detr.model.backbone.neck import space_to_depth
from conditional_detr.model.backbone.timm_backbone import Backbone

NETWORKS = [  # timm name, strides of the maps, dilated, their indices among timm's feature maps
    ("tf_efficientnet_lite0", [16], False, (3,)),
    ("tf_efficientnet_lite0", [8, 16], False, (2, 3)),
    ("tf_efficientnet_lite0", [16], True, (4,)),
    ("resnet18", [32], False, (4,)),
    ("resnet18", [8, 16, 32], False, (2, 3, 4)),
    ("resnet50", [16], True, (4,)),
    ("mobilenetv3_small_100", [16], False, (3,)),
]


def last_map(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    return backbone(images)[-1]


def filled(network: nn.Module) -> nn.Module:
    """Statistics as after training: not zeros and ones, which would hide a lost mean, variance or epsilon."""
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(0.3 + torch.rand_like(buffer))
        elif not name.endswith("num_batches_tracked"):
            buffer.copy_(0.1 * torch.randn_like(buffer) + name.endswith("weight"))
    return network


@pytest.mark.parametrize(("name", "strides", "dilation", "indices"), NETWORKS)
def test_backbone_is_timms_network_in_eval_mode_under_the_same_names(
    name: str, strides: list[int], dilation: bool, indices: tuple[int, ...]
):
    torch.manual_seed(0)
    theirs = timm.create_model(name, features_only=True, out_indices=indices, output_stride=16 if dilation else 32)
    theirs = filled(freeze_batch_norm_2d(theirs))
    ours = Backbone(name, strides, dilation)
    stored = theirs.state_dict()
    ours.body.load_state_dict({key: stored[key] for key in ours.body.state_dict()})
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        expected, maps = theirs.eval()(images), ours.train()(images)
    assert [x.shape[1] for x in maps] == ours.channels
    assert [x.shape[-1] for x in maps] == [128 // stride for stride in strides]
    for x, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(x, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=1e-4)
    assert any(isinstance(m, FoldedConv2d) for m in ours.modules())


def test_stages_behind_the_one_that_is_used_are_not_built():
    shallow = Backbone("tf_efficientnet_lite0", [16])
    assert not [key for key in shallow.state_dict() if "blocks.5" in key or "blocks.6" in key]
    last_map(shallow, torch.randn(1, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in shallow.parameters())


def test_trap_every_norm_keeps_its_own_epsilon():
    lite = [m.eps for m in Backbone("tf_efficientnet_lite0", [16]).modules() if hasattr(m, "eps")]
    resnet = [m.eps for m in Backbone("resnet18", [32]).modules() if hasattr(m, "eps")]
    assert set(lite) == {1e-3}
    assert set(resnet) == {1e-5}


def test_trap_norms_have_no_trainable_parameters_and_resnets_stem_and_first_stage_are_frozen():
    backbone = Backbone("resnet18", [32])
    trainable = {name for name, p in backbone.body.named_parameters() if p.requires_grad}
    frozen = {name for name, p in backbone.body.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in backbone.body.named_parameters() if n.startswith(("conv1.", "layer1."))}
    assert not any("bn" in name for name in trainable | frozen)
    assert all(p.requires_grad for p in Backbone("tf_efficientnet_lite0", [16]).parameters())


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "size"),
    [
        (3, 1, 2, 2, (8, 6)), (5, 1, 4, 2, (8, 8)), (5, 1, 6, 3, (4, 9)), (3, 1, 4, 4, (3, 3)),
        (5, 1, 2, 1, (8, 6)), (5, 2, 0, 1, (11, 9)), (5, 2, 2, 1, (8, 9)), (7, 1, 3, 1, (4, 9)), (5, 1, 2, 1, (1, 2)),
    ],
)  # fmt: skip
def test_the_depthwise_backward_equals_pytorchs(kernel: int, stride: int, padding: int, dilation: int, size: tuple[int, int]):
    torch.manual_seed(0)
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    form = Form((stride, stride), (padding, padding), (dilation, dilation))
    gradient = weight_gradient_of(weight.shape, form)
    assert gradient is (by_taps if dilation > 1 else by_blocks)
    results = []
    for out in (Depthwise.apply(x, weight, form, gradient), nn.functional.conv2d(x, weight, None, *form, groups=6)):
        results.append([out, *torch.autograd.grad((out**3).sum(), (x, weight))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)  # taps are summed in float32


@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (3, 6), (5, 6), (7, 6), ((3, 5), 6)])
@pytest.mark.parametrize("size", [(8, 10), (9, 12), (7, 11)])
def test_same_padding_without_a_copy_is_timms(kernel: int, groups: int, size: tuple[int, int]):
    torch.manual_seed(0)
    theirs = Conv2dSame(6, 6, kernel, stride=2, groups=groups, bias=False)
    norm = filled(FrozenBatchNorm2d(6))
    ours = FoldedConv2d(theirs, norm)
    results = []
    for convolve in (ours, lambda x: norm(theirs(x))):
        x = torch.randn(2, 6, *size, generator=torch.Generator().manual_seed(1), requires_grad=True)
        out = convolve(x)
        results.append([out, *torch.autograd.grad((out**3).sum(), (x, theirs.weight))])
    for mine, wanted in zip(*results, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-4, rtol=1e-4)


def test_operations_are_counted_without_added_zeros():
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(3,))
    ours = Backbone("tf_efficientnet_lite0", [16])
    for number, stage in enumerate(ours.body.blocks):
        if isinstance(stage, nn.Identity):  # not built, because nothing uses it
            theirs.blocks[number] = nn.Identity()
    counts = []
    for network in (freeze_batch_norm_2d(theirs).eval(), ours.eval()):
        with torch.no_grad(), copies_to_pad(network), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 64, 96))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_where_pytorchs_gradient_is_fast_it_is_used():
    assert weight_gradient_of(torch.Size([6, 1, 3, 3]), Form((1, 1), (1, 1), (1, 1))) is None
    assert weight_gradient_of(torch.Size([6, 1, 3, 3]), Form((2, 2), (2, 2), (2, 2))) is None  # taps need a stride of 1


def test_the_dilated_stage_trains_under_autocast():
    backbone = Backbone("tf_efficientnet_lite0", [16], dilation=True)
    images = torch.randn(1, 3, 64, 64)
    gradients = []
    for enabled in (False, True):
        backbone.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = last_map(backbone, images).float().square().mean()
        loss.backward()
        gradients.append(backbone.body.blocks[5][1].conv_dw.weight.grad.clone())
    exact, rough = gradients
    assert (rough - exact).norm() < 0.1 * exact.norm()


def test_depthwise_convolutions_on_a_processor_stay_in_float32_under_autocast():
    """PyTorch's gradient for 16 bits takes ten times as long there; the others are faster in 16."""
    backbone = Backbone("tf_efficientnet_lite0", [8, 16])
    seen = set()
    for module in backbone.modules():
        if isinstance(module, FoldedConv2d):
            module.register_forward_hook(lambda m, _, output: seen.add((m.groups > 1, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        finer, _ = backbone(torch.randn(1, 3, 64, 64))
        assert space_to_depth(finer.bfloat16()).dtype == torch.float32  # it is one, too
    assert seen == {(True, torch.float32), (False, torch.bfloat16)}


def test_a_network_or_a_stage_that_is_not_there_is_said():
    with pytest.raises(ConfigError, match="timm has no network 'resnet5'. Did you mean resnet50"):
        Backbone("resnet5.tv_in1k", [32])
    with pytest.raises(ConfigError, match="vit_tiny_patch16_224 has no stage of stride 32; it has 16"):
        Backbone("vit_tiny_patch16_224", [32])


def test_trap_no_branch_of_a_fresh_resnet_is_silenced_by_its_last_norm():
    """timm starts it with a scale of zero, which a frozen norm would keep."""
    backbone = Backbone("resnet18", [32])
    last_map(backbone, torch.randn(1, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in backbone.parameters() if parameter.requires_grad)


def test_gradients_of_the_folded_backbone_equal_those_of_the_unfolded_one():
    torch.manual_seed(0)
    theirs = freeze_batch_norm_2d(timm.create_model("resnet18", features_only=True, out_indices=(-1,)))
    ours = Backbone("resnet18", [32])
    ours.body.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 64)
    theirs(images)[0].square().mean().backward()
    last_map(ours, images).square().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.body.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad - expected[name].grad).norm() <= 1e-3 * expected[name].grad.norm(), name


def test_a_copy_of_a_backbone_reads_its_own_norms():
    backbone = Backbone("resnet18", [32])
    twin = copy.deepcopy(backbone)
    images = torch.randn(1, 3, 64, 64)
    before = last_map(twin, images)
    with torch.no_grad():
        for buffer in backbone.buffers():
            buffer.mul_(2)
    torch.testing.assert_close(last_map(twin, images), before)
