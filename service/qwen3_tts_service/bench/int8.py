"""What rounding the matrices to 8 bits does: to each product, and to what comes out of every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.load import LoadedModel
from ..engine.frame import FrameModel
from ..engine.linear import linear, rounded
from ..engine.prompt import Prompt
from .frame_timing import Frames, time_frames
from .observation import go_on
from .plan import Plan
from .report import Cell, Column, Table
from .schedules import CountingRunner
from .statistics import spread

_PREDICTOR_POSITIONS = 16


def tables(plan: Plan, model: LoadedModel, prompt: Prompt, plain: dict[int, Frames]) -> list[Table]:
    """Errors against the checkpoint's own weights, and the time of a frame beside ``plain``, by batch size.

    Upstream's layers must still have their weights; they have them afterwards.
    """
    plan.say("int8: errors of products and layers")
    products, layers = _errors(model, prompt)
    plan.say("int8: compiling")
    frames = FrameModel(model, slots=max(plan.batches), positions=plan.slot_positions, weights="int8")
    go_on(frames)
    runner = CountingRunner(frames, capture_prompts=False)
    rows: list[dict[str, Cell]] = []
    for batch in plan.batches:
        timed = time_frames(runner, prompt, batch=batch, frames=plan.frames)
        rows.append(
            {
                "batch": batch,
                "way": runner.ways()[batch],
                "ms": timed.gaps.scaled(1e3),
                "plain_ms": plain[batch].gaps.scaled(1e3),
                "ratio": plain[batch].gaps.median / timed.gaps.median,
            }
        )
        plan.say(_speed(rows).line(rows[-1]))
    return [_speed(rows), products, layers]


def _errors(model: LoadedModel, prompt: Prompt) -> tuple[Table, Table]:
    talker: Any = model.upstream.model.talker
    predictor = talker.code_predictor
    heard = prompt.embeds[None]
    spoken = talker.get_input_embeddings().weight[None, :_PREDICTOR_POSITIONS]
    stacks: dict[str, tuple[Any, Tensor]] = {
        "talker": (talker.model, heard),
        "code predictor": (predictor.model, predictor.small_to_mtp_projection(spoken)),
    }
    products: list[dict[str, Cell]] = []
    layers: list[dict[str, Cell]] = []
    for name, (stack, x) in stacks.items():
        with torch.no_grad(), ExitStack() as hooks:
            by_kind = _product_errors(stack, hooks)
            wanted = _layer_outputs(stack, x)
            hooks.close()
            with _rounded_weights(stack):
                found = _layer_outputs(stack, x)
        for kind, errors in by_kind.items():
            products.append({"stack": name, "product": kind, "error": spread(errors), "worst": max(errors)})
        for number, (before, after) in enumerate(zip(wanted, found, strict=True)):
            layers.append({"stack": name, "layer": number, "error": _error(after, before)})
    return _products(products), _layers(layers)


def _matrices(stack: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in stack.named_modules():
        if isinstance(module, nn.Linear):
            yield name.rsplit(".", 1)[-1], module


def _product_errors(stack: nn.Module, hooks: ExitStack) -> dict[str, list[float]]:
    """Kind of matrix -> the error of its product in each layer, filled while the stack runs."""
    found: dict[str, list[float]] = {}

    def watch(kind: str) -> Callable[..., None]:
        def compare(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found.setdefault(kind, []).append(_error(linear(inputs[0], rounded(module.weight)), output))

        return compare

    for kind, module in _matrices(stack):
        hooks.callback(module.register_forward_hook(watch(kind)).remove)
    return found


def _layer_outputs(stack: Any, x: Tensor) -> list[Tensor]:
    """The residual stream [1, positions, hidden] behind every layer."""
    outputs: list[Tensor] = []

    def take(_module: object, _inputs: object, output: Any) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output).float())

    handles = [layer.register_forward_hook(take) for layer in stack.layers]
    try:
        stack(inputs_embeds=x, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


@contextmanager
def _rounded_weights(stack: nn.Module) -> Iterator[None]:
    """In this block the stack computes with weights that went through 8 bits."""
    own: list[tuple[nn.Linear, Tensor]] = []
    try:
        for _, module in _matrices(stack):
            own.append((module, module.weight.data))
            values, scales = rounded(module.weight.data)
            module.weight.data = (values.float() * scales.float()[:, None]).to(scales.dtype)
        yield
    finally:
        for module, weight in own:
            module.weight.data = weight


def _error(computed: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference over that of ``wanted``."""
    wide = wanted.float()
    return float((computed.float() - wide).pow(2).mean().sqrt() / wide.pow(2).mean().sqrt())


def _speed(rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="int8",
        title="A frame with weights of 8 bits beside the checkpoint's own, same run",
        columns=[
            Column("batch", "batch"),
            Column("way", "way"),
            Column("ms", "int8, a frame", "ms"),
            Column("plain_ms", "unrounded, a frame", "ms"),
            Column("ratio", "times faster"),
        ],
        rows=rows,
    )


def _products(rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="int8_products",
        title="Products with rounded weights, each fed what it is fed without rounding",
        columns=[
            Column("stack", "stack"),
            Column("product", "product"),
            Column("error", "relative error, all layers", digits=5),
            Column("worst", "worst layer", digits=5),
        ],
        rows=rows,
        notes=["Root mean square of the difference over that of the exact product. Unrelated ones give 1.4."],
    )


def _layers(rows: list[dict[str, Cell]]) -> Table:
    return Table(
        name="int8_layers",
        title="What comes out of each layer when all before it, and it, have rounded weights",
        columns=[
            Column("stack", "stack"),
            Column("layer", "layer"),
            Column("error", "relative error", digits=5),
        ],
        rows=rows,
    )
