"""From a trained model to a file that an engine runs."""
