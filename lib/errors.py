"""The error that is the user's to mend."""


class UserError(Exception):
    """Something outside the program is wrong: a param, a file, a download. Its text is one line that says
    what is wrong, where, and what to do; stages and commands print it without a traceback and exit with 1."""
