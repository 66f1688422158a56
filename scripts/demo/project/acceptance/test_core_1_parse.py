import unittest

from ledger import money


class Parse(unittest.TestCase):
    def test_amounts(self):
        self.assertEqual(money.parse("12.50"), 1250)
        self.assertEqual(money.parse("-0.05"), -5)

    def test_nonsense(self):
        for text in ["", "12", "1.2", "1.234", "a.bc"]:
            with self.assertRaises(ValueError):
                money.parse(text)
