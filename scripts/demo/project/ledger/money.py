"""Amounts are whole cents; text is for people."""


def parse(text):
    """`"12.50"` is 1250 cents. Anything else raises ValueError."""
    raise NotImplementedError("core-1-parse")


def show(cents):
    """1250 cents is `"12.50"`; a debt has its minus sign in front."""
    raise NotImplementedError("core-2-show")


def split(cents, ways):
    """Shares that differ by at most one cent and add up to the whole, larger ones first."""
    raise NotImplementedError("core-3-split")


def interest(cents, percent):
    """Interest on an amount, rounded half up to whole cents."""
    raise NotImplementedError("store-4-interest")
