"""The one error that bad input raises."""


class OnnxCbpError(ValueError):
    """Bad input: the message is one line that names the node or file, the value and the mend."""
