"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake that a user can mend: a wrong flag, a missing folder, an unreadable file.

    Its message is one sentence that names the thing and the way out. The command line prints that
    sentence and exits with status 1, without a traceback.
    """


class TooLargeError(UserError):
    """An image of more pixels than are allowed, or than the memory has room for."""
