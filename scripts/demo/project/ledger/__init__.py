"""A small double-entry ledger."""

VERSION = "0.1"
