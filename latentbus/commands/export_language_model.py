"""``latentbus codec export-language-model``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbus.options.training import VlmOption, vlm_or_bundled

EPILOG = "Example: latentbus codec export-language-model --vlm my-models/vlm --output my-language-model"


def export_language_model(
    output: Annotated[Path, typer.Option(help="Folder to write, for vLLM.", file_okay=False)],
    vlm: VlmOption = None,
) -> None:
    """Write the language model of a vision-language model for a vLLM server, with the name to serve it under.

    The worker keeps the embedding; the server gets whole prompts as embeddings.
    """
    from cloud_workers.inference.vllm.language_model import export_language_model as export
    from pipeline.config.logs import configure_logging

    configure_logging("error")
    name = export(vlm_or_bundled(vlm), output)
    typer.echo(
        f"wrote {output}; serve it with\n"
        f"vllm serve {output} --served-model-name {name} --enable-prompt-embeds --host 127.0.0.1 --port 8000"
    )
