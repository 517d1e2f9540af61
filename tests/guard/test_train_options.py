"""The command line and Python say the same of each option of `train`."""

import inspect

from commands import run
from conditional_detr.cli.train import train as train_verb
from conditional_detr.config.options import (
    PYTHON_ONLY,
    CommandOptions,
    TrainOptions,
    command_line_options,
)
from conditional_detr.training.trainer import train


def test_every_option_is_in_every_signature_with_a_help(capsys):
    names = set(TrainOptions.model_fields)
    assert set(inspect.signature(train).parameters) == names
    assert set(inspect.signature(train_verb).parameters) == names - PYTHON_ONLY | set(CommandOptions.model_fields)
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    shown = " ".join(word for line in out.splitlines() for word in line.strip("│ ").split())
    for option in command_line_options():
        assert f"--{option.name.replace('_', '-')} " in shown
        assert option.help.endswith("."), option.name
        words = iter(shown[shown.index(f"--{option.name.replace('_', '-')} ") :].split())
        assert all(word in words for word in option.help.split()), option.name  # in this order; a long name stands between
    assert "default: None" not in shown
    for name, field in TrainOptions.model_fields.items():
        assert f"{name} : {field.description}" in train.__doc__
        assert field.description.endswith("."), name
