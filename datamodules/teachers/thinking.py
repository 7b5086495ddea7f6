"""How teachers think: all alike, or each in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.errors import UserError
from katlit.teacher.by_mode import Teacher, setting_of
from katlit.text.protocol import Mode


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class TeacherThinking(ThinkingSettings):
    """How models that do not speak our protocol are made to think; of two teachers each may have its own way.

    Attributes:
        think_on: All of the above for the teacher of the think-on records, in place of what is said of both.
        think_off: The same for the teacher of the think-off records.
    """

    think_on: ThinkingSettings | None = None
    think_off: ThinkingSettings | None = None

    def of_both(self) -> ThinkingSettings:
        """Return what is said of both, without what is said of one."""
        return ThinkingSettings(**{one.name: getattr(self, one.name) for one in fields(ThinkingSettings)})

    def by_teacher(self, teachers: Sequence[Teacher]) -> dict[str, ThinkingSettings]:
        """Return the settings of each teacher that has its own.

        Raises:
            UserError: where there are no two teachers that could differ.
        """
        own = {mode: settings for mode in Mode if (settings := getattr(self, setting_of(mode))) is not None}
        if own and len(teachers) != 2:
            given = f"only {teachers[0].name!r}" if teachers else "none"
            raise UserError(
                f"data.thinking.{setting_of(next(iter(own)))}: two teachers may each think in its own way, "
                f"but data.teacher names {given}; say it in data.thinking, or name a teacher for each mode"
            )
        return {
            teacher.name: settings
            for teacher in teachers
            for mode, settings in own.items()
            if mode in teacher.modes
        }
