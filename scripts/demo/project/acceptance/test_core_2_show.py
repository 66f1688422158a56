import unittest

from ledger import money


class Show(unittest.TestCase):
    def test_amounts(self):
        self.assertEqual(money.show(1250), "12.50")
        self.assertEqual(money.show(-5), "-0.05")

    def test_large_amounts_stay_parsable(self):
        self.assertEqual(money.show(123456789), "1234567.89")
