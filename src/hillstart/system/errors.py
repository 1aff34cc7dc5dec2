"""The error class for what the user can correct."""


class InputError(ValueError):
    """Input from the user that cannot be used.

    The message is one sentence naming the file or key, what is wrong and what would be right; commands print it
    without a traceback and end with a non-zero exit code.

    Example:
        >>> try:
        ...     hillstart.load("nowhere")
        ... except hillstart.InputError as error:
        ...     print(error)
        nowhere: there is no such file; give a run folder, a model file or a checkpoint.
    """
