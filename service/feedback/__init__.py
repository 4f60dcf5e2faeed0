"""Labels of what was served: remembered responses, their database and the drift that the labels show."""
