"""Filters of a few taps, each channel by itself, as most published blocks have them before their recurrence."""
