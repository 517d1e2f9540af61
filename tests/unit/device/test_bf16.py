import pytest
import torch

from conditional_detr.device.bf16 import _bf16_is_faster, has_fast_bf16


def test_a_processor_needs_the_instructions_and_the_speed_for_bf16(monkeypatch):
    timed: list[bool] = []
    monkeypatch.setattr("conditional_detr.device.bf16._bf16_is_faster", lambda: bool(timed.append(True)) or faster)
    for known, faster in (({}, True), ({"avx512_bf16": True}, False), ({"avx512_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        assert has_fast_bf16(torch.device("cpu")) == (bool(known) and faster)
    assert len(timed) == 2  # without the instructions a product would take minutes


@pytest.mark.parametrize(("times_as_fast", "expected"), [(1.3, True), (1.1, False), (0.5, False)])
def test_bf16_is_taken_where_its_products_are_a_fifth_faster(monkeypatch, times_as_fast, expected):
    clock, turn = [0.0], [0]

    def tick() -> float:  # asked before and after each product; float32 and bfloat16 take turns
        if turn[0] % 2:
            clock[0] += times_as_fast if turn[0] % 4 == 1 else 1.0
        turn[0] += 1
        return clock[0]

    monkeypatch.setattr("conditional_detr.device.bf16.time.perf_counter", tick)
    assert _bf16_is_faster.__wrapped__() == expected
