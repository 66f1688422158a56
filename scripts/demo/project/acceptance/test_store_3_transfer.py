import unittest

from ledger.account import Account
from ledger.journal import Journal


class Transfer(unittest.TestCase):
    def test_transfer_is_checked_and_written_down(self):
        journal = Journal()
        self.assertTrue(Account("a", 5).can_pay(5))
        self.assertFalse(Account("a", 5).can_pay(6))
        journal.transferred("a", "b", 5)
        self.assertEqual(journal.entries, [("transfer", "5 from a to b")])
