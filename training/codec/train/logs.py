"""What a training does, for TensorBoard: ``tensorboard --logdir DIR``."""

from __future__ import annotations

from pathlib import Path

from tensorboardX import SummaryWriter

from training.codec.train.looks import Look, Rungs


class TrainingLog:
    """Event files in a folder; of steps that are done again, the later ones count.

    Args:
        folder: Of the files.
        step: First step that is logged.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step)

    def figures(self, step: int, figures: dict[str, float]) -> None:
        """Means since the last call."""
        for name, value in figures.items():
            self._writer.add_scalar(f"training/{name}", value, step)

    def look(self, look: Look, rungs: Rungs) -> None:
        """What a look at held-out pictures found, and what the closed form has at the same bytes."""
        closed_form = {
            "agreement": sum(rungs.agreement) / len(rungs.agreement),
            "error": sum(rungs.error) / len(rungs.error),
        }
        for name, value in closed_form.items():
            self._writer.add_scalar(f"held_out/{name}", getattr(look, name), look.step)
            self._writer.add_scalar(f"held_out/{name}_of_klt", value, look.step)
        self._writer.add_scalar("held_out/whole_bytes", look.whole_bytes, look.step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
