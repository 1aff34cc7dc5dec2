"""The one kind of error that is the user's to mend."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one sentence naming the file or key, what is wrong and what would be right; commands print it
    without a traceback and end with a non-zero exit code.
    """
