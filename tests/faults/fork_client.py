"""Orders for the process that forks children to be killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

from forks import Order, Report

HERE = Path(__file__).parent


class Forks:
    """The server of `forks.py`: `ask` sends orders, all carried out at the same time, and returns their reports."""

    def __init__(self, log: Path) -> None:
        path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with log.open("w") as errors:
            self.process = subprocess.Popen([sys.executable, HERE / "forks.py"], **pipes, stderr=errors, env=env)
        self.log, self.ready = log, False

    def ask(self, *orders: Order) -> list[Report]:
        self.ready = self.ready or self.process.stdout.readline() == "ready\n"
        assert self.ready, self.log.read_text()
        self.process.stdin.write(json.dumps(orders) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.log.read_text()
        return json.loads(answer)
