"""Runs commands of katlit one after the other in this process; started by torchrun, or alone.

`python parity_worker.py COMMANDS`: a JSON file, a list of words for each.
"""

import json
import sys
from pathlib import Path

import torch

from katlit.cli import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    for command in json.loads(Path(sys.argv[1]).read_text()):
        status = main(command)
        if status:
            sys.exit(status)
