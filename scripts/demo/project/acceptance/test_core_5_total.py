import unittest

from ledger import report
from ledger.account import Account


class Total(unittest.TestCase):
    def test_sum(self):
        self.assertEqual(report.total([Account("a", 5), Account("b", -2)]), 3)
        self.assertEqual(report.total([]), 0)
