"""Provide what tests of several subjects share."""
