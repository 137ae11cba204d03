"""The switch for emergencies: reads continue, and nothing is changed until it is turned off."""
