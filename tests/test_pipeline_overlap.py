"""Frames are made while others are decoded, where both have a device of their own."""

from __future__ import annotations

import time
from itertools import count

import numpy as np

from codec.toy_decoder import ToyDecoder, sound
from engine.device_model import EOS, DeviceModel, frame_request, undisturbed
from qwen3_tts_service.codec.worker import CodecWorker
from qwen3_tts_service.engine.scheduler import Scheduler
from qwen3_tts_service.pipeline import Speaking, Utterance
from qwen3_tts_service.speech.listening import Listener

WAIT_S = 10.0
FRAMES = 20


def test_a_frame_is_made_while_another_is_decoded() -> None:
    """Each waits for the other: would the codec hold up the engine, or begin after it, neither would go on."""
    device, decoder = DeviceModel(1), ToyDecoder()
    read = count(1)

    def pace() -> None:
        frame = next(read)
        until = time.monotonic() + WAIT_S
        while frame == 2 and not decoder.calls:
            assert time.monotonic() < until, "the first frame is not decoded before the second is made"
            time.sleep(0.001)
        if frame == 3:
            # The second one was made and put down by now. The decoder fails when it waits for this in vain.
            decoder.hold.set()

    device.before_read = pace
    codec = CodecWorker(decoder)
    codec.start()
    scheduler = Scheduler(device, eos=EOS, on_device_fault=lambda error: None)
    scheduler.start()
    decoder.calls.clear()
    decoder.hold.clear()

    def start(listener: Listener) -> Speaking:
        speaking = Speaking(codec, listener, context=None, ahead=2 * FRAMES, text_tokens=1)
        speaking.submitted(scheduler.submit(frame_request(FRAMES), speaking))
        return speaking

    try:
        utterance = Utterance(start, deadline=time.monotonic() + 3 * WAIT_S, cancelled=lambda: False)
        heard = np.concatenate(list(utterance))
    finally:
        decoder.hold.set()
        scheduler.stop(WAIT_S)
        codec.stop()
    codes, _ = undisturbed(FRAMES, seed=0, max_frames=1000)
    np.testing.assert_allclose(heard, sound(np.array(codes, np.int32)), rtol=1e-6)
    times = utterance.timeline
    first = times.decodes[0]
    assert times.frames[0] <= first.started <= times.frames[1] <= first.ended
    assert times.overlap_s >= times.frames[1] - first.started
