"""The process people run, and its doors."""
