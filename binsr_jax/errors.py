"""The exceptions that stand for a user's mistake, and the word that was probably meant."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake that a user can mend: a wrong flag, a missing folder, an unreadable file.

    Its message is one sentence that names the thing and the way out. The command line prints that
    sentence and exits with status 1, without a traceback.
    """


class NotFiniteError(UserError):
    """A network whose output is not finite: its weights are damaged or far too large."""

    def __init__(self) -> None:
        super().__init__(
            "The network's output is not finite, so its weights are damaged: take another network."
        )


class TooLargeError(UserError):
    """An image of more pixels than are allowed, or than the memory has room for."""


def similar(word: str, words: Iterable[str]) -> str | None:
    """The word of a list that is most like a mistyped one; None if none is like it."""
    import difflib  # here, since no start without a mistake needs it

    return next(iter(difflib.get_close_matches(word, list(words), 1)), None)
