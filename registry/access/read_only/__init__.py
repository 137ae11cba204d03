"""The switch for emergencies: reads go on, and nothing is changed until somebody says so."""
