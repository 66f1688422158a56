import unittest

from ledger import money


class Interest(unittest.TestCase):
    def test_rounding(self):
        self.assertEqual(money.interest(1000, 5), 50)
        self.assertEqual(money.interest(50, 1), 1)
        self.assertEqual(money.interest(49, 1), 0)
