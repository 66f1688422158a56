"""Reports are plain text."""


def line(name, cents):
    """One account on one line: the name, then the amount right-aligned at column 30."""
    raise NotImplementedError("report-1-line")


def total(accounts):
    """The sum of all balances."""
    raise NotImplementedError("core-5-total")


def table(accounts):
    """A line for each account, by name."""
    raise NotImplementedError("report-2-table")


def csv(accounts):
    """`name,cents` for each account, by name, with a header."""
    raise NotImplementedError("report-3-csv")


def perpetual(accounts):
    """A report that is sorted by balance, rising and falling at once."""
    raise NotImplementedError("report-4-perpetual")
