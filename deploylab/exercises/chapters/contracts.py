"""Checks for *Settle the contract before you serve*."""
