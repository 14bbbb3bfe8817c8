"""Families of students: frames to one embedding an utterance."""
