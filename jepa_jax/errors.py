"""The one kind of error that a user can mend: shown as one line, without a traceback."""


class UserError(ValueError):
    """Wrong input. The message is one line that names the input and says what to do."""
