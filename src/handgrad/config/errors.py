"""What the user is told: what must be mended, what the run found wrong, what looks like a slip."""

LONGEST = 1000  # characters of a line, of which a name in the user's file may have more


class BadInput(Exception):
    """What the user gave is wrong; the message is one clear line. Exit code 2."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class Failed(Exception):
    """The run went wrong in a way that its output explains. Exit code 1."""


class WrongGradient(Failed):
    """The check found lines of the backward rule that are wrong.

    Args:
        wrong: their names, in the order in which they are computed.
        when: at which moment of the run.
    """

    def __init__(self, wrong: list[str], when: str) -> None:
        super().__init__(f"the gradient is wrong in {', '.join(wrong)} ({when})")
        self.wrong = wrong


def warn(text: str) -> None:
    """Say what is accepted and yet looks like a slip: one line, which is no error's."""
    print(f"train.py: warning: {printable(text)}")


def in_bytes(size: int) -> str:
    """Return a number of bytes in the largest unit of which it has one."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def printable(text: str) -> str:
    """Return the text as one line, cut in the middle if long, with nothing for a terminal in it.

    A file may hold characters that move the cursor or cannot be seen: they are spelt.
    """
    line = " ".join(text.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)
