"""What became of a stage's questions when they were labelled, in one small file for `katlit report`."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from katlit.datamodules.labelling.rejections import Rejections
from katlit.datamodules.records import Record
from katlit.output import replace_file
from katlit.text.protocol import Mode

FILE = "labels.json"  # in a stage's output folder

_SHOWN = 2  # rejected replies of each reason and mode
_LONGEST = 2000  # characters of one


def write_summary(found: Sequence[Rejections], records: Sequence[Record], prompts: int, path: Path) -> None:
    """Write it beside the records.

    Args:
        found: Rejections of each model.
        records: What was kept.
        prompts: Number of the queries.
        path: File of the records.
    """
    shown: Counter[tuple[str, str]] = Counter()
    examples = []
    for row in (row for rejections in found for row in rejections.rows):
        shown[row["reason"], row["asked"]] += 1
        if shown[row["reason"], row["asked"]] <= _SHOWN:
            examples.append(row | {"reply": row["reply"][:_LONGEST]})
    content = {
        "prompts": prompts,
        "labelled": len({record.id for record in records}),
        "records": {mode.value: sum(record.regime is mode for record in records) for mode in Mode},
        "rejected": [
            {"model": rejections.model, "asked": mode.value, "reason": reason.value, "count": count}
            for rejections in found
            for (reason, mode), count in rejections.counts.most_common()
        ],
        "examples": examples,
    }
    replace_file(_beside(path), json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def keep_summary(path: Path, folder: Path) -> None:
    """Copy the summary of these records into a stage's output folder; where there is none, none stays.

    Args:
        path: File of the records.
        folder: Folder of the stage.
    """
    if _beside(path).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / FILE, _beside(path).read_bytes())
    else:
        (folder / FILE).unlink(missing_ok=True)  # of other records


def _beside(path: Path) -> Path:
    return path.with_name(f"summary-{path.stem}.json")
