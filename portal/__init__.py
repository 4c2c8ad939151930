"""The zero-knowledge vault. Nothing is built here yet."""
