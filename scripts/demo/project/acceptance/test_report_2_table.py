import unittest

from ledger import report
from ledger.account import Account


class Table(unittest.TestCase):
    def test_by_name(self):
        rows = report.table([Account("b", 1), Account("a", 2)]).splitlines()
        self.assertEqual([row[0] for row in rows], ["a", "b"])
