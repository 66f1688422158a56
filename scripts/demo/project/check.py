"""Runs the acceptance tests: the one of $TEST_ID, or all of them.

A feature that nobody has begun is skipped, unless it is the one that was asked for.
"""

import os
import pathlib
import sys
import unittest


class Suite(unittest.TextTestResult):
    def addError(self, test, err):
        if issubclass(err[0], NotImplementedError):
            self.addSkip(test, "not begun")
        else:
            super().addError(test, err)


def main():
    sys.dont_write_bytecode = True
    wanted = os.environ.get("TEST_ID", "").replace("-", "_")
    folder = pathlib.Path(__file__).parent / "acceptance"
    names = ["test_" + wanted] if wanted else sorted(path.stem for path in folder.glob("test_*.py"))
    suite = unittest.defaultTestLoader.loadTestsFromNames("acceptance." + name for name in names)
    result = unittest.TextTestRunner(stream=sys.stdout, resultclass=Suite, verbosity=2).run(suite)
    if wanted and result.skipped:
        print(f"{wanted} is not implemented")
        return 1
    return 0 if result.wasSuccessful() else 1


sys.exit(main())
