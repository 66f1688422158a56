import unittest

from ledger.account import Account


class Deposit(unittest.TestCase):
    def test_deposit(self):
        account = Account("a")
        account.deposit(5)
        self.assertEqual(account.balance, 5)
        with self.assertRaises(ValueError):
            account.deposit(0)
