"""The commands people type; one module per program."""
