"""Experiment trackers to which the points of a training are forwarded: one file for each behind one small protocol, and
the thread that forwards.

The libraries are imported when a training asks for them. They take their settings and credentials from this worker's
environment, as they always do.
"""
