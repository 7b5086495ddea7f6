"""Runs commands of katlit one after the other in this process, up to the first that fails.

`python commands_worker.py COMMANDS`: a JSON file, a list of words for each. Started alone, or by torchrun.
Where Lightning starts the other processes, they run the file too: it must have one command then.
"""

import json
import sys
from pathlib import Path

import torch

from katlit.cli import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    for command in json.loads(Path(sys.argv[1]).read_text()):
        sys.stderr.write(f"katlit {' '.join(command)}\n")  # the last one is that which failed
        if status := main(command):
            sys.exit(status)
