"""Pictures of several people, restored one at a time: the queue behind the page and the service."""

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

# A compiled program takes some 10 MB, and pictures that are one tile have one for each size. After
# so many sizes all programs are forgotten.
_MOST_SIZES = 32
_FIRST_GUESS = 5.0  # seconds that a picture takes, until one is done


class FullError(Exception):
    """The queue has no place left.

    Attributes:
        seconds: after which there may be one.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"The queue is full: try again in {seconds} seconds.")
        self.seconds = seconds


@dataclass(frozen=True)
class Order:
    """A picture that is to be restored.

    Attributes:
        job: its file, and the file that the result goes to.
        network: that restores it.
        strength: how much of the change is taken by a network that keeps the size.
        options: the rest.
    """

    job: Job
    network: Packaged
    strength: float = 1.0
    options: Options = field(default_factory=Options)

    def sentence(self, error: BaseException) -> str:
        """What went wrong, with the files by their names alone."""
        text = str(error) or type(error).__name__
        for file in (self.job.source, self.job.target):
            text = text.replace(str(file), file.name)
        name = self.job.source.name
        return text if name in text else f"{name}: {text}"


@dataclass(frozen=True)
class Result:
    """What became of a picture.

    Attributes:
        file: the result.
        network: what restored it.
        before: width and height.
        after: width and height.
        seconds: of work, without waiting.
        notes: what was done to it that its owner may not expect.
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
        order: what is done.
        visitor: who has ordered it.
        future: its result. It fails with UserError if the picture cannot be restored, and with
            ``CancelledError`` after ``cancel``.
        share: how much is done, 0 to 1.
    """

    def __init__(self, order: Order, visitor: str, megapixels: float) -> None:
        self.order, self.visitor, self.share = order, visitor, 0.0
        self.future: concurrent.futures.Future[Result] = concurrent.futures.Future()
        self._megapixels = megapixels
        self._cancelled = False

    def cancel(self) -> None:
        """Ends the work after the tile that is worked, or before it starts."""
        self._cancelled = True
        self.future.cancel()

    def advance(self, megapixels: float) -> None:
        """Counts megapixels as done.

        Raises:
            CancelledError: the ticket was cancelled.
        """
        if self._cancelled:
            raise concurrent.futures.CancelledError
        self.share = min(1.0, self.share + megapixels / self._megapixels)


class Restorer:
    """Restores pictures in one thread, in a queue that takes turns between visitors.

    Of visitors who wait each gets one picture restored before anyone gets a second one.

    Args:
        most_pixels: pictures of more are refused.
        most_waiting: so many pictures wait at most, beside the one that is worked.
        memory: bytes of working memory for a tile; see ``deploy.upscaler.load``.
        load: makes what runs a network; by default of its model file.
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
        # Of those who wait, in the order of their turns.
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
        """Whether pictures are still restored."""
        return self._thread.is_alive()

    def require_place(self) -> None:
        """Raises FullError if the queue has no place left."""
        waiting = self.waiting
        if waiting >= self._most_waiting:
            raise FullError(max(1, math.ceil(self._seconds * (waiting + 1))))

    def submit(self, order: Order, visitor: str) -> Ticket:
        """Puts a picture into the queue.

        Raises:
            FullError: there is no place left.
            TooLargeError: the picture has more pixels than are allowed.
            UserError: its header shows that it cannot be read.
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
        """How many pictures are done before a ticket's, the one that is worked included."""
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
        """Takes a picture out of the queue, or ends its work after the tile that is worked."""
        with self._changed:
            ticket.cancel()
            tickets = self._waiting.get(ticket.visitor)
            if tickets and ticket in tickets:
                tickets.remove(ticket)
                if not tickets:
                    del self._waiting[ticket.visitor]

    def cancel_all(self, visitor: str | None = None) -> None:
        """Cancels all that a visitor has ordered, or without one all that there is."""
        with self._changed:
            tickets = [ticket for queue in self._waiting.values() for ticket in queue]
            tickets += [self._working] if self._working else []
            for ticket in tickets:
                if visitor in (None, ticket.visitor):
                    self.cancel(ticket)

    def close(self) -> None:
        """Cancels all that waits or is worked, and ends the thread."""
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
        """The ticket whose turn it is, waited for; None at the end."""
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
            except BaseException as error:  # whatever it is, the next picture is not to suffer
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
        """A network with a strength; it is loaded once, and kept."""
        if network.name not in self._engines:
            self._engines[network.name] = self._load(network)
        engine = self._engines[network.name]
        if strength != 1 and network.scale == 1:
            engine = Steps([Step(engine, strength)])
        return Upscaler(engine, self._memory)

    def _forget_programs(self, size: tuple[str, int, int]) -> None:
        """Forgets compiled programs when there are those of many sizes."""
        if size not in self._sizes and len(self._sizes) >= _MOST_SIZES:
            jax.clear_caches()
            self._sizes.clear()
        self._sizes.add(size)


def _engine(network: Packaged) -> TileEngine:
    return load_engine(network.file)
