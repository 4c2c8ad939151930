"""QUIC on trio: one socket, two engines, streams that wait their turn."""
