"""Everything that hangs on a reference VLM, anew: the model, its codecs and encoders, stop rules, and what they reach.

::

    reference-vlm -+- vlm-evaluation
                   +- <point>-klt -----------------------------+
                   +- <point>-meta_autoencoder - <point>-int8 -+- <point>-key-frames - <point>-stop
                                                                    <point>-stop -+- <point>-evaluation
                                                                                  +- <point>-gate - models
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from pipeline.codec.spec import hash_vlm
from schemas.errors import ConfigError
from training.codec.config import BUDGETS, DETAILED_BUDGETS, CodecBudget
from training.codec.evaluate.frames import QUICK, SIZES, Evaluation, EvaluationSize, evaluate_codec
from training.codec.evaluate.markdown import as_markdown
from training.codec.fit.temporal import Clips, measure_temporal
from training.codec.fit.train import CodecTraining, export_codec, train_codec
from training.codec.gate.calibrate import GateCalibration, calibrate_gate
from training.codec.points import DOMAINS, FOLDERS, CodecName
from training.codec.stop.calibrate import StopCalibration, calibrate_stop
from training.codec.stop.learn_then_test import Promise
from training.codec.stop.verify import StopVerification, verify_stop
from training.reference_vlm.evaluate import evaluate_everyday
from training.reference_vlm.pool import library_of
from training.reference_vlm.pretrained.train import THIRD_BUDGETS, ThirdBudget, train_third_reference_vlm
from training.run import RunSettings
from training.stages import Stage

VLM: Final = "reference-vlm"
MODELS: Final = "models"
KINDS: Final[tuple[CodecName, ...]] = ("meta_autoencoder", "klt")
"""The first is compared with the second."""


@dataclass(frozen=True, slots=True)
class WholeBudget:
    """How much of everything.

    Attributes:
        vlm: The reference VLM.
        codecs: Codecs, by operating point.
        evaluations: How much is measured of codecs, by operating point.
        vlm_frames: Held-out frames of each kind of scene that the VLM is asked about.
        clips: Clips that tables of key frames are fitted on.
        calibration: What stop rules are calibrated for, and on.
        verification: How their promise is checked.
        gate: What change gates are calibrated for, and on.
    """

    vlm: ThirdBudget
    codecs: Mapping[str, CodecBudget]
    evaluations: Mapping[str, EvaluationSize]
    vlm_frames: int = 300
    clips: Clips = field(default_factory=Clips)
    calibration: StopCalibration = field(default_factory=StopCalibration)
    verification: StopVerification = field(default_factory=StopVerification)
    gate: GateCalibration = field(default_factory=GateCalibration)


WHOLE_BUDGETS: Final[dict[str, WholeBudget]] = {
    "full": WholeBudget(THIRD_BUDGETS["full"], {"small": BUDGETS["full"], "detailed": DETAILED_BUDGETS["full"]}, SIZES),
    "smoke": WholeBudget(
        THIRD_BUDGETS["smoke"],
        {"small": BUDGETS["smoke"], "detailed": DETAILED_BUDGETS["smoke"]},
        {"small": QUICK, "detailed": QUICK},
        vlm_frames=4,
        clips=Clips(1, 2.0),
        calibration=StopCalibration(Promise(0.1), frames=60),
        verification=StopVerification(Promise(0.2), frames=40, resplits=5),
        gate=GateCalibration(Promise(0.3, by_type=True), clips=14, frames=4, still_clips=2),
    ),
}
"""``full`` takes about ten hours of two CPU cores, most of it for the VLM; ``smoke`` some minutes, and the models of it
know nothing."""


@dataclass(frozen=True, slots=True)
class Everything:
    """What is made.

    Attributes:
        budget: How much of everything.
        points: Operating points of the codecs.
        photos: Class folder of photographs, or a zip of one.
        vlm_dir: A finished VLM, in `save_pretrained` format, that takes the place of the first stage.
        pretrained: Start the tower of the VLM from ImageNet.
    """

    budget: WholeBudget
    points: Sequence[str] = ("small",)
    photos: Path | None = None
    vlm_dir: Path | None = None
    pretrained: bool = True


def stages_of(wanted: Everything, root: Path, run: RunSettings) -> list[Stage]:
    """All stages, each after what it reads.

    Args:
        wanted: What is made.
        root: Folder of the stages.
        run: Cache, seed, threads, device, progress.

    Raises:
        ConfigError: an unknown operating point, or photographs of classes that the VLM has no words for.
        ArtifactError: the photographs or the given VLM cannot be read.
    """
    for point in wanted.points:
        if point not in DOMAINS:
            raise ConfigError("--point", f"{point!r} is none of {', '.join(DOMAINS)}")
    plan = _Plan(wanted, root, run)
    codecs = [stage for point in wanted.points for stage in plan.of_point(point)]
    return [*plan.of_vlm(), *codecs, plan.models()]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Stages of one piece of work."""

    wanted: Everything
    root: Path
    run: RunSettings

    def of_vlm(self) -> list[Stage]:
        wanted, seed = self.wanted, self.run.seed
        shown = None if wanted.photos is None else library_of(wanted.photos).sha256
        if wanted.vlm_dir is not None:
            vlm = Stage(VLM, f"copy of {wanted.vlm_dir}", {"vlm": hash_vlm(wanted.vlm_dir)}, (), self._copy_vlm, 0.0)
        else:
            settings = {**wanted.budget.vlm.as_dict(), "photos": shown, "pretrained": wanted.pretrained, "seed": seed}
            vlm = Stage(VLM, "the vision-language model", settings, (), self._train_vlm, 5.5)
        frames = {"frames": wanted.budget.vlm_frames, "photos": shown, "seed": seed}
        what = "what the model knows: everyday, hard and detailed scenes, photographs, unseen wordings, blind"
        return [vlm, Stage("vlm-evaluation", what, frames, (VLM,), self._evaluate_vlm, 0.2)]

    def of_point(self, point: str) -> list[Stage]:
        budget, seed = self.wanted.budget, self.run.seed
        codec = {**budget.codecs[point].as_dict(), "seed": seed}
        names = ("klt", "meta_autoencoder", "key-frames", "stop", "gate")
        klt, meta, keys, stop, gate = (f"{point}-{name}" for name in names)
        calibration = {**_plain(budget.calibration), "seed": seed}
        clips = {**asdict(budget.clips), "seed": seed}
        still = {**asdict(budget.gate), "seed": seed}
        evaluation = {**asdict(budget.evaluations[point]), **_plain(budget.verification), "seed": seed}

        learned = partial(self._fit, point, "meta_autoencoder")
        check = partial(self._evaluate, point)
        quantise, given_key = partial(self._int8, point), partial(self._key_frames, point)
        int8 = Stage(f"{point}-int8", "its encoder in 8-bit integers", {"seed": seed}, (VLM, meta), quantise, 0.1)
        return [
            Stage(klt, "the closed-form codec", codec, (VLM,), partial(self._fit, point, "klt"), 0.2),
            Stage(meta, "the learned codec", codec, (VLM, klt), learned, 1.2),
            int8,
            Stage(keys, "tables given a key frame", clips, (VLM, klt, int8.name), given_key, 0.1),
            Stage(stop, "ladders and thresholds", calibration, (VLM, keys), partial(self._calibrate, point), 0.7),
            Stage(gate, "change gates", still, (VLM, stop), partial(self._gate, point), 0.6),
            Stage(f"{point}-evaluation", "bytes, accuracy, the promise", evaluation, (VLM, stop), check, 0.7),
        ]

    def models(self) -> Stage:
        inputs = (VLM, *(f"{point}-gate" for point in self.wanted.points))
        return Stage(MODELS, "all of it, laid out as the bundled models/", {}, inputs, self._lay_out, 0.0)

    @property
    def _vlm(self) -> Path:
        return self.root / VLM

    def _train_vlm(self, folder: Path) -> None:
        wanted = self.wanted
        train_third_reference_vlm(
            folder, self.run, photos=wanted.photos, budget=wanted.budget.vlm, pretrained=wanted.pretrained
        )

    def _copy_vlm(self, folder: Path) -> None:
        if self.wanted.vlm_dir is not None:
            shutil.copytree(self.wanted.vlm_dir, folder, dirs_exist_ok=True)

    def _evaluate_vlm(self, folder: Path) -> None:
        wanted, run = self.wanted, self.run
        report = evaluate_everyday(
            self._vlm, frames=wanted.budget.vlm_frames, photos=wanted.photos, seed=run.seed, progress=run.progress
        )
        _write(folder / "evaluation.json", report)

    def _fit(self, point: str, name: CodecName, folder: Path) -> None:
        budget = self.wanted.budget.codecs[point]
        wanted = CodecTraining((name,), point=point, budget=budget, photos=self.wanted.photos, export_klt=False)
        train_codec(self._vlm, folder, self.run, wanted)

    def _int8(self, point: str, folder: Path) -> None:
        name = FOLDERS[point]["meta_autoencoder"]
        shutil.copytree(self.root / f"{point}-meta_autoencoder" / name, folder / name)
        _write(folder / "int8.json", export_codec(self._vlm, folder / name, self.run, int8=True))

    def _key_frames(self, point: str, folder: Path) -> None:
        for kind, name in FOLDERS[point].items():
            made = "int8" if kind == "meta_autoencoder" else kind
            shutil.copytree(self.root / f"{point}-{made}" / name, folder / name)
            report = measure_temporal(self._vlm, folder / name, self.run, self.wanted.budget.clips, write=True)
            _write(folder / f"{name}.json", report)

    def _calibrate(self, point: str, folder: Path) -> None:
        for name in FOLDERS[point].values():
            shutil.copytree(self.root / f"{point}-key-frames" / name, folder / name)
            report = calibrate_stop(self._vlm, folder / name, self.run, self.wanted.budget.calibration)
            _write(folder / f"{name}.json", report)

    def _gate(self, point: str, folder: Path) -> None:
        """Of the codec that edges encode with; the other one is what it is compared with."""
        for kind, name in FOLDERS[point].items():
            shutil.copytree(self.root / f"{point}-stop" / name, folder / name)
            if kind == KINDS[0]:
                report = calibrate_gate(self._vlm, folder / name, self.run, self.wanted.budget.gate)
                _write(folder / f"{name}.json", report)

    def _evaluate(self, point: str, folder: Path) -> None:
        budget = self.wanted.budget
        codecs = [self.root / f"{point}-stop" / FOLDERS[point][kind] for kind in KINDS]
        wanted = Evaluation(self._vlm, codecs, self.run, budget.evaluations[point], DOMAINS[point])
        report = evaluate_codec(wanted)
        _write(folder / "evaluation.json", report)
        (folder / "evaluation.md").write_text(as_markdown(report), encoding="utf-8")
        _write(folder / "verify.json", verify_stop(self._vlm, codecs[0], self.run, budget.verification))

    def _lay_out(self, folder: Path) -> None:
        shutil.copytree(self._vlm, folder / VLM)
        for point in self.wanted.points:
            for kind in KINDS:
                name = FOLDERS[point][kind]
                shutil.copytree(self.root / f"{point}-gate" / name, folder / "codecs" / name)


def _plain(settings: StopCalibration | StopVerification) -> dict[str, Any]:
    """Settings as JSON; frames of somebody's own have no part in this work."""
    return {name: value for name, value in asdict(settings).items() if name != "own"}


def _write(path: Path, report: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
