import unittest

from ledger import report
from ledger.account import Account


class Csv(unittest.TestCase):
    def test_csv(self):
        self.assertEqual(report.csv([Account("b", 1), Account("a", 2)]), "name,cents\na,2\nb,1\n")
