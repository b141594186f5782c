"""When things are due: durations, cadences, the schedule and its plan. Pure Python, with no clock of its own."""
