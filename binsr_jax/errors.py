"""The exceptions that stand for a user's mistake."""


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
