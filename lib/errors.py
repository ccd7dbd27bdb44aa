"""The error that is the user's to mend, and others told in a line."""


class UserError(Exception):
    """Something outside the program is wrong: a param, a file, a download. Its text is one line that says
    what is wrong, where, and what to do; stages and commands print it without a traceback and exit with 1."""


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks; what it is, where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
