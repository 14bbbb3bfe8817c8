"""How a teacher guides its student at a time of training: weight, temperature, hint."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from serkd import config
from serkd.distill.curriculum import compute_alpha, compute_first_temperature, compute_reversal
from serkd.distill.objective import weigh_terms
from serkd.distill.temperature import build_temperature
from serkd.losses.logits import Temperature
from serkd.models.student import StudentOutput
from serkd.train.workers import Workers

_LOG = logging.getLogger(__name__)


class Guidance(nn.Module):
    """Schedules, and what is learned with the student but is no part of it.

    Those are the temperature of a temperature curriculum and the hint's projection from the
    student's embedding, `width` wide, to the teacher's, `teacher_width` wide; without a teacher
    there is neither.
    """

    def __init__(
        self,
        distill: config.Distill,
        curriculum: config.Curriculum,
        num_classes: int,
        width: int,
        teacher_width: int | None,
    ) -> None:
        super().__init__()
        self.distill, self.curriculum = distill, curriculum
        self.has_teacher = teacher_width is not None
        self.temperature = self.projection = None
        if teacher_width is not None:
            # first, and drawn in any case: no random start may depend on what else is learned
            projection = nn.Linear(width, teacher_width)
            self.projection = projection if distill.gamma > 0 else None
            first = compute_first_temperature(distill, curriculum)
            self.temperature = build_temperature(curriculum, first, num_classes)
        if self.temperature is not None and distill.kd == "mse_logits":
            _LOG.warning(
                "curriculum.temperature_curriculum has no effect: mse_logits has no temperature"
            )
        self._seen = [0.0, 0.0]  # sum and number of this epoch's temperatures

    def weights(self, progress: float) -> dict[str, float]:
        """The weight of each term at `progress`."""
        alpha = compute_alpha(self.distill, self.curriculum, progress)
        return weigh_terms(self.distill, has_teacher=self.has_teacher, alpha=alpha)

    def has_temperature(self, progress: float) -> bool:
        """Whether any term is softened at `progress`."""
        return "kd" in self.weights(progress) and self.distill.kd != "mse_logits"

    def soften(
        self, student_logits: Tensor, teacher_logits: Tensor, progress: float
    ) -> Temperature:
        """The temperature at which a batch (B, C) is taught: a number, () or (B, 1)."""
        if self.temperature is None:
            return self.distill.temperature
        reversal = compute_reversal(self.curriculum, progress)
        return self.temperature(teacher_logits, student_logits, reversal)

    def build_hint(self, output: StudentOutput, embedding: Tensor) -> tuple[Tensor, Tensor] | None:
        """The student's guess of the teacher's `embedding` (B, E), and that; None without hint."""
        if self.projection is None:
            return None
        return self.projection(output.embedding), embedding

    def note(self, temperature: Temperature, count: int) -> None:
        """Remember at which temperature `count` rows were taught, for `pop_temperature`."""
        rows = torch.as_tensor(temperature).detach().double().expand(count, 1)
        self._seen[0] += float(rows.sum())
        self._seen[1] += count

    def groups(self, lr: float) -> Sequence[tuple[str, nn.Module | nn.Parameter, float]]:
        """Parameter groups; the projection learns as fast as the student."""
        found: list[tuple[str, nn.Module | nn.Parameter, float]] = []
        if self.projection is not None:
            found.append(("hint", self.projection, lr))
        if self.temperature is not None:
            found.append(("temperature", self.temperature, self.curriculum.temperature_lr))
        return found

    def rate_factors(self, progress: float) -> dict[str, float]:
        """AdamW divides by a gradient's size, so lambda must weigh the learning rate as well."""
        if self.temperature is None:
            return {}
        return {"temperature": -compute_reversal(self.curriculum, progress)}

    def scalars(self, progress: float) -> dict[str, float]:
        """Where the schedules are, to log."""
        if not self.has_teacher:
            return {}
        found = {"alpha": compute_alpha(self.distill, self.curriculum, progress)}
        if self.temperature is not None and self.has_temperature(progress):
            found["lambda"] = compute_reversal(self.curriculum, progress)
        return found

    def pop_temperature(self, workers: Workers) -> dict[str, float]:
        """The mean temperature since this was called last, over all workers' utterances."""
        total, count = workers.sum(torch.tensor(self._seen, dtype=torch.float64)).tolist()
        self._seen = [0.0, 0.0]
        return {"temperature": total / count} if count else {}
