import copy

import torch

from conditional_detr.training.optim.weight_average import averaged


def test_the_average_is_over_a_share_of_the_steps_so_far():
    """Against the weighted sum that the recursion stands for."""
    module, share = torch.nn.Linear(2, 1), 0.1
    history = []
    average = averaged(module, share)
    for step in range(40):
        with torch.no_grad():
            module.weight.copy_(torch.tensor([[step, -2.0 * step]]))
        history.append(module.weight.detach().clone())
        average.update_parameters(module)
    weights, left = [0.0] * 40, 1.0
    for step in range(39, 0, -1):
        weights[step] = left / (1 + share * step)
        left -= weights[step]
    weights[0] = left
    expected = sum(w * value for w, value in zip(weights, history, strict=True))
    torch.testing.assert_close(average.module.weight.detach(), expected)
    age = sum(w * (39 - step) for step, w in enumerate(weights))
    assert 2 < age < 6  # about a tenth of forty


def test_the_weights_themselves_do_not_notice():
    module = torch.nn.Linear(2, 1)
    before = copy.deepcopy(module.state_dict())
    average = averaged(module, 0.5)
    average.update_parameters(module)
    assert all(value.equal(before[key]) for key, value in module.state_dict().items())
    average.module.weight.data.zero_()
    assert module.weight.equal(before["weight"])
