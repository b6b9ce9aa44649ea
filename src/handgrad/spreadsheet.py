"""Texts of the user's in the cells of a CSV file."""

# With these a cell begins that a spreadsheet runs as a formula; the last four are full-width.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def safe(text: object) -> str:
    """A text of the user's that a spreadsheet takes for no formula; numbers stay what they are.

    OWASP, CSV injection (owasp.org/www-community/attacks/CSV_Injection): an apostrophe before it.
    """
    # A bare \r is not quoted, and ends a row.
    name = str(text).replace("\r\n", "\n").replace("\r", "\n")
    return f"'{name}" if name.startswith(FORMULA) and not is_number(name) else name


def is_number(text: str) -> bool:
    """Whether the text is a number alone, such as -1."""
    try:
        float(text)
    except ValueError:
        return False
    return text[:1] in ("+", "-") and text[1:2] in ".0123456789"
