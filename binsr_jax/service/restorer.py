"""The queue behind the page and the service: restores one picture at a time, in turns."""

import collections
import concurrent.futures
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax

from binsr_jax.deploy.jobs import restore_file
from binsr_jax.deploy.listing import Job, Options
from binsr_jax.deploy.loading import load_engine
from binsr_jax.deploy.picture_files import picture_size
from binsr_jax.deploy.steps import Step, Steps
from binsr_jax.deploy.upscaler import TileEngine, Upscaler
from binsr_jax.errors import TooLargeError
from binsr_jax.pretrained import Packaged

# A compiled program takes about 10 MB, and pictures of a single tile need one for each size. After
# this number of sizes, all programs are dropped.
_MOST_SIZES = 32
_FIRST_GUESS = 5.0  # seconds for a picture, as long as none was restored


class FullError(Exception):
    """The queue is full.

    Attributes:
        seconds: The time after which there may be a place.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"The queue is full: try again in {seconds} seconds.")
        self.seconds = seconds


@dataclass(frozen=True)
class Order:
    """A picture to restore.

    Attributes:
        job: The picture's file, and the file of its result.
        network: The network that restores it.
        strength: How much of the change is applied, if the network keeps the size.
        options: How the file is processed.
    """

    job: Job
    network: Packaged
    strength: float = 1.0
    options: Options = field(default_factory=Options)

    def sentence(self, error: BaseException) -> str:
        """The sentence about an error; it has the names of files without their folders."""
        text = str(error) or type(error).__name__
        for file in (self.job.source, self.job.target):
            text = text.replace(str(file), file.name)
        name = self.job.source.name
        return text if name in text else f"{name}: {text}"


@dataclass(frozen=True)
class Result:
    """A restored picture.

    Attributes:
        file: The file of the result.
        network: The name of the network.
        before: Width and height of the picture.
        after: Width and height of the result.
        seconds: The time of the computation, without waiting.
        notes: Unexpected changes to the picture, as short clauses.
    """

    file: Path
    network: str
    before: tuple[int, int]
    after: tuple[int, int]
    seconds: float
    notes: tuple[str, ...]


class Ticket:
    """A place in the queue.

    Attributes:
        order: The picture and how to restore it.
        visitor: The visitor who ordered it.
        future: The result. It fails with UserError if the picture cannot be restored, and with
            ``CancelledError`` after ``cancel``.
        share: The finished part, 0 to 1.
    """

    def __init__(self, order: Order, visitor: str, megapixels: float) -> None:
        self.order, self.visitor, self.share = order, visitor, 0.0
        self.future: concurrent.futures.Future[Result] = concurrent.futures.Future()
        self._megapixels = megapixels
        self._cancelled = False

    def cancel(self) -> None:
        """Stops the work after the current tile, or before it starts."""
        self._cancelled = True
        self.future.cancel()

    def advance(self, megapixels: float) -> None:
        """Counts megapixels as done.

        Raises:
            CancelledError: The ticket was cancelled.
        """
        if self._cancelled:
            raise concurrent.futures.CancelledError
        self.share = min(1.0, self.share + megapixels / self._megapixels)


class Restorer:
    """Restores pictures in one thread; waiting visitors take turns, a picture each.

    Args:
        most_pixels: Larger pictures are refused.
        most_waiting: The largest number of waiting pictures, without the current one.
        memory: Bytes of memory for a tile; see ``deploy.upscaler.load``.
        load: Loads a network; by default from its model file.
    """

    def __init__(
        self,
        *,
        most_pixels: int,
        most_waiting: int,
        memory: int | None = None,
        load: Callable[[Packaged], TileEngine] | None = None,
    ) -> None:
        self.most_pixels = most_pixels
        self._most_waiting, self._memory, self._load = most_waiting, memory, load or _engine
        self._engines: dict[str, TileEngine] = {}
        self._sizes: set[tuple[str, int, int]] = set()
        self._seconds = _FIRST_GUESS
        # The waiting tickets of each visitor, in the order of their turns.
        self._waiting: dict[str, collections.deque[Ticket]] = {}
        self._working: Ticket | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="restorer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many pictures wait."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def require_place(self) -> None:
        """Raises FullError if the queue is full."""
        waiting = self.waiting
        if waiting >= self._most_waiting:
            raise FullError(max(1, math.ceil(self._seconds * (waiting + 1))))

    def submit(self, order: Order, visitor: str) -> Ticket:
        """Puts a picture into the queue.

        Raises:
            FullError: The queue is full.
            TooLargeError: The picture has more pixels than are allowed.
            UserError: The header of the picture shows that it cannot be read.
        """
        self.require_place()
        width, height = self._size(order.job.source)
        ticket = Ticket(order, visitor, width * height / 1e6)
        with self._changed:
            self.require_place()
            if self._closed:
                ticket.cancel()
                return ticket
            self._waiting.setdefault(visitor, collections.deque()).append(ticket)
            self._changed.notify()
        return ticket

    def ahead(self, ticket: Ticket) -> int:
        """How many pictures come before a ticket's, with the current one."""
        with self._changed:
            if ticket not in self._waiting.get(ticket.visitor, ()):
                return 0
            turn = list(self._waiting).index(ticket.visitor)
            place = self._waiting[ticket.visitor].index(ticket)
            others = sum(
                min(len(tickets), place + (i < turn))
                for i, tickets in enumerate(self._waiting.values())
                if i != turn
            )
            return place + others + (self._working is not None)

    def cancel(self, ticket: Ticket) -> None:
        """Removes a picture from the queue, or stops it after the current tile."""
        with self._changed:
            ticket.cancel()
            tickets = self._waiting.get(ticket.visitor)
            if tickets and ticket in tickets:
                tickets.remove(ticket)
                if not tickets:
                    del self._waiting[ticket.visitor]

    def cancel_all(self, visitor: str | None = None) -> None:
        """Cancels all pictures of a visitor; without a visitor, all pictures."""
        with self._changed:
            tickets = [ticket for queue in self._waiting.values() for ticket in queue]
            tickets += [self._working] if self._working else []
            for ticket in tickets:
                if visitor in (None, ticket.visitor):
                    self.cancel(ticket)

    def close(self) -> None:
        """Cancels all pictures, and ends the thread."""
        with self._changed:
            self._closed = True
            self.cancel_all()
            self._changed.notify()
        self._thread.join()

    def _size(self, file: Path) -> tuple[int, int]:
        try:
            return picture_size(file, self.most_pixels)
        except TooLargeError as error:
            raise TooLargeError(
                f"{file} has more than {self.most_pixels / 1e6:g} megapixels, the most that is "
                "taken here: make it smaller first."
            ) from error

    def _next(self) -> Ticket | None:
        """Waits for a ticket and returns the next one; None after ``close``."""
        with self._changed:
            self._working = None
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            visitor = next(iter(self._waiting))
            tickets = self._waiting.pop(visitor)
            self._working = tickets.popleft()
            if tickets:
                self._waiting[visitor] = tickets  # behind the others
            return self._working

    def _run(self) -> None:
        while (ticket := self._next()) is not None:
            if not ticket.future.set_running_or_notify_cancel():
                continue
            try:
                result = self._restore(ticket)
            except BaseException as error:  # no error may keep the next picture from its turn
                ticket.future.set_exception(error)
            else:
                self._seconds += 0.2 * (result.seconds - self._seconds)
                ticket.share = 1.0
                ticket.future.set_result(result)

    def _restore(self, ticket: Ticket) -> Result:
        started = time.monotonic()
        order = ticket.order
        width, height = self._size(order.job.source)
        upscaler = self._upscaler(order.network, order.strength)
        upscaler.require_memory(height, width)
        self._forget_programs((order.network.name, width, height))
        notes = restore_file(upscaler, order.job, order.options, ticket.advance)
        after = picture_size(order.job.target, width * height * upscaler.scale**2)
        seconds = time.monotonic() - started
        return Result(order.job.target, order.network.name, (width, height), after, seconds, notes)

    def _upscaler(self, network: Packaged, strength: float) -> Upscaler:
        """The loaded network for a strength; each is loaded once."""
        if network.name not in self._engines:
            self._engines[network.name] = self._load(network)
        engine = self._engines[network.name]
        if strength != 1 and network.scale == 1:
            engine = Steps([Step(engine, strength)])
        return Upscaler(engine, self._memory)

    def _forget_programs(self, size: tuple[str, int, int]) -> None:
        """Drops compiled programs when there are too many sizes."""
        if size not in self._sizes and len(self._sizes) >= _MOST_SIZES:
            jax.clear_caches()
            self._sizes.clear()
        self._sizes.add(size)


def _engine(network: Packaged) -> TileEngine:
    return load_engine(network.file)
