"""Exceptions and warnings for users: wrong input, a failed run, and probable mistakes."""

LONGEST = 1000  # characters of a line; a name in the user's file may have more


class BadInput(Exception):
    """Signals wrong input from the user, in one clear line. Exit code 2."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class Failed(Exception):
    """Signals that the run went wrong in a way that its output explains. Exit code 1."""


class WrongGradient(Failed):
    """Signals that the check found wrong lines of the backward rule.

    Args:
        wrong: their names, in the order in which they are computed.
        when: at which moment of the run.
    """

    def __init__(self, wrong: list[str], when: str) -> None:
        super().__init__(f"the gradient is wrong in {', '.join(wrong)} ({when})")
        self.wrong = wrong


def warn(text: str) -> None:
    """Warn in one line of input that is accepted but looks like a mistake."""
    print(f"train.py: warning: {printable(text)}")


def in_bytes(size: int) -> str:
    """Return a number of bytes in the largest unit of which there is at least one."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def printable(text: str) -> str:
    """Return the text as one line without control characters, cut in the middle if it is long.

    A file may contain characters that move the cursor or are invisible: their escapes are shown.
    """
    line = " ".join(text.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)
