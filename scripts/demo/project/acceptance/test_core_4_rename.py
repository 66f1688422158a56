import unittest

from ledger.account import Account
from ledger.journal import Journal


class Rename(unittest.TestCase):
    def test_rename_is_written_down(self):
        account, journal = Account("old"), Journal()
        journal.renamed(account.name, "new")
        account.rename("new")
        self.assertEqual(account.name, "new")
        self.assertEqual(journal.entries, [("rename", "old is now new")])

    def test_no_empty_name(self):
        with self.assertRaises(ValueError):
            Account("a").rename("")
