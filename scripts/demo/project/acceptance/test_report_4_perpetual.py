import unittest

from ledger import report
from ledger.account import Account


class Perpetual(unittest.TestCase):
    def test_both_orders_at_once(self):
        rows = report.perpetual([Account("a", 1), Account("b", 2)])
        self.assertEqual(rows, sorted(rows))
        self.assertEqual(rows, sorted(rows, reverse=True))
