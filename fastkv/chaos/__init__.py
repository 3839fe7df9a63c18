"""Faults for clusters of real processes, made without root."""
