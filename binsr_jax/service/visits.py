"""The order of one open page and its results."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from binsr_jax.deploy.listing import Job
from binsr_jax.service.restorer import Result, Ticket


@dataclass
class Done:
    """A picture that is finished: its result, or the sentence that says why there is none."""

    job: Job
    result: Result | None
    sentence: str = ""


@dataclass(eq=False)
class Visit:
    """The order of one open page: its folder, its current ticket and its finished pictures."""

    folder: "TemporaryDirectory[str]"
    ticket: Ticket | None = None
    stopped: bool = False
    done: list[Done] = field(default_factory=list)

    @property
    def restored(self) -> list[Done]:
        """The pictures that have a result."""
        return [done for done in self.done if done.result is not None]


def download(visit: Visit) -> str:
    """The path of the only result, or of a ZIP of all."""
    files = [done.job.target for done in visit.restored]
    if len(files) == 1:
        return str(files[0])
    archive = Path(visit.folder.name) / "restored.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as output:  # they are compressed
        for file in files:
            output.write(file, file.name)
    return str(archive)
