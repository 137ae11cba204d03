"""What a sweep tries, and which of its members go on: functions of stored numbers alone, without database, clock or state.

The same numbers give the same answer in another process, and after the registry was stopped in between.
"""
