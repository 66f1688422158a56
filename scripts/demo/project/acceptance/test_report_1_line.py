import unittest

from ledger import report


class Line(unittest.TestCase):
    def test_line(self):
        self.assertEqual(report.line("cash", 1250), "cash" + "12.50".rjust(26))
