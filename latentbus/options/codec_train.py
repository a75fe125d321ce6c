"""Options of ``latentbus codec train``, beside those of ``codec calibrate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, slots=True)
class LearningOptions:
    """How a codec learns; see `training.codec.train.plan.Learning`."""

    steps: Annotated[int, typer.Option(help="Steps of the training, if it does not end early.", min=1)] = 4_000
    batch: Annotated[int, typer.Option(help="Pictures of a step, over all processes.", min=1)] = 64
    accumulate: Annotated[
        int, typer.Option(help="Parts of a batch that are computed one after the other, for less memory.", min=1)
    ] = 1
    processes: Annotated[
        int, typer.Option(help="Processes that share each batch: with --device cuda one for each GPU.", min=1, max=64)
    ] = 1
    precision: Annotated[
        str, typer.Option(help="bf16, fp32, or auto: bf16 on a GPU. What decides about symbols is always fp32.")
    ] = "auto"
    learning_rate: Annotated[float, typer.Option(help="Its peak.", min=1e-7, max=1.0)] = 1e-3
    view_weight: Annotated[
        float, typer.Option(help="Weight of what the language model makes of a picture; 0 leaves it out.", min=0)
    ] = 0.5
    view_share: Annotated[
        float, typer.Option(help="Share of a batch that the language model looks at.", min=0.001, max=1)
    ] = 0.375
    view_from: Annotated[float, typer.Option(help="Share of the training after which it looks on.", min=0, max=1)] = (
        0.15
    )
    decoder_width: Annotated[int, typer.Option(help="Width of the decoder, a multiple of 4.", min=4, max=8_192)] = 192
    decoder_layers: Annotated[int, typer.Option(help="Its layers.", min=0, max=64)] = 3
    evaluate_every: Annotated[int, typer.Option(help="Steps between two looks at held-out pictures.", min=1)] = 200
    patience: Annotated[int, typer.Option(help="Looks without a better one after which the training ends.", min=1)] = 6
    max_seconds: Annotated[
        float | None, typer.Option(help="End the training after so many seconds, its schedule drawn in.", min=1)
    ] = None
