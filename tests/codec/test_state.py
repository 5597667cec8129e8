from __future__ import annotations

import torch

from qwen3_tts_service.codec.state import DecoderState


def state(*rows: tuple[float, int]) -> DecoderState:
    values = torch.tensor([[value] * 3 for value, _ in rows])
    return DecoderState(values, torch.tensor([position for _, position in rows]))


def test_streams_side_by_side_are_a_copy_that_moves_them_on() -> None:
    members = [state((1.0, 10)), state((2.0, 20), (3.0, 30))]
    together = DecoderState.joined(members)
    assert together.batch == 3
    assert together.position.tolist() == [10, 20, 30]
    together.memory.add_(0.5)
    together.position.add_(4)
    assert members[1].memory[:, 0].tolist() == [2.0, 3.0]

    together.give_back(members)
    assert members[0].memory[:, 0].tolist() == [1.5]
    assert members[1].memory[:, 0].tolist() == [2.5, 3.5]
    assert [member.position.tolist() for member in members] == [[14], [24, 34]]


def test_a_state_that_stays_where_it_is_takes_others_in() -> None:
    place = DecoderState.empty(2, 3, torch.float32, torch.device("cpu"))
    address = place.memory.data_ptr()
    place.take([state((1.0, 10)), state((2.0, 20))])
    assert place.memory.data_ptr() == address
    assert place.memory[:, 0].tolist() == [1.0, 2.0]
    assert place.position.tolist() == [10, 20]

    place.first(1).reset()
    assert place.memory[:, 0].tolist() == [0.0, 2.0]
    assert place.position.tolist() == [0, 20]
