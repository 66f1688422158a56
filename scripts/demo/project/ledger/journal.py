"""The journal says what happened, in order."""


class Journal:
    """Entries are (kind, text) pairs."""

    def __init__(self):
        self.entries = []

    def renamed(self, old, new):
        """Writes down that an account has another name."""
        raise NotImplementedError("core-4-rename")

    def transferred(self, source, target, cents):
        """Writes down that money went from one account to another."""
        raise NotImplementedError("store-3-transfer")
