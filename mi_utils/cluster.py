"""The `cluster` parameter: a word, or a mapping of the fields below, and what exca is told of it."""

import math
import re
import shutil
from difflib import get_close_matches
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mi_utils.errors import UserError

Count = Annotated[int, Field(ge=1, strict=True)]
_GB = {"M": 2**-10, "G": 1, "T": 2**10}  # Slurm's units are binary
_ANYWHERE = {"engine", "gpus", "hours", "width", "restarts"}


def _gigabytes(value: object) -> object:
    """32 of `32GB` or `32G`; a bare number is GB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT])i?B?", value) if isinstance(value, str) else None
    if isinstance(value, str) and not found:
        raise ValueError("expected a size such as 32GB or 800MB")
    return float(found[1]) * _GB[found[2]] if found else value


class Cluster(BaseModel):
    """How one stage's job is asked for. Every stage is a job of its own, every level of the graph a job array."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["slurm", "local"]  # local: processes of this machine, to try it out
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: Annotated[int, Field(ge=0, le=1, strict=True)] = 0  # a stage computes on one
    cpus: Count = 1
    memory: Annotated[float | None, BeforeValidator(_gigabytes), Field(gt=0)] = None  # GB; None: the cluster's default
    hours: Annotated[float, Field(gt=0)] = 24.0  # after which a job is ended, and started again where it was
    width: Count | None = None  # jobs of an array at one time; None: see `room`
    grace: Annotated[int, Field(ge=1, strict=True)] = 120  # seconds before the time limit at which a job is told of it
    restarts: Annotated[int, Field(ge=0, strict=True)] = 20  # of a job that met its time limit or lost its node
    setup: tuple[str, ...] = ()  # shell lines before each job, such as `module load cuda`
    options: dict[str, str | int | float | bool] = {}  # any other flag of sbatch, such as {reservation: night}

    @model_validator(mode="after")
    def _consistent(self) -> "Cluster":
        unread = sorted(self.model_fields_set - _ANYWHERE) if self.engine == "local" else []
        if unread:
            raise ValueError(f"{', '.join(unread)}: read by engine slurm alone, found with engine {self.engine}")
        if self.grace >= self.minutes * 60:
            raise ValueError(f"grace: expected fewer seconds than the {self.minutes * 60} of hours, found {self.grace}")
        return self

    @property
    def minutes(self) -> int:
        """The time limit in Slurm's unit."""
        return math.ceil(self.hours * 60)

    def room(self, workers: int | None, cores: int) -> int:
        """Jobs at one time: `width`, else `workers`, else 64 of Slurm and one a core of this machine."""
        return self.width or workers or (64 if self.engine == "slurm" else cores)

    def device(self, asked: str) -> str:
        """The device of each job: a job that was given a GPU must find it. UserError for two minds."""
        if self.gpus and asked == "cpu":
            raise UserError(f"cluster.gpus: expected 0 with device cpu, found {self.gpus}; leave one of them out")
        return "cuda" if self.gpus and asked == "auto" else asked

    def fields(self, device: str) -> dict[str, Any]:
        """exca's fields of one job on `device`."""
        common = {
            "cluster": self.engine,
            "job_name": "mi_utils",
            "timeout_min": self.minutes,
            "restarts": self.restarts,
            "gpus_per_node": int(self.gpus or device.startswith("cuda")) or None,
        }
        if self.engine == "local":
            return common
        # Without srun the signal before the time limit would reach a shell that does nothing with it, and srun
        # asks by itself for one processor alone.
        setup = ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK", *self.setup]
        flags = {"signal": f"USR2@{self.grace}", "requeue": True, **self.options}
        return common | {
            "cpus_per_task": self.cpus,
            "mem_gb": self.memory,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_constraint": self.constraint,
            "slurm_use_srun": True,
            "slurm_setup": setup,
            "slurm_additional_parameters": flags,
        }


def chosen(value: str | dict | Cluster | None) -> Cluster | None:
    """The cluster of a parameter: None, a word, a mapping, or either as YAML; UserError for anything else."""
    if value is None or isinstance(value, Cluster):
        return value
    found = _read(value) if isinstance(value, str) else value
    fields = {"engine": found} if isinstance(found, str) else found
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise UserError(
            "cluster: expected slurm, local or a YAML mapping such as '{engine: slurm, partition: gpu, gpus: 1}', "
            f"found {value!r}"
        )
    try:
        made = Cluster(**fields)
    except ValidationError as error:
        raise UserError(_line(error)) from error
    if made.engine == "slurm" and not all(map(shutil.which, ("sbatch", "srun", "squeue"))):
        raise UserError(
            "cluster: expected Slurm's commands sbatch, srun and squeue on this machine, found them not; start from "
            "a node that has them, or leave cluster out"
        )
    return made


def _read(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _line(error: ValidationError) -> str:
    """`cluster.field: what was expected, what was found`, for the first wrong field."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        close = get_close_matches(name, Cluster.model_fields, 1)
        hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(Cluster.model_fields)}"
        return f"cluster.{name}: no such field; {hint}"
    if first["type"] == "missing":
        return f"cluster.{name}: expected slurm or local, found nothing"
    said = first["msg"].removeprefix("Value error, ")
    if not name:  # it names the field and what was found
        return f"cluster.{said}"
    where = "cluster" if name == "engine" else f"cluster.{name}"
    said = said.replace("Input should be", "expected")
    return f"{where}: {said}, found {first['input']!r}"
