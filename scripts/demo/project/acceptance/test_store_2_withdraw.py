import unittest

from ledger.account import Account


class Withdraw(unittest.TestCase):
    def test_withdraw(self):
        account = Account("a", 5)
        account.withdraw(3)
        self.assertEqual(account.balance, 2)
        with self.assertRaises(ValueError):
            account.withdraw(3)
