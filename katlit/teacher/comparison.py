"""What a student is compared with: a teacher that runs beside it, or what one has told before.

Shapes: B rows, L tokens, H width, V vocabulary, G depths of prediction, T targets, of which the first P have
a teacher.
"""

from dataclasses import dataclass

from torch import Tensor

from katlit.batch import TeacherTokens
from katlit.errors import UserError
from katlit.losses.divergence import Divergence
from katlit.losses.head import distillation, top_distillation
from katlit.losses.top_k import TopLogProbs
from katlit.model.frozen import FrozenModel


@dataclass
class LiveTeacher:
    """A teacher whose weights are here.

    Attributes:
        frozen: Its model.
        divergence: How its distributions are compared with the student's.
    """

    frozen: FrozenModel
    divergence: Divergence[Tensor]

    def compare(
        self, tokens: TeacherTokens, predictors: Tensor, head: Tensor, ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the teacher, a collective as `FrozenModel.read` is, and compare.

        Args:
            tokens: What the teacher reads, with P pairs.
            predictors: The student's hidden states of each target, [G, T, H].
            head: The student's output matrix, [V, H].
            ids: Targets, [T].

        Returns:
            The student's log-probabilities [G, T], and divergences [G, P].
        """
        theirs = self.frozen.read(tokens["teacher_input_ids"], tokens["teacher_position_ids"])
        truth = theirs.hidden.flatten(0, 1)[tokens["teacher_targets"] - 1]
        self.divergence = self.divergence.to(head.device)
        return distillation(predictors, head, ids, truth, theirs.head, self.divergence)


@dataclass
class ToldTeacher:
    """A teacher of whom the data tell the likeliest tokens.

    Attributes:
        divergence: How these and the rest are compared with the student's distributions.
    """

    divergence: Divergence[TopLogProbs]

    def compare(
        self, tokens: TeacherTokens, predictors: Tensor, head: Tensor, ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compare; see `LiveTeacher.compare`.

        Raises:
            UserError: where the data tell nothing.
        """
        if "teacher_top_ids" not in tokens:
            raise UserError(
                "model.teacher_placement: cached, but the data have no teacher; give data.cached_teacher"
            )
        top = TopLogProbs(tokens["teacher_top_ids"], tokens["teacher_top_log_probs"])
        return top_distillation(predictors, head, ids, top, self.divergence)
