"""Accounts hold money and never less than nothing."""


class Account:
    """A named balance in cents."""

    def __init__(self, name, balance=0):
        self.name = name
        self.balance = balance

    def deposit(self, cents):
        """Adds a positive amount."""
        raise NotImplementedError("store-1-deposit")

    def withdraw(self, cents):
        """Takes a positive amount that is there, else ValueError."""
        raise NotImplementedError("store-2-withdraw")

    def rename(self, name):
        """Gives the account another name that is not empty."""
        raise NotImplementedError("core-4-rename")

    def can_pay(self, cents):
        """True if a transfer of this amount would succeed."""
        raise NotImplementedError("store-3-transfer")
