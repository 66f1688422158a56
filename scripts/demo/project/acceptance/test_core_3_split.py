import unittest

from ledger import money


class Split(unittest.TestCase):
    def test_nothing_is_lost(self):
        self.assertEqual(money.split(100, 3), [34, 33, 33])
        self.assertEqual(sum(money.split(1001, 7)), 1001)
