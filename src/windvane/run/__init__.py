"""The run directory: what a run has done is on file, and the same command goes on from there."""

from windvane.run.directory import RunDirectory
from windvane.run.journal import Event
from windvane.run.status import RunStatus, StageStatus, run_status
from windvane.run.view import RunView

__all__ = ["Event", "RunDirectory", "RunStatus", "RunView", "StageStatus", "run_status"]
